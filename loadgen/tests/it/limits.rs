//! Every bound in a `limits.rs` is named by a test that reaches it.
//!
//! A constant counts as reached when its name stands in test code of its own crate or of this one;
//! a bound of `protocol` may be reached by any crate. What is no bound is listed here with a reason,
//! so that a new bound without a test fails this test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["protocol", "node", "coordinator", "client", "loadgen"];

/// Constants that bound nothing, and why.
const NO_BOUNDS: &[(&str, &str, &[&str])] = &[
    ("node", "an interval", &["PREDECESSOR_LOOK_MS"]),
    (
        "client",
        "a parameter of the C library's allocator, which keeps to it",
        &["FREED_BYTES_KEPT_MAX"],
    ),
    (
        "protocol",
        "a default or a set of allowed values: the formats are tested with each value",
        &["CHUNK_LOG2_DEFAULT", "CELL_LOG2_DEFAULT", "CELL_LOG2_ALLOWED", "DEADLINE_DEFAULT_MS"],
    ),
    (
        "coordinator",
        "an interval or a promise to peers: it says when something happens, not how much",
        &[
            "TABLE_COMMIT_INTERVAL_MS",
            "TICK_MS",
            "DROP_REPEAT_MS",
            "NODE_LEASE_MS",
            "NODE_LEASE_MIN_MS",
            "LEASE_DRIFT",
            "PLAN_EVERY",
            "JUDGE_EVERY",
            "NODE_HEARTBEAT_MS",
            "SESSION_LEASE_MS",
            "HEALTH_FRESH_MS",
            "GAP_WINDOW",
            "SUSPICION_GAPS",
        ],
    ),
    ("coordinator", "a size wanted from the kernel", &["OPEN_FILES_WANTED"]),
    (
        "coordinator",
        "a threshold: what it decides is tested on both sides of it",
        &[
            "BALANCED_PERCENT",
            "MASS_FAILURE_PERCENT",
            "MASS_FAILURE_WINDOW",
            "RECOVERY_BYTES_PER_S",
            "SLOW_TIMES",
            "SLOW_FLUSH_TIMES",
            "SLOW_PEERS_MIN",
            "SLOW_REPORT_FRESH",
        ],
    ),
    (
        "coordinator",
        "a step or a shape: work goes on in the same way beyond it",
        &[
            "TABLE_COMMIT_COMMANDS",
            "WORKERS",
            "WRITE_GATHER_MAX",
            "LOOKUP_INLINE_MAX",
            "SCAN_PAGE_ROWS",
            "NARROW_FILE_LEN_MAX",
            "FIRST_SEGMENT_CHUNKS",
            "WIDE_GROUPS",
        ],
    ),
    (
        "node",
        "an interval: it says how often something is looked at, not how much of it there is",
        &[
            "KICK_PERIOD_MS",
            "PREEMPT_TIMER_MS",
            "SWEEP_PERIOD_MS",
            "FIGURES_PERIOD_MS",
            "RECONNECT_MIN_MS",
            "REPAIR_LOOK_MS",
            "REPAIR_PAUSE_MIN_MS",
            "COPY_RATE_TIMES",
        ],
    ),
    (
        "node",
        "a size given to the kernel or the runtime, or wanted from it",
        &["RINGS_PER_EXECUTOR", "IO_MEMORY_CONTROL", "OPEN_FILES_WANTED", "SOCKET_SEND_BUFFER"],
    ),
    (
        "node",
        "the step in which larger work is cut; the tests of that work are larger than one step",
        &[
            "RECEIVE_SLICE",
            "CHECKED_TRANSFER_MAX",
            "SEAL_SLICE",
            "BYTES_PER_TURN",
            "SEND_BYTES_PER_TURN",
            "SEND_SLICE",
            "RECEIVE_HEADS",
            "DEVICE_TRANSFER_MAX",
            "DEVICE_READS_MAX",
            "CHECKPOINT_SLICE_ENTRIES",
            "SCRUB_SLICE_ENTRIES",
            "SCRUB_RUN_BYTES",
            "SPACE_CHECK_ENTRIES",
            "CENSUS_PAGE",
        ],
    ),
    (
        "client",
        "an interval or a pause: it says when, not how much",
        &[
            "SESSION_RENEW_MS",
            "FAILOVER_PAUSE_MAX_MS",
            "REFRESH_JITTER_MS",
            "ATTEMPT_LOOK_MS",
            "WRITE_MAP_LOOK_MS",
        ],
    ),
    (
        "client",
        "a size given to the kernel, or a shape of new files",
        &["RECEIVE_BUFFER_BYTES", "SOCKET_READ_BYTES", "SOCKET_HEAD_BYTES", "SMALL_FILE_LEN_MAX"],
    ),
];

