//! `verify`: every replica of every chunk is read from its device, and all are compared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::cluster_map::ClusterMap;
use protocol::ids::{ChunkKey, Fid, GroupId, Ino, TargetId};
use protocol::layout::ChunkRange;
use protocol::message::namespace::{Entry, FileType};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::judge::{Judgement, judge};
use super::locate::chunks;
use super::settle::settle;
use crate::cli::failure::Failure;
use crate::cli::limits::{
    DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, JOBS_WAITING, VERIFY_CHUNKS_IN_FLIGHT,
    VERIFY_FILES_IN_FLIGHT,
};
use crate::cli::output::{insert_name, print, shown};
use crate::cli::path::RemotePath;
use crate::cli::report::Report;
use crate::cli::transfer::{Found, expect, find};
use crate::cli::tree::{run_jobs, visit_all};
use crate::{Client, Error};

/// Pause before a chunk that seems wrong is looked at again: a write may have been under way.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(300);
/// Problems that are listed; more are counted.
const PROBLEMS_LISTED_MAX: usize = 10_000;

/// What one `verify` shares between its tasks.
struct Verify {
    client: Client,
    report: Report,
    tally: Mutex<Tally>,
}

/// What has been found so far.
#[derive(Debug, Default)]
struct Tally {
    files: u64,
    chunks: u64,
    bytes: u64,
    verified: u64,
    missing: u64,
    /// Chunks for which a target was missing, by group; target 0 stands for a replica that no
    /// target holds.
    absent: BTreeMap<(GroupId, TargetId), u64>,
    problems: Vec<Problem>,
    problem_count: u64,
}

/// A replica that is not as it should be.
#[derive(Debug)]
struct Problem {
    path: Vec<u8>,
    chunk: u32,
    group: GroupId,
    target: TargetId,
    text: String,
}

/// Reads and compares every replica of a file, or of a tree when `recursive`.
pub(crate) async fn verify(
    client: &Client,
    path: OsString,
    recursive: bool,
    as_json: bool,
) -> Result<(), Failure> {
    let path = RemotePath::parse(&path);
    let entry = expect(client, &path, true).await?;
    settle(client).await?;
    let shared = Arc::new(Verify {
        client: client.clone(),
        report: Report::new("verify"),
        tally: Mutex::new(Tally::default()),
    });
    let (send, receive) = mpsc::channel(JOBS_WAITING);
    let work = run_jobs(receive, VERIFY_FILES_IN_FLIGHT, |(path, entry)| {
        verify_file(shared.clone(), path, entry)
    });
    let walk = walk(shared.clone(), path.clone(), entry, recursive, send);
    let (walked, worked) = tokio::join!(walk, work);
    walked?;
    worked.map_err(|error| Failure::Failed(error.to_string()))?;
    let map = client.refresh_map().await?;
    let tally = std::mem::take(&mut *shared.tally());
    let text = if as_json { format!("{}\n", tally.document(&map)) } else { tally.sheet(&map) };
    print(&text).map_err(Failure::output)?;
    shared.report.finish()?;
    if tally.problem_count > 0 { Err(Failure::Reported) } else { Ok(()) }
}

type File = (RemotePath, Entry);

async fn walk(
    verify: Arc<Verify>,
    path: RemotePath,
    entry: Entry,
    recursive: bool,
    files: mpsc::Sender<File>,
) -> Result<(), Failure> {
    match entry.attributes.file_type {
        FileType::Directory if !recursive => {
            let hint = "is a directory; verify -r verifies directories";
            Err(Failure::Failed(format!("{}: {hint}", shown(&path.bytes()))))
        }
        FileType::Directory => {
            let root = vec![(path, entry.attributes.ino)];
            visit_all(root, DIRECTORIES_IN_FLIGHT, DIRECTORIES_WAITING_MAX, |directory| {
                visit(verify.clone(), directory, files.clone())
            })
            .await
            .map_err(|error| Failure::Failed(error.to_string()))
        }
        FileType::File | FileType::Symlink => {
            verify.expect(entry.attributes.size);
            // The receiver outlives the sender unless it failed, which is reported there.
            files.send((path, entry)).await.ok();
            Ok(())
        }
    }
}

