//! What `top` shows: a line for each core, or one document. Pure.

use std::time::Duration;

use protocol::cluster_map::TargetRecord;
use protocol::message::chunk::ShardStatsReply;
use serde_json::{Value, json};

use super::super::shards::target_word;
use super::super::status::pinned;
use super::rates::{Rates, Spread};

/// One core at the end of an interval.
pub(super) struct Line<'a> {
    /// Its target, as the map has it.
    pub(super) target: &'a TargetRecord,
    /// What it said last; `None` when it did not answer.
    pub(super) stats: Option<&'a ShardStatsReply>,
    /// What it did; `None` when it did not answer twice, or was started in between.
    pub(super) rates: Option<Rates>,
}

const HEADING: &str = "NODE SHARD CORE TARGET  UTIL    OPS/S  IN MB/S OUT MB/S QUEUE DISK   \
                       READ p50     p99  WRITE p50     p99 STALLS";

/// A heading and a line for each core.
pub(super) fn sheet(lines: &[Line<'_>]) -> String {
    let mut text = format!("{HEADING}\n");
    lines.iter().for_each(|line| text.push_str(&row(line)));
    text
}

fn row(line: &Line<'_>) -> String {
    let target = line.target;
    let core = line.stats.and_then(pinned).map_or_else(|| "-".to_owned(), |core| core.to_string());
    let head = format!("{:>4} {:>5} {core:>4} {:>6}", target.node.0, target.shard.0, target.id.0);
    match (line.stats, &line.rates) {
        (None, _) => format!("{head}  no answer, {} in the map\n", target_word(target.state)),
        (Some(_), None) => format!("{head}  started a moment ago\n"),
        (Some(stats), Some(rates)) => {
            let activity = &stats.activity;
            format!(
                "{head} {:>4.0}% {:>8.0} {:>8.1} {:>8.1} {:>5} {:>4} {:>10} {:>7} {:>10} {:>7} {:>6}\n",
                rates.busy * 100.0,
                rates.ops(),
                rates.bytes_in / 1e6,
                rates.bytes_out / 1e6,
                activity.events_waiting.saturating_add(activity.requests_in_flight),
                activity.transfers_in_flight,
                short(rates.read_times.p50),
                short(rates.read_times.p99),
                short(rates.write_times.p50),
                short(rates.write_times.p99),
                rates.stalls,
            )
        }
    }
}

/// A time in as many places as a column has.
fn short(time: Option<Duration>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    match time.as_micros() {
        us @ 0..1000 => format!("{us}us"),
        1000..1_000_000 => format!("{:.1}ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.1}s", time.as_secs_f64()),
    }
}

/// One document with everything.
pub(super) fn document(lines: &[Line<'_>]) -> Value {
    json!({ "cores": lines.iter().map(core).collect::<Vec<_>>() })
}

fn core(line: &Line<'_>) -> Value {
    let target = line.target;
    let mut core = json!({
        "node": target.node.0,
        "shard": target.shard.0,
        "target": target.id.0,
        "port": target.port,
        "state": target_word(target.state),
        "answers": line.stats.is_some(),
    });
    let mut add = |more: Value| {
        if let (Value::Object(core), Value::Object(more)) = (&mut core, more) {
            core.extend(more);
        }
    };
    if let Some(stats) = line.stats {
        add(now(stats));
    }
    if let Some(rates) = &line.rates {
        add(interval(rates));
    }
    core
}

fn now(stats: &ShardStatsReply) -> Value {
    json!({
        "core": pinned(stats),
        "requests_in_flight": stats.activity.requests_in_flight,
        "events_waiting": stats.activity.events_waiting,
        "device_in_flight": stats.activity.transfers_in_flight,
        "connections": stats.connections,
        "misroutes": stats.misroutes,
        "hops": stats.hops,
    })
}

fn interval(rates: &Rates) -> Value {
    json!({
        "interval_s": rates.interval.as_secs_f64(),
        "utilisation": rates.busy,
        "ops_per_s": rates.ops(),
        "reads_per_s": rates.reads,
        "writes_per_s": rates.writes,
        "replications_per_s": rates.replications,
        "others_per_s": rates.others,
        "bytes_in_per_s": rates.bytes_in,
        "bytes_out_per_s": rates.bytes_out,
        "member_bytes_out_per_s": rates.member_bytes_out,
        "flushes_per_s": rates.flushes,
        "bytes_copied_per_s": rates.bytes_copied,
        "read_us": spread(&rates.read_times),
        "write_us": spread(&rates.write_times),
        "stalls": rates.stalls,
        "stalled_ms": u64::try_from(rates.stalled.as_millis()).unwrap_or(u64::MAX),
    })
}

fn spread(spread: &Spread) -> Value {
    let us = |time: Option<Duration>| {
        time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    };
    json!({ "p50": us(spread.p50), "p99": us(spread.p99), "max": us(spread.max) })
}

#[cfg(test)]
mod tests {
    use protocol::cluster_map::TargetState;
    use protocol::ids::{Generation, NodeId, ShardId, TargetId};
    use protocol::message::activity::ShardActivity;
    use protocol::time::Nanos;

    use super::super::rates::between;
    use super::*;

    fn target(state: TargetState) -> TargetRecord {
        TargetRecord {
            id: TargetId(201),
            node: NodeId(2),
            shard: ShardId(0),
            device: 0,
            port: 7411,
            state,
            generation: Generation(1),
            capacity: 0,
        }
    }

    fn stats(seconds: u64) -> ShardStatsReply {
        let activity = ShardActivity {
            clock: Nanos::from_ms(1000 * seconds),
            cpu_ns: seconds * 500_000_000,
            reads: seconds * 10,
            requests_in_flight: 3,
            events_waiting: 1,
            transfers_in_flight: 2,
            ..ShardActivity::default()
        };
        ShardStatsReply { core: 5, bytes_out: seconds * 2_000_000, activity, ..Default::default() }
    }

    #[test]
    fn a_core_is_one_line_whether_it_answers_or_not() {
        let (up, down, last) = (target(TargetState::Up), target(TargetState::Down), stats(2));
        let rates = between(&stats(1), &last);
        let lines = [
            Line { target: &up, stats: Some(&last), rates },
            Line { target: &down, stats: None, rates: None },
            Line { target: &up, stats: Some(&last), rates: None },
        ];
        let text = sheet(&lines);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 4, "{text}");
        let cells: Vec<&str> = rows[1].split_whitespace().collect();
        let expected =
            ["2", "0", "5", "201", "50%", "10", "0.0", "2.0", "4", "2", "-", "-", "-", "-", "0"];
        assert_eq!(cells, expected, "{text}");
        assert_eq!(rows[0].len(), rows[1].len(), "the columns stand under the heading: {text}");
        assert!(rows[2].ends_with("no answer, down in the map"), "{text}");
        assert!(rows[3].ends_with("started a moment ago"), "{text}");

        let document = document(&lines);
        let cores = document["cores"].as_array().unwrap();
        assert_eq!(cores[0]["utilisation"], 0.5);
        assert_eq!(cores[0]["ops_per_s"], 10.0);
        assert!(cores[0]["read_us"]["p99"].is_null());
        assert_eq!((&cores[1]["answers"], &cores[1]["state"]), (&false.into(), &"down".into()));
        assert!(cores[2].get("utilisation").is_none());
    }

    #[test]
    fn times_fit_their_column() {
        let of = |us| short(Some(Duration::from_micros(us)));
        assert_eq!([of(7), of(999), of(1000)], ["7us", "999us", "1.0ms"]);
        assert_eq!([of(999_900), of(61_000_000)], ["999.9ms", "61.0s"]);
    }
}
