//! `admin`: an operator's orders, and what they have set in motion.
//!
//! Owns how orders and their progress are shown. Every order is one durable request to the
//! coordinator; what it starts goes on by itself, so no command here waits for the end.

mod args;
mod group;
mod node;
mod order;
mod scrub;

pub use args::{
    AdminArgs, AdminCommand, GroupArgs, GroupCommand, NodeArgs, NodeCommand, NodeOrder,
    RebalanceArgs, ScrubArgs, ScrubCommand,
};

use super::failure::Failure;
use crate::Client;

/// Carries out one `admin` command.
pub(crate) async fn run(client: &Client, args: AdminArgs) -> Result<(), Failure> {
    match args.command {
        AdminCommand::Node(args) => node::run(client, args.command).await,
        AdminCommand::Group(args) => match args.command {
            GroupCommand::List { json } => group::list(client, json).await,
        },
        AdminCommand::Rebalance(args) => order::rebalance(client, &args).await,
        AdminCommand::Scrub(args) => scrub::run(client, args.command).await,
    }
}
