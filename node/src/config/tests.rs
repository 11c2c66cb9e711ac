use std::path::Path;

use super::{Config, Size, load, parse};
use crate::limits::{
    COMPARE_HOURS_MAX, COORDINATORS_MAX, IO_MEMORY_MAX, IO_MEMORY_MIN, RING_DEPTH, RING_DEPTH_MAX,
    SHARDS_MAX, SPIN_US_MAX,
};

const GOOD: &str = r#"
node = 1
cluster = "000102030405060708090a0b0c0d0e0f"
address = "127.0.0.1"
coordinators = [{ id = 1, address = "127.0.0.1:7400" }]
[tls]
ca = "ca.pem"
cert = "node.pem"
key = "/etc/lanefs/node.key"
[[shard]]
target = 101
port = 7411
core = 0
path = "t101.lane"
size = "1GiB"
io_memory = "12MiB"
"#;

fn read(text: &str) -> Result<Config, String> {
    parse(text, Path::new("/conf"))
}

#[track_caller]
fn refused(from: &str, to: &str, expected: &str) {
    assert!(GOOD.contains(from), "the good file has no {from:?}");
    let error = read(&GOOD.replacen(from, to, 1)).unwrap_err();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    assert!(!error.contains('\n'), "{error:?} is more than one line");
}

#[test]
fn config_resolves_paths_and_rounds_io_memory_up() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.tls.ca, Path::new("/conf/ca.pem"));
    assert_eq!(config.tls.key, Path::new("/etc/lanefs/node.key"));
    assert_eq!(config.shards[0].path, Path::new("/conf/t101.lane"));
    assert_eq!(config.shards[0].io_memory, 16 << 20);
}

#[test]
fn members_are_compared_every_day_unless_configured() {
    assert_eq!(read(GOOD).unwrap().shards[0].compare_hours, 24);
    let often = GOOD.replacen("core = 0", "compare_hours = 3", 1);
    assert_eq!(read(&often).unwrap().shards[0].compare_hours, 3);
    for hours in [0, COMPARE_HOURS_MAX + 1] {
        let expected = format!("compare_hours: expected 1 to {COMPARE_HOURS_MAX}");
        refused("core = 0", &format!("compare_hours = {hours}"), &expected);
    }
}

#[test]
fn every_key_is_documented() {
    let printed = read(GOOD).unwrap().to_string();
    let document = include_str!("../../../docs/node-config.md");
    let keys = printed.lines().filter_map(|line| line.split_once(" = "));
    let mut count = 0;
    for (key, _) in keys.filter(|(key, _)| !key.starts_with(' ')) {
        let own = format!("`{key}`");
        let of_tls = format!("`tls.{key}`");
        assert!(document.contains(&own) || document.contains(&of_tls), "{key}");
        count += 1;
    }
    assert!(count > 15, "{printed}");
}

#[test]
fn rings_and_spinning_are_bounded_and_spinning_needs_a_core() {
    let shard =
        |text: &str| read(&GOOD.replacen("core = 0", text, 1)).map(|it| it.shards[0].clone());
    let plain = shard("core = 0").unwrap();
    assert_eq!((plain.ring_depth, plain.spin_us), (RING_DEPTH, 0));
    let most = format!("core = 0\nring_depth = {RING_DEPTH_MAX}\nspin_us = {SPIN_US_MAX}");
    let most = shard(&most).unwrap();
    assert_eq!((most.ring_depth, most.spin_us), (RING_DEPTH_MAX, SPIN_US_MAX));
    for depth in [RING_DEPTH / 2, RING_DEPTH + 1, RING_DEPTH_MAX * 2] {
        refused("core = 0", &format!("ring_depth = {depth}"), "shard 0: ring_depth: expected");
    }
    let long = format!("core = 0\nspin_us = {}", SPIN_US_MAX + 1);
    refused("core = 0", &long, "shard 0: spin_us: expected at most 1000");
    refused("core = 0", "spin_us = 1", "shard 0: spin_us: needs `core`");
}

#[test]
fn containers_are_written_beforehand_when_it_is_asked_for() {
    assert!(!read(GOOD).unwrap().shards[0].prezero);
    let asked = GOOD.replacen("core = 0", "prezero = true", 1);
    let config = read(&asked).unwrap();
    assert!(config.shards[0].prezero);
    assert_eq!(read(&config.to_string()).unwrap(), config);
    refused("core = 0", "prezero = 1", "prezero: invalid type: integer `1`, expected a boolean");
}

#[test]
fn config_printed_reads_back_the_same() {
    let config = read(GOOD).unwrap();
    assert_eq!(read(&config.to_string()).unwrap(), config);
}

