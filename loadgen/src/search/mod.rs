//! An exhaustive search: every order in which a small group can live, with faults, checked after
//! each step.
//!
//! The rules of the member are the real ones (`node::shard::step` and below it `node::group`); the
//! store, the network and the coordinator are as free as their contracts let them be. Three targets
//! hold one chunk; operations, kills, suspicions and broken connections are limited by a [`Scope`].
//! What usually comes next is fixed; a departure is a fault, a thing put off until nothing else
//! happens, or anything out of turn. States are visited by the departures that lead to them, so the
//! first violation found has as few of them as can be.
//! Start at [`run`]; `moves` says what can happen, `check` what must hold.

#![expect(clippy::print_stdout, reason = "a command prints its results")]

mod check;
mod coordinator;
mod moves;
mod play;
mod shard;
mod store;
mod trace;
mod world;

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::panic;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::cluster::now;
use moves::{Game, Move};
use shard::Shards;
pub use world::Faults;
use world::{Parts, World};

/// States that one search keeps at most; the tables of parts grow with them.
pub const STATES_MAX: usize = 24_000_000;

/// One operation: a byte at an offset of the chunk.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Where it goes.
    pub offset: u8,
    /// The operation that its client has to see done before.
    pub after: Option<u8>,
}

/// What a search goes through.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// Operations, each of a session of its own.
    pub operations: Vec<Task>,
    /// How often each may be asked for while an answer is outstanding.
    pub doubts: u8,
    /// Fewest serving members that may acknowledge a write.
    pub min_write: u8,
    /// Faults that may happen.
    pub faults: Faults,
}

/// What a search came to.
#[derive(Clone, Debug)]
pub struct Found {
    /// States seen.
    pub states: usize,
    /// Every run with at most so many departures from the usual order was seen.
    pub departures: Option<u8>,
    /// True when every state was seen.
    pub complete: bool,
    /// The first broken invariant and the steps to it.
    pub violation: Option<Violation>,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// The steps to it from the first state.
    pub trace: Vec<String>,
}

/// Why the search did not end well.
#[derive(Debug, Error)]
#[error("{0} of {1} scopes broke an invariant: see the traces above")]
pub struct Broken(usize, usize);

/// The scopes of the command.
pub fn scopes() -> Vec<Scope> {
    let task = |offset, after| Task { offset, after };
    let faults = |crashes, suspicions, breaks| Faults { crashes, suspicions, breaks };
    let writes = vec![task(0, None), task(1, Some(0)), task(0, None)];
    vec![
        Scope {
            name: "three writes of two clients, two kills, one suspicion",
            operations: writes.clone(),
            doubts: 1,
            min_write: 2,
            faults: faults(2, 1, 0),
        },
        Scope {
            name: "two writes, one kill, one broken connection, all members needed",
            operations: writes[..2].to_vec(),
            doubts: 1,
            min_write: 3,
            faults: faults(1, 0, 1),
        },
        Scope {
            name: "one write, one kill",
            operations: writes[..1].to_vec(),
            doubts: 1,
            min_write: 2,
            faults: faults(1, 0, 0),
        },
    ]
}

/// Searches every scope for `limit`, as many at a time as there are cores, and prints what came of
/// each.
///
/// # Errors
/// [`Broken`] when an invariant broke; its trace was printed.
pub fn run(limit: Duration) -> Result<(), Broken> {
    // An assertion that fails is a finding, told with its trace.
    panic::set_hook(Box::new(tell));
    let scopes = scopes();
    let mut broken = 0;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let rounds = u32::try_from(scopes.len().div_ceil(cores)).unwrap_or(1);
    for round in scopes.chunks(cores) {
        let found: Vec<(Found, Duration)> = thread::scope(|threads| {
            let start = |scope| {
                threads.spawn(move || {
                    let begun = now();
                    (search(scope, limit / rounds, STATES_MAX), begun.elapsed())
                })
            };
            let started: Vec<_> = round.iter().map(start).collect();
            started.into_iter().filter_map(|search| search.join().ok()).collect()
        });
        for (scope, (found, took)) in round.iter().zip(found) {
            broken += usize::from(found.violation.is_some());
            report(scope, &found, took);
        }
    }
    // The default again.
    let _ = panic::take_hook();
    if broken > 0 { Err(Broken(broken, scopes.len())) } else { Ok(()) }
}

fn report(scope: &Scope, found: &Found, took: Duration) {
    let rate = found.states as f64 / took.as_secs_f64().max(0.001);
    let end = if found.complete { "every state" } else { "stopped by time or memory" };
    println!("{}: {end}", scope.name);
    println!(
        "  {} states, all runs with {} departures, {:.0} states/s in {:.0} s",
        found.states,
        found.departures.unwrap_or(0),
        rate,
        took.as_secs_f64()
    );
    if let Some(violation) = &found.violation {
        println!("  BROKEN: {}", violation.what);
        for (number, step) in violation.trace.iter().enumerate() {
            println!("  {:>3} {step}", number + 1);
        }
    }
}

