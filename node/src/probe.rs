//! What the machine allows: looked at before anything is started, so that a refusal is one clear
//! line instead of a panic inside the runtime.
//!
//! Owns limits of the process (locked memory, open files) and whether io_uring may be used. Knows
//! nothing of shards. Start at [`io_uring`] and [`locked_memory`].

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, RegisteredBuffers, Size};
use crate::limits::{IO_MEMORY_CONTROL, MEMLOCK_MIN, OPEN_FILES_WANTED, RINGS_PER_EXECUTOR};

/// Bit of `CAP_IPC_LOCK` in the effective capability set.
const CAP_IPC_LOCK: u64 = 1 << 14;
/// Space for `struct io_uring_params`, in 64-bit words; the kernel wants it zeroed.
const PARAMS_WORDS: usize = 120 / 8;

/// Why this machine cannot run a node: one line that says what, where and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refuses to make a ring.
    #[error(
        "io_uring is not available: io_uring_setup failed with \"{reason}\"; {}",
        advice(*sysctl)
    )]
    IoUring {
        /// As the system words it.
        reason: String,
        /// Value of `kernel.io_uring_disabled`; 0 when it does not exist.
        sysctl: u8,
    },
    /// Too little memory may be locked.
    #[error(
        "memory-lock limit is {limit} bytes, {needed} are needed to register the buffers of all \
         shards ({RINGS_PER_EXECUTOR} x io_memory each): raise it (LimitMEMLOCK={needed} in the \
         unit, or ulimit -l {}), lower io_memory, or set registered_buffers = \"preferred\"",
        needed.div_ceil(1024)
    )]
    MemoryLock {
        /// What is allowed, in bytes.
        limit: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// Even without registered buffers the runtime wants this much.
    #[error(
        "memory-lock limit is {limit} bytes and the runtime needs at least {MEMLOCK_MIN}: raise \
         it (LimitMEMLOCK={MEMLOCK_MIN} in the unit, or ulimit -l {})",
        MEMLOCK_MIN / 1024
    )]
    MemoryLockMinimum {
        /// What is allowed, in bytes.
        limit: u64,
    },
}

/// Whether the buffers of the shards can be registered with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockedMemory {
    /// All of them.
    Enough,
    /// Not all; the node goes on without.
    Short {
        /// What is allowed, in bytes.
        limit: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
}

fn advice(sysctl: u8) -> String {
    match sysctl {
        0 => {
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of \
              the container or unit, on Linux 5.8 or newer"
                .to_owned()
        }
        value => {
            format!("kernel.io_uring_disabled is {value}: run sysctl kernel.io_uring_disabled=0")
        }
    }
}

/// Makes a ring and drops it again.
///
/// # Errors
/// [`ProbeError::IoUring`] when the kernel, a sysctl or a seccomp filter refuses.
pub fn io_uring() -> Result<(), ProbeError> {
    let mut params = [0u64; PARAMS_WORDS];
    // SAFETY: the second argument points to zeroed memory of the size of `struct io_uring_params`,
    // which lives through the call; the kernel writes nothing outside it.
    let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2u32, params.as_mut_ptr()) };
    let Ok(ring) = i32::try_from(made) else { return Ok(()) };
    if ring < 0 {
        let reason = io::Error::last_os_error().to_string();
        return Err(ProbeError::IoUring { reason, sysctl: io_uring_disabled() });
    }
    // SAFETY: the descriptor was just made by the call above and nothing else knows it.
    unsafe { libc::close(ring) };
    Ok(())
}

fn io_uring_disabled() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Memory that must be lockable to register every buffer of a node, in bytes.
pub fn memory_lock_needed(config: &Config) -> u64 {
    let shards: u64 = config.shards.iter().map(|shard| shard.io_memory).sum();
    let all = RINGS_PER_EXECUTOR.saturating_mul(shards.saturating_add(IO_MEMORY_CONTROL));
    all.max(MEMLOCK_MIN)
}

