//! How long a client went without success. Pure but for the lock: time comes in.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Successes of the tasks that do one kind of thing.
#[derive(Debug)]
pub struct Watch {
    state: Mutex<State>,
}

/// Longest times without a success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gaps {
    /// Of the task that waited longest.
    pub worst_task: Duration,
    /// During which no task at all had one.
    pub all_tasks: Duration,
}

#[derive(Debug)]
struct State {
    tasks: BTreeMap<u32, Instant>,
    any: Instant,
    worst: Gaps,
    count: u64,
}

impl Watch {
    /// Starts watching.
    pub fn new(now: Instant) -> Watch {
        let state = State { tasks: BTreeMap::new(), any: now, worst: Gaps::default(), count: 0 };
        Watch { state: Mutex::new(state) }
    }

    /// Notes that a task begins an operation after a rest that counts as no gap.
    pub fn begins(&self, task: u32, now: Instant) {
        self.state().tasks.insert(task, now);
    }

    /// Notes a success of a task.
    pub fn success(&self, task: u32, now: Instant) {
        let mut state = self.state();
        let since = |then: Instant| now.saturating_duration_since(then);
        let own = state.tasks.insert(task, now).map_or(Duration::ZERO, since);
        let any = since(state.any);
        state.worst.worst_task = state.worst.worst_task.max(own);
        state.worst.all_tasks = state.worst.all_tasks.max(any);
        state.any = now;
        state.count += 1;
    }

    /// Forgets the past: gaps count from now on.
    pub fn restart(&self, now: Instant) {
        let mut state = self.state();
        state.tasks.values_mut().for_each(|last| *last = now);
        (state.any, state.worst) = (now, Gaps::default());
    }

    /// The longest gaps since the restart, those that have not ended included.
    pub fn gaps(&self, now: Instant) -> Gaps {
        let state = self.state();
        let open = state.tasks.values().map(|last| now.saturating_duration_since(*last)).max();
        Gaps {
            worst_task: state.worst.worst_task.max(open.unwrap_or_default()),
            all_tasks: state.worst.all_tasks.max(now.saturating_duration_since(state.any)),
        }
    }

    /// Successes so far.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::now;

    #[test]
    fn one_waiting_task_is_a_gap_although_another_goes_on() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let watch = Watch::new(start);
        watch.success(1, at(0));
        watch.success(2, at(0));
        watch.restart(at(0));
        (1..=10).for_each(|turn| watch.success(1, at(turn * 10)));
        let gaps = watch.gaps(at(100));
        assert_eq!(gaps.worst_task, Duration::from_millis(100));
        assert_eq!(gaps.all_tasks, Duration::from_millis(10));
        watch.success(2, at(130));
        assert_eq!(watch.gaps(at(130)).worst_task, Duration::from_millis(130));
        watch.restart(at(130));
        assert_eq!(watch.gaps(at(130)), Gaps::default());
    }

    #[test]
    fn a_rest_between_operations_is_no_gap() {
        let start = now();
        let watch = Watch::new(start);
        watch.success(1, start);
        watch.begins(1, start + Duration::from_secs(5));
        watch.success(1, start + Duration::from_secs(6));
        assert_eq!(watch.gaps(start + Duration::from_secs(6)).worst_task, Duration::from_secs(1));
    }
}
