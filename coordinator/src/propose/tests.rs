//! Proposer rounds against a log in memory and one on disk.

use std::sync::{Mutex, mpsc};

use protocol::ids::{ClusterId, Ino, Seq};
use protocol::limits::{BODY_LEN_MAX_LIST, LINK_LEN_MAX, MUTATE_OPS_MAX, NAME_LEN_MAX};
use protocol::message::command::Stamp;
use protocol::message::namespace::{NamespaceOp, OpOutcome, SetAttributes};
use protocol::message::{decode_command, encode_command};

use super::*;
use crate::kv::Memory;
use crate::limits::{
    COMMAND_LEN_MAX, PROPOSAL_BATCH_BYTES, PROPOSAL_BATCH_MAX, PROPOSAL_QUEUE_MAX,
};
use crate::log::{Entry, FileLog, LogId, MemoryLog, Payload, Visit, Vote};

const ROOT: Caller = Caller { uid: 0, gid: 0, admin: true };

#[derive(Default)]
struct Seen(Mutex<Vec<(SessionId, bool)>>);

impl SessionWatch for Arc<Seen> {
    fn opened(&self, session: SessionId, _caller: Caller) {
        self.0.lock().unwrap().push((session, true));
    }
    fn ended(&self, session: SessionId) {
        self.0.lock().unwrap().push((session, false));
    }
}

fn identity() -> Identity {
    Identity {
        coordinator: CoordinatorId(1),
        initialize: Command::Initialize {
            cluster: ClusterId(7),
            replicas: 3,
            min_write: 2,
            groups_per_target: 4,
            targets_expected: 3,
            owner: ROOT,
        },
    }
}

fn state() -> State<Memory> {
    State::open(Memory::default()).unwrap()
}

fn start_on<L: Log + 'static>(log: L) -> (Proposer<Memory>, Running) {
    start(log, state(), &identity(), Box::new(Arc::new(Seen::default()))).unwrap()
}

fn open_session() -> Command {
    Command::OpenSession { caller: ROOT, client: "test".into() }
}

fn mkdir(session: SessionId, seq: u64) -> Command {
    let name = format!("d{seq}").into_bytes();
    let attributes = SetAttributes::default();
    let op = NamespaceOp::Mkdir { parent: Ino::ROOT, name, attributes };
    Command::Mutate { session, caller: ROOT, ops: vec![(Seq(seq), op)] }
}

/// Keeps the proposer busy until the returned sender is dropped.
fn hold(proposer: &Proposer<Memory>) -> mpsc::Sender<()> {
    let (release, wait) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    let inspection: Inspection<Memory> = Box::new(move |_| {
        started.send(()).unwrap();
        // Ends with an error when the sender is dropped, which is the signal.
        wait.recv().unwrap_err();
    });
    proposer.send(Request::Inspect(inspection)).unwrap();
    running.recv().unwrap();
    release
}

/// A log that notes the records and the command bytes of every batch it took.
struct Noted<L> {
    log: L,
    batches: Batches,
}

type Batches = Arc<Mutex<Vec<(usize, usize)>>>;

fn noted<L>(log: L) -> (Noted<L>, Batches) {
    let batches = Batches::default();
    (Noted { log, batches: Arc::clone(&batches) }, batches)
}

impl<L: Log> Log for Noted<L> {
    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        self.log.append(entries)?;
        let len = |entry: &Entry| match &entry.payload {
            Payload::Command(bytes) => bytes.len(),
            _ => 0,
        };
        self.batches.lock().unwrap().push((entries.len(), entries.iter().map(len).sum()));
        Ok(())
    }
    fn save_vote(&mut self, vote: Vote) -> Result<(), LogError> {
        self.log.save_vote(vote)
    }
    fn vote(&self) -> Vote {
        self.log.vote()
    }
    fn last(&self) -> LogId {
        self.log.last()
    }
    fn read_from<E: From<LogError>>(&self, index: u64, visit: Visit<'_, E>) -> Result<(), E> {
        self.log.read_from(index, visit)
    }
    fn purge(&mut self, below: u64) -> Result<(), LogError> {
        self.log.purge(below)
    }
}

/// The longest command of one kind whose encoding has at most `len` bytes, and one a byte longer.
fn commands_around(len: usize) -> (Command, Command) {
    let open = |letters| Command::OpenSession { caller: ROOT, client: "x".repeat(letters) };
    let encoded = |letters| {
        encode_command(&Stamp { time_ms: u64::MAX, nonce: u64::MAX }, &open(letters)).len()
    };
    let fits = (0..=len).rev().find(|&letters| encoded(letters) <= len).unwrap();
    assert!(encoded(fits + 1) > len && encoded(fits) + 16 > len);
    (open(fits), open(fits + 1))
}

