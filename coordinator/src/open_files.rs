//! The limit of open files, which has to allow what [`CONNECTIONS_MAX`] allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{CONNECTIONS_MAX, OPEN_FILES_WANTED};

/// Raises the limit to [`OPEN_FILES_WANTED`], or as far as it may be; says so when that is less.
pub fn raise() {
    let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let now = getrlimit(Resource::Nofile);
    if value(now.current) >= OPEN_FILES_WANTED {
        return;
    }
    let maximum = now.maximum.map(|hard| hard.max(OPEN_FILES_WANTED));
    let privileged = Rlimit { current: Some(OPEN_FILES_WANTED), maximum };
    let current = Some(OPEN_FILES_WANTED.min(value(now.maximum)));
    let ordinary = Rlimit { current, maximum: now.maximum };
    // A refusal leaves the old limit, which is read back below.
    let raised =
        setrlimit(Resource::Nofile, privileged).or_else(|_| setrlimit(Resource::Nofile, ordinary));
    if let Err(cause) = raised {
        tracing::debug!(%cause, "limit of open files not raised");
    }
    let limit = value(getrlimit(Resource::Nofile).current);
    if limit < OPEN_FILES_WANTED {
        tracing::warn!(
            limit,
            wanted = OPEN_FILES_WANTED,
            "not enough open files for {CONNECTIONS_MAX} connections; raise LimitNOFILE or ulimit -n"
        );
    }
}
