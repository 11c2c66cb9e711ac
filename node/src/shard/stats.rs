//! What one shard counts about itself: requests, service times, stalls.
//!
//! Owned by the shard's core: no lock, no atomics. Counts only grow; whoever asks makes rates of two
//! answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::RequestId;
use protocol::message::Kind;
use protocol::message::activity::ShardActivity;

use super::event::{ConnId, ReplyTo};
use crate::io::Nanos;
use crate::limits::EXECUTOR_STALL_MS;

/// The counts of one shard since its process started.
#[derive(Debug, Default)]
pub(super) struct Stats {
    counts: RefCell<ShardActivity>,
    /// Reads and writes without an answer, and when they arrived: as many as connections may have
    /// in flight.
    open: RefCell<BTreeMap<(ConnId, RequestId), Nanos>>,
    peer_bytes_out: Cell<u64>,
}

impl Stats {
    /// A request arrived as a whole.
    pub(super) fn asked(&self, to: ReplyTo, now: Nanos) {
        let mut counts = self.counts.borrow_mut();
        let count = match to.kind {
            Kind::Read => &mut counts.reads,
            Kind::Write => &mut counts.writes,
            Kind::Replicate => &mut counts.replications,
            _ => &mut counts.others,
        };
        *count += 1;
        if is_timed(to.kind) {
            self.open.borrow_mut().insert((to.conn, to.request), now);
        }
    }

    /// The answer to a request goes out; the time of a refusal is not counted.
    pub(super) fn answered(&self, to: ReplyTo, good: bool, now: impl FnOnce() -> Nanos) {
        if !is_timed(to.kind) {
            return;
        }
        let asked = self.open.borrow_mut().remove(&(to.conn, to.request));
        if let Some(asked) = asked.filter(|_| good) {
            let mut counts = self.counts.borrow_mut();
            let read = to.kind == Kind::Read;
            let times = if read { &mut counts.read_times } else { &mut counts.write_times };
            times.note(now().since(asked));
        }
    }

    /// A connection ended; what it asked gets no answer.
    pub(super) fn ended(&self, conn: ConnId) {
        let mut open = self.open.borrow_mut();
        let mut rest = open.split_off(&(conn, RequestId(0)));
        let mut later = rest.split_off(&(ConnId(conn.0 + 1), RequestId(0)));
        open.append(&mut later);
    }

    /// Payload left for another member.
    pub(super) fn sent_to_peer(&self, bytes: u64) {
        self.peer_bytes_out.set(self.peer_bytes_out.get() + bytes);
    }

    /// A task that slept ran again, later than it had asked for.
    pub(super) fn woke(&self, late: Duration) {
        if late >= Duration::from_millis(EXECUTOR_STALL_MS) {
            let mut counts = self.counts.borrow_mut();
            counts.stalls += 1;
            let ns = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
            counts.stalled_ns = counts.stalled_ns.saturating_add(ns);
        }
    }

    /// The counts as they are; what others know is left at zero.
    pub(super) fn counts(&self) -> ShardActivity {
        ShardActivity { peer_bytes_out: self.peer_bytes_out.get(), ..self.counts.borrow().clone() }
    }
}

fn is_timed(kind: Kind) -> bool {
    matches!(kind, Kind::Read | Kind::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(conn: u64, request: u64, kind: Kind) -> ReplyTo {
        ReplyTo { conn: ConnId(conn), request: RequestId(request), kind }
    }

    #[test]
    fn requests_are_counted_by_class_and_timed_from_arrival_to_answer() {
        let stats = Stats::default();
        let (read, write) = (to(1, 1, Kind::Read), to(1, 2, Kind::Write));
        let others = [to(1, 3, Kind::Replicate), to(1, 4, Kind::Verify), to(1, 5, Kind::Adopt)];
        [read, write].iter().chain(&others).for_each(|to| stats.asked(*to, Nanos::from_ms(10)));
        stats.answered(read, true, || Nanos::from_ms(11));
        stats.answered(write, false, || Nanos::from_ms(12));
        others.iter().for_each(|to| stats.answered(*to, true, || Nanos::from_ms(13)));
        let counts = stats.counts();
        assert_eq!((counts.reads, counts.writes), (1, 1));
        assert_eq!((counts.replications, counts.others), (1, 2));
        assert_eq!((counts.read_times.count(), counts.read_times.sum_us()), (1, 1000));
        assert_eq!(counts.write_times.count(), 0, "a refusal says nothing about writes");
        stats.answered(read, true, || Nanos::from_ms(99));
        assert_eq!(stats.counts().read_times.count(), 1, "one request, one answer");
        assert!(stats.open.borrow().is_empty());
    }

    #[test]
    fn requests_of_a_connection_that_ended_are_forgotten() {
        let stats = Stats::default();
        for conn in 1..=3 {
            (0..9).for_each(|id| stats.asked(to(conn, id, Kind::Read), Nanos(0)));
        }
        stats.ended(ConnId(2));
        let left: Vec<u64> = stats.open.borrow().keys().map(|(conn, _)| conn.0).collect();
        assert_eq!(left, [[1; 9], [3; 9]].concat());
    }

    #[test]
    fn a_stall_is_counted_from_its_bound_on() {
        let stats = Stats::default();
        stats.woke(Duration::from_millis(EXECUTOR_STALL_MS) - Duration::from_nanos(1));
        assert_eq!(stats.counts().stalls, 0);
        stats.woke(Duration::from_millis(EXECUTOR_STALL_MS));
        let counts = stats.counts();
        assert_eq!((counts.stalls, counts.stalled_ns), (1, EXECUTOR_STALL_MS * 1_000_000));
    }
}