#[tokio::test]
async fn an_answered_command_is_in_the_log_and_in_the_view() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = FileLog::open(dir.path(), ClusterId(7)).unwrap();
    let (proposer, running) = start_on(log);
    let Ok(Outcome::Session(session)) = proposer.propose(open_session()).await else {
        panic!("no session");
    };
    for seq in 1..=20 {
        let outcome = proposer.propose(mkdir(session, seq)).await;
        assert!(
            matches!(&outcome, Ok(Outcome::Ops(ops)) if matches!(ops[..], [OpOutcome::Done(_)])),
            "{outcome:?}"
        );
        assert_eq!(proposer.view().applied, 2 + seq);
        assert_eq!(proposer.view().counters.inodes, 1 + seq);
    }
    // The process dies here: the table in memory is lost, the log is not.
    let (log, _) = FileLog::open(dir.path(), ClusterId(7)).unwrap();
    assert_eq!((log.last().index, log.vote().term), (22, 1));
    let seen = Arc::new(Seen::default());
    let (again, second) = start(log, state(), &identity(), Box::new(Arc::clone(&seen))).unwrap();
    assert_eq!(again.view().counters.inodes, 21);
    assert_eq!(*seen.0.lock().unwrap(), [(session, true)]);
    let repeated = again.propose(mkdir(session, 20)).await;
    assert!(matches!(repeated, Ok(Outcome::Ops(ops)) if matches!(ops[..], [OpOutcome::Done(_)])));
    assert_eq!(again.view().counters.inodes, 21);
    for (proposer, thread) in [(proposer, running), (again, second)] {
        proposer.stop();
        thread.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_waits_shares_one_flush_and_stamps_rise() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = FileLog::open(dir.path(), ClusterId(7)).unwrap();
    let (proposer, running) = start_on(log);
    let release = hold(&proposer);
    let before = std::fs::metadata(segment(dir.path())).unwrap().len();
    let answers: Vec<_> = (0..100).map(|_| proposer.submit(open_session()).unwrap()).collect();
    drop(release);
    for answer in answers {
        assert!(matches!(answer.await, Ok(Outcome::Session(_))));
    }
    let after = std::fs::metadata(segment(dir.path())).unwrap().len();
    // A hundred records of less than a hundred bytes: three pages in one batch, not a hundred.
    assert!(after - before <= 4 * 4096, "{} bytes", after - before);
    proposer.stop();
    running.join().unwrap().unwrap();
    let (log, _) = FileLog::open(dir.path(), ClusterId(7)).unwrap();
    let mut stamps = Vec::new();
    log.read_from::<LogError>(1, &mut |entry| {
        let Payload::Command(bytes) = entry.payload else { panic!("not a command") };
        stamps.push(decode_command(&bytes).unwrap().0);
        Ok(())
    })
    .unwrap();
    assert!(stamps.windows(2).all(|pair| pair[0].time_ms < pair[1].time_ms));
    assert!(stamps.windows(2).all(|pair| pair[0].nonce != pair[1].nonce));
}

fn segment(dir: &std::path::Path) -> std::path::PathBuf {
    std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test]
async fn a_full_queue_answers_busy_and_loses_nothing_that_it_took() {
    let (proposer, running) = start_on(MemoryLog::new());
    let release = hold(&proposer);
    let taken: Vec<_> =
        (0..PROPOSAL_QUEUE_MAX).map(|_| proposer.submit(open_session()).unwrap()).collect();
    assert_eq!(proposer.propose(open_session()).await, Err(Status::Busy));
    assert_eq!(proposer.inspect(|_| ()).await, Err(Status::Busy));
    drop(release);
    for answer in taken {
        answer.await.unwrap();
    }
    proposer.stop();
    running.join().unwrap().unwrap();
    assert_eq!(proposer.propose(open_session()).await, Err(Status::NotReady));
}

