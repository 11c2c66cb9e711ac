//! Which targets reads should stay away from for the moment.
//!
//! Pure. A target whose connection broke, or that left several reads unanswered while nothing at
//! all came from it, is avoided at once. A question on the side finds out in a while whether it is
//! back; any answer clears the target. Avoiding is a preference: when nothing else is left, it is
//! asked.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::TargetId;
use protocol::time::Nanos;

use crate::limits::{
    MISSED_AFTER_MS, MISSED_SILENT_MS, PROBE_INTERVAL_MS, SILENT_AFTER_MS, SILENT_REQUESTS,
};

/// What this client has seen of the targets.
#[derive(Clone, Debug, Default)]
pub struct Health {
    targets: BTreeMap<TargetId, Seen>,
    next_ticket: u64,
}

/// Stands for one read that is outstanding at a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    target: TargetId,
    number: u64,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// Set while the target is avoided: when it may be probed next.
    probe_at: Option<Nanos>,
    heard_at: Nanos,
    /// Reads that nobody waits for any more and that were never answered, since then.
    missed: u32,
    /// Outstanding reads by ticket number, so the oldest is first.
    waiting: BTreeMap<u64, Nanos>,
}

impl Health {
    /// Notes that a read was sent to a target.
    pub fn on_sent(&mut self, target: TargetId, now: Nanos) -> Ticket {
        let number = self.next_ticket;
        self.next_ticket += 1;
        self.seen(target).waiting.insert(number, now);
        Ticket { target, number }
    }

    /// Notes that a read has ended with an answer or with its connection.
    pub fn on_ended(&mut self, ticket: Ticket) {
        self.seen(ticket.target).waiting.remove(&ticket.number);
    }

    /// Notes that nobody waits for a read any more that has no answer yet.
    pub fn on_left(&mut self, ticket: Ticket, now: Nanos) {
        let seen = self.seen(ticket.target);
        let sent = seen.waiting.remove(&ticket.number);
        let patience = Duration::from_millis(MISSED_AFTER_MS);
        if sent.is_some_and(|sent| sent >= seen.heard_at && now.since(sent) >= patience) {
            seen.missed = seen.missed.saturating_add(1);
        }
    }

    /// Notes that something came from a target, whatever it said.
    pub fn on_heard(&mut self, target: TargetId, now: Nanos) {
        let seen = self.seen(target);
        seen.heard_at = now;
        seen.missed = 0;
        seen.probe_at = None;
    }

    /// Notes that a connection to a target was refused or broke, or that an attempt ran out.
    pub fn on_failed(&mut self, target: TargetId, now: Nanos) {
        let probe_at = now.after(Duration::from_millis(PROBE_INTERVAL_MS));
        self.seen(target).probe_at = Some(probe_at);
    }

    /// True when reads should prefer another target.
    pub fn avoided(&mut self, target: TargetId, now: Nanos) -> bool {
        let Some(seen) = self.targets.get_mut(&target) else { return false };
        if seen.probe_at.is_none() && seen.silent(now) {
            seen.probe_at = Some(now.after(Duration::from_millis(PROBE_INTERVAL_MS)));
        }
        seen.probe_at.is_some()
    }

    /// True when an avoided target is to be asked whether it is back; once for each time.
    pub fn take_probe(&mut self, target: TargetId, now: Nanos) -> bool {
        match self.targets.get_mut(&target) {
            Some(Seen { probe_at: Some(at), .. }) if *at <= now => {
                *at = now.after(Duration::from_millis(PROBE_INTERVAL_MS));
                true
            }
            _ => false,
        }
    }

    fn seen(&mut self, target: TargetId) -> &mut Seen {
        self.targets.entry(target).or_default()
    }
}

impl Seen {
    fn silent(&self, now: Nanos) -> bool {
        let silence = now.since(self.heard_at);
        if self.missed >= SILENT_REQUESTS && silence >= Duration::from_millis(MISSED_SILENT_MS) {
            return true;
        }
        let patience = Duration::from_millis(SILENT_AFTER_MS);
        if silence < patience {
            return false;
        }
        let overdue = self.waiting.values().filter(|sent| now.since(**sent) >= patience);
        let missed = self.missed.min(SILENT_REQUESTS) as usize;
        missed + overdue.take(SILENT_REQUESTS as usize).count() >= SILENT_REQUESTS as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TargetId = TargetId(7);

    fn ms(ms: u64) -> Nanos {
        Nanos::from_ms(ms)
    }

    #[test]
    fn a_broken_target_is_avoided_and_probed_once_an_interval() {
        let mut health = Health::default();
        assert!(!health.avoided(T, ms(0)));
        health.on_failed(T, ms(0));
        assert!(health.avoided(T, ms(1)));
        assert!(!health.take_probe(T, ms(PROBE_INTERVAL_MS - 1)));
        assert!(health.take_probe(T, ms(PROBE_INTERVAL_MS)));
        assert!(!health.take_probe(T, ms(PROBE_INTERVAL_MS + 1)));
        assert!(health.take_probe(T, ms(2 * PROBE_INTERVAL_MS)));
        health.on_heard(T, ms(600));
        assert!(!health.avoided(T, ms(601)));
    }

    #[test]
    fn three_reads_without_any_answer_make_a_target_avoided() {
        let mut health = Health::default();
        let tickets: Vec<_> = (0..3).map(|_| health.on_sent(T, ms(1_000))).collect();
        assert!(!health.avoided(T, ms(1_000 + SILENT_AFTER_MS - 1)));
        assert!(health.clone().avoided(T, ms(1_000 + SILENT_AFTER_MS)));
        health.on_ended(tickets[0]);
        assert!(!health.avoided(T, ms(2_000)), "two are not three");
    }

    #[test]
    fn reads_that_others_had_to_answer_make_a_target_avoided() {
        let mut health = Health::default();
        for read in 0..u64::from(SILENT_REQUESTS) {
            let sent = ms(1_000 + 50 * read);
            let ticket = health.on_sent(T, sent);
            assert!(!health.avoided(T, sent));
            health.on_left(ticket, sent.after(Duration::from_millis(50)));
        }
        assert!(health.clone().avoided(T, ms(1_150)));
        health.on_heard(T, ms(1_150));
        assert!(!health.avoided(T, ms(2_000)), "an answer clears what was missed");
        for _ in 0..8 {
            let ticket = health.on_sent(T, ms(3_000));
            health.on_left(ticket, ms(3_000 + MISSED_AFTER_MS - 1));
        }
        assert!(!health.avoided(T, ms(3_200)), "given up at once is no sign of anything");
    }

    #[test]
    fn reads_answered_by_others_make_a_target_avoided_before_it_was_silent_for_long() {
        let mut health = Health::default();
        health.on_heard(T, ms(1_000));
        for _ in 0..SILENT_REQUESTS {
            let ticket = health.on_sent(T, ms(1_001));
            health.on_left(ticket, ms(1_001 + MISSED_AFTER_MS));
        }
        assert!(!health.avoided(T, ms(1_000 + MISSED_SILENT_MS - 1)));
        assert!(health.avoided(T, ms(1_000 + MISSED_SILENT_MS)));
    }

    #[test]
    fn a_slow_target_that_still_answers_is_not_avoided() {
        let mut health = Health::default();
        for _ in 0..8 {
            health.on_sent(T, ms(1_000));
        }
        health.on_heard(T, ms(1_090));
        assert!(!health.avoided(T, ms(1_150)));
        assert!(health.avoided(T, ms(1_190)));
    }
}
