//! Targets that were removed from a group on a report, and how long each stays out of it.
//!
//! Somebody who was cut off and is back should serve again soon: the first pause is short. Each
//! return costs the group an epoch and a resync, so somebody who is removed again and again stays
//! out for twice as long each time.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::guard::{self, Guard};
use protocol::ids::{Generation, GroupId, TargetId};
use protocol::time::Nanos;

use crate::limits::{READMIT_CALM, READMIT_MAX, READMIT_MIN};

/// The accused of all groups; lost without harm.
#[derive(Clone, Debug, Default)]
pub(super) struct Accused {
    pauses: BTreeMap<(GroupId, TargetId), Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    /// The incarnation that was removed; another one may return at once.
    generation: Generation,
    until: Nanos,
    length: Duration,
}

impl Accused {
    /// Takes note that a member was removed on a report.
    pub(super) fn note(
        &mut self,
        group: GroupId,
        target: TargetId,
        generation: Generation,
        now: Nanos,
    ) {
        self.forget(now);
        let again = self.pauses.get(&(group, target)).filter(|_| guard::holds(Guard::Flapping));
        let length = again.map_or(READMIT_MIN, |last| (last.length * 2).min(READMIT_MAX));
        let pause = Pause { generation, until: now.after(length), length };
        self.pauses.insert((group, target), pause);
    }

    /// True while an incarnation of a target may not return to a group.
    pub(super) fn stays_out(
        &self,
        group: GroupId,
        target: TargetId,
        generation: Generation,
        now: Nanos,
    ) -> bool {
        let pause = self.pauses.get(&(group, target));
        pause.is_some_and(|pause| pause.generation == generation && now < pause.until)
    }

    /// Lets everybody of a group return whose accuser turned out to be the guilty one.
    pub(super) fn absolve(&mut self, group: GroupId) {
        self.pauses.retain(|(of, _), _| *of != group);
    }

    /// Forgets those that were back for long enough: as long as they were out, and a while.
    pub(super) fn forget(&mut self, now: Nanos) {
        self.pauses.retain(|_, pause| now < pause.until.after(pause.length.max(READMIT_CALM)));
    }

    /// The ends of all pauses.
    pub(super) fn ends(&self) -> impl Iterator<Item = Nanos> {
        self.pauses.values().map(|pause| pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);
    const TARGET: TargetId = TargetId(7);
    const GENERATION: Generation = Generation(3);

    /// How long a target that is accused now stays out.
    fn pause(accused: &mut Accused, now: Nanos) -> Duration {
        accused.note(GROUP, TARGET, GENERATION, now);
        let out =
            |after: &Duration| accused.stays_out(GROUP, TARGET, GENERATION, now.after(*after));
        let seconds = (0..).map(Duration::from_secs);
        seconds.take_while(out).last().unwrap_or_default() + Duration::from_secs(1)
    }

    #[test]
    fn one_report_keeps_out_for_a_moment_and_flapping_for_ever_longer() {
        let mut accused = Accused::default();
        let mut now = Nanos(5);
        assert_eq!(pause(&mut accused, now), READMIT_MIN);
        for times in 1..=5 {
            let last = (READMIT_MIN * (1 << (times - 1))).min(READMIT_MAX);
            now = now.after(last).after(Duration::from_secs(1));
            assert_eq!(pause(&mut accused, now), (last * 2).min(READMIT_MAX));
        }
        now = now.after(READMIT_MAX * 2);
        assert_eq!(pause(&mut accused, now), READMIT_MIN, "calm for as long as it was out");
        now = now.after(READMIT_MIN).after(READMIT_CALM);
        assert_eq!(pause(&mut accused, now), READMIT_MIN);
    }

    #[test]
    fn another_incarnation_and_the_absolved_may_return_at_once() {
        let mut accused = Accused::default();
        accused.note(GROUP, TARGET, GENERATION, Nanos(5));
        assert!(!accused.stays_out(GROUP, TARGET, Generation(4), Nanos(5)));
        assert!(!accused.stays_out(GroupId(2), TARGET, GENERATION, Nanos(5)));
        accused.absolve(GROUP);
        assert!(!accused.stays_out(GROUP, TARGET, GENERATION, Nanos(5)));
    }
}
