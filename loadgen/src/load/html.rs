//! The report as one page that needs nothing else: figures, and plots as inline SVG. Pure.

use std::fmt::Write as _;

use super::outcome::Outcome;
use crate::stats::figure;

/// Size of a plot.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 220.0;
/// Room for the labels of the axes.
const MARGIN: f64 = 56.0;
/// Colours of lines, in order.
const COLOURS: [&str; 6] = ["#1b6ca8", "#c8553d", "#588157", "#8e6c8a", "#b08900", "#444444"];

/// One line of a plot.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The page.
pub(super) fn page(outcome: &Outcome) -> String {
    let mut body = String::new();
    let scenario = serde_json::to_string(&outcome.scenario).unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(body, "<h1>lanefs-loadgen</h1><p>{}</p>", escaped(&outcome.machine));
    if let Some(why) = &outcome.void {
        let _ = write!(body, "<p class=void>VOID: {}</p>", escaped(why));
    }
    let lines: Vec<String> = outcome.lines().iter().map(|line| escaped(line)).collect();
    let _ = write!(body, "<pre>{}</pre><pre>{}</pre>", lines.join("\n"), escaped(&scenario));
    for (title, unit, lines) in plots(outcome) {
        let _ = write!(body, "<h2>{title}</h2>{}", plot(unit, &lines));
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>lanefs-loadgen</title><style>\
         body{{font:15px sans-serif;max-width:{WIDTH}px;margin:2em auto;padding:0 1em}}\
         pre{{white-space:pre-wrap;background:#f4f4f4;padding:.6em}}\
         .void{{color:#b00020;font-weight:bold}}svg{{width:100%;height:auto}}\
         text{{font:11px sans-serif}}</style>{body}</html>\n"
    )
}

fn plots(outcome: &Outcome) -> Vec<(&'static str, &'static str, Vec<Line>)> {
    let by_second = |name: &str, value: fn(&super::outcome::Point) -> f64| Line {
        name: name.to_owned(),
        points: outcome
            .seconds
            .iter()
            .zip(1u32..)
            .map(|(it, at)| (f64::from(at), value(it)))
            .collect(),
    };
    let curve = outcome.latency.iter().filter(|(of, _)| *of < 1.0);
    // Nines on the horizontal axis: 1 is 90 %, 2 is 99 %.
    let curve = curve.map(|(of, ms)| (-(1.0 - of).log10(), *ms)).collect();
    let cores = outcome.seconds.first().map_or(0, |it| it.cores.len());
    let core = |core: usize| Line {
        name: format!("core {core}"),
        points: outcome
            .seconds
            .iter()
            .zip(1u32..)
            .map(|(it, at)| (f64::from(at), it.cores.get(core).copied().unwrap_or(0.0)))
            .collect(),
    };
    vec![
        ("Operations", "per second", vec![by_second("operations", |it| it.operations as f64)]),
        ("Throughput", "MB/s", vec![by_second("payload", |it| it.bytes as f64 / 1e6)]),
        (
            "Latency over time",
            "ms",
            vec![by_second("p50", |it| it.p50_ms), by_second("p99", |it| it.p99_ms)],
        ),
        (
            "Latency by nines (1 = 90 %, 2 = 99 %)",
            "ms",
            vec![Line { name: "latency".to_owned(), points: curve }],
        ),
        ("Processors of this machine", "% busy", (0..cores).map(core).collect()),
    ]
}

fn plot(unit: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1e-9, f64::max);
    let (x_most, y_most) = (most(&mut all().map(|it| it.0)), most(&mut all().map(|it| it.1)));
    let (wide, high) = (WIDTH - 2.0 * MARGIN, HEIGHT - MARGIN);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{unit}\">");
    for part in [0.0, 0.5, 1.0] {
        let y = 10.0 + high * (1.0 - part);
        let _ = write!(
            svg,
            "<line x1={MARGIN} x2={:.0} y1={y:.1} y2={y:.1} stroke=#ddd /><text x=4 y={:.1}>{}</text>",
            MARGIN + wide,
            y + 4.0,
            figure(y_most * part)
        );
        let x = MARGIN + wide * part;
        let _ = write!(
            svg,
            "<text x={x:.0} y={:.0} text-anchor=middle>{}</text>",
            high + 26.0,
            figure(x_most * part)
        );
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let at = |&(x, y): &(f64, f64)| {
            format!("{:.1},{:.1}", MARGIN + wide * x / x_most, 10.0 + high * (1.0 - y / y_most))
        };
        let points: Vec<String> = line.points.iter().map(at).collect();
        let _ = write!(
            svg,
            "<polyline fill=none stroke={colour} stroke-width=1.5 points=\"{}\"/>",
            points.join(" ")
        );
    }
    for ((line, colour), at) in lines.iter().zip(COLOURS.iter().cycle()).zip(0u32..) {
        let x = MARGIN + 90.0 * f64::from(at);
        let _ = write!(
            svg,
            "<text x={x} y={} fill={colour}>{}</text>",
            HEIGHT - 6.0,
            escaped(&line.name)
        );
    }
    let _ = write!(svg, "<text x=4 y=9>{}</text></svg>", escaped(unit));
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::outcome;
    use super::*;

    #[test]
    fn the_page_holds_figures_and_plots_and_asks_for_nothing() {
        let mut run = outcome(&[100, 120, 110]);
        run.machine = "a <machine>".to_owned();
        run.void = Some("late".to_owned());
        let page = page(&run);
        assert_eq!(page.matches("<svg").count(), 5);
        assert!(page.contains("a &lt;machine&gt;") && page.contains("VOID: late"));
        assert!(page.contains("core 1") && page.contains("110 operations/s"));
        assert!(!page.contains("http") && !page.contains("<script"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