/// Searches one scope until every state was seen, an invariant broke, or a limit is reached.
///
/// States are visited by how many departures from the usual order lead to them: first the one run
/// without any, then all with one, and so on.
pub fn search(scope: &Scope, limit: Duration, states_max: usize) -> Found {
    let begun = now();
    TRAIL.with_borrow_mut(|trail| *trail = Trail { scope: scope.name, ..Trail::default() });
    let game = Game { scope, parts: Parts::new(), shards: Shards::new() };
    let mut search = Search {
        game,
        seen: HashMap::new(),
        states: Vec::new(),
        now: VecDeque::new(),
        later: VecDeque::new(),
        departures: 0,
    };
    let mut found = Found { states: 0, departures: None, complete: false, violation: None };
    match search.game.first() {
        Ok(first) => search.note(first, 0, Move::Readmit, true),
        Err(what) => {
            found.violation = Some(Violation { what, trace: Vec::new() });
            return found;
        }
    }
    let mut visited = 0_usize;
    loop {
        let Some(at) = search.now.pop_front() else {
            found.departures = Some(search.departures);
            if search.later.is_empty() {
                found.complete = true;
                break;
            }
            search.departures += 1;
            std::mem::swap(&mut search.now, &mut search.later);
            continue;
        };
        visited += 1;
        if search.states.len() >= states_max
            || (visited.is_multiple_of(256) && begun.elapsed() > limit)
        {
            break;
        }
        if let Err((a_move, what)) = search.expand(at) {
            let trace = search.trace(at, a_move);
            found.violation = Some(Violation { what, trace });
            break;
        }
    }
    found.states = search.states.len();
    found
}

/// How each state of a thread's search was first reached, for traces; the panic hook reads it where
/// a panic ends the process.
#[derive(Default)]
struct Trail {
    scope: &'static str,
    from: Vec<(u32, Move)>,
    /// The step being made.
    at: u32,
}

thread_local! {
    static TRAIL: RefCell<Trail> = RefCell::new(Trail::default());
}

struct Search<'a> {
    game: Game<'a>,
    /// Number of each state, and the departures that lead to it.
    seen: HashMap<World, (u32, u8)>,
    states: Vec<World>,
    /// States to visit with as many departures as now, and with one more.
    now: VecDeque<u32>,
    later: VecDeque<u32>,
    departures: u8,
}

impl Search<'_> {
    fn note(&mut self, world: World, from: u32, a_move: Move, usual: bool) {
        let departures = self.departures + u8::from(!usual);
        let number = u32::try_from(self.states.len()).unwrap_or(u32::MAX);
        let number = match self.seen.entry(world) {
            Entry::Occupied(mut known) => {
                let (number, before) = *known.get();
                if before <= departures {
                    return;
                }
                known.insert((number, departures));
                number
            }
            Entry::Vacant(free) => {
                free.insert((number, departures));
                self.states.push(world);
                TRAIL.with_borrow_mut(|trail| trail.from.push((from, a_move)));
                number
            }
        };
        if usual { self.now.push_back(number) } else { self.later.push_back(number) }
    }

    fn expand(&mut self, at: u32) -> Result<(), (Move, String)> {
        let world = self.states[at as usize];
        if self.seen.get(&world).is_some_and(|(_, departures)| *departures < self.departures) {
            return Ok(()); // It was reached with fewer, and visited then.
        }
        TRAIL.with_borrow_mut(|trail| trail.at = at);
        let mut moves = Vec::new();
        self.game.moves(&world, &mut moves);
        moves.sort_by_key(|a_move| a_move.usual(world.held).unwrap_or(u8::MAX));
        let mut usual_done = false;
        for a_move in moves {
            let usual = !usual_done && a_move.usual(world.held).is_some();
            match self.game.after(&world, a_move) {
                Ok(Some(next)) => {
                    usual_done |= usual;
                    self.note(next, at, a_move, usual);
                }
                Ok(None) => {}
                Err(what) => return Err((a_move, what)),
            }
        }
        Ok(())
    }

    fn trace(&self, at: u32, last: Move) -> Vec<String> {
        let steps = TRAIL.with_borrow(|trail| trail.steps(at));
        let words =
            |(from, a_move): (u32, Move)| self.game.words(&self.states[from as usize], a_move);
        steps.into_iter().chain([(at, last)]).map(words).collect()
    }
}

impl Trail {
    /// The moves that lead to a state, each with the state it was made in.
    fn steps(&self, mut at: u32) -> Vec<(u32, Move)> {
        let mut steps = Vec::new();
        while at > 0 {
            let step = self.from[at as usize];
            steps.push(step);
            at = step.0;
        }
        steps.reverse();
        steps
    }
}

/// Tells what an assertion said and how the search came to it, where the program cannot go on.
fn tell(info: &panic::PanicHookInfo<'_>) {
    if cfg!(panic = "unwind") {
        return; // The search catches it and tells.
    }
    TRAIL.with(|trail| {
        let Ok(trail) = trail.try_borrow() else { return };
        println!("{}\n  BROKEN: {info}", trail.scope);
        for (number, (_, a_move)) in trail.steps(trail.at).iter().enumerate() {
            println!("  {:>3} {a_move}", number + 1);
        }
        println!("      and one step more");
    });
}
