//! From two looks at a shard to what it did between them. Pure.

use std::time::Duration;

use protocol::message::chunk::ShardStatsReply;
use protocol::metrics::Durations;

/// What one shard did in an interval of its own clock, and what it has in flight at the end of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rates {
    /// Length of the interval.
    pub(super) interval: Duration,
    /// Busy share of the executor, 0 to 1.
    pub(super) busy: f64,
    /// Reads a second.
    pub(super) reads: f64,
    /// Writes a second.
    pub(super) writes: f64,
    /// Versions and whole chunks of primaries a second.
    pub(super) replications: f64,
    /// Other requests a second.
    pub(super) others: f64,
    /// Payload bytes a second from others.
    pub(super) bytes_in: f64,
    /// Payload bytes a second to others.
    pub(super) bytes_out: f64,
    /// Those of them to members.
    pub(super) member_bytes_out: f64,
    /// Flushes a second.
    pub(super) flushes: f64,
    /// Bytes a second copied in user space outside TLS.
    pub(super) bytes_copied: f64,
    /// Service times of reads.
    pub(super) read_times: Spread,
    /// Service times of writes.
    pub(super) write_times: Spread,
    /// Stalls of the executor in the interval.
    pub(super) stalls: u64,
    /// How long they were together.
    pub(super) stalled: Duration,
}

/// Middle, tail and end of the times of an interval; `None` when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spread {
    /// Half of them took no longer.
    pub(super) p50: Option<Duration>,
    /// 99 of 100 took no longer.
    pub(super) p99: Option<Duration>,
    /// None took longer.
    pub(super) max: Option<Duration>,
}

/// What happened between two answers of one shard; `None` when they are not of the same process,
/// or no time passed.
pub(super) fn between(before: &ShardStatsReply, now: &ShardStatsReply) -> Option<Rates> {
    let (was, is) = (&before.activity, &now.activity);
    let interval = is.time_since(was);
    let same = before.generation == now.generation && is.cpu_ns >= was.cpu_ns;
    if !same || interval.is_zero() {
        return None;
    }
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / interval.as_secs_f64();
    Some(Rates {
        interval,
        busy: is.busy_since(was),
        reads: rate(was.reads, is.reads),
        writes: rate(was.writes, is.writes),
        replications: rate(was.replications, is.replications),
        others: rate(was.others, is.others),
        bytes_in: rate(before.bytes_in, now.bytes_in),
        bytes_out: rate(before.bytes_out, now.bytes_out),
        member_bytes_out: rate(was.peer_bytes_out, is.peer_bytes_out),
        flushes: rate(before.flushes, now.flushes),
        bytes_copied: rate(before.bytes_copied, now.bytes_copied),
        read_times: spread(&is.read_times.since(&was.read_times)),
        write_times: spread(&is.write_times.since(&was.write_times)),
        stalls: is.stalls.saturating_sub(was.stalls),
        stalled: Duration::from_nanos(is.stalled_ns.saturating_sub(was.stalled_ns)),
    })
}

impl Rates {
    /// Requests of every kind a second.
    pub(super) fn ops(&self) -> f64 {
        self.reads + self.writes + self.replications + self.others
    }
}

fn spread(times: &Durations) -> Spread {
    Spread { p50: times.within(500), p99: times.within(990), max: times.within(1000) }
}

#[cfg(test)]
mod tests {
    use protocol::ids::Generation;
    use protocol::message::activity::ShardActivity;
    use protocol::time::Nanos;

    use super::*;

    /// A shard after so many seconds, of which it was busy for a quarter.
    fn after(seconds: u64) -> ShardStatsReply {
        let mut read_times = Durations::default();
        (0..seconds * 100).for_each(|_| read_times.note(Duration::from_micros(512)));
        ShardStatsReply {
            generation: Generation(4),
            bytes_in: seconds * 3000,
            bytes_out: seconds * 5000,
            flushes: seconds * 7,
            bytes_copied: seconds * 2,
            activity: ShardActivity {
                clock: Nanos::from_ms(50_000 + seconds * 1000),
                cpu_ns: seconds * 250_000_000,
                reads: seconds * 100,
                writes: seconds * 20,
                replications: seconds * 10,
                others: seconds * 5,
                peer_bytes_out: seconds * 1000,
                stalls: seconds,
                stalled_ns: seconds * 60_000_000,
                read_times,
                ..ShardActivity::default()
            },
            ..ShardStatsReply::default()
        }
    }

    #[test]
    fn rates_are_those_of_the_interval_on_the_shards_own_clock() {
        let rates = between(&after(10), &after(12)).unwrap();
        assert_eq!(rates.interval, Duration::from_secs(2));
        assert_eq!((rates.busy, rates.ops()), (0.25, 135.0));
        assert_eq!((rates.reads, rates.writes), (100.0, 20.0));
        assert_eq!((rates.replications, rates.others), (10.0, 5.0));
        assert_eq!((rates.bytes_in, rates.bytes_out), (3000.0, 5000.0));
        assert_eq!((rates.member_bytes_out, rates.bytes_copied), (1000.0, 2.0));
        assert_eq!((rates.flushes, rates.stalls), (7.0, 2));
        assert_eq!(rates.stalled, Duration::from_millis(120));
        let half = Some(Duration::from_micros(512));
        assert_eq!(rates.read_times, Spread { p50: half, p99: half, max: half });
        assert_eq!(rates.write_times, Spread::default(), "nothing was written");
    }

    #[test]
    fn a_new_process_and_no_time_have_no_rates() {
        assert_eq!(between(&after(10), &after(10)), None);
        assert_eq!(between(&after(12), &after(10)), None);
        let mut restarted = after(12);
        restarted.generation = Generation(5);
        assert_eq!(between(&after(10), &restarted), None);
    }
}
