//! The rules of a placement group: seeded runs of three members, and one scenario for each way
//! a write can fail.
#![expect(clippy::print_stdout, reason = "a failing seed is printed so that it can be repeated")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths, ids and dice of the harness are far below the types' bounds"
)]

mod changes;
mod checks;
mod clients;
mod cluster;
mod compare;
mod coordinator;
mod doubts;
mod fake_store;
mod files;
mod forget;
mod repair;
mod resync;
mod rot;
mod route;
mod rules;
mod scenarios;
mod seeds;
mod take;
mod upkeep;
mod wire;