async fn visit(
    verify: Arc<Verify>,
    (path, ino): (RemotePath, Ino),
    files: mpsc::Sender<File>,
) -> Vec<(RemotePath, Ino)> {
    let mut below = Vec::new();
    let mut after = Vec::new();
    loop {
        if verify.report.is_hopeless() {
            return below;
        }
        let page = match verify.client.read_dir_page(ino, &after, true).await {
            Ok(page) => page,
            Err(error) => {
                verify.report.remote(&path.bytes(), error);
                return below;
            }
        };
        let last = page.entries.last().map(|entry| entry.name.clone());
        for one in page.entries {
            let path = path.join(&one.name);
            match one.entry.attributes.file_type {
                FileType::Directory => below.push((path, one.entry.attributes.ino)),
                FileType::Symlink => {}
                FileType::File => {
                    verify.expect(one.entry.attributes.size);
                    if files.send((path, one.entry)).await.is_err() {
                        return below;
                    }
                }
            }
        }
        match last {
            Some(name) if page.more => after = name,
            _ => return below,
        }
    }
}

impl Verify {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        // A task that panicked while it counted is reported by the loop that ran it.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, bytes: u64) {
        self.report.progress.expect(bytes);
    }
}

/// Verifies one file, a few chunks at a time.
async fn verify_file(verify: Arc<Verify>, path: RemotePath, entry: Entry) {
    if verify.report.is_hopeless() {
        return;
    }
    let (Some(content), Ok(chunks)) = (&entry.content, chunks(&path, &entry)) else { return };
    let fid = content.fid;
    let mut waiting = chunks.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < VERIFY_CHUNKS_IN_FLIGHT
            && let Some(chunk) = waiting.next()
        {
            running.spawn(verify_chunk(verify.clone(), path.clone(), fid, chunk));
        }
        match running.join_next().await {
            None => break,
            Some(Ok(())) => {}
            Some(Err(error)) => verify.report.failed(&path.bytes(), error),
        }
    }
    verify.tally().files += 1;
}

async fn verify_chunk(verify: Arc<Verify>, path: RemotePath, fid: Fid, chunk: ChunkRange) {
    let key = ChunkKey { fid, index: chunk.index };
    let mut result = look(&verify.client, key, chunk).await;
    if !matches!(&result, Ok(judgement) if judgement.problems.is_empty()) {
        // The chunk may have been written, moved to new members or deleted meanwhile.
        tokio::time::sleep(SECOND_LOOK_AFTER).await;
        if !still_there(&verify.client, &path, fid).await {
            return;
        }
        result = match verify.client.refresh_map().await {
            Ok(_) => look(&verify.client, key, chunk).await,
            Err(error) => Err(error),
        };
    }
    verify.report.progress.done(chunk.len.into());
    let bytes = path.bytes();
    match result {
        Ok(judgement) => {
            let absent = absent(&verify.client, chunk.group, &judgement).await;
            verify.tally().add(bytes, chunk, judgement, &absent);
        }
        Err(error) => verify.report.remote(&bytes, error),
    }
}

async fn look(client: &Client, key: ChunkKey, chunk: ChunkRange) -> Result<Judgement, Error> {
    Ok(judge(chunk.len, &client.verify_chunk(chunk.group, key).await?))
}

/// True when the path still leads to the same content, or when that cannot be found out.
async fn still_there(client: &Client, path: &RemotePath, fid: Fid) -> bool {
    match find(client, path, true).await {
        Ok(Found::Missing) => false,
        Ok(Found::Entry(entry)) => entry.content.is_some_and(|content| content.fid == fid),
        Err(_) => true,
    }
}

/// Targets whose replica of the group is missing; target 0 where the group lacks a member.
async fn absent(client: &Client, group: GroupId, judgement: &Judgement) -> Vec<TargetId> {
    let mut absent = judgement.missing.clone();
    let Ok(map) = client.map().await else { return absent };
    if let Some(group) = map.groups.get(&group) {
        let wanted = usize::from(group.replicas).saturating_sub(group.members.len());
        let known = group.evicted.iter().copied().chain(std::iter::repeat(TargetId(0)));
        absent.extend(known.take(wanted));
    }
    absent
}

