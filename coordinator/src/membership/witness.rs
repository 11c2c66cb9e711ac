//! Who says that a target does not answer: believed when several say so, or somebody close to it.
//!
//! An accusation counts for a short time. A client may be wrong about the network between itself
//! and a node; a member of the same group is a better witness; and when two members accuse each
//! other, those who take no part decide.

use std::collections::BTreeMap;

use protocol::ids::{NodeId, TargetId};
use protocol::time::Nanos;

use crate::limits::{WITNESS_CLIENTS, WITNESS_WINDOW, WITNESSES_PER_TARGET_MAX};

/// Who accuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// A data node.
    Node(NodeId),
    /// A client, by the number of its connection.
    Client(u64),
}

/// Accusations of the last seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Witnesses {
    against: BTreeMap<TargetId, BTreeMap<Witness, Nanos>>,
}

impl Witnesses {
    /// Takes note of an accusation. A target that very many accuse needs no further witness.
    pub(super) fn note(&mut self, target: TargetId, witness: Witness, now: Nanos) {
        self.forget(now);
        let witnesses = self.against.entry(target).or_default();
        if witnesses.len() < WITNESSES_PER_TARGET_MAX || witnesses.contains_key(&witness) {
            witnesses.insert(witness, now);
        }
    }

    /// How many accuse the target, somebody on node `but` apart.
    pub(super) fn against(&self, target: TargetId, but: Option<NodeId>, now: Nanos) -> usize {
        let recent = |(witness, at): &(&Witness, &Nanos)| {
            now.since(**at) <= WITNESS_WINDOW && Some(**witness) != but.map(Witness::Node)
        };
        self.against.get(&target).map_or(0, |witnesses| witnesses.iter().filter(recent).count())
    }

    /// True when enough clients accuse the target.
    pub(super) fn clients_agree(&self, target: TargetId, now: Nanos) -> bool {
        let recent = |(witness, at): &(&Witness, &Nanos)| {
            now.since(**at) <= WITNESS_WINDOW && matches!(witness, Witness::Client(_))
        };
        let clients = self.against.get(&target).map(|it| it.iter().filter(recent).count());
        clients.unwrap_or(0) >= WITNESS_CLIENTS
    }

    /// Targets that a node alone accuses: no other witness says so.
    pub(super) fn accused_only_by(&self, node: NodeId, now: Nanos) -> Vec<TargetId> {
        let alone = |target: &TargetId| {
            self.against(*target, None, now) == 1 && self.against(*target, Some(node), now) == 0
        };
        self.against.keys().copied().filter(alone).collect()
    }

    fn forget(&mut self, now: Nanos) {
        for witnesses in self.against.values_mut() {
            witnesses.retain(|_, at| now.since(*at) <= WITNESS_WINDOW);
        }
        self.against.retain(|_, witnesses| !witnesses.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: TargetId = TargetId(1);

    #[test]
    fn witnesses_count_once_for_a_short_time_and_are_bounded() {
        let mut witnesses = Witnesses::default();
        let now = Nanos(5);
        for _ in 0..5 {
            witnesses.note(TARGET, Witness::Client(1), now);
        }
        assert!(!witnesses.clients_agree(TARGET, now));
        (0..u64::try_from(WITNESS_CLIENTS).unwrap())
            .for_each(|client| witnesses.note(TARGET, Witness::Client(client), now));
        assert!(witnesses.clients_agree(TARGET, now));
        let later = now.after(WITNESS_WINDOW);
        assert!(witnesses.clients_agree(TARGET, later));
        assert!(!witnesses.clients_agree(TARGET, Nanos(later.0 + 1)));
        for client in 0..2 * u64::try_from(WITNESSES_PER_TARGET_MAX).unwrap() {
            witnesses.note(TARGET, Witness::Client(client), Nanos(later.0 + 1));
        }
        assert_eq!(witnesses.against(TARGET, None, Nanos(later.0 + 1)), WITNESSES_PER_TARGET_MAX);
    }

    #[test]
    fn who_takes_part_is_no_independent_witness() {
        let mut witnesses = Witnesses::default();
        let node = NodeId(7);
        witnesses.note(TARGET, Witness::Node(node), Nanos(1));
        assert_eq!(witnesses.against(TARGET, Some(node), Nanos(1)), 0);
        assert_eq!(witnesses.accused_only_by(node, Nanos(1)), [TARGET]);
        witnesses.note(TARGET, Witness::Node(NodeId(8)), Nanos(1));
        assert_eq!(witnesses.against(TARGET, Some(node), Nanos(1)), 1);
        assert_eq!(witnesses.accused_only_by(node, Nanos(1)), []);
    }
}
