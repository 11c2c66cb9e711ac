//! The command line of `admin`.

use clap::{Args, Subcommand};

/// Arguments of `admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What an operator may order.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// List, empty and remove nodes
    Node(NodeArgs),
    /// Show placement groups
    Group(GroupArgs),
    /// Spread the data evenly over the targets
    Rebalance(RebalanceArgs),
    /// Have everything that is stored read and checked
    Scrub(ScrubArgs),
}

/// Arguments of `admin node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: NodeCommand,
}

/// What may be done with nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show the nodes, and how far those are that are being emptied
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Move everything off a node and keep it empty
    Drain(NodeOrder),
    /// Take back a drain
    Undrain(NodeOrder),
    /// Forget a node whose targets are in no group
    Remove(NodeOrder),
}

/// An order about one node.
#[derive(Debug, Args)]
pub struct NodeOrder {
    /// The node
    pub number: u32,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `admin group`.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GroupCommand,
}

/// What may be done with groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Show epoch, members, roles and any plan in progress of every group
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `admin rebalance`.
#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// Stop instead; moves that have begun are completed
    #[arg(long)]
    pub stop: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `admin scrub`.
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ScrubCommand,
}

/// What may be done about scrubbing.
#[derive(Debug, Subcommand)]
pub enum ScrubCommand {
    /// Start a pass over everything that is stored
    Start {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show how far each target is and what it found
    Status {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

impl AdminCommand {
    /// The command's name, as it begins an error line.
    pub fn name(&self) -> &'static str {
        match self {
            AdminCommand::Node(args) => match args.command {
                NodeCommand::List { .. } => "admin node list",
                NodeCommand::Drain(_) => "admin node drain",
                NodeCommand::Undrain(_) => "admin node undrain",
                NodeCommand::Remove(_) => "admin node remove",
            },
            AdminCommand::Group(_) => "admin group list",
            AdminCommand::Rebalance(_) => "admin rebalance",
            AdminCommand::Scrub(args) => match args.command {
                ScrubCommand::Start { .. } => "admin scrub start",
                ScrubCommand::Status { .. } => "admin scrub status",
            },
        }
    }
}
