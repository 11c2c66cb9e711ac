//! Every metric of a coordinator: name, unit, stability, and where its samples come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::cluster_map::{
    ClusterMap, GroupState, NodeRecord, NodeState, PlanReason, TargetState,
};
use protocol::ids::CoordinatorId;
use protocol::message::Kind;
use protocol::metrics::{Definition, Form, Metric, Sample, Stability, Value};
use protocol::status::Status;

use super::LogFigures;
use crate::planner::Outlook;
use crate::state::Counters;

/// Everything that the coordinator's metrics are read from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The coordinator.
    pub coordinator: CoordinatorId,
    /// The newest map.
    pub map: Arc<ClusterMap>,
    /// Figures of the state.
    pub counters: Counters,
    /// Commands applied.
    pub applied: u64,
    /// What the control loop found out last.
    pub outlook: Arc<Outlook>,
    /// Bytes a second that are copied to heal.
    pub recovery_bytes_per_s: u64,
    /// What was appended to the log.
    pub log: LogFigures,
    /// Answered requests.
    pub requests: BTreeMap<(Kind, Status), u64>,
    /// Connections that are open.
    pub connections: usize,
    /// Connections so far.
    pub connections_made: u64,
}

/// Every metric of a coordinator, in the order in which they are written.
pub const METRICS: &[Metric<Source>] = &[
    metric(
        Definition {
            form: Form::Info,
            labels: &["coordinator", "release"],
            ..gauge("lanefs_coordinator", "", "What runs.")
        },
        about,
    ),
    metric(by_state("lanefs_coordinator_groups", "Placement groups by state."), |source| {
        let word = |state: GroupState| state.word();
        let groups = source.map.groups.values().map(|group| word(group.state()));
        tally(GroupState::ALL.map(word), groups)
    }),
    metric(by_state("lanefs_coordinator_nodes", "Nodes by state."), |source| {
        tally(["up", "draining", "down"], source.map.nodes.values().map(node_word))
    }),
    metric(by_state("lanefs_coordinator_targets", "Targets by state."), |source| {
        let targets = source.map.targets.values().map(|target| target_word(target.state));
        tally(["up", "down", "fenced", "slow"], targets)
    }),
    metric(
        Definition {
            labels: &["reason"],
            ..gauge("lanefs_coordinator_plans", "", "Groups whose members change, by reason.")
        },
        |source| {
            let plans = source.map.groups.values().filter_map(|group| group.plan.as_ref());
            let reasons = plans.map(|plan| reason_word(plan.reason));
            tally(["heal", "drain", "rebalance", "slow"], reasons)
        },
    ),
    metric(
        gauge(
            "lanefs_coordinator_endangered_groups",
            "",
            "Groups with one serving member that should have more.",
        ),
        |source| count(source.outlook.endangered.into()),
    ),
    metric(
        gauge(
            "lanefs_coordinator_recovery_left_bytes",
            "bytes",
            "What is to be copied until every group has its replicas.",
        ),
        |source| count(source.outlook.bytes_left),
    ),
    metric(
        gauge(
            "lanefs_coordinator_recovery_rate_bytes",
            "bytes",
            "What is copied in a second, over the last seconds.",
        ),
        |source| count(source.recovery_bytes_per_s),
    ),
    metric(
        gauge(
            "lanefs_coordinator_recovery_guarded",
            "",
            "1 while no copies are started because too much disappeared at once, else 0.",
        ),
        |source| count(source.outlook.guarded.into()),
    ),
    metric(
        gauge(
            "lanefs_coordinator_alarms",
            "",
            "What an operator should look at; lanefs status says what.",
        ),
        |source| count(source.outlook.alarms.len() as u64),
    ),
    metric(gauge("lanefs_coordinator_map_version", "", "Version of the cluster map."), |source| {
        count(source.map.version.0)
    }),
    metric(
        counter("lanefs_coordinator_log_appends", "", "Batches appended to the log and durable."),
        |source| count(source.log.appends),
    ),
    metric(counter("lanefs_coordinator_log_entries", "", "Entries in those batches."), |source| {
        count(source.log.entries)
    }),
    metric(
        Definition {
            form: Form::Histogram,
            ..counter(
                "lanefs_coordinator_log_append_duration_seconds",
                "seconds",
                "From the order to append a batch until it was durable.",
            )
        },
        |source| Sample::alone(Value::Durations(source.log.times.clone())),
    ),
    metric(
        gauge(
            "lanefs_coordinator_applied_index",
            "",
            "Proposals applied since the cluster was made.",
        ),
        |source| count(source.applied),
    ),
    metric(
        Definition {
            labels: &["kind", "status"],
            ..counter(
                "lanefs_coordinator_requests",
                "",
                "Answered requests by kind and status, as docs/wire-format.md names them.",
            )
        },
        requests,
    ),
    metric(gauge("lanefs_coordinator_connections", "", "Connections that are open."), |source| {
        count(source.connections as u64)
    }),
    metric(
        counter(
            "lanefs_coordinator_accepted_connections",
            "",
            "Connections whose certificate and hello were good.",
        ),
        |source| count(source.connections_made),
    ),
    metric(gauge("lanefs_coordinator_sessions", "", "Open sessions of clients."), |source| {
        count(source.counters.sessions.into())
    }),
    metric(gauge("lanefs_coordinator_inodes", "", "Files, directories and links."), |source| {
        count(source.counters.inodes)
    }),
    metric(
        gauge("lanefs_coordinator_file_bytes", "bytes", "Sum of the lengths of all files."),
        |source| count(source.counters.file_bytes),
    ),
    metric(
        Definition {
            stability: Stability::Experimental,
            ..gauge(
                "lanefs_coordinator_dead_files",
                "",
                "Pairs of group and file that wait to be deleted from nodes.",
            )
        },
        |source| count(source.counters.dead_files),
    ),
];

