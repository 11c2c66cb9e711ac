//! The state that follows a move: a shard reacts, and what it orders is carried out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use protocol::ids::Generation;
use protocol::message::chunk::WriteReply;
use protocol::status::Status;

use super::check;
use super::coordinator::Coordinator;
use super::moves::{Game, Move, SIZE, target};
use super::shard::{Happening, Order, Shards, Stepped, byte_of, index_of, told};
use super::world::{Fate, Faults, Message, Net, Office, Operation, Parts, TARGETS, World};

impl Game<'_> {
    /// The state after a move; `None` when nothing came of it.
    ///
    /// # Errors
    /// The invariant that the move broke.
    pub(super) fn after(&mut self, world: &World, a_move: Move) -> Result<Option<World>, String> {
        let mut next = *world;
        match a_move {
            Move::Request(owner, other) => self.request(&mut next, owner, other)?,
            Move::Answer(owner, other) => self.answer(&mut next, owner, other)?,
            Move::Store(at) => self.stored(&mut next, at)?,
            Move::Map(at) => {
                let office = world.coordinator;
                self.tell(&mut next, at, Happening::Map { office })?;
            }
            Move::Tick(at) => self.tell(&mut next, at, Happening::Tick)?,
            Move::Ask(number) => self.ask(&mut next, number),
            Move::Arrive(number, way) => self.arrive(&mut next, number, way)?,
            Move::Crash(at, durable) => self.crash(&mut next, at, durable)?,
            Move::Restart(at) => {
                let place = at as usize;
                next.generations[place] += 1;
                let store = next.stores[place];
                let generation = next.generations[place];
                next.shards[place] = Shards::boot(&mut self.parts, target(at), generation, store);
            }
            Move::Break(owner, other) => {
                next.faults.breaks -= 1;
                let mut net = self.parts.nets.part(next.net).clone();
                net.lose(owner, other, false);
                next.net = self.parts.nets.number(net);
            }
            Move::Hold(bit) => {
                next.held |= 1 << bit;
                return Ok(Some(next));
            }
            _ => self.decide(&mut next, a_move)?,
        }
        if let Some(bit) = a_move.hold() {
            next.held &= !(1 << bit);
        }
        self.forget_holds(&mut next);
        if next == *world {
            return Ok(None);
        }
        check::state(&self.parts, self.scope, &next)?;
        check::step(&mut self.parts, &mut self.shards, world, &next)?;
        Ok(Some(next))
    }

    /// What is put off and has gone away is put off no more.
    fn forget_holds(&self, next: &mut World) {
        if next.held == 0 {
            return;
        }
        let mut moves = Vec::new();
        self.moves(&World { held: 0, ..*next }, &mut moves);
        let due = moves.iter().filter_map(|a_move| a_move.hold());
        next.held &= due.fold(0u32, |due, bit| due | 1 << bit);
    }

    /// Moves of the coordinator.
    fn decide(&mut self, next: &mut World, a_move: Move) -> Result<(), String> {
        let mut office = self.parts.offices.part(next.coordinator).clone();
        let generations = next.generations;
        let before = office.coordinator.record().epoch;
        let coordinator = &mut office.coordinator;
        let run = AssertUnwindSafe(|| match a_move {
            Move::Report(at) => {
                let report = office.reports.remove(at as usize);
                coordinator.on_report(&report);
            }
            Move::Dead(at) => {
                coordinator.on_dead(target(at));
            }
            Move::Suspect(at) => {
                next.faults.suspicions -= 1;
                coordinator.suspect(target(at));
            }
            Move::Register(at) => {
                let generation = Generation(u32::from(generations[at as usize]));
                coordinator.on_register(target(at), generation);
            }
            Move::Readmit => coordinator.readmit(),
            _ => coordinator.restart(),
        });
        catch_unwind(run).map_err(|cause| told(cause.as_ref()))?;
        if office.coordinator.record().epoch != before {
            office.reports.clear(); // All are of an older epoch and would be refused.
        }
        next.coordinator = self.parts.offices.number(office);
        Ok(())
    }

    fn request(&mut self, next: &mut World, owner: u8, other: u8) -> Result<(), String> {
        let mut net = self.parts.nets.part(next.net).clone();
        let message = net.requests[owner as usize][other as usize].messages.remove(0);
        let connection = net.number[owner as usize][other as usize];
        next.net = self.parts.nets.number(net);
        match message {
            Message::Request(sent) if next.shards[other as usize] != 0 => {
                self.tell(next, other, Happening::Request { from: owner, connection, sent })
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, next: &mut World, owner: u8, other: u8) -> Result<(), String> {
        let mut net = self.parts.nets.part(next.net).clone();
        let message = net.answers[owner as usize][other as usize].messages.remove(0);
        next.net = self.parts.nets.number(net);
        let happening = match message {
            Message::Answer(answer) => Happening::Answer { from: other, answer },
            Message::Lost(refused) => Happening::Lost { from: other, refused },
            Message::Up => Happening::Up { from: other },
            Message::Request(_) => return Ok(()),
        };
        self.tell(next, owner, happening)
    }

    fn stored(&mut self, next: &mut World, at: u8) -> Result<(), String> {
        let place = at as usize;
        let mut tasks = self.parts.tasks.part(next.tasks[place]).clone();
        let (job, task) = tasks.remove(0);
        next.tasks[place] = self.parts.tasks.number(tasks);
        let mut store = self.parts.stores.part(next.stores[place]).clone();
        let task = self.parts.task.part(task).clone();
        let run = AssertUnwindSafe(|| store.apply(&task));
        let result = catch_unwind(run).map_err(|cause| told(cause.as_ref()))?;
        next.stores[place] = self.parts.stores.number(store);
        let result = match result {
            Ok(done) => Ok(done.map(|done| (done.free, done.chunk_len))),
            Err(error) => Err(error.status()),
        };
        self.tell(next, at, Happening::Stored { job, result })
    }

    fn crash(&mut self, next: &mut World, at: u8, durable: u8) -> Result<(), String> {
        let place = at as usize;
        next.faults.crashes -= 1;
        next.shards[place] = 0;
        let tasks = self.parts.tasks.part(next.tasks[place]).clone();
        next.tasks[place] = self.parts.tasks.number(Vec::new());
        let mut store = self.parts.stores.part(next.stores[place]).clone();
        for (_, task) in tasks.iter().take(durable as usize) {
            // Nobody is left to hear how it ended.
            let _ = store.apply(self.parts.task.part(*task));
        }
        store.crash();
        next.stores[place] = self.parts.stores.number(store);
        let mut net = self.parts.nets.part(next.net).clone();
        for other in (0..SIZE).filter(|other| *other != at) {
            // What it sent may still arrive; what was for it is gone, and who sent that is told.
            net.answers[place][other as usize].messages.clear();
            net.number[place][other as usize] += 1;
            net.requests[other as usize][place].messages.clear();
            net.number[other as usize][place] += 1;
            net.answers[other as usize][place].messages.push(Message::Lost(false));
        }
        next.net = self.parts.nets.number(net);
        let mut clients = self.parts.clients.part(next.clients).clone();
        for operation in &mut clients {
            operation.asked.retain(|(asked, ..)| *asked != at);
        }
        next.clients = self.parts.clients.number(clients);
        Ok(())
    }

    fn ask(&mut self, next: &mut World, number: u8) {
        let record = self.parts.offices.part(next.coordinator).coordinator.record();
        let Some(primary) = record.primary().map(|primary| index_of(primary.target)) else {
            return;
        };
        let epoch = record.epoch;
        let mut clients = self.parts.clients.part(next.clients).clone();
        let operation = &mut clients[number as usize];
        let up = next.shards[primary as usize] != 0;
        if !up || operation.asked.contains(&(primary, epoch, false)) {
            return;
        }
        operation.doubts -= u8::from(!operation.asked.is_empty());
        operation.asked.push((primary, epoch, false));
        operation.asked.sort_unstable();
        next.clients = self.parts.clients.number(clients);
    }

    fn arrive(&mut self, next: &mut World, number: u8, way: u8) -> Result<(), String> {
        let mut clients = self.parts.clients.part(next.clients).clone();
        let operation = &mut clients[number as usize];
        let (at, epoch, _) = operation.asked[way as usize];
        operation.asked[way as usize].2 = true;
        operation.asked.sort_unstable();
        let again = std::mem::replace(&mut operation.tried, true);
        next.clients = self.parts.clients.number(clients);
        let offset = self.scope.operations[number as usize].offset;
        self.tell(next, at, Happening::Write { operation: number, offset, epoch, again })
    }

    /// Lets a shard react, and carries out what it orders.
    fn tell(&mut self, next: &mut World, at: u8, happening: Happening) -> Result<(), String> {
        let place = at as usize;
        if next.shards[place] == 0 {
            return Ok(());
        }
        let name = (next.shards[place], next.stores[place]);
        let stepped: Rc<Stepped> = self.shards.step(&mut self.parts, name, happening)?;
        next.shards[place] = stepped.shard;
        for order in &stepped.orders {
            self.carry_out(next, at, order)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, next: &mut World, at: u8, order: &Order) -> Result<(), String> {
        let place = at as usize;
        match order {
            Order::Task { job, task } => {
                let mut tasks = self.parts.tasks.part(next.tasks[place]).clone();
                tasks.push((*job, *task));
                next.tasks[place] = self.parts.tasks.number(tasks);
            }
            Order::CommitThrough(through) => {
                let mut store = self.parts.stores.part(next.stores[place]).clone();
                store.commit_through(*through);
                next.stores[place] = self.parts.stores.number(store);
            }
            Order::Send { to, sent } => {
                let to = index_of(*to);
                let mut net = self.parts.nets.part(next.net).clone();
                if next.shards[to as usize] == 0 {
                    net.lose(at, to, true);
                } else {
                    let line = &mut net.requests[place][to as usize];
                    line.messages.push(Message::Request(*sent));
                }
                next.net = self.parts.nets.number(net);
            }
            Order::Answer { to, connection, answer, prepared } => {
                if let Some(epoch) = prepared {
                    let adopted = self.parts.stores.part(next.stores[place]).adopted;
                    if *epoch < adopted {
                        return Err(format!(
                            "I3: {} prepared for {epoch} after adopting {adopted}",
                            target(at)
                        ));
                    }
                }
                let mut net = self.parts.nets.part(next.net).clone();
                if net.number[*to as usize][place] == *connection {
                    let line = &mut net.answers[*to as usize][place];
                    line.messages.push(Message::Answer(*answer));
                }
                next.net = self.parts.nets.number(net);
            }
            Order::Report(report) => {
                let mut office = self.parts.offices.part(next.coordinator).clone();
                if !office.reports.contains(report) && office.coordinator.clone().on_report(report)
                {
                    office.reports.push(report.clone());
                    office.reports.sort_by_cached_key(|report| format!("{report:?}"));
                }
                next.coordinator = self.parts.offices.number(office);
            }
            Order::ToClient { operation, result } => {
                self.hear(next, at, *operation, result)?;
            }
            Order::Read { .. } => {}
        }
        Ok(())
    }

    /// A client hears of its operation.
    fn hear(
        &mut self,
        next: &mut World,
        at: u8,
        number: u8,
        result: &Result<WriteReply, Status>,
    ) -> Result<(), String> {
        let mut clients = self.parts.clients.part(next.clients).clone();
        let operation: &mut Operation = &mut clients[number as usize];
        if let Some(way) =
            operation.asked.iter().position(|(asked, _, arrived)| *asked == at && *arrived)
        {
            operation.asked.remove(way);
        }
        if operation.fate == Fate::Open {
            match result {
                Ok(reply) => {
                    let end = u32::from(self.scope.operations[number as usize].offset) + 1;
                    if reply.chunk_len != end {
                        return Err(format!(
                            "operation {} took effect more than once: the chunk has {} bytes",
                            char::from(byte_of(number)),
                            reply.chunk_len
                        ));
                    }
                    operation.fate = Fate::Done(reply.version);
                }
                Err(Status::Invalid) => operation.fate = Fate::Refused,
                Err(_) => {}
            }
        }
        if operation.fate != Fate::Open {
            operation.doubts = 0;
        }
        next.clients = self.parts.clients.number(clients);
        Ok(())
    }

    /// The first state: all members serve, nothing is on its way.
    ///
    /// # Errors
    /// The invariant that broke before the search began.
    pub(super) fn first(&mut self) -> Result<World, String> {
        let min_write = self.scope.min_write;
        let coordinator = Coordinator::new(min_write);
        let office = Office { coordinator, reports: Vec::new() };
        let operation = Operation {
            fate: Fate::Open,
            asked: Vec::new(),
            tried: false,
            doubts: self.scope.doubts,
        };
        let store = self.parts.stores.number(Default::default());
        let boot = |parts: &mut Parts, at| Shards::boot(parts, target(at), 1, store);
        let none = Faults { crashes: 0, suspicions: 0, breaks: 0 };
        let mut world = World {
            shards: [0, 1, 2].map(|at| boot(&mut self.parts, at)),
            stores: [store; TARGETS],
            tasks: [self.parts.tasks.number(Vec::new()); TARGETS],
            generations: [1; TARGETS],
            net: self.parts.nets.number(Net::default()),
            coordinator: self.parts.offices.number(office),
            clients: self.parts.clients.number(Vec::new()),
            faults: none,
            held: 0,
        };
        let mut moves = Vec::new();
        'settling: loop {
            self.moves(&world, &mut moves);
            moves.retain(|a_move| a_move.usual(0).is_some());
            moves.sort_by_key(|a_move| a_move.usual(0));
            for &a_move in &moves {
                if let Some(next) = self.after(&world, a_move)? {
                    world = next;
                    continue 'settling;
                }
            }
            break;
        }
        let operations = vec![operation; self.scope.operations.len()];
        world.clients = self.parts.clients.number(operations);
        world.faults = self.scope.faults;
        Ok(world)
    }
}

impl Net {
    /// Breaks a connection: what is on it is lost, and its owner is told.
    fn lose(&mut self, owner: u8, other: u8, refused: bool) {
        let (owner, other) = (owner as usize, other as usize);
        self.requests[owner][other].messages.clear();
        if !refused {
            self.answers[owner][other].messages.clear();
            self.number[owner][other] += 1;
        }
        let told = &mut self.answers[owner][other].messages;
        if !told.contains(&Message::Lost(refused)) {
            told.push(Message::Lost(refused));
            told.extend((!refused).then_some(Message::Up));
        }
    }
}
