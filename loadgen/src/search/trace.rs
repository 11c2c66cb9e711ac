//! Moves in words, for the trace of a broken invariant.

use std::fmt;

use super::moves::{Game, Move, SIZE, target};
use super::shard::byte_of;
use super::world::{Line, Message, TARGETS, World};

impl Game<'_> {
    /// A move in words.
    pub(super) fn words(&self, world: &World, a_move: Move) -> String {
        let net = self.parts.nets.part(world.net);
        let first = |lines: &[[Line; TARGETS]; TARGETS], owner: u8, other: u8| {
            lines[owner as usize][other as usize].messages.first().copied()
        };
        match a_move {
            Move::Request(owner, other) => match first(&net.requests, owner, other) {
                Some(Message::Request(sent)) => {
                    let sent = self.shards.sent.part(sent);
                    format!("{} gets from {}: {sent}", target(other), target(owner))
                }
                _ => a_move.to_string(),
            },
            Move::Store(at) => {
                let tasks = self.parts.tasks.part(world.tasks[at as usize]);
                let task = tasks.first().map(|(_, task)| self.parts.task.part(*task));
                let task = task.map(|task| format!("{task:?}")).unwrap_or_default();
                let task = task.split(['(', '{']).next().unwrap_or_default();
                format!("{} has durably: {task}", target(at))
            }
            Move::Report(at) => {
                let office = self.parts.offices.part(world.coordinator);
                let report = office.reports.get(at as usize).map(|report| format!("{report:?}"));
                format!("the coordinator hears {}", report.unwrap_or_default())
            }
            _ => a_move.to_string(),
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Move::Request(owner, other) => write!(out, "{} hears {}", target(other), target(owner)),
            Move::Answer(owner, other) => {
                write!(out, "{} gets an answer of {}", target(owner), target(other))
            }
            Move::Store(at) => write!(out, "the store of {} ends a task", target(at)),
            Move::Map(at) => write!(out, "{} gets the newest map", target(at)),
            Move::Tick(at) => write!(out, "{} looks at its timers", target(at)),
            Move::Report(at) => write!(out, "the coordinator hears report {at}"),
            Move::Dead(at) => write!(out, "the coordinator notices that {} died", target(at)),
            Move::Suspect(at) => write!(out, "the coordinator removes {}", target(at)),
            Move::Register(at) => write!(out, "{} registers", target(at)),
            Move::Readmit => write!(out, "a removed target is let in as syncing"),
            Move::RestartGroup => write!(out, "restarted members make an epoch"),
            Move::Ask(number) => {
                write!(out, "a client sends operation {}", char::from(byte_of(number)))
            }
            Move::Arrive(number, _) => {
                write!(out, "operation {} arrives", char::from(byte_of(number)))
            }
            Move::Crash(at, durable) => {
                write!(out, "{} is killed, {durable} of its store tasks are durable", target(at))
            }
            Move::Restart(at) => write!(out, "{} starts again", target(at)),
            Move::Hold(bit) => {
                let (owner, other) = (target(bit % 9 / SIZE), target(bit % SIZE));
                match bit {
                    0..9 => write!(out, "put off: what {owner} sends to {other}"),
                    9..18 => write!(out, "put off: what {other} answers to {owner}"),
                    18..21 => write!(out, "put off: the store of {other}"),
                    _ => write!(out, "put off: the map for {other}"),
                }
            }
            Move::Break(owner, other) => {
                write!(out, "the connection of {} to {} breaks", target(owner), target(other))
            }
        }
    }
}
