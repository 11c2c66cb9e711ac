//! Golden bytes of records, and records that are cut or damaged.

use protocol::checksum::CellSum;
use protocol::ids::{OpId, Seq, SessionId};

use super::super::extent::Extent;
use super::super::state::{Cell, Cells, OpEntry};
use super::*;

const KEY: ChunkKey = ChunkKey { fid: Fid(0x0102), index: 3 };
const VERSION: Version = Version { epoch: Epoch(4), counter: 5 };

fn state() -> ChunkState {
    let op = OpId { session: SessionId(6), seq: Seq(7) };
    ChunkState {
        version: VERSION,
        len: 5000,
        op,
        trunc_gen: 8,
        cell_log2: 12,
        chunk_log2: 22,
        mutated: true,
        suspect: false,
        content: 9,
        ops: Box::new([OpEntry { op, version: VERSION, len: 5000 }]),
        cells: Cells::Inline(Box::new([
            Cell { sum: CellSum(0x11), place: 0x22 },
            Cell { sum: CellSum(0x33), place: 0 },
        ])),
        owned: Box::new([Extent { start: 0x22, units: 2 }]),
        reserve: Extent { start: 0x23, units: 1 },
        lsn: Lsn(1),
    }
}

fn all() -> Vec<Record> {
    let (group, key) = (GroupId(2), KEY);
    vec![
        Record::Put { group, key, state: state() },
        Record::Install { group, key, committed: true, state: state() },
        Record::Committed { group, through: VERSION },
        Record::Adopt { group, epoch: Epoch(4) },
        Record::Discard { group, key, version: VERSION },
        Record::Quarantine { group, key, since_s: 10 },
        Record::DropFid { group, fid: Fid(0x0102) },
        Record::Suspect { group, key, version: VERSION },
        Record::Repair { group, key, state: state() },
        Record::Release { group, fid: Fid(0x0102), until_s: 11 },
    ]
}

fn encode(record: &Record) -> Vec<u8> {
    let mut out = Writer::new();
    record.encode(&mut out);
    out.finish()
}

#[test]
fn every_record_reads_back_and_no_shorter_one_does() {
    for record in all() {
        let bytes = encode(&record);
        assert_eq!(Record::decode(&mut Reader::new(&bytes), Lsn(1)), Some(record));
        for len in 0..bytes.len() {
            assert_eq!(Record::decode(&mut Reader::new(&bytes[..len]), Lsn(1)), None);
        }
    }
}

#[test]
fn sizes_are_those_of_the_tables() {
    for (record, (code, name, fields)) in all().iter().zip(RECORD_KINDS) {
        let bytes = encode(record);
        let fixed: usize = fields.iter().map(|(_, size)| size).sum();
        let lists = match record {
            Record::Put { state, .. }
            | Record::Install { state, .. }
            | Record::Repair { state, .. } => state.encoded_len() - 56,
            _ => 0,
        };
        assert_eq!(bytes[0], *code, "{name}");
        assert_eq!(bytes.len(), RECORD_HEADER_LEN + fixed + lists, "{name}");
    }
}

#[test]
fn the_bytes_are_frozen() {
    let hex = |record: &Record| {
        encode(record).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let put = concat!(
        "01009a00",
        "02000000",
        "020100000000000003000000",
        "0400000005000000",
        "88130000",
        "06000000000000000700000000000000",
        "08000000",
        "0c",
        "16",
        "01",
        "01",
        "0200",
        "0100",
        "0900000000000000",
        "2300000000010000",
        "06000000000000000700000000000000",
        "0400000005000000",
        "88130000",
        "11000000000000002200000000",
        "33000000000000000000000000",
        "2200000000020000",
    );
    let records = all();
    assert_eq!(hex(&records[0]).len(), put.len());
    assert_eq!(&hex(&records[0])[8..], &put[8..]);
    assert_eq!(hex(&records[2]), "03000c00020000000400000005000000");
    assert_eq!(hex(&records[3]), "040008000200000004000000");
    assert_eq!(hex(&records[6]), "07000c00020000000201000000000000");
}