/// Bounds that a test reaches without naming them, and that test: through a field of which the
/// constant is the default, or from the outside.
const THROUGH: &[(&str, &str, &str)] = &[
    ("protocol", "CHUNK_LOG2_MAX", "writes"),
    ("protocol", "CHUNK_LOG2_MIN", "writes"),
    ("protocol", "GROUP_MEMBERS_MAX", "hello_map_and_reports"),
    ("protocol", "SIGNATURE_LEN_MAX", "hello_map_and_reports"),
    ("protocol", "TLS_FILE_LEN_MAX", "unusable_files_are_named_in_one_line"),
    ("coordinator", "HANDSHAKE_MS", "silent_connections_are_bounded_in_number_and_time"),
    ("coordinator", "WRITE_STALL_MS", "a_peer_that_takes_nothing_ends_the_writer"),
    (
        "coordinator",
        "FRAME_GRACE_MS",
        "the_rest_of_a_frame_must_come_in_time_but_its_first_byte_need_not",
    ),
    (
        "coordinator",
        "FRAME_RATE_MIN",
        "the_rest_of_a_frame_must_come_in_time_but_its_first_byte_need_not",
    ),
    (
        "coordinator",
        "RATE_SAMPLES_MAX",
        "the_rate_is_that_of_the_last_samples_and_survives_a_restarted_node",
    ),
    ("node", "HANDSHAKE_TIME_MAX_MS", "handshake_bounds_how_many_and_how_long"),
    ("node", "PENDING_CHAIN_MAX", "the_committed_version_stays_readable_while_others_are_pending"),
    ("node", "MEMLOCK_MIN", "process_refuses_too_little_lockable_memory"),
    ("client", "BUDGET_PERCENT", "the_budget_is_a_tenth_of_the_requests_and_a_floor"),
    ("client", "READ_ATTEMPT_MS", "a_silent_replica_costs_one_timeout_and_is_then_avoided"),
];

/// Test code of one file: all of it, or what follows `mod tests`.
fn test_code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let name = path.to_string_lossy();
    let from = match name.contains("/tests/") || name.ends_with("tests.rs") {
        true => 0,
        false => text.find("mod tests {").unwrap_or(text.len()),
    };
    let code = |line: &&str| !line.trim_start().starts_with("//");
    text[from..].lines().filter(code).collect::<Vec<_>>().join("\n")
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn tests_of(root: &Path, of: &str) -> String {
    let mut files = Vec::new();
    ["src", "tests"].iter().for_each(|part| rust_files(&root.join(of).join(part), &mut files));
    files.retain(|path| !path.ends_with("loadgen/tests/it/limits.rs"));
    files.iter().map(|path| test_code(path)).collect()
}

fn bounds_of(root: &Path, of: &str) -> Vec<String> {
    let text = fs::read_to_string(root.join(of).join("src/limits.rs")).unwrap_or_default();
    let names = text.lines().filter_map(|line| line.strip_prefix("pub const "));
    names.filter_map(|line| line.split(':').next()).map(str::to_owned).collect()
}

/// True when `name` stands in `code` as a whole word.
fn names(code: &str, name: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        ![before, after].into_iter().flatten().any(part_of_word)
    })
}

fn listed(list: &[(&str, &str, &[&str])], of: &str, name: &str) -> bool {
    list.iter().any(|(owner, _, names)| *owner == of && names.contains(&name))
}

#[test]
fn every_bound_is_reached_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tests: BTreeMap<&str, String> = CRATES.map(|of| (of, tests_of(root, of))).into();
    let mut wrong = Vec::new();
    for of in CRATES {
        let bounds = bounds_of(root, of);
        for name in &bounds {
            let places = match of {
                "protocol" => CRATES.to_vec(),
                other => vec![other, "loadgen"],
            };
            let reached = places.iter().any(|place| names(&tests[place], name));
            let through = THROUGH.iter().find(|(owner, bound, _)| *owner == of && bound == name);
            let excused = listed(NO_BOUNDS, of, name) || through.is_some();
            if !reached && !excused {
                wrong.push(format!("{of}: no test reaches {name}"));
            }
            if let Some((_, _, test)) = through
                && !names(&tests[of], test)
            {
                wrong.push(format!("{of}: {name} is reached by no test {test}"));
            }
        }
        let listed = NO_BOUNDS
            .iter()
            .flat_map(|(owner, _, names)| names.iter().map(move |name| (owner, name)));
        let through = THROUGH.iter().map(|(owner, name, _)| (owner, name));
        let own = listed.chain(through).filter(|(owner, _)| **owner == of);
        let gone = own.filter(|(_, name)| !bounds.iter().any(|bound| bound == *name));
        gone.for_each(|(_, name)| wrong.push(format!("{of}: {name} is listed, not defined")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
