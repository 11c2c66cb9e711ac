//! Every metric of a node: name, unit, stability, and where its samples come from.

use std::time::Duration;

use protocol::metrics::{Definition, Form, Metric, Sample, Stability, Value};

use super::{ShardFigures, Source};

const NODE: &[&str] = &["node"];
const SHARD: &[&str] = &["node", "shard", "target"];
const CLASS: &[&str] = &["node", "shard", "target", "class"];

/// Every metric of a node, in the order in which they are written.
pub const METRICS: &[Metric<Source>] = &[
    metric(
        Definition {
            name: "lanefs_node",
            form: Form::Info,
            unit: "",
            labels: &["node", "release", "checksum_path"],
            stability: Stability::Stable,
            help: "What runs.",
        },
        about,
    ),
    metric(of_node("lanefs_node_map_version", "Version of the cluster map it has."), |source| {
        node_sample(source, source.map_version.0)
    }),
    metric(
        of_node("lanefs_node_registered", "1 while a coordinator has the node registered, else 0."),
        |source| node_sample(source, source.registered.into()),
    ),
    metric(
        gauge(
            "lanefs_node_figures_age_seconds",
            "seconds",
            "Age of the shard's figures; one that grows is a shard that does not run.",
        ),
        |source| source.each(|shard| Value::Seconds(shard.age)),
    ),
    metric(
        gauge(
            "lanefs_node_utilisation_ratio",
            "ratio",
            "Busy share of the shard's executor over the last second: processor time by time.",
        ),
        |source| source.each(|shard| Value::Number(shard.busy)),
    ),
    metric(
        counter("lanefs_node_cpu_seconds", "seconds", "Processor time of the shard's thread."),
        |source| {
            source.each(|shard| Value::Seconds(Duration::from_nanos(shard.stats.activity.cpu_ns)))
        },
    ),
    metric(
        Definition {
            labels: CLASS,
            ..counter(
                "lanefs_node_requests",
                "",
                "Requests by class: read, write, replicate (from primaries) or other.",
            )
        },
        requests,
    ),
    metric(
        Definition {
            form: Form::Histogram,
            ..counter(
                "lanefs_node_read_duration_seconds",
                "seconds",
                "From the last byte of a read request to its answer in the send queue; refusals are left out.",
            )
        },
        |source| source.each(|shard| Value::Durations(shard.stats.activity.read_times.clone())),
    ),
    metric(
        Definition {
            form: Form::Histogram,
            ..counter(
                "lanefs_node_write_duration_seconds",
                "seconds",
                "The same of writes; every member has flushed by then.",
            )
        },
        |source| source.each(|shard| Value::Durations(shard.stats.activity.write_times.clone())),
    ),
    metric(
        counter("lanefs_node_received_bytes", "bytes", "Payload that others sent here."),
        |source| source.each(|shard| Value::Count(shard.stats.bytes_in)),
    ),
    metric(
        counter(
            "lanefs_node_sent_bytes",
            "bytes",
            "Payload sent from here, to clients and members.",
        ),
        |source| source.each(|shard| Value::Count(shard.stats.bytes_out)),
    ),
    metric(
        counter(
            "lanefs_node_member_sent_bytes",
            "bytes",
            "The part of it that was sent to members.",
        ),
        |source| source.each(|shard| Value::Count(shard.stats.activity.peer_bytes_out)),
    ),
    metric(
        counter("lanefs_node_copied_bytes", "bytes", "Payload copied in user space outside TLS."),
        |source| source.each(|shard| Value::Count(shard.stats.bytes_copied)),
    ),
    metric(counter("lanefs_node_flushes", "", "Flushes of the device."), |source| {
        source.each(|shard| Value::Count(shard.stats.flushes))
    }),
    metric(
        counter(
            "lanefs_node_stalls",
            "",
            "Times that the executor ran none of its tasks for 50 ms or longer.",
        ),
        |source| source.each(|shard| Value::Count(shard.stats.activity.stalls)),
    ),
    metric(
        counter("lanefs_node_stalled_seconds", "seconds", "How long those times were together."),
        |source| {
            source
                .each(|shard| Value::Seconds(Duration::from_nanos(shard.stats.activity.stalled_ns)))
        },
    ),
    metric(
        counter("lanefs_node_allocations", "", "Pieces of memory that the shard took."),
        |source| source.each(|shard| Value::Count(shard.stats.activity.allocations)),
    ),
    metric(
        counter("lanefs_node_misroutes", "", "Requests answered with another shard's port."),
        |source| source.each(|shard| Value::Count(shard.stats.misroutes)),
    ),
    metric(
        counter("lanefs_node_hops", "", "Data requests that crossed to another shard; always 0."),
        |source| source.each(|shard| Value::Count(shard.stats.hops)),
    ),
    metric(gauge("lanefs_node_connections", "", "Connections that others made."), |source| {
        source.each(|shard| Value::Count(shard.stats.connections.into()))
    }),
    metric(
        gauge("lanefs_node_clear_connections", "", "Those of them whose payload is not encrypted."),
        |source| source.each(|shard| Value::Count(shard.stats.clear_connections.into())),
    ),
    metric(
        gauge("lanefs_node_events_waiting", "", "Events that wait for the shard's loop."),
        |source| source.each(|shard| Value::Count(shard.stats.activity.events_waiting.into())),
    ),
    metric(
        gauge(
            "lanefs_node_requests_in_flight",
            "",
            "Requests of clients and primaries that were admitted and not answered.",
        ),
        |source| source.each(|shard| Value::Count(shard.stats.activity.requests_in_flight.into())),
    ),
    metric(
        gauge(
            "lanefs_node_device_in_flight",
            "",
            "Reads, writes and flushes that the device has not answered.",
        ),
        |source| source.each(|shard| Value::Count(shard.stats.activity.transfers_in_flight.into())),
    ),
    metric(
        experimental(gauge(
            "lanefs_node_device_transfer_p99_seconds",
            "seconds",
            "99th percentile of the device's reads and writes over the last seconds.",
        )),
        |source| source.each(|shard| micros(shard.health.device_p99_us)),
    ),
    metric(
        experimental(gauge(
            "lanefs_node_device_flush_p99_seconds",
            "seconds",
            "99th percentile of the device's flushes over the last seconds.",
        )),
        |source| source.each(|shard| micros(shard.health.flush_p99_us)),
    ),
    metric(gauge("lanefs_node_capacity_bytes", "bytes", "Usable bytes of the target."), |source| {
        source.each(|shard| Value::Count(shard.stats.capacity))
    }),
    metric(gauge("lanefs_node_used_bytes", "bytes", "Bytes allocated on the target."), |source| {
        source.each(|shard| Value::Count(shard.stats.used))
    }),
    metric(gauge("lanefs_node_chunks", "", "Chunks on the target."), |source| {
        source.each(|shard| Value::Count(shard.stats.chunks))
    }),
    metric(
        gauge(
            "lanefs_node_fenced",
            "",
            "1 when the target is fenced after a device error, else 0.",
        ),
        |source| source.each(|shard| Value::Count(shard.health.fenced.into())),
    ),
    metric(
        gauge(
            "lanefs_node_resync_left_bytes",
            "bytes",
            "What is still to be copied from here to syncing members.",
        ),
        |source| source.each(|shard| Value::Count(shard.health.resync_bytes_left)),
    ),
    metric(
        counter(
            "lanefs_node_resync_done_bytes",
            "bytes",
            "What was copied from here to syncing members.",
        ),
        |source| source.each(|shard| Value::Count(shard.health.resync_bytes_done)),
    ),
    metric(
        counter("lanefs_node_damaged_cells", "", "Cells found damaged on the target."),
        |source| source.each(|shard| Value::Count(shard.health.cells_damaged)),
    ),
    metric(counter("lanefs_node_repaired_cells", "", "Cells repaired on the target."), |source| {
        source.each(|shard| Value::Count(shard.health.cells_repaired))
    }),
    metric(
        gauge(
            "lanefs_node_bad_cells",
            "",
            "Cells that are damaged now, in groups that the target is a member of.",
        ),
        |source| source.each(|shard| Value::Count(shard.health.cells_bad)),
    ),
];

