//! One state of everything, small: each part is a number, and equal parts have equal numbers.
//!
//! Owns the parts and the tables that number them, so that a state takes a few dozen bytes and two
//! states are equal exactly when their numbers are. Knows nothing of what may happen next.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

use node::shard::control::ShardReport;
use node::shard::effect::Task;
use node::shard::state::ShardState;
use protocol::checksum::sum128;
use protocol::ids::{Epoch, Version};

use super::coordinator::Coordinator;
use super::store::{Bytes, Store};

/// Targets of the group.
pub(super) const TARGETS: usize = 3;
/// Number of a part; 0 is a shard that is not running.
pub(super) type Part = u32;

/// The state of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Shards, by target.
    pub(super) shards: [Part; TARGETS],
    /// Stores, by target.
    pub(super) stores: [Part; TARGETS],
    /// Tasks in each store that have not ended, oldest first.
    pub(super) tasks: [Part; TARGETS],
    /// Newest incarnation of each target.
    pub(super) generations: [u8; TARGETS],
    /// What is on its way between targets.
    pub(super) net: Part,
    /// The coordinator and the reports on their way to it.
    pub(super) coordinator: Part,
    /// Operations of clients.
    pub(super) clients: Part,
    /// Faults that may still happen.
    pub(super) faults: Faults,
    /// What is put off until nothing else happens, a bit each.
    pub(super) held: u32,
}

/// How many faults may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Kills, each followed by a restart or not.
    pub crashes: u8,
    /// Removals of a member that lives and goes on.
    pub suspicions: u8,
    /// Broken connections between living members.
    pub breaks: u8,
}

/// A message between targets, by the connection it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Message {
    /// A request or notice of the connection's owner.
    Request(Part),
    /// An answer to the connection's owner.
    Answer(Part),
    /// The connection broke; true when a new one was refused.
    Lost(bool),
    /// A new connection was made.
    Up,
}

/// One direction of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) messages: Vec<Message>,
}

/// Every connection: its owner's requests, and the answers to its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Net {
    /// By owner and other end.
    pub(super) requests: [[Line; TARGETS]; TARGETS],
    /// By owner and other end.
    pub(super) answers: [[Line; TARGETS]; TARGETS],
    /// How often each connection was made anew.
    pub(super) number: [[u8; TARGETS]; TARGETS],
}

/// Tasks of one store: the shard's number of the task, and the task.
pub(super) type Tasks = Vec<(u64, Part)>;

/// The coordinator and what is on its way to it, each report once.
#[derive(Clone, Debug)]
pub(super) struct Office {
    pub(super) coordinator: Coordinator,
    pub(super) reports: Vec<ShardReport>,
}

/// One operation of a client: a byte at the end of the chunk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Operation {
    pub(super) fate: Fate,
    /// Targets that were asked and have not answered, with true once they have the request.
    pub(super) asked: Vec<(u8, Epoch, bool)>,
    /// True once it was asked for at all.
    pub(super) tried: bool,
    /// How often it may be asked for while an answer is outstanding.
    pub(super) doubts: u8,
}

/// What a client knows of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// Nothing yet.
    Open,
    /// It is durable under this version.
    Done(Version),
    /// It did not and will not take effect.
    Refused,
}

/// Numbers parts that can be compared.
pub(super) struct Table<T> {
    numbers: HashMap<T, Part>,
    parts: Vec<T>,
}

/// Numbers parts that can only be shown: equal text, equal part.
pub(super) struct Shown<T> {
    numbers: HashMap<u128, Part>,
    parts: Vec<T>,
}

/// Every part that was ever seen.
pub(super) struct Parts {
    pub(super) shards: Shown<Option<ShardState<Bytes>>>,
    pub(super) stores: Table<Store>,
    pub(super) task: Shown<Task<Bytes>>,
    pub(super) tasks: Table<Tasks>,
    pub(super) nets: Table<Net>,
    pub(super) offices: Shown<Office>,
    pub(super) clients: Table<Vec<Operation>>,
}

impl<T: Clone + Eq + Hash> Table<T> {
    fn new() -> Table<T> {
        Table { numbers: HashMap::new(), parts: Vec::new() }
    }

    pub(super) fn number(&mut self, part: T) -> Part {
        if let Some(&number) = self.numbers.get(&part) {
            return number;
        }
        let number = next(self.parts.len());
        self.parts.push(part.clone());
        self.numbers.insert(part, number);
        number
    }

    pub(super) fn part(&self, number: Part) -> &T {
        &self.parts[number as usize]
    }
}

impl<T: Debug> Shown<T> {
    pub(super) fn new() -> Shown<T> {
        Shown { numbers: HashMap::new(), parts: Vec::new() }
    }

    pub(super) fn number(&mut self, part: T) -> Part {
        let name = sum128(format!("{part:?}").as_bytes());
        if let Some(&number) = self.numbers.get(&name) {
            return number;
        }
        let number = next(self.parts.len());
        self.parts.push(part);
        self.numbers.insert(name, number);
        number
    }

    pub(super) fn part(&self, number: Part) -> &T {
        &self.parts[number as usize]
    }
}

impl Parts {
    pub(super) fn new() -> Parts {
        let mut shards = Shown::new();
        shards.number(None);
        Parts {
            shards,
            stores: Table::new(),
            task: Shown::new(),
            tasks: Table::new(),
            nets: Table::new(),
            offices: Shown::new(),
            clients: Table::new(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the states of a search fit in memory")]
fn next(len: usize) -> Part {
    len as Part
}
