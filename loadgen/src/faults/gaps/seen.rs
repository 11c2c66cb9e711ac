//! What a node that goes away showed, in words and as bars. Pure.

use std::time::Duration;

use crate::faults::bar::Bar;
use crate::faults::inject::seconds;

/// How a node goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Away {
    Killed,
    Cut,
}

impl Away {
    fn name(self) -> &'static str {
        match self {
            Away::Killed => "kill -9",
            Away::Cut => "silent partition",
        }
    }

    /// Longest gap of reads in 19 of 20 repetitions, and in all, in milliseconds.
    pub(super) fn reads(self) -> (u32, u32) {
        match self {
            Away::Killed => (50, 200),
            Away::Cut => (300, 1_000),
        }
    }

    /// Longest gap of new files, in milliseconds.
    fn writes(self) -> u32 {
        match self {
            Away::Killed => 500,
            Away::Cut => 1_500,
        }
    }
}

/// What one repetition showed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) reads: Duration,
    pub(super) writes: Duration,
    pub(super) changes: Duration,
    pub(super) evicted: Duration,
    pub(super) active: Duration,
    pub(super) allowed: Duration,
    pub(super) healed: Duration,
    /// Longest time the machine itself stood still, as one saw who has no part in the cluster.
    pub(super) machine: Duration,
}

impl Seen {
    /// The same in words.
    pub(super) fn line(&self, away: Away, node: u32) -> String {
        let ms = |times: &[Duration]| {
            let texts: Vec<_> = times.iter().map(|time| format!("{:.0}", millis(*time))).collect();
            texts.join(" ")
        };
        format!(
            "{} of node {node}: {} ms (reads, writes, overwrites), {} ms (evicted, active, changes allowed); healthy after {}; the machine stood still for {} ms",
            away.name(),
            ms(&[self.reads, self.writes, self.changes]),
            ms(&[self.evicted, self.active, self.allowed]),
            seconds(self.healed),
            ms(&[self.machine])
        )
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The bars of those that count, and what the others showed.
pub(super) fn bars(away: Away, counted: &[Seen], again: &[Seen]) -> Vec<Bar> {
    let what = away.name();
    let fill = |mut bar: Bar, seen: &[Seen], time: fn(&Seen) -> Duration| {
        seen.iter().for_each(|seen| bar.push(time(seen)));
        bar
    };
    let plain = |name: &str| Bar::new(&format!("{name}, {what}"), None, None);
    let (almost, all) = away.reads();
    let reads = Bar::new(&format!("read gap, {what}"), Some(almost), Some(all));
    let writes = Bar::new(&format!("growth-write gap, {what}"), None, Some(away.writes()));
    let changes = Bar::new(&format!("overwrite gap, {what}, lease 2 s"), None, Some(2_500));
    let mut bars = vec![
        fill(reads, counted, |seen| seen.reads),
        fill(writes, counted, |seen| seen.writes),
        fill(changes, counted, |seen| seen.changes),
        fill(plain("  out of every group after"), counted, |seen| seen.evicted),
        fill(plain("  every group active after"), counted, |seen| seen.active),
        fill(plain("  changes allowed after"), counted, |seen| seen.allowed),
        fill(plain("  healthy after its return"), counted, |seen| seen.healed),
        fill(plain("  the machine stood still for"), counted, |seen| seen.machine),
    ];
    if !again.is_empty() {
        bars.push(fill(plain("  done again: the machine stood still for"), again, |it| it.machine));
        bars.push(fill(plain("  done again: read gap"), again, |seen| seen.reads));
        bars.push(fill(plain("  done again: growth-write gap"), again, |seen| seen.writes));
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_again_is_shown_and_does_not_count() {
        let ms = Duration::from_millis;
        let good = Seen { reads: ms(7), machine: ms(2), ..Seen::default() };
        let again = Seen { reads: ms(303), machine: ms(290), ..Seen::default() };
        let bars = bars(Away::Killed, &[good], &[again]);
        let named = |name: &str| bars.iter().find(|bar| bar.name.contains(name)).unwrap();
        assert!(named("read gap, kill -9").met());
        assert_eq!(named("done again: read gap").values, [303.0]);
        assert!(!named("done again: read gap").is_judged());
        assert!(again.line(Away::Killed, 2).ends_with("the machine stood still for 290 ms"));
    }
}