impl Tally {
    fn add(&mut self, path: Vec<u8>, chunk: ChunkRange, judgement: Judgement, absent: &[TargetId]) {
        self.chunks += 1;
        self.bytes += u64::from(chunk.len);
        self.verified += judgement.verified as u64;
        self.missing += absent.len() as u64;
        for &target in absent {
            *self.absent.entry((chunk.group, target)).or_default() += 1;
        }
        self.problem_count += judgement.problems.len() as u64;
        for (target, text) in judgement.problems {
            if self.problems.len() < PROBLEMS_LISTED_MAX {
                let (chunk, group) = (chunk.index, chunk.group);
                self.problems.push(Problem { path: path.clone(), chunk, group, target, text });
            }
        }
    }

    fn document(&self, map: &ClusterMap) -> Value {
        let node = |target: TargetId| map.targets.get(&target).map(|target| target.node.0);
        let absent = self.absent.iter().map(|(&(group, target), &chunks)| {
            let named = (target != TargetId(0)).then_some(target.0);
            json!({ "group": group.0, "target": named, "node": node(target), "chunks": chunks })
        });
        let problems = self.problems.iter().map(|problem| {
            let mut document = json!({
                "chunk": problem.chunk,
                "group": problem.group.0,
                "target": problem.target.0,
                "node": node(problem.target),
                "problem": problem.text,
            });
            insert_name(&mut document, "path", &problem.path);
            document
        });
        json!({
            "files": self.files,
            "chunks": self.chunks,
            "bytes": self.bytes,
            "replicas_verified": self.verified,
            "replicas_missing": self.missing,
            "replicas_failed": self.problem_count,
            "missing": absent.collect::<Vec<_>>(),
            "failed": problems.collect::<Vec<_>>(),
        })
    }

    fn sheet(&self, map: &ClusterMap) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let Problem { path, chunk, group, target, text: what } = problem;
            let path = shown(path);
            text.push_str(&format!(
                "{path}: chunk {chunk} group {group} target {target}: {what}\n"
            ));
        }
        // People want to know who is away, not in which of hundreds of groups.
        let mut by_target: BTreeMap<TargetId, u64> = BTreeMap::new();
        for (&(_, target), &chunks) in &self.absent {
            *by_target.entry(target).or_default() += chunks;
        }
        for (target, chunks) in by_target {
            let who = match map.targets.get(&target) {
                Some(record) => format!("target {target} of node {}", record.node),
                None => "a target that is yet to be chosen".to_owned(),
            };
            text.push_str(&format!("missing: {chunks} replicas on {who}\n"));
        }
        text.push_str(&format!(
            "{} files, {} chunks, {} replicas verified, {} missing, {} failed\n",
            self.files, self.chunks, self.verified, self.missing, self.problem_count
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_is_listed_and_failed_is_counted() {
        let mut tally = Tally::default();
        let chunk = ChunkRange { index: 1, group: GroupId(5), chunk_log2: 22, offset: 0, len: 100 };
        let judgement = Judgement {
            verified: 1,
            missing: vec![],
            problems: vec![(TargetId(201), "corrupt cells 0".to_owned())],
        };
        tally.add(b"/a\xff".to_vec(), chunk, judgement, &[TargetId(301), TargetId(0)]);
        let document = tally.document(&ClusterMap::default());
        assert_eq!(document["replicas_verified"], 1);
        assert_eq!(document["replicas_missing"], 2);
        assert_eq!(document["replicas_failed"], 1);
        assert!(document["missing"][0]["target"].is_null());
        assert_eq!(document["missing"][1]["target"], 301);
        assert_eq!(document["failed"][0]["path_b64"], "L2H/");
        let sheet = tally.sheet(&ClusterMap::default());
        assert!(sheet.starts_with("/a\\xff: chunk 1 group 5 target 201: corrupt cells 0\n"));
        assert!(sheet.ends_with("0 files, 1 chunks, 1 replicas verified, 2 missing, 1 failed\n"));
    }
}
