//! Compares what the replicas of one chunk hold. Pure.

use protocol::cluster_map::Role;
use protocol::ids::TargetId;
use protocol::message::chunk::VerifyReply;
use protocol::status::{Class, Status};

use crate::{Error, ReplicaCheck};

/// What the comparison of one chunk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Replicas that are whole and equal.
    pub(super) verified: usize,
    /// Replicas that could not be asked or are not complete yet.
    pub(super) missing: Vec<TargetId>,
    /// Replicas that differ, cannot be read, or are damaged, and how.
    pub(super) problems: Vec<(TargetId, String)>,
}

/// Judges the replicas of a chunk of which a reader expects `expect_len` bytes.
///
/// A member that does not answer is missing, which is no problem of the bytes. A syncing member
/// is measured by what it holds only once it holds the version that serves.
pub(super) fn judge(expect_len: u32, checks: &[ReplicaCheck]) -> Judgement {
    let reference = reference(checks);
    let mut judgement = Judgement::default();
    for check in checks {
        match verdict(expect_len, reference, check) {
            Verdict::Equal => judgement.verified += 1,
            Verdict::Missing => judgement.missing.push(check.target),
            Verdict::Problem(text) => judgement.problems.push((check.target, text)),
        }
    }
    if judgement.verified == 0 && judgement.problems.is_empty() && reference.is_none() {
        let target = checks.first().map_or(TargetId(0), |check| check.target);
        judgement.problems.push((target, "no replica could be read".to_owned()));
    }
    judgement
}

enum Verdict {
    Equal,
    Missing,
    Problem(String),
}

/// What the others are compared with: the newest version that is whole on a serving member; of
/// equal versions the first, which is the primary's.
fn reference(checks: &[ReplicaCheck]) -> Option<&VerifyReply> {
    let serving = checks.iter().filter(|check| check.role != Role::Syncing);
    let whole = serving.filter_map(|check| check.result.as_ref().ok());
    let whole = whole.filter(|reply| reply.bad_cells.is_empty());
    whole.reduce(|best, other| if other.version > best.version { other } else { best })
}

fn verdict(expect_len: u32, reference: Option<&VerifyReply>, check: &ReplicaCheck) -> Verdict {
    let syncing = check.role == Role::Syncing;
    let reply = match &check.result {
        Ok(reply) => reply,
        Err(error) => return refusal(syncing, error),
    };
    if !reply.bad_cells.is_empty() {
        return Verdict::Problem(format!("corrupt cells {}", list(&reply.bad_cells)));
    }
    let Some(reference) = reference else { return Verdict::Missing };
    if reply.version != reference.version {
        if syncing {
            return Verdict::Missing;
        }
        let (have, newest) = (reply.version, reference.version);
        return Verdict::Problem(format!("holds version {have}, the newest is {newest}"));
    }
    if reply.chunk_len != reference.chunk_len {
        let (have, other) = (reply.chunk_len, reference.chunk_len);
        return Verdict::Problem(format!("holds {have} bytes, another replica {other}"));
    }
    if reply.cell_log2 != reference.cell_log2 || reply.sums != reference.sums {
        return Verdict::Problem("holds other bytes than another replica".to_owned());
    }
    if reply.chunk_len < expect_len {
        let have = reply.chunk_len;
        return Verdict::Problem(format!("holds {have} bytes, the file has {expect_len}"));
    }
    Verdict::Equal
}

fn refusal(syncing: bool, error: &Error) -> Verdict {
    match (error, error.status()) {
        (Error::Deadline { .. } | Error::Closed { .. }, _) => Verdict::Missing,
        (_, Some(Status::ChunkNotFound | Status::ChunkShort | Status::Dirty)) if syncing => {
            Verdict::Missing
        }
        (_, Some(Status::ChunkNotFound)) => Verdict::Problem("chunk not found".to_owned()),
        // Not serving the group now, or starting: it is away, as if it did not answer.
        (_, Some(status)) if matches!(status.class(), Some(Class::Retry | Class::Refresh)) => {
            Verdict::Missing
        }
        _ => Verdict::Problem(format!("unreadable: {error}")),
    }
}

