//! Rows of the table: a ratio of two sides that were measured in the same rounds, what is required of
//! it, and how the rows are written. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::stats::{figure, median, median_interval};

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What is compared with what.
    pub(super) name: String,
    /// Ours and the other side's, round by round.
    pub(super) pairs: Vec<(f64, f64)>,
    /// Unit of both.
    pub(super) unit: &'static str,
    /// What the median of the ratios must reach; `None` when it is only shown.
    pub(super) required: Option<f64>,
    /// What it should reach some day.
    pub(super) goal: Option<f64>,
    /// True when smaller is better.
    pub(super) at_most: bool,
}

impl Row {
    /// A ratio that must be at least so large.
    pub(super) fn at_least(name: &str, pairs: Vec<(f64, f64)>, required: f64, goal: f64) -> Row {
        let (required, goal) = (Some(required), Some(goal).filter(|goal| *goal > 0.0));
        Row { name: name.to_owned(), pairs, unit: "", required, goal, at_most: false }
    }

    /// A ratio that may be at most so large.
    pub(super) fn at_most(name: &str, pairs: Vec<(f64, f64)>, required: f64) -> Row {
        Row { at_most: true, goal: None, ..Row::at_least(name, pairs, required, 0.0) }
    }

    /// A ratio of which nothing is required.
    pub(super) fn shown(name: &str, pairs: Vec<(f64, f64)>) -> Row {
        Row { required: None, goal: None, ..Row::at_least(name, pairs, 0.0, 0.0) }
    }

    /// Says in what both sides are measured.
    #[must_use]
    pub(super) fn of(mut self, unit: &'static str) -> Row {
        self.unit = unit;
        self
    }

    /// The ratios, round by round.
    pub(super) fn ratios(&self) -> Vec<f64> {
        self.pairs.iter().map(|(ours, other)| ours / other).collect()
    }

    /// True when what is required holds, of a median that was measured.
    pub(super) fn met(&self) -> bool {
        let value = median(&self.ratios());
        let holds =
            |required: f64| if self.at_most { value <= required } else { value >= required };
        self.required.is_none_or(holds)
    }

    /// The verdict, the median with its interval, and the medians of both sides, in one line.
    pub(super) fn line(&self) -> String {
        let ratios = self.ratios();
        let (low, high) = median_interval(&ratios);
        let verdict = match self.required {
            None => "shown",
            Some(_) if self.met() => "met",
            Some(_) => "MISSED",
        };
        let sign = if self.at_most { "<=" } else { ">=" };
        let required = self.required.map_or(String::new(), |it| format!("{sign} {it:.2}"));
        let goal = self.goal.map_or(String::new(), |goal| format!("{goal:.2}"));
        let side = |of: fn(&(f64, f64)) -> f64| {
            figure(median(&self.pairs.iter().map(of).collect::<Vec<_>>()))
        };
        format!(
            "{verdict:<7}{:<66}{:>7.2} [{low:.2}, {high:.2}] {required:<8} {goal:<5} {} / {} {}",
            self.name,
            median(&ratios),
            side(|pair| pair.0),
            side(|pair| pair.1),
            self.unit
        )
    }

    fn json(&self) -> Value {
        let (low, high) = median_interval(&self.ratios());
        json!({
            "name": self.name, "unit": self.unit, "pairs": self.pairs,
            "ratio": median(&self.ratios()), "interval_90": [low, high],
            "required": self.required, "goal": self.goal, "at_most": self.at_most,
            "met": self.met(),
        })
    }
}

