//! The command line: what may be said, parsed into types that mean it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::admin::AdminArgs;
use super::cluster::parse_interval;
use super::units::{parse_cell, parse_size};
use crate::config::DataTransport;

/// A distributed file system for bulk data.
#[derive(Debug, Parser)]
#[command(name = "lanefs", disable_version_flag = true, subcommand_required = false)]
pub struct Command {
    /// Configuration of the cluster; without it, the file that LANEFS_CONFIG names
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Print version, checksum path and processor level
    #[arg(long, short = 'V')]
    pub version: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Store local files and directories
    Put(CopyArgs),
    /// Fetch files and directories
    Get(CopyArgs),
    /// Write files to standard output
    Cat {
        /// Files in lanefs
        #[arg(required = true, value_name = "SRC")]
        sources: Vec<OsString>,
    },
    /// List a directory
    Ls(LsArgs),
    /// Show the attributes of a file or directory
    Stat(PathJson),
    /// Make directories
    Mkdir {
        /// Make missing parents too; an existing directory is no error
        #[arg(short, long)]
        parents: bool,
        /// Cell size of files made in them: what is checked, and read at least, as one
        #[arg(long, value_name = "4KiB|16KiB|64KiB", value_parser = parse_cell)]
        cell: Option<u8>,
        /// Directories to make
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// Move or rename
    Mv {
        /// Sources, then the destination
        #[arg(required = true, num_args = 2.., value_name = "SRC... DST")]
        paths: Vec<OsString>,
    },
    /// Remove files, and directories with -r
    Rm {
        /// Remove directories and what they hold
        #[arg(short, long)]
        recursive: bool,
        /// What to remove
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// Make a link: to a file, or with -s to any path
    Ln {
        /// Make a symbolic link
        #[arg(short, long)]
        symbolic: bool,
        /// What the link points to
        target: OsString,
        /// Name of the link, or a directory for it
        name: OsString,
    },
    /// Make an empty file, or set the modification time to now
    Touch {
        /// Files to touch
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// Set the length of files
    Truncate {
        /// The length: a number of bytes, or with KiB, MiB, GiB
        #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
        size: u64,
        /// Files to cut or to extend with zeros
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// Show capacity and use
    Df {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show chunks, groups, replicas, and the core that owns each
    Locate(PathJson),
    /// Read every replica of every chunk and compare checksums
    Verify {
        /// Verify directories and what they hold
        #[arg(short, long)]
        recursive: bool,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        /// File or directory
        path: OsString,
    },
    /// Show the health of the cluster
    Status {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        /// Show it again every second until interrupted
        #[arg(short, long, conflicts_with = "json")]
        watch: bool,
    },
    /// Show what each core does, live: load, bytes, queues, service times, stalls
    Top(TopArgs),
    /// Give an operator's orders and follow them
    Admin(AdminArgs),
    /// Run a cluster on this machine
    Dev(DevArgs),
}

/// Sources and a destination, in lanefs or local.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Copy directories and what they hold
    #[arg(short, long)]
    pub recursive: bool,
    /// Sources, then the destination
    #[arg(required = true, num_args = 2.., value_name = "SRC... DST")]
    pub paths: Vec<OsString>,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Show mode, links, owner, group, size and time
    #[arg(short, long)]
    pub long: bool,
    /// List directories below too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// What to list
    #[arg(default_value = "/")]
    pub path: OsString,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one JSON document of one interval and exit
    #[arg(long)]
    pub json: bool,
    /// Show one interval and exit
    #[arg(long)]
    pub once: bool,
    /// Length of an interval
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    pub interval: Duration,
}

/// A path, and how to print what is found.
#[derive(Debug, Args)]
pub struct PathJson {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// The path
    pub path: OsString,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// What to do with the cluster.
    #[command(subcommand)]
    pub command: DevCommand,
}

/// What to do with a cluster on this machine.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Make the cluster or start what does not run; returns when every group is writable
    Up(UpArgs),
    /// Show the processes
    Status {
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// End a node with SIGKILL
    KillNode {
        /// The node, from 1
        number: u32,
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
    },
    /// Start a node; returns when it is registered
    StartNode {
        /// The node, from 1
        number: u32,
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
    },
    /// End a node with SIGTERM and wait for it
    StopNode {
        /// The node, from 1
        number: u32,
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
    },
    /// End a coordinator with SIGKILL
    KillCoordinator {
        /// The coordinator, from 1
        number: u32,
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
    },
    /// Start a coordinator; returns when it answers
    StartCoordinator {
        /// The coordinator, from 1
        number: u32,
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
    },
    /// Add a node and start it; returns when it is registered
    AddNode {
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
    },
    /// End every process and wait for them
    Down {
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
        /// Remove everything `dev up` made
        #[arg(long)]
        purge: bool,
    },
    /// Write another identity: FILE, with a certificate and a key beside it
    Client {
        /// Name of the user
        #[arg(long)]
        user: String,
        /// Numeric user
        #[arg(long)]
        uid: u32,
        /// Configuration file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Folder of the cluster
        #[arg(long)]
        dir: PathBuf,
    },
}

/// Arguments of `dev up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Folder of the cluster; may hold other files
    #[arg(long)]
    pub dir: PathBuf,
    /// Data nodes [default: 3]
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
    /// Shards of each node [default: 1]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Coordinators [default: 1]
    #[arg(long, value_name = "N")]
    pub coordinators: Option<u32>,
    /// Replicas of each chunk [default: 3]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Size of each target [default: 8GiB or a fifth of the free space]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub target_size: Option<u64>,
    /// First of a hundred ports [default: the first free of 7400, 7500, ...]
    #[arg(long, value_name = "N")]
    pub base_port: Option<u16>,
    /// How bulk data crosses the network [default: tls]
    #[arg(long, value_name = "HOW")]
    pub data_transport: Option<DataTransport>,
}

impl Verb {
    /// The command's name, as it begins an error line.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Put(_) => "put",
            Verb::Get(_) => "get",
            Verb::Cat { .. } => "cat",
            Verb::Ls(_) => "ls",
            Verb::Stat(_) => "stat",
            Verb::Mkdir { .. } => "mkdir",
            Verb::Mv { .. } => "mv",
            Verb::Rm { .. } => "rm",
            Verb::Ln { .. } => "ln",
            Verb::Touch { .. } => "touch",
            Verb::Truncate { .. } => "truncate",
            Verb::Df { .. } => "df",
            Verb::Locate(_) => "locate",
            Verb::Verify { .. } => "verify",
            Verb::Status { .. } => "status",
            Verb::Top(_) => "top",
            Verb::Admin(args) => args.command.name(),
            Verb::Dev(args) => args.command.name(),
        }
    }
}

impl DevCommand {
    fn name(&self) -> &'static str {
        match self {
            DevCommand::Up(_) => "dev up",
            DevCommand::Status { .. } => "dev status",
            DevCommand::KillNode { .. } => "dev kill-node",
            DevCommand::StartNode { .. } => "dev start-node",
            DevCommand::StopNode { .. } => "dev stop-node",
            DevCommand::KillCoordinator { .. } => "dev kill-coordinator",
            DevCommand::StartCoordinator { .. } => "dev start-coordinator",
            DevCommand::AddNode { .. } => "dev add-node",
            DevCommand::Down { .. } => "dev down",
            DevCommand::Client { .. } => "dev client",
        }
    }
}