/// The first few of many numbers.
fn list(cells: &[u32]) -> String {
    let first: Vec<String> = cells.iter().take(8).map(u32::to_string).collect();
    let more = if cells.len() > first.len() { ", ..." } else { "" };
    format!("{}{more}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use protocol::ids::{Epoch, Version};

    use super::*;

    fn reply(counter: u32, len: u32, sum: u64) -> VerifyReply {
        VerifyReply {
            version: Version { epoch: Epoch(1), counter },
            chunk_len: len,
            cell_log2: 14,
            sums: vec![protocol::checksum::CellSum(sum)],
            bad_cells: vec![],
        }
    }

    fn checks(results: Vec<(Role, Result<VerifyReply, Error>)>) -> Judgement {
        let number = |index| TargetId(u32::try_from(index).unwrap_or(0) + 1);
        let checks: Vec<ReplicaCheck> = results
            .into_iter()
            .enumerate()
            .map(|(index, (role, result))| ReplicaCheck { target: number(index), role, result })
            .collect();
        judge(10, &checks)
    }

    fn refused(status: Status) -> Result<VerifyReply, Error> {
        Err(Error::refused("verify", status, ""))
    }

    fn silent() -> Result<VerifyReply, Error> {
        Err(Error::Closed { what: "verify".to_owned() })
    }

    #[test]
    fn equal_replicas_are_verified() {
        let equal = checks(vec![
            (Role::Primary, Ok(reply(3, 10, 7))),
            (Role::Backup, Ok(reply(3, 10, 7))),
            (Role::Syncing, Ok(reply(3, 10, 7))),
        ]);
        assert_eq!((equal.verified, equal.missing.len(), equal.problems.len()), (3, 0, 0));
    }

    #[test]
    fn each_difference_is_named_with_its_replica() {
        let mut damaged = reply(3, 10, 7);
        damaged.bad_cells = vec![0, 2];
        for (other, text) in [
            (Ok(reply(2, 10, 7)), "version 1.2, the newest is 1.3"),
            (Ok(reply(3, 9, 7)), "holds 9 bytes"),
            (Ok(reply(3, 10, 8)), "other bytes"),
            (Ok(damaged), "corrupt cells 0, 2"),
            (refused(Status::ChunkNotFound), "chunk not found"),
            (refused(Status::DeviceError), "unreadable: verify: device error"),
        ] {
            let found = checks(vec![(Role::Primary, Ok(reply(3, 10, 7))), (Role::Backup, other)]);
            assert_eq!(found.verified, 1, "{text}");
            assert_eq!(found.problems.len(), 1, "{text}");
            assert_eq!(found.problems[0].0, TargetId(2));
            assert!(found.problems[0].1.contains(text), "{:?}", found.problems);
        }
    }

    #[test]
    fn a_chunk_that_is_shorter_than_its_file_everywhere_is_a_problem() {
        let short =
            checks(vec![(Role::Primary, Ok(reply(3, 9, 7))), (Role::Backup, Ok(reply(3, 9, 7)))]);
        assert_eq!((short.verified, short.problems.len()), (0, 2));
    }

    #[test]
    fn what_is_away_or_still_copied_is_missing() {
        for other in [
            (Role::Backup, silent()),
            (Role::Backup, refused(Status::NotMember)),
            (Role::Backup, refused(Status::NotReady)),
            (Role::Syncing, refused(Status::ChunkNotFound)),
            (Role::Syncing, Ok(reply(2, 10, 7))),
        ] {
            let found = checks(vec![(Role::Primary, Ok(reply(3, 10, 7))), other]);
            assert_eq!((found.verified, found.missing.len()), (1, 1));
            assert!(found.problems.is_empty(), "{:?}", found.problems);
        }
    }

    #[test]
    fn a_chunk_that_nobody_can_read_is_a_problem() {
        let nobody = checks(vec![(Role::Primary, silent()), (Role::Backup, silent())]);
        assert_eq!((nobody.verified, nobody.problems.len()), (0, 1));
    }
}
