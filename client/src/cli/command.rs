//! From the command line to an exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use clap::error::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Command, Verb};
use super::failure::Failure;
use super::{admin, cluster, namespace, output, transfer};
use crate::{Client, Config, dev};

/// How long the end of the session may take after the command itself has ended.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long local file operations that are under way may take to end after an interruption.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// Runs one command line, program name first, and returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Command::try_parse_from(arguments) {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    if command.version {
        return conclude("version", print_version());
    }
    let Some(verb) = command.verb else {
        eprintln!("lanefs: a command is missing; lanefs --help lists them");
        return ExitCode::from(2);
    };
    let name = verb.name();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return conclude(name, Err(Failure::Failed(format!("cannot start threads: {error}"))));
        }
    };
    let result = runtime.block_on(async {
        match verb {
            Verb::Dev(args) => tokio::select! {
                result = dev::run(args) => result.map_err(Failure::from),
                failure = interrupted() => Err(failure),
            },
            verb => on_cluster(command.config.as_deref(), verb).await,
        }
    });
    runtime.shutdown_timeout(SETTLE_WITHIN);
    conclude(name, result)
}

/// Connects, carries out a command, and ends the session, also after an interruption.
async fn on_cluster(config: Option<&std::path::Path>, verb: Verb) -> Result<(), Failure> {
    let config = Config::find(config)?;
    let client = tokio::select! {
        client = Client::connect(&config) => client?,
        failure = interrupted() => return Err(failure),
    };
    let result = tokio::select! {
        result = dispatch(&client, verb) => result,
        failure = interrupted() => Err(failure),
    };
    // Ending the session gives back what was not published. When the coordinator cannot be
    // reached the session's lease does the same later, so this failure changes no result.
    tokio::time::timeout(CLOSE_WITHIN, client.close()).await.ok();
    result
}

async fn dispatch(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Put(args) => transfer::put(client, args).await,
        Verb::Get(args) => transfer::get(client, args).await,
        Verb::Cat { sources } => transfer::cat(client, sources).await,
        Verb::Ls(args) => namespace::ls(client, args).await,
        Verb::Stat(args) => namespace::stat(client, args).await,
        Verb::Mkdir { parents, cell, paths } => {
            namespace::mkdir(client, paths, parents, cell).await
        }
        Verb::Mv { paths } => namespace::mv(client, paths).await,
        Verb::Rm { recursive, paths } => namespace::rm(client, paths, recursive).await,
        Verb::Ln { symbolic, target, name } => namespace::ln(client, target, name, symbolic).await,
        Verb::Touch { paths } => namespace::touch(client, paths).await,
        Verb::Truncate { size, paths } => namespace::truncate(client, paths, size).await,
        Verb::Df { json } => cluster::df(client, json).await,
        Verb::Locate(args) => cluster::locate(client, args).await,
        Verb::Verify { recursive, json, path } => {
            cluster::verify(client, path, recursive, json).await
        }
        Verb::Status { watch: true, .. } => cluster::watch(client).await,
        Verb::Status { json, .. } => cluster::status(client, json).await,
        Verb::Top(args) => cluster::top(client, args).await,
        Verb::Admin(args) => admin::run(client, args).await,
        Verb::Dev(_) => Err(Failure::Usage("dev commands need no cluster".to_owned())),
    }
}

/// Ends when the user or the system asks this program to stop.
async fn interrupted() -> Failure {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Failure::Failed("interrupted".to_owned())
        }
        (Err(error), _) | (_, Err(error)) => {
            Failure::Failed(format!("cannot watch for signals: {error}"))
        }
    }
}

fn print_version() -> Result<(), Failure> {
    let line = protocol::version::line("lanefs");
    output::print(&format!("{line}\n")).map_err(Failure::output)
}

/// Help goes to standard output; a wrong command line is one line and exit code 2.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp) {
        return conclude("help", output::print(&error.to_string()).map_err(Failure::output));
    }
    eprintln!("lanefs: {}; lanefs --help tells more", one_line(error));
    ExitCode::from(2)
}

/// The message of a parser error without its usage and hints, joined to one line.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing".to_owned();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let message: Vec<&str> = text.lines().map(str::trim).take_while(|l| !l.is_empty()).collect();
    message.join(" ")
}

fn conclude(name: &str, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::from(1),
        Err(failure @ Failure::Failed(_)) => {
            eprintln!("lanefs: {name}: {failure}");
            ExitCode::from(1)
        }
        Err(failure @ Failure::Usage(_)) => {
            eprintln!("lanefs: {name}: {failure}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arguments: &[&str]) -> String {
        let line = ["lanefs"].iter().chain(arguments);
        match Command::try_parse_from(line) {
            Ok(command) => panic!("accepted: {command:?}"),
            Err(error) => one_line(&error),
        }
    }

    #[test]
    fn a_wrong_command_line_is_explained_in_one_line() {
        assert!(message(&["put", "--frob"]).contains("--frob"));
        assert!(message(&["frobnicate"]).contains("frobnicate"));
        assert!(message(&["stat"]).contains("<PATH>"));
        assert!(message(&["dev", "up"]).contains("--dir"));
        assert!(message(&["dev", "up", "--dir", "x", "--target-size", "y"]).contains("8GiB"));
        assert_eq!(message(&["dev"]), "a command is missing");
    }
}
