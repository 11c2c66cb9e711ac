//! Verifies everything after a fault: files through a client, replicas through `lanefs verify`.

use std::sync::Arc;

use client::{Client, Error};
use protocol::ids::Ino;
use protocol::message::namespace::{LookupResult, PathQuery};
use protocol::status::Status;
use serde_json::Value;
use tokio::task::JoinSet;

use super::inject::is_allowed;
use super::lab::Lab;
use super::menu::Fault;
use super::workload::Workload;
use super::workload::ledger::FileRecord;
use super::workload::stamp::first_wrong;
use crate::cluster::StepError;

/// Files read at once.
const FILES_AT_ONCE: usize = 8;
/// Errors quoted of one round.
const QUOTED_MAX: usize = 5;

/// What a verification covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Replicas that `lanefs verify` found right.
    pub replicas: u64,
}

/// What `lanefs verify -r /` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Right ones.
    pub verified: u64,
    /// Members that have none, or are not there.
    pub missing: u64,
    /// Differing, unreadable or corrupt ones.
    pub failed: u64,
}

/// Reads every acknowledged file and checks every replica while the workload rests.
///
/// # Errors
/// [`StepError::Different`] for the first violation.
pub async fn verify(lab: &Lab, workload: &Workload, fault: Fault) -> Result<Verified, StepError> {
    let _rest = workload.rest().await?;
    surfaced(workload, fault)?;
    settle_unknown(workload).await?;
    stay_removed(workload).await?;
    let mut verified = read_all(workload).await?;
    surfaced(workload, fault)?;
    let found = replicas(lab)?;
    verified.replicas = found.verified;
    if found.failed + found.missing > 0 {
        let Replicas { missing, failed, .. } = found;
        return Err(StepError::Different(format!(
            "lanefs verify -r /: {failed} replicas failed, {missing} missing"
        )));
    }
    Ok(verified)
}

/// Fails when the workload saw wrong bytes, or an error that the contract does not allow.
///
/// # Errors
/// [`StepError::Different`] quotes the first few.
pub fn surfaced(workload: &Workload, fault: Fault) -> Result<(), StepError> {
    let wrong = workload.ledger().take_wrong();
    if !wrong.is_empty() {
        let texts: Vec<String> = wrong.into_iter().take(QUOTED_MAX).collect();
        return Err(StepError::Different(format!("WRONG BYTES: {}", texts.join("; "))));
    }
    let errors = workload.ledger().take_errors();
    let bad: Vec<&str> = errors
        .iter()
        .filter(|error| !is_allowed(fault, error.status))
        .map(|error| error.text.as_str())
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    let quoted = bad[..bad.len().min(QUOTED_MAX)].join("; ");
    Err(StepError::Different(format!("{} errors reached the workload: {quoted}", bad.len())))
}

/// Files whose publication or removal was not acknowledged are there, whole, or not at all.
async fn settle_unknown(workload: &Workload) -> Result<(), StepError> {
    for file in workload.ledger().unknown() {
        match workload.client().lookup(file.path().as_bytes(), true).await {
            Ok(_) => {
                read_whole(workload.client(), workload.run(), &file).await?;
                workload.ledger().settle(&file, true);
            }
            Err(error) if error.status() == Some(Status::NotFound) => {
                workload.ledger().settle(&file, false);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

async fn stay_removed(workload: &Workload) -> Result<(), StepError> {
    let files = workload.ledger().take_removed();
    let query = |file: &Arc<FileRecord>| PathQuery {
        base: Ino::ROOT,
        path: file.path().into_bytes(),
        follow: true,
        with_content: false,
    };
    let results = workload.client().lookup_many(files.iter().map(query).collect()).await;
    let results = results.map_err(failed)?;
    for (file, result) in files.iter().zip(results) {
        if result != LookupResult::Refused(Status::NotFound) {
            let path = file.path();
            return Err(StepError::Different(format!(
                "{path} was removed and is back: {result:?}"
            )));
        }
    }
    Ok(())
}

async fn read_all(workload: &Workload) -> Result<Verified, StepError> {
    let mut verified = Verified::default();
    let mut waiting = workload.ledger().live().into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < FILES_AT_ONCE
            && let Some(file) = waiting.next()
        {
            let (client, run) = (workload.client().clone(), workload.run());
            running.spawn(async move { read_whole(&client, run, &file).await });
        }
        let Some(ended) = running.join_next().await else { return Ok(verified) };
        verified.files += 1;
        verified.bytes += ended.map_err(failed)??;
    }
}

/// Reads one file from its first to its last byte; its length.
///
/// # Errors
/// [`StepError::Different`] when it is not there, not as long or not as written.
pub async fn read_whole(client: &Client, run: u64, file: &FileRecord) -> Result<u64, StepError> {
    let path = file.path();
    let lost = |error: Error| StepError::Different(format!("LOST: {path}: {error}"));
    let entry = client.lookup(path.as_bytes(), true).await.map_err(lost)?;
    let reader = client.reader(&entry).map_err(lost)?.named(&path);
    if reader.size() != file.size {
        let (is, was) = (reader.size(), file.size);
        return Err(StepError::Different(format!("LOST: {path} has {is} bytes of {was}")));
    }
    let mut stream = reader.stream(0, file.size);
    let mut at = 0;
    while let Some(piece) = stream.next().await.transpose().map_err(lost)? {
        if let Some(text) = first_wrong(at, &piece, |cell| file.stamp(run, cell)) {
            return Err(StepError::Different(format!("WRONG BYTES: {path}: {text}")));
        }
        at += piece.len() as u64;
    }
    if at == file.size {
        return Ok(at);
    }
    Err(StepError::Different(format!("LOST: {path}: {at} of {} bytes came", file.size)))
}

/// Runs `lanefs verify -r /`, which compares every replica of every chunk.
///
/// # Errors
/// [`StepError`] when the command fails for another reason than what it found.
pub fn replicas(lab: &Lab) -> Result<Replicas, StepError> {
    let mut command = lab.lanefs(&["verify", "-r", "--json", "/"])?;
    let output = command
        .output()
        .map_err(|source| StepError::Start { program: "lanefs verify".to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let document: Value = serde_json::from_str(&text).map_err(|error| StepError::Output {
        command: "lanefs verify -r --json /".to_owned(),
        what: format!("{error}; it said: {}", String::from_utf8_lossy(&output.stderr)),
    })?;
    let number = |key: &str| document[key].as_u64().unwrap_or(u64::MAX);
    Ok(Replicas {
        verified: number("replicas_verified"),
        missing: number("replicas_missing"),
        failed: number("replicas_failed"),
    })
}

/// An error of the client or the runtime as one of the harness.
pub fn failed(error: impl std::fmt::Display) -> StepError {
    StepError::Different(error.to_string())
}
