//! Sizes as people write and read them. Pure.

use protocol::limits::CELL_LOG2_ALLOWED;

/// Factors by which sizes grow, the largest first.
const FACTORS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads `8GiB`, `512MiB`, `4096`; decimal units (`GB`) and single letters (`G`) too.
///
/// # Errors
/// A line that says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        "t" | "tib" => Some(1 << 40),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "tb" => Some(1_000_000_000_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    match (number, factor) {
        (Some(number), Some(factor)) => number.checked_mul(factor),
        _ => None,
    }
    .ok_or_else(|| "expected a size such as 8GiB or 512MiB".to_owned())
}

/// Reads a cell size: `4KiB`, `16KiB` or `64KiB`, as a power of two.
///
/// # Errors
/// A line that says what is expected.
pub fn parse_cell(text: &str) -> Result<u8, String> {
    let size = parse_size(text).ok();
    let allowed = CELL_LOG2_ALLOWED.into_iter().find(|log2| size == Some(1 << log2));
    allowed.ok_or_else(|| "expected 4KiB, 16KiB or 64KiB".to_owned())
}

/// Writes a size with three significant digits, such as `1.46GiB`.
pub fn human_size(bytes: u64) -> String {
    let (unit, factor) =
        FACTORS.into_iter().find(|&(_, factor)| bytes >= factor).unwrap_or(("B", 1));
    if factor == 1 {
        return format!("{bytes}B");
    }
    let whole = bytes / factor;
    // The remainder is below the factor, so neither product can overflow for any real unit.
    let hundredths = (bytes % factor) / (factor / 1024) * 100 / 1024;
    match whole {
        0..10 => format!("{whole}.{hundredths:02}{unit}"),
        10..100 => format!("{whole}.{}{unit}", hundredths / 10),
        _ => format!("{whole}{unit}"),
    }
}

/// Writes a duration in seconds, such as `1h02m` or `45s`.
pub fn human_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_one_of_three_sizes() {
        assert_eq!(parse_cell("4KiB"), Ok(12));
        assert_eq!(parse_cell("16384"), Ok(14));
        assert_eq!(parse_cell("64k"), Ok(16));
        for wrong in ["8KiB", "0", "", "cell"] {
            assert_eq!(parse_cell(wrong), Err("expected 4KiB, 16KiB or 64KiB".to_owned()));
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_unit() {
        for (text, bytes) in
            [("0", 0), ("7", 7), ("8GiB", 8 << 30), ("512m", 512 << 20), ("2GB", 2_000_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "8 GiB", "8GiBs", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_are_written_short() {
        let cases = [(0, "0B"), (1023, "1023B"), (1024, "1.00KiB"), (1536, "1.50KiB")];
        for (bytes, text) in cases {
            assert_eq!(human_size(bytes), text);
        }
        assert_eq!(human_size(8 << 30), "8.00GiB");
        assert_eq!(human_size((15 << 30) + (1 << 29)), "15.5GiB");
        assert_eq!(human_size(u64::MAX), "16777215TiB");
        assert_eq!(human_seconds(59), "59s");
        assert_eq!(human_seconds(61), "1m01s");
        assert_eq!(human_seconds(3720), "1h02m");
    }
}
