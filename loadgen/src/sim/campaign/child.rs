//! A process that runs seeds, seen from the one that started it.

use std::io::{BufRead, BufReader, Error, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Green, Told};
use crate::sim::profile::Mode;

/// Longest real time of one run; one that takes longer hangs.
const RUN_TIME_MAX: Duration = Duration::from_secs(300);
/// Longest line about a red seed.
const WHY_LEN_MAX: usize = 400;

/// A process, its input, the lines of its output and what it says when it ends badly.
struct Worker {
    process: Child,
    seeds: ChildStdin,
    lines: Receiver<String>,
    complaint: JoinHandle<String>,
}

/// Runs seeds in a process until there are none, with a new process after each red one.
pub(super) fn work(mode: Mode, seeds: &Mutex<Receiver<u64>>, tell: &Sender<Told>) {
    let mut worker = None;
    loop {
        let seed = seeds.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(seed) = seed else { return };
        let started = worker.take().map_or_else(|| Worker::start(mode), Ok);
        let told = match started.and_then(|mut worker: Worker| Ok((worker.run(seed)?, worker))) {
            Ok((Ok(green), ready)) => {
                worker = Some(ready);
                Told::Green(Box::new(green))
            }
            Ok((Err(hung), ended)) => Told::Red { seed, why: ended.end(hung) },
            Err(error) => Told::Broken(error),
        };
        // An error means that nobody wants to know any more.
        if tell.send(told).is_err() {
            return;
        }
    }
}

impl Worker {
    fn start(mode: Mode) -> Result<Worker, Error> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["sim-worker", "--mode", mode.name()])
            // The next run uses the memory of this one: to be given it anew takes a third of a run.
            .env("MIMALLOC_PURGE_DELAY", "-1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(seeds), Some(out), Some(mut err)) = pipes else {
            return Err(Error::other("its pipes are missing"));
        };
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let complaint = std::thread::spawn(move || {
            let mut said = Vec::new();
            match err.read_to_end(&mut said) {
                Ok(_) => String::from_utf8_lossy(&said).into_owned(),
                Err(error) => format!("its complaint cannot be read: {error}"),
            }
        });
        Ok(Worker { process, seeds, lines, complaint })
    }

    /// Runs one seed; the inner error says whether the process hangs.
    fn run(&mut self, seed: u64) -> Result<Result<Green, bool>, Error> {
        writeln!(self.seeds, "{seed}")?;
        match self.lines.recv_timeout(RUN_TIME_MAX) {
            Ok(line) => match Green::from_json(&line) {
                Some(green) => Ok(Ok(green)),
                None => Err(Error::other(format!("it said {line}"))),
            },
            Err(RecvTimeoutError::Timeout) => Ok(Err(true)),
            Err(RecvTimeoutError::Disconnected) => Ok(Err(false)),
        }
    }

    /// Ends the process; what it complained about, in one line.
    fn end(mut self, hung: bool) -> String {
        if hung {
            // An error means that it has ended meanwhile.
            let _ = self.process.kill();
        }
        drop(self.seeds);
        let ended = self.process.wait();
        let said = self.complaint.join().unwrap_or_default();
        if hung {
            return format!("does not end within {} s of real time", RUN_TIME_MAX.as_secs());
        }
        let why = reason(&said);
        if why.is_empty() { format!("its process ended: {ended:?}") } else { why }
    }
}

/// The message of the first panic, in one line.
fn reason(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    let place = lines.next().and_then(|line| line.split("panicked at ").nth(1)).unwrap_or_default();
    let message: Vec<_> = lines
        .take_while(|line| !line.starts_with("note: "))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut why = format!("{place} {}", message.join(" "));
    if why.len() > WHY_LEN_MAX {
        let end = (0..=WHY_LEN_MAX).rev().find(|&end| why.is_char_boundary(end)).unwrap_or(0);
        why.truncate(end);
    }
    why.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_panic_is_one_bounded_line() {
        let said = "noise\nthread 'main' panicked at a/b.rs:3:5:\nnot equal\n  left: 1\n\
                    note: run with\nmore";
        assert_eq!(reason(said), "a/b.rs:3:5: not equal left: 1");
        let long = format!("thread panicked at x:\n{}", "ä".repeat(500));
        assert!(reason(&long).len() <= WHY_LEN_MAX);
        assert_eq!(reason("killed"), "");
    }
}