/// Raises the memory-lock limit as far as it may be and compares it with the need.
///
/// # Errors
/// [`ProbeError::MemoryLock`] when it is too low and `registered_buffers` is `"required"`,
/// [`ProbeError::MemoryLockMinimum`] when it is too low for the runtime itself.
pub fn locked_memory(config: &Config) -> Result<LockedMemory, ProbeError> {
    let needed = memory_lock_needed(config);
    let limit = raise(Resource::Memlock, needed);
    let exempt = effective_capabilities() & CAP_IPC_LOCK != 0;
    judge(limit, needed, exempt, config.registered_buffers)
}

fn judge(
    limit: u64,
    needed: u64,
    exempt: bool,
    policy: RegisteredBuffers,
) -> Result<LockedMemory, ProbeError> {
    if limit < MEMLOCK_MIN {
        return Err(ProbeError::MemoryLockMinimum { limit });
    }
    if exempt || limit >= needed {
        return Ok(LockedMemory::Enough);
    }
    match policy {
        RegisteredBuffers::Required => Err(ProbeError::MemoryLock { limit, needed }),
        RegisteredBuffers::Preferred => Ok(LockedMemory::Short { limit, needed }),
    }
}

/// Raises the limit of open files to what a node would like, as far as it may be.
pub fn open_files() -> u64 {
    raise(Resource::Nofile, OPEN_FILES_WANTED)
}

/// Raises a soft limit to `wanted`, or to the hard limit where that is lower, and says what it is.
fn raise(resource: Resource, wanted: u64) -> u64 {
    let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let now = getrlimit(resource);
    if value(now.current) >= wanted {
        return value(now.current);
    }
    let maximum = now.maximum.map(|hard| hard.max(wanted));
    let privileged = Rlimit { current: Some(wanted), maximum };
    let ordinary = Rlimit { current: Some(wanted.min(value(now.maximum))), maximum: now.maximum };
    // A refusal leaves the old limit, which is read back below and judged by the caller.
    let raised = setrlimit(resource, privileged).or_else(|_| setrlimit(resource, ordinary));
    if let Err(cause) = raised {
        tracing::debug!(?resource, %cause, "limit not raised");
    }
    value(getrlimit(resource).current)
}

fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

impl LockedMemory {
    /// Says once what running without registered buffers costs.
    pub fn warn(self) {
        if let LockedMemory::Short { limit, needed } = self {
            tracing::warn!(
                limit = %Size(limit),
                needed,
                "memory-lock limit too low: reads and writes use unregistered buffers, which cost \
                 more CPU per byte; raise LimitMEMLOCK or ulimit -l"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LockedMemory, ProbeError, RegisteredBuffers, io_uring, judge};

    #[test]
    fn probe_makes_a_ring_here() {
        assert_eq!(io_uring(), Ok(()));
    }

    #[test]
    fn probe_judges_locked_memory() {
        use RegisteredBuffers::{Preferred, Required};
        let (limit, needed) = (8 << 20, 48 << 20);
        assert_eq!(judge(needed, needed, false, Required), Ok(LockedMemory::Enough));
        assert_eq!(judge(limit, needed, true, Required), Ok(LockedMemory::Enough));
        assert_eq!(
            judge(limit, needed, false, Required),
            Err(ProbeError::MemoryLock { limit, needed })
        );
        assert_eq!(
            judge(limit, needed, false, Preferred),
            Ok(LockedMemory::Short { limit, needed })
        );
        assert_eq!(
            judge(1 << 18, needed, true, Preferred),
            Err(ProbeError::MemoryLockMinimum { limit: 1 << 18 })
        );
    }

    #[test]
    fn probe_error_says_value_need_and_remedy() {
        let text = ProbeError::MemoryLock { limit: 8_388_608, needed: 50_331_648 }.to_string();
        for part in ["8388608", "50331648", "LimitMEMLOCK=50331648", "ulimit -l 49152"] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
        assert!(!text.contains('\n'));
    }
}