const fn metric(definition: Definition, read: fn(&Source) -> Vec<Sample>) -> Metric<Source> {
    Metric { definition, read }
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Definition {
    let (labels, stability) = (SHARD, Stability::Stable);
    Definition { name, form: Form::Gauge, unit, labels, stability, help }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Definition {
    Definition { form: Form::Counter, ..gauge(name, unit, help) }
}

const fn of_node(name: &'static str, help: &'static str) -> Definition {
    Definition { labels: NODE, ..gauge(name, "", help) }
}

const fn experimental(definition: Definition) -> Definition {
    Definition { stability: Stability::Experimental, ..definition }
}

fn about(source: &Source) -> Vec<Sample> {
    let release = env!("CARGO_PKG_VERSION").to_owned();
    let labels = [source.node.to_string(), release, protocol::checksum::compiled_path().to_owned()];
    vec![Sample::labelled(labels, Value::Count(1))]
}

fn node_sample(source: &Source, count: u64) -> Vec<Sample> {
    vec![Sample::labelled([source.node.to_string()], Value::Count(count))]
}

fn requests(source: &Source) -> Vec<Sample> {
    let of_shard = |shard: &ShardFigures| {
        let activity = &shard.stats.activity;
        let classes = [
            ("read", activity.reads),
            ("write", activity.writes),
            ("replicate", activity.replications),
            ("other", activity.others),
        ];
        let labels = source.labels(shard);
        classes.map(|(class, count)| {
            let labels = labels.iter().cloned().chain([class.to_owned()]);
            Sample::labelled(labels, Value::Count(count))
        })
    };
    source.shards.iter().flat_map(of_shard).collect()
}

fn micros(us: u32) -> Value {
    Value::Seconds(Duration::from_micros(us.into()))
}
