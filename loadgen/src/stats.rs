//! Medians, quantiles and how figures are written. Pure.

/// The value that so many of a hundred stay at or below; NaN of nothing.
pub fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let position = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(position.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The middle of the values, the upper one of two; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Where the median of what the values are a sample of lies, with a certainty of 90 % at least: two of
/// the values, for any distribution. The whole range when there are too few of them.
pub fn median_interval(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let Some(last) = sorted.len().checked_sub(1) else { return (f64::NAN, f64::NAN) };
    // Chance that at most `below` of so many values lie below the median: half of what may be missed.
    let all = f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX));
    let (mut term, mut chance, mut below) = (0.5f64.powf(all), 0.0, 0usize);
    while below <= last / 2 {
        chance += term;
        if chance > 0.05 {
            break;
        }
        let at = f64::from(u32::try_from(below).unwrap_or(u32::MAX));
        term *= (all - at) / (at + 1.0);
        below += 1;
    }
    let cut = below.saturating_sub(1).min(last / 2);
    (sorted[cut], sorted[last - cut])
}

/// The values in order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// A figure with three digits that matter.
pub fn figure(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_sorted_values() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_of_a_median_leaves_out_what_is_rarely_there() {
        let interval =
            |count: u32| median_interval(&(1..=count).map(f64::from).collect::<Vec<_>>());
        let is = |count, expected: (f64, f64)| {
            let seen = interval(count);
            assert!((seen.0 - expected.0).abs() + (seen.1 - expected.1).abs() < 1e-9, "{seen:?}");
        };
        is(1, (1.0, 1.0));
        is(4, (1.0, 4.0));
        is(10, (2.0, 9.0));
        is(20, (6.0, 15.0));
        assert!(interval(0).0.is_nan());
    }

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        for (percent, expected) in [(0, 1.0), (50, 10.0), (95, 19.0), (100, 20.0)] {
            assert!((quantile(&values, percent) - expected).abs() < 1e-9, "{percent}");
        }
        assert!(quantile(&[], 50).is_nan());
    }
}
