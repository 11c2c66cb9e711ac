//! The orders to stop, taken by the main thread when it looks for them.

use std::time::Duration;
use std::{io, mem, ptr};

/// SIGTERM and SIGINT, held back from every thread until somebody waits for them.
pub(super) struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Holds the signals back. Threads that exist already are not affected, so this comes first.
    pub(super) fn block() -> io::Result<Signals> {
        // SAFETY: an all-zero `sigset_t` is a valid value, and sigemptyset initialises it anyway.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is a local that lives through the calls, the numbers are valid signals, and
        // a null pointer is allowed where the old mask is not wanted.
        let blocked = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut())
        };
        if blocked == 0 { Ok(Signals { set }) } else { Err(io::Error::from_raw_os_error(blocked)) }
    }

    /// Waits for a signal; `None` when none came in time.
    pub(super) fn wait(&self, time: Duration) -> Option<&'static str> {
        let limit = libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(time.subsec_nanos().cast_signed()),
        };
        // SAFETY: both pointers are to values that live through the call; a null pointer is allowed
        // where the signal's details are not wanted.
        let signal =
            unsafe { libc::sigtimedwait(&raw const self.set, ptr::null_mut(), &raw const limit) };
        match signal {
            libc::SIGTERM => Some("SIGTERM"),
            libc::SIGINT => Some("SIGINT"),
            _ => None,
        }
    }
}
