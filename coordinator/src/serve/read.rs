//! Reads: they use the newest view and never wait for the proposer.
//!
//! The view is taken after the request arrived and every change is published before it is
//! answered, so a read that starts after an answer sees the change.

use std::sync::Arc;

use protocol::ids::SessionId;
use protocol::message::cluster::{
    CoordinatorStatus, DrainStatus, MapFetchReply, MapFetchRequest, StatusReply, StatusRequest,
};
use protocol::message::namespace::{
    LookupReply, LookupRequest, LookupResult, ReadDirReply, ReadDirRequest,
};
use protocol::status::Status;

use super::connection::Connection;
use super::dispatch::Refusal;
use super::{Holder, Shared};
use crate::clock;
use crate::kv::KvError;
use crate::limits::LOOKUP_INLINE_MAX;
use crate::planner;
use crate::state::read::{self, ReadError};

/// Resolves a batch of paths in one view; the reply ends early when it is full.
pub(super) async fn lookup(
    request: LookupRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<LookupReply, Refusal> {
    let (view, caller) = (shared.proposer.view(), connection.caller);
    let holder = holder(request.session, connection, shared);
    let short = request.queries.len() <= LOOKUP_INLINE_MAX;
    let work = move || {
        let results = read::lookup_batch(&view.snapshot, &caller, &request.queries);
        let results = results.into_iter().map(|result| match result {
            Ok(entry) => LookupResult::Found(entry),
            Err(error) => LookupResult::Refused(noted(&error)),
        });
        LookupReply { results: results.collect() }
    };
    let mut reply = if short { work() } else { on_reader(shared, work).await? };
    let found = reply.results.iter_mut().filter_map(|result| match result {
        LookupResult::Found(entry) => Some(entry),
        LookupResult::Refused(_) => None,
    });
    shared.words.note(holder, clock::boottime(), found);
    Ok(reply)
}

/// Reads one page of a directory.
pub(super) async fn read_dir(
    request: ReadDirRequest,
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<ReadDirReply, Refusal> {
    let (view, caller) = (shared.proposer.view(), connection.caller);
    let holder = holder(request.session, connection, shared);
    let work = move || read::read_dir(&view.snapshot, &caller, &request);
    let mut page = on_reader(shared, work).await?.map_err(|error| noted(&error))?;
    let entries = page.entries.iter_mut().map(|one| &mut one.entry);
    shared.words.note(holder, clock::boottime(), entries);
    Ok(page)
}

/// Who reads: its session counts only when it is the reader's.
fn holder(session: SessionId, connection: &Connection, shared: &Shared) -> Holder {
    let own = shared.sessions.renew(session, &connection.caller, clock::boottime());
    let session = if own.is_ok() { session } else { SessionId(0) };
    Holder { connection: connection.number, session }
}

/// Answers with the map since the asked version.
pub(super) async fn map_fetch(
    request: MapFetchRequest,
    _connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<MapFetchReply, Refusal> {
    Ok(MapFetchReply { delta: shared.proposer.delta_since(request.have) })
}

/// Describes the cluster as this coordinator sees it.
pub(super) async fn status(
    _request: StatusRequest,
    _connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<StatusReply, Refusal> {
    let view = shared.proposer.view();
    let recovery = shared.health.recovery(clock::boottime());
    let outlook = shared.board.outlook();
    let timed = |drain: &DrainStatus| DrainStatus {
        eta_s: planner::eta_s(drain.bytes_left, recovery.bytes_per_s),
        ..*drain
    };
    let itself = CoordinatorStatus {
        id: shared.about.coordinator.0,
        address: shared.about.address.clone(),
        leader: true,
        up: true,
    };
    Ok(StatusReply {
        map_version: view.map.version,
        coordinators: vec![itself],
        targets: shared.health.reports(),
        recovery_bytes_left: outlook.bytes_left,
        recovery_bytes_per_s: recovery.bytes_per_s,
        inodes: view.counters.inodes,
        file_bytes: view.counters.file_bytes,
        sessions: view.counters.sessions,
        dead_files: view.counters.dead_files,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        recovery_eta_s: planner::eta_s(outlook.bytes_left, recovery.bytes_per_s),
        endangered: outlook.endangered,
        guarded: outlook.guarded,
        scrub_pass: view.ledger.scrub_pass,
        drains: outlook.drains.iter().map(timed).collect(),
        alarms: outlook.alarms.clone(),
    })
}

/// Runs a long read on a thread of its own, so that the workers stay free for heartbeats.
pub(super) async fn on_reader<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let permit = Arc::clone(&shared.readers).acquire_owned().await.map_err(|_| Status::NotReady)?;
    let running = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(permit);
        result
    });
    running.await.map_err(|error| {
        tracing::error!(%error, "a read ended without a result");
        Status::Internal
    })
}

/// The status of a failed read of the table, which is logged here, once.
pub(super) fn noted_table(error: &KvError) -> Status {
    tracing::error!(%error, "reading the state table failed");
    Status::Internal
}

/// The status of a failed read; a failure of the table itself is logged here, once.
fn noted(error: &ReadError) -> Status {
    if let ReadError::Table(error) = error {
        tracing::error!(%error, "reading the state table failed");
    }
    error.status()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::limits::READERS_MAX;
    use crate::serve::fixture;
    use crate::timers;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn long_reads_beyond_the_readers_wait_for_one_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (shared, _running) = fixture::shared(dir.path(), timers::channel().0);
        let (started, mut begun) = mpsc::unbounded_channel();
        let mut gates = Vec::new();
        let mut reads = tokio::task::JoinSet::new();
        for _ in 0..=READERS_MAX {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            gates.push(open);
            let (shared, started) = (Arc::clone(&shared), started.clone());
            reads.spawn(async move {
                let work = move || {
                    started.send(()).unwrap();
                    // Ends with an error when the sender is dropped, which is the signal.
                    gate.recv().unwrap_err();
                };
                on_reader(&shared, work).await
            });
        }
        for _ in 0..READERS_MAX {
            begun.recv().await.unwrap();
        }
        assert_eq!(shared.readers.available_permits(), 0);
        assert!(timeout(SHORT, begun.recv()).await.is_err(), "no reader is left");
        gates.remove(0);
        begun.recv().await.unwrap();
        gates.clear();
        while let Some(read) = reads.join_next().await {
            assert_eq!(read.unwrap(), Ok(()));
        }
    }
}
