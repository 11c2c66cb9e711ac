//! Refuses a processor older than the one the binaries were compiled for.
//!
//! Everything here runs before that is known, so it uses nothing but CPUID, a constant string and
//! two system calls: formatting code may itself hold instructions the processor lacks.

/// Name of the processor level the binaries are compiled for.
pub const LEVEL: &str = if cfg!(target_feature = "avx2") { "x86-64-v3" } else { "x86-64" };