#[test]
fn metrics_are_told_where_it_is_asked_for_and_beside_no_shard() {
    assert_eq!(read(GOOD).unwrap().metrics, None);
    let at = |address: &str| format!("node = 1\nmetrics = \"{address}\"");
    let config = read(&GOOD.replacen("node = 1", &at("127.0.0.1:7499"), 1)).unwrap();
    assert_eq!(config.metrics, Some("127.0.0.1:7499".parse().unwrap()));
    assert_eq!(read(&config.to_string()).unwrap(), config);
    read(&GOOD.replacen("node = 1", &at("127.0.0.2:7411"), 1)).unwrap();
    for taken in ["127.0.0.1:7411", "0.0.0.0:7411"] {
        refused("node = 1", &at(taken), "metrics: port 7411 is a shard's");
    }
    refused("node = 1", &at("127.0.0.1:0"), "metrics: expected a port from 1");
    refused("node = 1", &at("7499"), "metrics: ");
}

#[test]
fn config_errors_name_line_key_and_expectation() {
    refused("node = 1", "node = \"one\"", "line 2: node: invalid type: string");
    refused("node = 1", "node = 1\nnoode = 2", "unknown field `noode`");
    refused("node = 1", "", "missing field `node`");
    refused("port = 7411", "", "missing field `port`");
    refused("port = 7411", "port = 74110", "port: invalid value: integer `74110`");
    refused("\"1GiB\"", "\"1gig\"", "size: \"1gig\" is not a size");
    refused("\"1GiB\"", "\"99999999TiB\"", "is not a size");
    refused("core = 0", "cores = 0", "unknown field `cores`");
    refused("[tls]", "[tls", "line 6");
    refused("127.0.0.1:7400", "localhost", "invalid socket address");
}

#[test]
fn config_ranges_are_checked() {
    refused("node = 1", "node = 0", "node: expected a number from 1");
    refused("0001020304", "00010203", "cluster: expected 32 hexadecimal digits");
    refused("\"1GiB\"", "\"1MiB\"", "shard 0: size: expected at least 16MiB");
    refused("\"12MiB\"", "\"2GiB\"", "shard 0: io_memory: expected 1MiB to 1GiB");
    refused("{ id = 1, address = \"127.0.0.1:7400\" }", "", "coordinators: expected 1 to 9");
    refused("target = 101", "target = 0", "shard 0: target");
    let twice = GOOD.find("[[shard]]").unwrap();
    let error = read(&format!("{GOOD}{}", &GOOD[twice..])).unwrap_err();
    assert_eq!(error, "shard: target 101 is used twice");
    let error = read(&GOOD[..twice]).unwrap_err();
    assert_eq!(error, "shard: expected 1 to 64 [[shard]] tables");
}

#[test]
fn size_prints_in_the_largest_exact_unit() {
    for text in ["1B", "1KiB", "1536KiB", "8GiB", "2TiB"] {
        assert_eq!(Size::try_from(text.to_owned()).unwrap().to_string(), text);
    }
}

#[test]
fn config_lists_are_bounded() {
    let head = &GOOD[..GOOD.find("[[shard]]").unwrap()];
    let shard = |n: usize| {
        let (target, port) = (100 + n, 7000 + n);
        format!(
            "[[shard]]\ntarget = {target}\nport = {port}\npath = \"t{n}\"\nsize = \"1GiB\"\n\
             io_memory = \"1MiB\"\n"
        )
    };
    let shards = |count: usize| head.to_owned() + &(0..count).map(shard).collect::<String>();
    assert_eq!(read(&shards(SHARDS_MAX)).unwrap().shards.len(), SHARDS_MAX);
    let error = read(&shards(SHARDS_MAX + 1)).unwrap_err();
    assert!(error.contains("expected 1 to 64"), "{error}");
    let coordinators = |count: usize| {
        let one = |n| format!("{{ id = {n}, address = \"127.0.0.1:{}\" }}", 7400 + n);
        let list = (1..=count).map(one).collect::<Vec<_>>().join(", ");
        read(&GOOD.replace("{ id = 1, address = \"127.0.0.1:7400\" }", &list))
    };
    assert_eq!(coordinators(COORDINATORS_MAX).unwrap().coordinators.len(), COORDINATORS_MAX);
    let error = coordinators(COORDINATORS_MAX + 1).unwrap_err();
    assert!(error.contains("expected 1 to 9"), "{error}");
}

#[test]
fn config_io_memory_is_bounded_on_both_sides() {
    let arena = |bytes: u64| read(&GOOD.replace("12MiB", &format!("{bytes}B")));
    for bytes in [IO_MEMORY_MIN, IO_MEMORY_MAX] {
        assert_eq!(arena(bytes).unwrap().shards[0].io_memory, bytes);
    }
    for bytes in [0, IO_MEMORY_MIN / 2, IO_MEMORY_MAX + 1] {
        assert!(arena(bytes).unwrap_err().contains("io_memory: expected 1MiB to 1GiB"), "{bytes}");
    }
}

#[test]
fn config_file_is_bounded_in_length() {
    let error = load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(error, "/dev/zero: cannot be read: it is longer than 1048576 bytes");
}
