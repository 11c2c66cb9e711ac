//! Refuses a processor older than the one the binaries were compiled for.
//!
//! Everything here runs before that is known, so it uses nothing but CPUID, constant strings and
//! two system calls: formatting code, and even the standard feature test, which folds to `true`
//! when the compiler was promised the feature, may themselves need what the processor lacks.

macro_rules! line {
    ($name:literal) => {
        concat!(
            "lanefs: this processor lacks ",
            $name,
            " (x86-64-v3); use a 2013 or newer x86 server CPU or rebuild without target-cpu in ",
            ".cargo/config.toml\n"
        )
    };
}
/// Name of the processor level the binaries are compiled for.
pub const LEVEL: &str = if COMPILED_FOR_V3 { "x86-64-v3" } else { "x86-64" };

/// Ends the process with one line and code 2 when the processor lacks an instruction set that the
/// compiler was allowed to use. The first statement of every `main`.
///
/// ```
/// protocol::cpu::require();
/// ```
#[inline(never)]
pub fn require() {
    if !COMPILED_FOR_V3 {
        return;
    }
    if let Some(line) = first_missing(&Registers::read()) {
        refuse(line);
    }
}

const COMPILED_FOR_V3: bool = cfg!(all(target_arch = "x86_64", target_feature = "avx2"));

/// What CPUID and XGETBV say about the features of x86-64-v3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    leaf1_ecx: u32,
    leaf7_ebx: u32,
    extended1_ecx: u32,
    /// Low half of XCR0: register state that the operating system saves.
    xcr0: u32,
}

/// The line about the first feature that is missing.
fn first_missing(have: &Registers) -> Option<&'static str> {
    let lacks = |register: u32, bit: u32| register & (1 << bit) == 0;
    // One comparison after the other: a table would invite the compiler to vectorise the search.
    if lacks(have.leaf7_ebx, 5) {
        return Some(line!("AVX2"));
    }
    if lacks(have.leaf1_ecx, 28) {
        return Some(line!("AVX"));
    }
    if lacks(have.leaf7_ebx, 3) {
        return Some(line!("BMI1"));
    }
    if lacks(have.leaf7_ebx, 8) {
        return Some(line!("BMI2"));
    }
    if lacks(have.leaf1_ecx, 29) {
        return Some(line!("F16C"));
    }
    if lacks(have.leaf1_ecx, 12) {
        return Some(line!("FMA"));
    }
    if lacks(have.extended1_ecx, 5) {
        return Some(line!("LZCNT"));
    }
    if lacks(have.leaf1_ecx, 22) {
        return Some(line!("MOVBE"));
    }
    if lacks(have.leaf1_ecx, 27) {
        return Some(line!("OSXSAVE"));
    }
    if lacks(have.xcr0, 1) || lacks(have.xcr0, 2) {
        return Some(line!("an operating system that saves AVX registers"));
    }
    None
}

impl Registers {
    #[cfg(target_arch = "x86_64")]
    fn read() -> Registers {
        use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

        let leaf1_ecx = __cpuid(1).ecx;
        let leaf7_ebx = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        let extended = __cpuid(0x8000_0000).eax >= 0x8000_0001;
        let extended1_ecx = if extended { __cpuid(0x8000_0001).ecx } else { 0 };
        let xcr0 = if leaf1_ecx & (1 << 27) == 0 {
            0
        } else {
            // SAFETY: OSXSAVE is set, so XGETBV exists and register 0 may be read.
            #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
            unsafe {
                _xgetbv(0) as u32
            }
        };
        Registers { leaf1_ecx, leaf7_ebx, extended1_ecx, xcr0 }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn read() -> Registers {
        Registers::default()
    }
}

fn refuse(line: &'static str) -> ! {
    // SAFETY: the pointer and length are those of a live string, and `_exit` ends the process at
    // once, without running anything that may have been compiled for a newer processor. A short
    // or failed write changes nothing about the exit code.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
        libc::_exit(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3: Registers = Registers {
        leaf1_ecx: (1 << 12) | (1 << 22) | (1 << 27) | (1 << 28) | (1 << 29),
        leaf7_ebx: (1 << 3) | (1 << 5) | (1 << 8),
        extended1_ecx: 1 << 5,
        xcr0: 0b110,
    };

    #[test]
    fn a_processor_with_everything_passes() {
        assert_eq!(first_missing(&V3), None);
        require();
    }

    #[test]
    fn each_missing_feature_is_named() {
        let without = |edit: fn(&mut Registers)| {
            let mut registers = V3;
            edit(&mut registers);
            first_missing(&registers).expect("missing")
        };
        for (edit, name) in [
            ((|r| r.leaf7_ebx &= !(1 << 5)) as fn(&mut Registers), " AVX2 "),
            (|r| r.leaf1_ecx &= !(1 << 28), " AVX "),
            (|r| r.leaf7_ebx &= !(1 << 3), " BMI1 "),
            (|r| r.leaf7_ebx &= !(1 << 8), " BMI2 "),
            (|r| r.leaf1_ecx &= !(1 << 29), " F16C "),
            (|r| r.leaf1_ecx &= !(1 << 12), " FMA "),
            (|r| r.extended1_ecx = 0, " LZCNT "),
            (|r| r.leaf1_ecx &= !(1 << 22), " MOVBE "),
            (|r| r.leaf1_ecx &= !(1 << 27), " OSXSAVE "),
            (|r| r.xcr0 = 0b010, " saves AVX registers "),
            (|r| r.xcr0 = 0b100, " saves AVX registers "),
        ] {
            let line = without(edit);
            assert!(line.contains(name), "{line}");
            assert!(line.ends_with(".cargo/config.toml\n"), "{line}");
        }
    }
}
