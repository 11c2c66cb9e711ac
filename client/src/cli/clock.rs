//! The one place where commands read the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::message::namespace::Time;

use super::calendar::Date;

/// The time now, as the machine's clock says.
#[expect(clippy::disallowed_methods, reason = "a command's edge: pure code gets the result")]
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// The day today, UTC.
pub(crate) fn today() -> Date {
    Date::of(now())
}