#[tokio::test]
async fn a_batch_takes_so_many_commands_and_the_next_one_the_rest() {
    let (log, batches) = noted(MemoryLog::new());
    let (proposer, running) = start_on(log);
    let release = hold(&proposer);
    let answers: Vec<_> =
        (0..=PROPOSAL_BATCH_MAX).map(|_| proposer.submit(open_session()).unwrap()).collect();
    drop(release);
    for answer in answers {
        assert!(matches!(answer.await, Ok(Outcome::Session(_))));
    }
    let records: Vec<_> = batches.lock().unwrap().iter().map(|batch| batch.0).collect();
    assert_eq!(records, [1, PROPOSAL_BATCH_MAX, 1]);
    proposer.stop();
    running.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_round_answers_so_many_questions_before_it_takes_a_command() {
    for (questions, sessions) in [(PROPOSAL_BATCH_MAX - 1, 1), (PROPOSAL_BATCH_MAX, 0)] {
        let (proposer, running) = start_on(MemoryLog::new());
        let release = hold(&proposer);
        let (tell, told) = mpsc::channel();
        for _ in 0..questions {
            let tell = tell.clone();
            let ask: Inspection<Memory> =
                Box::new(move |state| tell.send(state.counters().sessions).unwrap());
            proposer.send(Request::Inspect(ask)).unwrap();
        }
        let answer = proposer.submit(open_session()).unwrap();
        drop((release, tell));
        assert!(matches!(answer.await, Ok(Outcome::Session(_))));
        // Commands of a round come before its questions.
        let seen: Vec<_> = told.iter().collect();
        assert_eq!(seen, vec![sessions; questions]);
        proposer.stop();
        running.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_batch_that_has_its_bytes_takes_nothing_more_and_fits_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, batches) = noted(FileLog::open(dir.path(), ClusterId(7)).unwrap().0);
    let (proposer, running) = start_on(log);
    let release = hold(&proposer);
    // Two that leave a little room, one of the longest that goes over it, and one more.
    let (half, _) = commands_around(PROPOSAL_BATCH_BYTES / 2 - 64);
    let (longest, _) = commands_around(COMMAND_LEN_MAX);
    let commands = [half.clone(), half, longest, open_session()];
    let answers: Vec<_> =
        commands.into_iter().map(|command| proposer.submit(command).unwrap()).collect();
    drop(release);
    for answer in answers {
        assert!(matches!(answer.await, Ok(Outcome::Session(_))));
    }
    let batches = batches.lock().unwrap().clone();
    assert_eq!(batches.iter().map(|batch| batch.0).collect::<Vec<_>>(), [1, 3, 1]);
    let over = PROPOSAL_BATCH_BYTES..PROPOSAL_BATCH_BYTES + COMMAND_LEN_MAX;
    assert!(over.contains(&batches[1].1), "{} bytes", batches[1].1);
    proposer.stop();
    running.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_command_over_the_limit_is_refused_and_the_longest_mutation_is_far_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, batches) = noted(FileLog::open(dir.path(), ClusterId(7)).unwrap().0);
    let (proposer, running) = start_on(log);
    let (longest, longer) = commands_around(COMMAND_LEN_MAX);
    assert_eq!(proposer.propose(longer).await, Ok(Outcome::Refused(Status::LimitReached)));
    assert_eq!((batches.lock().unwrap().len(), proposer.view().applied), (1, 1));
    assert!(matches!(proposer.propose(longest).await, Ok(Outcome::Session(_))));
    proposer.stop();
    running.join().unwrap().unwrap();
    // More than a body can hold, with every part as long as it may be.
    let dir = tempfile::tempdir().unwrap();
    let (log, batches) = noted(FileLog::open(dir.path(), ClusterId(7)).unwrap().0);
    let (proposer, running) = start_on(log);
    let Ok(Outcome::Session(session)) = proposer.propose(open_session()).await else {
        panic!("no session");
    };
    let symlink = |n: usize| NamespaceOp::Symlink {
        parent: Ino::ROOT,
        name: format!("{n:0NAME_LEN_MAX$}").into_bytes(),
        target: vec![b'x'; LINK_LEN_MAX],
        attributes: SetAttributes::default(),
        replace: false,
    };
    let ops = (1..=MUTATE_OPS_MAX).map(|n| (Seq(n as u64), symlink(n))).collect();
    let made = proposer.propose(Command::Mutate { session, caller: ROOT, ops }).await;
    assert!(matches!(made, Ok(Outcome::Ops(ops)) if ops.len() == MUTATE_OPS_MAX));
    let len = batches.lock().unwrap().last().unwrap().1;
    assert!((BODY_LEN_MAX_LIST..COMMAND_LEN_MAX * 3 / 4).contains(&len), "{len} bytes");
    proposer.stop();
    running.join().unwrap().unwrap();
    let (again, running) = start_on(FileLog::open(dir.path(), ClusterId(7)).unwrap().0);
    assert_eq!(again.view().counters.inodes, 1 + MUTATE_OPS_MAX as u64, "it is replayed");
    again.stop();
    running.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_flush_answers_nobody_and_stops_the_proposer() {
    // One batch for the vote, one for the first command, one for the session.
    let (proposer, running) = start_on(MemoryLog::failing_after(3));
    assert!(matches!(proposer.propose(open_session()).await, Ok(Outcome::Session(_))));
    assert_eq!(proposer.propose(open_session()).await, Err(Status::Unknown));
    assert!(matches!(running.join().unwrap(), Err(ProposeError::Log(LogError::Io { .. }))));
    assert_eq!(proposer.view().counters.sessions, 1);
}

#[test]
fn a_table_ahead_of_its_log_is_refused() {
    let mut ahead = state();
    ahead.apply(protocol::message::command::Stamp { time_ms: 1, nonce: 1 }, &identity().initialize);
    ahead.commit(true).unwrap();
    let result = start(MemoryLog::new(), ahead, &identity(), Box::new(Arc::new(Seen::default())));
    assert!(matches!(result.err(), Some(ProposeError::Ahead { applied: 1, last: 0 })));
}

#[test]
fn an_entry_that_is_no_command_is_refused() {
    let mut log = MemoryLog::new();
    let id = crate::log::LogId { term: 1, index: 1 };
    log.append(&[crate::log::Entry { id, payload: Payload::Command(vec![9; 40]) }]).unwrap();
    let result = start(log, state(), &identity(), Box::new(Arc::new(Seen::default())));
    assert!(matches!(result.err(), Some(ProposeError::Entry { index: 1, .. })));
}
