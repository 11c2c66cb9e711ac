//! Patience with a process that died a moment ago.
//!
//! The kernel takes the rings of a killed process down after the process is gone. Until then its
//! listeners and files live on, for some milliseconds; whoever restarts it at once meets them.

use std::thread;
use std::time::{Duration, Instant};

use crate::limits::{PREDECESSOR_LOOK_MS, PREDECESSOR_TIME_MAX_MS};

/// Tries until it succeeds, fails for a reason that does not pass, or a predecessor has had its
/// time.
pub(super) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    passes: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = now() + Duration::from_millis(PREDECESSOR_TIME_MAX_MS);
    loop {
        match attempt() {
            Err(error) if passes(&error) && now() < end => pause(),
            other => return other,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "start-up runs before there is a clock seam")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the end of a dead process sends no event")]
fn pause() {
    thread::sleep(Duration::from_millis(PREDECESSOR_LOOK_MS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predecessor_that_goes_away_is_waited_for_and_other_reasons_are_not() {
        let mut left = 3;
        let attempt = || {
            left -= 1;
            if left > 0 { Err("busy") } else { Ok(left) }
        };
        assert_eq!(patiently(attempt, |error| *error == "busy"), Ok(0));
        let mut tries = 0;
        let refused: Result<(), _> = patiently(
            || {
                tries += 1;
                Err("damaged")
            },
            |error| *error == "busy",
        );
        assert_eq!((refused, tries), (Err("damaged"), 1));
    }

    #[test]
    fn predecessor_that_stays_is_given_up_on() {
        let begun = now();
        let refused: Result<(), _> = patiently(|| Err("busy"), |_| true);
        assert_eq!(refused, Err("busy"));
        assert!(begun.elapsed() >= Duration::from_millis(PREDECESSOR_TIME_MAX_MS));
    }
}
