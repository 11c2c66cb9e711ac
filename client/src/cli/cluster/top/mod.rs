//! `top`: what each core does, live.
//!
//! Every shard is asked on its own data port. Nothing is kept between two looks but the answers, so
//! watching costs a shard one small request for each.

mod rates;
mod view;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use protocol::cluster_map::ClusterMap;
use protocol::ids::TargetId;
use protocol::message::chunk::ShardStatsReply;

use self::rates::between;
use self::view::{Line, document, sheet};
use super::shards::ask;
use crate::Client;
use crate::cli::args::TopArgs;
use crate::cli::failure::Failure;
use crate::cli::output::print;

/// How long the coordinator may take to say what changed; after that the map of before is used.
const MAP_WITHIN: Duration = Duration::from_secs(2);
/// Goes to the first line of a terminal.
const HOME: &str = "\x1b[H";
/// Clears the rest of a line, and the rest of the terminal.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// What was seen at one moment.
struct Look {
    map: Arc<ClusterMap>,
    shards: BTreeMap<TargetId, ShardStatsReply>,
}

/// Shows what each core does: once, or again and again.
pub(crate) async fn top(client: &Client, args: TopArgs) -> Result<(), Failure> {
    let in_place = std::io::stdout().is_terminal() && !args.once && !args.json;
    let mut before = look(client, client.refresh_map().await?).await;
    loop {
        tokio::time::sleep(args.interval).await;
        let map = tokio::time::timeout(MAP_WITHIN, client.refresh_map()).await;
        let map = map.ok().and_then(Result::ok).unwrap_or_else(|| Arc::clone(&before.map));
        let now = look(client, map).await;
        let lines = lines(&before, &now);
        let text = if args.json {
            format!("{}\n", document(&lines))
        } else if in_place {
            placed(&sheet(&lines))
        } else {
            sheet(&lines)
        };
        print(&text).map_err(Failure::output)?;
        if args.once || args.json {
            return Ok(());
        }
        drop(lines);
        before = now;
    }
}

async fn look(client: &Client, map: Arc<ClusterMap>) -> Look {
    let shards = ask(client, &map, map.targets.keys().copied()).await;
    Look { map, shards }
}

/// A line for each core that the map has now, by node and shard.
fn lines<'a>(before: &Look, now: &'a Look) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'_>> = now
        .map
        .targets
        .values()
        .map(|target| {
            let stats = now.shards.get(&target.id);
            let rates = stats.zip(before.shards.get(&target.id));
            let rates = rates.and_then(|(now, before)| between(before, now));
            Line { target, stats, rates }
        })
        .collect();
    lines.sort_by_key(|line| (line.target.node, line.target.shard));
    lines
}

/// The text over what was shown before it.
fn placed(text: &str) -> String {
    let lines = text.lines().map(|line| format!("{line}{CLEAR_LINE}\n")).collect::<String>();
    format!("{HOME}{lines}{CLEAR_BELOW}")
}

/// Reads an interval in seconds, such as `2` or `0.5`.
///
/// # Errors
/// A line that says what is expected.
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    let seconds = seconds.ok_or_else(|| "expected seconds from 0.1 to 3600".to_owned())?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_some_seconds() {
        assert_eq!(parse_interval("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "0", "-1", "NaN", "inf", "3601", "1s"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_in_place_clears_what_was_longer() {
        assert_eq!(placed("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