/// All rows with the machine they are of.
pub(super) fn document(machine: &str, rows: &[Row]) -> Value {
    json!({ "machine": machine, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

/// `N of M bars met`, and whether that is all.
pub(super) fn verdict(rows: &[Row]) -> (String, bool) {
    let judged: Vec<&Row> = rows.iter().filter(|row| row.required.is_some()).collect();
    let met = judged.iter().filter(|row| row.met()).count();
    (format!("{met} of {} bars met", judged.len()), met == judged.len())
}

/// The table as one page that needs nothing else.
pub(super) fn page(machine: &str, rows: &[Row]) -> String {
    let mut body = String::new();
    for row in rows {
        let ratio = median(&row.ratios());
        let (low, high) = median_interval(&row.ratios());
        let class = if row.met() { "" } else { " class=missed" };
        let cell = |value: Option<f64>| value.map_or("&nbsp;".to_owned(), |it| format!("{it:.2}"));
        // Writing to a string cannot fail. The bar is the ratio; the line is what is required.
        let _ = write!(
            body,
            "<tr{class}><td>{}<td>{ratio:.2}<td>{low:.2} to {high:.2}<td>{}<td>{}<td>{}",
            escaped(&row.name),
            cell(row.required),
            cell(row.goal),
            bar(ratio, row.required)
        );
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>lanefs bench</title><style>\
         body{{font:15px sans-serif;max-width:980px;margin:2em auto;padding:0 1em}}\
         table{{border-collapse:collapse}}td,th{{padding:.2em .7em;text-align:left}}\
         tr:nth-child(odd){{background:#f4f4f4}}.missed td:first-child{{color:#b00020;font-weight:bold}}\
         </style><h1>lanefs bench</h1><p>{}</p><p>{}</p>\
         <table><tr><th>measure<th>ratio<th>90 %<th>required<th>goal<th>{body}</table></html>\n",
        escaped(machine),
        verdict(rows).0
    )
}

fn bar(ratio: f64, required: Option<f64>) -> String {
    let scale = 160.0 / ratio.max(required.unwrap_or(0.0)).max(1e-9);
    let line = required.map_or(String::new(), |required| {
        format!("<rect x={:.0} width=2 height=14 fill=#b00020 />", required * scale)
    });
    format!(
        "<svg width=164 height=14 role=img aria-label=\"{ratio:.2}\">\
         <rect y=3 width={:.0} height=8 fill=#1b6ca8 />{line}</svg>",
        ratio * scale
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ratios: &[f64]) -> Row {
        let pairs = ratios.iter().map(|ratio| (ratio * 10.0, 10.0)).collect();
        Row::at_least("1 MiB < all", pairs, 0.9, 0.97).of("GB/s")
    }

    #[test]
    fn the_median_of_the_ratios_is_judged() {
        assert!(row(&[0.5, 0.91, 0.95]).met());
        assert!(!row(&[0.5, 0.89, 0.95]).met());
        assert!(!row(&[]).met(), "what was not measured is not met");
        let most = Row::at_most("x", vec![(1.5, 1.0)], 1.5);
        assert!(most.met() && !Row { pairs: vec![(1.6, 1.0)], ..most }.met());
        let shown = Row::shown("x", vec![(1.0, 9.0)]);
        assert!(shown.met());
        let rows = [row(&[1.0]), row(&[0.1]), shown];
        assert_eq!(verdict(&rows), ("1 of 2 bars met".to_owned(), false));
    }

    #[test]
    fn a_line_names_verdict_ratio_interval_and_both_sides() {
        let line = row(&[0.92; 10]).line();
        assert!(line.starts_with("met    1 MiB < all"), "{line}");
        assert!(line.ends_with("0.92 [0.92, 0.92] >= 0.90  0.97  9.20 / 10 GB/s"), "{line}");
        assert!(row(&[0.1]).line().starts_with("MISSED"));
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page("a <machine>", &[row(&[1.0]), row(&[0.5])]);
        assert!(page.contains("1 MiB &lt; all") && page.contains("1 of 2 bars met"));
        assert_eq!(page.matches("class=missed").count(), 1);
        assert!(!page.contains("http") && !page.contains("<script"));
        let json = document("m", &[row(&[0.5, 1.0, 0.9])]);
        assert_eq!(json["rows"][0]["ratio"], 0.9);
    }
}
