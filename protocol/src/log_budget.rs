//! A bound on the log lines that strangers can cause.
//!
//! Whoever can reach a port can make a process refuse connections, and each refusal is worth a
//! line, but a flood of them must not fill the disk. Knows no clock and no log: the caller says
//! when it is and writes the line. Start at [`LogBudget::admit`].

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{REFUSAL_LINES_MAX, REFUSAL_WINDOW_MS};
use crate::time::Nanos;

/// Lines about refused connections that a process may still write in the current window.
///
/// One for the whole process, shared by all threads without a lock: the window's number and the
/// refusals in it are one word.
#[derive(Debug, Default)]
pub struct LogBudget {
    /// Window in the upper half, refusals in it in the lower half.
    seen: AtomicU64,
}

impl LogBudget {
    /// Makes a budget that nothing was taken from.
    pub const fn new() -> LogBudget {
        LogBudget { seen: AtomicU64::new(0) }
    }

    /// Counts one refusal: `Some` when it may have a line, with the number of refusals that had
    /// none since the last line.
    ///
    /// The suppressed ones are told with the first line of the next window that has a refusal.
    pub fn admit(&self, now: Nanos) -> Option<u64> {
        let window = (now.as_ms() / REFUSAL_WINDOW_MS) & LOWER;
        // A thread that read the clock before another one counts into the newer window.
        let count = |seen: u64| match (seen >> 32 >= window, seen & LOWER) {
            // A full counter stays full: more than four thousand million refusals a minute.
            (true, LOWER) => seen,
            (true, _) => seen + 1,
            (false, _) => window << 32 | 1,
        };
        let counted =
            self.seen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| Some(count(seen)));
        let before = counted.unwrap_or_else(|seen| seen);
        let refused = before & LOWER;
        if before >> 32 >= window {
            (refused < REFUSAL_LINES_MAX).then_some(0)
        } else {
            Some(refused.saturating_sub(REFUSAL_LINES_MAX))
        }
    }
}

const LOWER: u64 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(window: u64, ms: u64) -> Nanos {
        Nanos::from_ms(window * REFUSAL_WINDOW_MS + ms)
    }

    #[test]
    fn a_flood_has_so_many_lines_a_window_and_the_rest_is_counted() {
        let budget = LogBudget::new();
        let lines = |window, refusals: u64| {
            let told =
                (0..refusals).filter_map(|n| budget.admit(at(window, n % REFUSAL_WINDOW_MS)));
            told.collect::<Vec<_>>()
        };
        let quiet = usize::try_from(REFUSAL_LINES_MAX).unwrap_or(usize::MAX);
        assert_eq!(lines(5, 3), [0; 3], "a few are told at once");
        assert_eq!(lines(6, REFUSAL_LINES_MAX + 1_000).len(), quiet);
        let next = lines(9, REFUSAL_LINES_MAX);
        assert_eq!((next.len(), next[0]), (quiet, 1_000), "what was left out is told once");
        assert!(next[1..].iter().all(|suppressed| *suppressed == 0));
        assert_eq!(lines(10, 1), [0]);
    }

    #[test]
    fn threads_share_one_budget() {
        let budget = LogBudget::new();
        let lines = || (0..1_000).filter_map(|_| budget.admit(at(1, 0))).count();
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(lines)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
        });
        assert_eq!(all as u64, REFUSAL_LINES_MAX);
        assert_eq!(budget.admit(at(2, 0)), Some(4_000 - REFUSAL_LINES_MAX));
    }
}
