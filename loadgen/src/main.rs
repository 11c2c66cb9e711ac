//! The `lanefs-loadgen` command.

#![expect(clippy::print_stdout, reason = "a command prints its results")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadgen::sim::command;

/// A simulated cluster allocates as much as it computes: `docs/design/0004-the-speed-of-simulation.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "lanefs-loadgen", about = "Puts lanefs under test and measures it.")]
#[command(disable_version_flag = true, arg_required_else_help = true)]
struct Arguments {
    /// Prints version and compiled code paths.
    #[arg(long, short = 'V')]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Stores a real tree of a gibibyte, kills a node while reading it back, compares and heals.
    Demo {
        /// Folder for the cluster and the copy; about five times the tree's size.
        #[arg(long, default_value_os_t = std::env::temp_dir())]
        parent: PathBuf,
    },
    /// Measures the bars of the first release against the limits of this machine.
    Bars {
        /// Folder for the cluster; about 50 GiB are used for a while.
        #[arg(long, default_value_os_t = std::env::temp_dir())]
        parent: PathBuf,
        /// Folder in memory for large inputs.
        #[arg(long, default_value = "/dev/shm")]
        memory: PathBuf,
        /// File for the results as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Measures the data path against the limits of this machine, and prints whether each bar is met.
    Bench(loadgen::bench::Options),
    /// Breaks a cluster of real processes, round after round, and verifies everything after each.
    Faults(loadgen::faults::Options),
    /// Measures how long clients notice that a node is gone.
    Gaps(loadgen::faults::gaps::Options),
    /// Measures the bars of healing, each on a cluster of its own.
    HealBars(loadgen::faults::heal::Options),
    /// Puts a load on a running cluster and reports throughput and latency.
    Run(Box<loadgen::load::Options>),
    /// Says whether one run of a scenario was faster than another.
    Compare {
        /// Result of the first run (`run --json`).
        before: PathBuf,
        /// Result of the second.
        after: PathBuf,
    },
    /// Puts the results of the parts of one load together.
    Merge {
        /// Results of the parts (`run --part I/N --mergeable --json`).
        #[arg(required = true)]
        parts: Vec<PathBuf>,
        #[command(flatten)]
        reports: loadgen::load::Reports,
    },
    /// Measures what this machine can do: the limits that results are held against.
    Limits(loadgen::machine::Options),
    /// Removes one guard at a time and wants its killing test to fail.
    Mutants {
        /// Root of the repository.
        #[arg(long, default_value = ".")]
        root: PathBuf,
        /// Folder of the release programs, which must not know how to lose a guard.
        #[arg(long)]
        released: Option<PathBuf>,
        /// Guards to remove; all when none is named.
        guards: Vec<String>,
    },
    /// Goes through every order in which a small group can live, with faults.
    Search {
        /// Minutes to search.
        #[arg(long, default_value_t = 3.0)]
        minutes: f64,
    },
    /// Runs whole clusters in simulated time, with faults, each from one seed.
    Sim(command::Sim),
    /// Runs the seeds that arrive on standard input; started by `sim`.
    #[command(hide = true)]
    SimWorker(command::Worker),
}

fn main() -> ExitCode {
    protocol::cpu::require();
    run()
}

#[inline(never)]
fn run() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.version {
        println!("{}", protocol::version::line("lanefs-loadgen"));
        return ExitCode::SUCCESS;
    }
    let outcome = match arguments.command {
        None => Ok(()),
        Some(Command::Demo { parent }) => loadgen::demo::run(&parent).map(|_| ()),
        Some(Command::Bars { parent, memory, json }) => {
            loadgen::bars::run(&parent, &memory, json.as_deref())
        }
        Some(Command::Bench(options)) => loadgen::bench::run(&options),
        Some(Command::Sim(sim)) => return exit(sim.run()),
        Some(Command::SimWorker(worker)) => return exit(worker.run()),
        Some(Command::Faults(options)) => loadgen::faults::run(&options),
        Some(Command::Gaps(options)) => loadgen::faults::gaps::run(&options),
        Some(Command::HealBars(options)) => loadgen::faults::heal::run(&options),
        Some(Command::Run(options)) => loadgen::load::run(&options),
        Some(Command::Compare { before, after }) => loadgen::load::compare_files(&before, &after),
        Some(Command::Merge { parts, reports }) => loadgen::load::merge_files(&parts, &reports),
        Some(Command::Limits(options)) => loadgen::machine::run(&options),
        Some(Command::Mutants { root, released, guards }) => {
            return exit(loadgen::mutants::run(&root, released.as_deref(), &guards));
        }
        Some(Command::Search { minutes }) => {
            let limit = std::time::Duration::from_secs_f64((minutes * 60.0).clamp(1.0, 1e6));
            return exit(loadgen::search::run(limit));
        }
    };
    exit(outcome)
}

/// Tells what failed.
fn exit(outcome: Result<(), impl std::fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lanefs-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}
