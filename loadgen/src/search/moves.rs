//! What can happen next in a state; `play` makes the state that follows.

use protocol::cluster_map::Role;
use protocol::ids::{Generation, TargetId};

use super::Scope;
use super::shard::Shards;
use super::world::{Fate, Line, Parts, TARGETS, World};

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The oldest request of a connection arrives: owner, other end.
    Request(u8, u8),
    /// The oldest answer on a connection arrives: owner, other end.
    Answer(u8, u8),
    /// The oldest task of a store ends.
    Store(u8),
    /// The newest map arrives.
    Map(u8),
    /// Timers are looked at.
    Tick(u8),
    /// A report arrives at the coordinator.
    Report(u8),
    /// The coordinator notices a death.
    Dead(u8),
    /// The coordinator removes a member that lives.
    Suspect(u8),
    /// A new incarnation registers.
    Register(u8),
    /// A living target that was removed is let in again.
    Readmit,
    /// All serving members restarted: those that are back make an epoch.
    RestartGroup,
    /// A client sends an operation to the primary it knows.
    Ask(u8),
    /// An operation arrives at a target: operation, which of those on their way.
    Arrive(u8, u8),
    /// A process is killed after so many of its store tasks became durable.
    Crash(u8, u8),
    /// A process starts again.
    Restart(u8),
    /// A connection between two living processes breaks: owner, other end.
    Break(u8, u8),
    /// One line, store or map is put off until nothing else happens.
    Hold(u8),
}

/// How many lines, stores and maps can be put off.
const HOLDS: u8 = 24;

impl Move {
    /// The bit by which the move is put off; `None` for one that nobody waits for.
    pub(super) fn hold(self) -> Option<u8> {
        match self {
            Move::Request(owner, other) => Some(owner * SIZE + other),
            Move::Answer(owner, other) => Some(9 + owner * SIZE + other),
            Move::Store(at) => Some(18 + at),
            Move::Map(at) => Some(21 + at),
            _ => None,
        }
    }

    /// Place in the usual order of things; `None` for what does not happen by itself.
    ///
    /// Work goes on before news arrive, news before clients ask for more, and what was put off
    /// comes when there is nothing else; timers come last, or asking again would never end.
    pub(super) fn usual(self, held: u32) -> Option<u8> {
        let put_off = self.hold().is_some_and(|bit| held & (1 << bit) != 0);
        Some(match self {
            Move::Crash(..) | Move::Suspect(_) | Move::Break(..) | Move::Hold(_) => return None,
            Move::Tick(_) => 6,
            Move::Restart(_) => 5,
            _ if put_off => 4,
            Move::Ask(_) => 3,
            Move::Arrive(..) => 2,
            Move::Request(..) | Move::Answer(..) | Move::Store(_) => 0,
            _ => 1,
        })
    }
}

/// All that the moves need besides the state.
pub(super) struct Game<'a> {
    pub(super) scope: &'a Scope,
    pub(super) parts: Parts,
    pub(super) shards: Shards,
}

impl Game<'_> {
    /// Everything that can happen in a state.
    pub(super) fn moves(&self, world: &World, out: &mut Vec<Move>) {
        out.clear();
        let net = self.parts.nets.part(world.net);
        let office = self.parts.offices.part(world.coordinator);
        let up = |at: u8| world.shards[at as usize] != 0;
        for at in 0..SIZE {
            let target = target(at);
            let generation = Generation(u32::from(world.generations[at as usize]));
            for other in (0..SIZE).filter(|other| *other != at) {
                let line = |lines: &[[Line; TARGETS]; TARGETS]| {
                    !lines[at as usize][other as usize].messages.is_empty()
                };
                if line(&net.requests) {
                    out.push(Move::Request(at, other));
                }
                if line(&net.answers) {
                    out.push(Move::Answer(at, other));
                }
                if world.faults.breaks > 0 && up(at) && up(other) {
                    out.push(Move::Break(at, other));
                }
            }
            let tasks = self.parts.tasks.part(world.tasks[at as usize]).len();
            if tasks > 0 {
                out.push(Move::Store(at));
            }
            if !up(at) {
                out.push(Move::Restart(at));
                if office.coordinator.believes_in(target) {
                    out.push(Move::Dead(at));
                }
                continue;
            }
            out.push(Move::Tick(at));
            let version = office.coordinator.map.version;
            let shard = self.parts.shards.part(world.shards[at as usize]);
            if shard.as_ref().is_some_and(|shard| shard.core.map.version < version) {
                out.push(Move::Map(at));
            }
            if office.coordinator.lacks(target, generation) {
                out.push(Move::Register(at));
            }
            let member = office.coordinator.record().member(target).is_some();
            if world.faults.suspicions > 0 && member {
                out.push(Move::Suspect(at));
            }
            if world.faults.crashes > 0 {
                out.extend((0..=index(tasks)).map(|durable| Move::Crash(at, durable)));
            }
        }
        out.extend((0..index(office.reports.len())).map(Move::Report));
        if office.coordinator.may_restart() {
            out.push(Move::RestartGroup);
        } else if office.coordinator.returning().is_some() {
            out.push(Move::Readmit);
        }
        self.client_moves(world, out);
        let holds = out.iter().filter_map(|a_move| a_move.hold());
        let mut due = holds.fold(0u32, |due, bit| due | 1 << bit);
        due &= !world.held;
        out.extend((0..HOLDS).filter(|bit| due & (1 << bit) != 0).map(Move::Hold));
    }

    fn client_moves(&self, world: &World, out: &mut Vec<Move>) {
        let clients = self.parts.clients.part(world.clients);
        for (number, operation) in (0..).zip(clients) {
            for (way, (_, _, arrived)) in (0..).zip(&operation.asked) {
                if !arrived {
                    out.push(Move::Arrive(number, way));
                }
            }
            let after = self.scope.operations[number as usize].after;
            let due =
                after.is_none_or(|before| matches!(clients[before as usize].fate, Fate::Done(_)));
            let may = operation.asked.is_empty() || operation.doubts > 0;
            if operation.fate == Fate::Open && due && may {
                out.push(Move::Ask(number));
            }
        }
    }
}

/// True for a target that the membership has as serving.
pub(super) fn serves(role: Role) -> bool {
    role != Role::Syncing
}

pub(super) fn target(at: u8) -> TargetId {
    TargetId(u32::from(at) + 1)
}

fn index(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

/// Targets of the group, as moves name them.
pub(super) const SIZE: u8 = 3;
const _: () = assert!(SIZE as usize == TARGETS);
