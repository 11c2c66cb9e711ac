//! A strict reader of OpenMetrics 1.0, as far as lanefs uses it.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of a text: name and labels as written, and value.
pub(super) type Samples = BTreeMap<String, f64>;

struct Family<'a> {
    name: &'a str,
    form: &'a str,
    unit: Option<&'a str>,
    help: bool,
}

/// Reads a whole text; the error says which line is wrong and why.
pub(super) fn read(text: &str) -> Result<Samples, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("the text does not end with # EOF")?;
    let (mut samples, mut names) = (Samples::new(), BTreeSet::new());
    let mut family: Option<Family<'_>> = None;
    for line in body.lines() {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (key, name) = (words.next(), words.next().unwrap_or_default());
            let rest = words.next().unwrap_or_default();
            match (key, &mut family) {
                (Some("TYPE"), family) => {
                    if !names.insert(name) || !is_name(name) {
                        return wrong("a family comes once and has a name");
                    }
                    if !["counter", "gauge", "histogram", "info"].contains(&rest) {
                        return wrong("an unknown type");
                    }
                    *family = Some(Family { name, form: rest, unit: None, help: false });
                }
                (Some("UNIT"), Some(family)) if family.name == name => {
                    if !name.ends_with(&format!("_{rest}")) || family.help {
                        return wrong("the unit ends the name and stands before the help");
                    }
                    family.unit = Some(rest);
                }
                (Some("HELP"), Some(family)) if family.name == name && !family.help => {
                    family.help = true;
                }
                _ => return wrong("a comment out of place"),
            }
            continue;
        }
        let Some(family) = family.as_ref().filter(|family| family.help) else {
            return wrong("a sample before its family");
        };
        let (key, value) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line}"))?;
        let Ok(value) = value.parse::<f64>() else { return wrong("no number") };
        let name = key.split('{').next().unwrap_or_default();
        let suffix = name.strip_prefix(family.name);
        let fits = match (family.form, suffix) {
            ("counter", Some("_total")) => value >= 0.0,
            ("gauge", Some("")) => true,
            ("info", Some("_info")) => value == 1.0,
            ("histogram", Some("_bucket")) => key.contains("le=\""),
            ("histogram", Some("_count" | "_sum")) => value >= 0.0,
            _ => false,
        };
        if !fits || !labels_are_good(&key[name.len()..]) {
            return wrong("a sample that its family does not have");
        }
        if samples.insert(key.to_owned(), value).is_some() {
            return wrong("a sample comes twice");
        }
    }
    buckets_rise(body)?;
    Ok(samples)
}

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.chars().all(allowed) && text.chars().next().is_some_and(|c| !c.is_ascii_digit())
}

/// True for nothing, or `{name="value",...}` with escapes in the values.
fn labels_are_good(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let Some(mut rest) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
        return false;
    };
    loop {
        let Some((name, value)) = rest.split_once("=\"") else { return false };
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (Some(end), true) = (end, is_name(name)) else { return false };
        match value[end + 1..].strip_prefix(',') {
            Some(more) => rest = more,
            None => return value.len() == end + 1,
        }
    }
}

/// The buckets of each histogram rise in bound and count, up to infinity.
fn buckets_rise(body: &str) -> Result<(), String> {
    let mut before: Option<(String, f64, f64)> = None;
    for line in body.lines().filter(|line| line.contains("_bucket{")) {
        let (head, rest) = line.split_once("le=\"").ok_or("a bucket has a bound")?;
        let (bound, count) = rest.split_once("\"} ").ok_or("the bound is the last label")?;
        let number = |text: &str| text.parse::<f64>().map_err(|_| format!("no number: {line}"));
        let (bound, count) = (number(bound)?, number(count)?);
        if let Some((own, low, few)) = &before
            && own == head
            && (bound <= *low || count < *few)
        {
            return Err(format!("buckets do not rise: {line}"));
        }
        let another = before.as_ref().filter(|(own, ..)| own != head);
        if another.is_some_and(|(_, last, _)| last.is_finite()) {
            return Err(format!("a histogram ends before infinity: {line}"));
        }
        before = Some((head.to_owned(), bound, count));
    }
    Ok(())
}

#[test]
fn what_is_not_openmetrics_is_refused() {
    let good = "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds x\n\
                a_seconds_total{b=\"c\\\"\"} 1.5\n# EOF\n";
    assert_eq!(read(good).map(|samples| samples.len()), Ok(1));
    for (from, to) in [
        ("# EOF\n", ""),
        ("_total", ""),
        ("1.5", "x"),
        ("1.5", "-1"),
        ("{b=", "{b"),
        ("seconds seconds", "seconds bytes"),
        ("# HELP a_seconds x\n", ""),
        ("counter", "number"),
        ("# EOF", "# TYPE a_seconds gauge\n# EOF"),
        ("# EOF", "a_seconds_total{b=\"c\\\"\"} 1.5\n# EOF"),
    ] {
        assert!(good.contains(from));
        assert!(read(&good.replacen(from, to, 1)).is_err(), "{from} to {to}");
    }
}
