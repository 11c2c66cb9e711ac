//! The tables of `docs/wire-format.md` are those of the code.

use std::fs;

use protocol::checksum::sum64;
use protocol::frame::{Header, MAGIC, RESPONSE_BIT, VERSION};
use protocol::ids::{Epoch, MapVersion, RequestId};
use protocol::limits::*;
use protocol::message::{Body, Kind};
use protocol::status::Status;

const DOCUMENT: &str = include_str!("../../../docs/wire-format.md");

/// The lines between `<!-- name -->` and `<!-- end -->`.
fn section(name: &str) -> Vec<&'static str> {
    let start = format!("<!-- {name} -->\n");
    let (_, rest) = DOCUMENT.split_once(&start).expect("the section is in the document");
    let (inside, _) = rest.split_once("<!-- end -->").expect("the section ends");
    inside.lines().collect()
}

/// The cells of a table's rows, without header, quotes and padding.
fn table(name: &str) -> Vec<Vec<&'static str>> {
    let row = |line: &'static str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
    };
    section(name).into_iter().skip(2).map(row).collect()
}

#[test]
fn the_header_is_laid_out_as_the_table_says() {
    let body = b"some body";
    let header = Header {
        response: true,
        epoch: Epoch(0x1817_1615),
        deadline_ms: 0x2827_2625,
        map_version: MapVersion(0x3837_3635_3433_3231),
        status: Status::Fenced,
        credit: 0x4241,
        cluster_tag: 0x5857_5655,
        ..Header::new(Kind::Read, RequestId(0x6867_6665_6463_6261))
    }
    .seal(body, 0x1234);
    let bytes = header.encode();
    let mut next = 0;
    for row in table("header") {
        let (offset, len): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(offset, next, "{} follows the field before it", row[2]);
        next = offset + len;
        let value: u64 = match row[2] {
            "magic" => MAGIC.into(),
            "version" => VERSION.into(),
            "kind" => (Kind::Read.code() | RESPONSE_BIT).into(),
            "body_len" => body.len() as u64,
            "payload_len" => 0x1234,
            "request" => header.request.0,
            "epoch" => header.epoch.0.into(),
            "deadline_ms" => header.deadline_ms.into(),
            "map_version" => header.map_version.0,
            "status" => header.status.code().into(),
            "credit" => header.credit.into(),
            "cluster_tag" => header.cluster_tag.into(),
            "body_sum" => sum64(body),
            "header_sum" => sum64(&bytes[..56]),
            field => panic!("the table names an unknown field {field}"),
        };
        assert_eq!(bytes[offset..next], value.to_le_bytes()[..len], "{}", row[2]);
    }
    assert_eq!(next, HEADER_LEN);
}

#[test]
fn the_kinds_are_those_of_the_table() {
    let rows = table("kinds");
    assert_eq!(rows.len(), Kind::ALL.len());
    for (row, &kind) in rows.iter().zip(Kind::ALL) {
        assert_eq!(row[0], format!("{kind:?}"));
        assert_eq!(row[1], format!("{:#06x}", kind.code()), "{kind:?}");
        assert_eq!(row[2], Body::find(kind, false).unwrap().name);
        let response = Body::find(kind, true).map_or("none (notice)", |body| body.name);
        assert_eq!(row[3], response, "{kind:?}");
        let payload = match (kind.has_payload(false), kind.has_payload(true)) {
            (true, false) => "request",
            (false, true) => "response",
            _ => "no",
        };
        assert_eq!(row[4], payload, "{kind:?}");
        assert_eq!(row[5], if kind.has_long_body() { "long" } else { "short" }, "{kind:?}");
    }
}

#[test]
fn the_statuses_are_those_of_the_table() {
    let rows = table("statuses");
    assert_eq!(rows.len(), Status::ALL.len());
    for (row, &status) in rows.iter().zip(Status::ALL) {
        let class = status.class().map_or("none".into(), |class| format!("{class:?}"));
        let code = format!("{:#06x}", status.code());
        assert_eq!(row[..], [&format!("{status:?}"), &code, &class, status.text()]);
    }
}

#[test]
fn the_limits_are_those_of_the_table() {
    for row in table("limits") {
        let value = match row[0] {
            "BODY_LEN_MAX" => BODY_LEN_MAX,
            "BODY_LEN_MAX_LIST" => BODY_LEN_MAX_LIST,
            "PAYLOAD_LEN_MAX" => PAYLOAD_LEN_MAX,
            "READ_LEN_MAX" => READ_LEN_MAX as usize,
            "WRITE_LEN_MAX" => WRITE_LEN_MAX as usize,
            "CELLS_PER_MESSAGE_MAX" => CELLS_PER_MESSAGE_MAX,
            "REQUESTS_IN_FLIGHT_MAX" => REQUESTS_IN_FLIGHT_MAX,
            "NAME_LEN_MAX" => NAME_LEN_MAX,
            "PATH_LEN_MAX" => PATH_LEN_MAX,
            "LINK_LEN_MAX" => LINK_LEN_MAX,
            "LOOKUP_BATCH_MAX" => LOOKUP_BATCH_MAX,
            "READ_DIR_PAGE_MAX" => READ_DIR_PAGE_MAX,
            "MUTATE_OPS_MAX" => MUTATE_OPS_MAX,
            "RESERVE_MAX" => RESERVE_MAX as usize,
            "INVENTORY_PAGE_MAX" => INVENTORY_PAGE_MAX,
            "PENDINGS_PER_GROUP_MAX" => PENDINGS_PER_GROUP_MAX,
            "DROP_FIDS_MAX" => DROP_FIDS_MAX,
            "ERROR_TEXT_MAX" => ERROR_TEXT_MAX,
            "VERIFIER_DEPTH_MAX" => VERIFIER_DEPTH_MAX,
            "VERIFIER_TABLES_MAX" => VERIFIER_TABLES_MAX,
            "VERIFIER_TABLES_MAX_LIST" => VERIFIER_TABLES_MAX_LIST,
            "VERIFIER_APPARENT_MAX" => VERIFIER_APPARENT_MAX,
            "VERIFIER_APPARENT_MAX_LIST" => VERIFIER_APPARENT_MAX_LIST,
            name => panic!("the table names an unknown limit {name}"),
        };
        assert_eq!(row[1], value.to_string(), "{}", row[0]);
    }
}

#[test]
fn the_schemas_are_those_that_the_document_describes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/schema");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "fbs"))
        .collect();
    files.sort();
    let text: Vec<u8> = files.iter().flat_map(|path| fs::read(path).unwrap()).collect();
    let hash = format!("`{:016x}`", sum64(&text));
    assert_eq!(section("schema"), [hash], "a schema changed: revise the document, then the hash");
}
