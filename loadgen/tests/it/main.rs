//! Integration tests of the test tools themselves and of the simulated cluster.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test stops at the first surprise")]

mod damage;
mod first_light;
mod guards;
mod leases;
mod limits;
mod load;
mod one_sided;
mod random_faults;
mod search;
mod slow;
mod verdict;