const fn metric(definition: Definition, read: fn(&Source) -> Vec<Sample>) -> Metric<Source> {
    Metric { definition, read }
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Definition {
    let stability = Stability::Stable;
    Definition { name, form: Form::Gauge, unit, labels: &[], stability, help }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Definition {
    Definition { form: Form::Counter, ..gauge(name, unit, help) }
}

const fn by_state(name: &'static str, help: &'static str) -> Definition {
    Definition { labels: &["state"], ..gauge(name, "", help) }
}

fn count(count: u64) -> Vec<Sample> {
    Sample::alone(Value::Count(count))
}

fn about(source: &Source) -> Vec<Sample> {
    let labels = [source.coordinator.to_string(), env!("CARGO_PKG_VERSION").to_owned()];
    vec![Sample::labelled(labels, Value::Count(1))]
}

/// How often each word comes; one that does not come is zero.
fn tally<const N: usize>(
    words: [&'static str; N],
    seen: impl Iterator<Item = &'static str>,
) -> Vec<Sample> {
    let mut counts = [0; N];
    for word in seen {
        if let Some(at) = words.iter().position(|own| *own == word) {
            counts[at] += 1;
        }
    }
    let sample =
        |(word, count): (&str, u64)| Sample::labelled([word.to_owned()], Value::Count(count));
    words.into_iter().zip(counts).map(sample).collect()
}

fn requests(source: &Source) -> Vec<Sample> {
    let sample = |((kind, status), count): (&(Kind, Status), &u64)| {
        Sample::labelled([format!("{kind:?}"), format!("{status:?}")], Value::Count(*count))
    };
    source.requests.iter().map(sample).collect()
}

fn node_word(node: &NodeRecord) -> &'static str {
    match node.state {
        NodeState::Down => "down",
        NodeState::Up if node.draining => "draining",
        NodeState::Up => "up",
    }
}

fn target_word(state: TargetState) -> &'static str {
    match state {
        TargetState::Up => "up",
        TargetState::Down => "down",
        TargetState::Fenced => "fenced",
        TargetState::Slow => "slow",
    }
}

fn reason_word(reason: PlanReason) -> &'static str {
    match reason {
        PlanReason::Heal => "heal",
        PlanReason::Drain => "drain",
        PlanReason::Rebalance => "rebalance",
        PlanReason::Slow => "slow",
    }
}
