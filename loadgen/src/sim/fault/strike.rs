//! How faults begin.

use std::time::Duration;

use protocol::ids::Lsn;

use super::Chaos;
use super::mend::Mend;
use crate::sim::cluster::process_of;
use crate::sim::coordinator::COORDINATOR;
use crate::sim::disk::{Damage, Pace};
use crate::sim::executor::ProcessId;
use crate::sim::profile::{Mode, Trouble};
use crate::sim::rng::SimRng;

/// Longest times that things stay broken, in milliseconds: mostly the first, at times the second.
const DEAD_MS_MAX: (u64, u64) = (8000, 60_000);
const FROZEN_MS_MAX: (u64, u64) = (4000, 30_000);
const BROKEN_MS_MAX: (u64, u64) = (4000, 12_000);
/// Longest time a slow device or way adds, in milliseconds.
const LAG_MS_MAX: u64 = 400;
/// Shortest and longest time that a node and a client hear no coordinator, in milliseconds: about
/// a lease.
const SEVERED_MS: (u64, u64) = (8000, 16_000);
/// How many times slower than usual a device may get.
const CRAWL: u32 = 20;

/// The beginning of one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    Kill(usize),
    KillAndReturn,
    KillAll,
    Freeze,
    FreezeCoordinator,
    StopCoordinator,
    Cut,
    Isolate,
    HalfOpen,
    SlowWay,
    Lag,
    Spikes,
    Crawl,
    Damage(Damage),
    SpoilRecords,
    KeepDisk,
    RollBack,
    Sever,
    LateReports,
    Drain,
    Retire,
    AddNode,
    Rebalance,
    Scrub,
}

/// How often each fault strikes, relative to the others.
const USUAL: &[(u64, Strike)] = &[
    (12, Strike::Kill(1)),
    (8, Strike::KillAndReturn),
    (6, Strike::Kill(2)),
    (4, Strike::KillAll),
    (8, Strike::Freeze),
    (2, Strike::FreezeCoordinator),
    (4, Strike::StopCoordinator),
    (16, Strike::Cut),
    (4, Strike::Isolate),
    (5, Strike::HalfOpen),
    (4, Strike::SlowWay),
    (5, Strike::Lag),
    (3, Strike::Spikes),
    (3, Strike::Crawl),
    (4, Strike::Damage(Damage::FlushError)),
    (2, Strike::Damage(Damage::ReadError)),
    (2, Strike::Damage(Damage::WriteError)),
    (2, Strike::Damage(Damage::ShortWrite)),
    (1, Strike::Damage(Damage::MisdirectedRead)),
    (4, Strike::Damage(Damage::LostWrite)),
    (4, Strike::Damage(Damage::MisdirectedWrite)),
    (8, Strike::Damage(Damage::Rot)),
    (2, Strike::SpoilRecords),
    (4, Strike::KeepDisk),
    (4, Strike::RollBack),
    (1, Strike::Sever),
    (2, Strike::LateReports),
    (2, Strike::Drain),
    (1, Strike::Scrub),
];

/// What operators do more often where they move data about.
const MOVES: &[(u64, Strike)] =
    &[(30, Strike::Drain), (20, Strike::Retire), (20, Strike::AddNode), (10, Strike::Rebalance)];

/// What devices do more often where they are bad.
const DAMAGE: &[(u64, Strike)] = &[
    (20, Strike::Damage(Damage::LostWrite)),
    (20, Strike::Damage(Damage::MisdirectedWrite)),
    (60, Strike::Damage(Damage::Rot)),
    (20, Strike::SpoilRecords),
    (10, Strike::Scrub),
];

/// All that happens where leases are what matters.
const LEASES: &[(u64, Strike)] = &[(1, Strike::Sever)];

impl Strike {
    pub(super) fn draw(trouble: Trouble, rng: &SimRng) -> Strike {
        let (one, other): (&[_], &[_]) = match trouble {
            Trouble::Usual => (USUAL, &[]),
            Trouble::Moves => (USUAL, MOVES),
            Trouble::Damage => (USUAL, DAMAGE),
            Trouble::Leases => (LEASES, &[]),
        };
        let weights = || one.iter().chain(other);
        let all: u64 = weights().map(|(weight, _)| weight).sum();
        let mut turn = rng.below(all);
        for (weight, strike) in weights() {
            if turn < *weight {
                return *strike;
            }
            turn -= weight;
        }
        Strike::Cut
    }
}

impl Chaos {
    pub(super) fn carry_out(&mut self, strike: Strike) {
        let broken = self.span(BROKEN_MS_MAX);
        match strike {
            Strike::Kill(count) => {
                for _ in 0..count {
                    let dead = self.span(DEAD_MS_MAX);
                    self.kill_any(dead);
                }
            }
            Strike::KillAndReturn => {
                let dead = self.rng.below(300);
                self.kill_any(dead);
            }
            Strike::KillAll => {
                for _ in 0..self.nodes.len() {
                    let dead = self.rng.below(DEAD_MS_MAX.0);
                    self.kill_any(dead);
                }
            }
            Strike::Freeze => {
                let (node, broken) = (self.any_node(), self.span(FROZEN_MS_MAX));
                self.tell(format!("freeze {node} for {broken} ms"));
                self.cluster.executor().freeze(process_of(node));
                self.later(broken, Mend::Thaw(node));
            }
            Strike::FreezeCoordinator => self.freeze_coordinator(broken),
            Strike::StopCoordinator => {
                if self.cluster.coordinator().term().is_some() {
                    self.tell(format!("stop the coordinator for {broken} ms"));
                    self.cluster.coordinator().stop();
                    self.later(broken, Mend::StartCoordinator);
                }
            }
            Strike::Cut => self.cut(broken),
            Strike::Isolate => self.isolate(broken),
            Strike::HalfOpen => self.half_open(broken),
            Strike::SlowWay => self.slow_way(broken),
            Strike::Lag => {
                let lag = Duration::from_millis(self.rng.below(LAG_MS_MAX));
                self.slow_disk(Pace::Lag(lag), broken);
            }
            Strike::Spikes => {
                let lag = Duration::from_millis(5 * self.rng.below(LAG_MS_MAX));
                self.slow_disk(Pace::Spikes(lag), broken);
            }
            Strike::Crawl => self.slow_disk(Pace::Times(CRAWL), broken),
            Strike::Damage(damage) => self.damage(damage, broken),
            Strike::KeepDisk => {
                // What nobody may go back to is not worth keeping.
                let victim = self.atlas.victim_among(&self.nodes, &self.rng);
                let node = victim.unwrap_or_else(|| self.any_node());
                let Some(durable) = self.cluster.durable(node) else { return };
                self.tell(format!("keep the disk of {node}"));
                // One more batch may be under way.
                self.cluster.disk(node).keep(Lsn(durable.0 + 1));
            }
            Strike::RollBack => self.roll_back(),
            Strike::SpoilRecords => self.spoil_records(),
            Strike::Sever => self.sever(),
            Strike::LateReports => self.late_reports(),
            Strike::Drain => self.drain(broken),
            Strike::Retire => self.retire(),
            Strike::AddNode => self.add_node(),
            Strike::Rebalance => self.rebalance(),
            Strike::Scrub => self.scrub(),
        }
    }

    /// A time below the first bound, or at times below the second.
    fn span(&self, (often, seldom): (u64, u64)) -> u64 {
        1 + self.rng.below(if self.rng.below(8) == 0 { seldom } else { often })
    }

    fn kill_any(&mut self, dead: u64) {
        let living = self.living();
        let Some(&node) = living.get(self.below(living.len())) else { return };
        self.tell(format!("kill {node} for {dead} ms"));
        self.dead.insert(node);
        self.cluster.kill_node(node);
        self.later(dead, Mend::Start(node));
    }

    fn cut(&mut self, broken: u64) {
        let Some((one, other)) = self.two_processes() else { return };
        let ways = self.rng.below(3);
        self.tell(format!("cut {one:?} and {other:?}, ways {ways}, for {broken} ms"));
        for (way, (from, to)) in [(one, other), (other, one)].into_iter().enumerate() {
            if ways == 2 || ways == way as u64 {
                self.cluster.fabric().cuts().cut(from, to);
                self.later(broken, Mend::Join(from, to));
            }
        }
        self.cluster.watch().on_cut(one, other, self.cluster.fabric().cuts());
    }

    /// Cuts a node off from everybody, or from everybody but the clients.
    fn isolate(&mut self, broken: u64) {
        let (node, clients) = (self.any_node(), self.rng.below(2) == 0);
        self.tell(format!("isolate {node} for {broken} ms, clients too: {clients}"));
        let own = process_of(node);
        let mut others: Vec<_> = self.nodes.iter().map(|node| process_of(*node)).collect();
        others.push(COORDINATOR);
        others.extend(self.clients.iter().filter(|_| clients));
        for other in others.into_iter().filter(|other| *other != own) {
            for (from, to) in [(own, other), (other, own)] {
                self.cluster.fabric().cuts().cut(from, to);
                self.later(broken, Mend::Join(from, to));
            }
        }
    }

    fn half_open(&mut self, broken: u64) {
        let Some((one, other)) = self.two_processes() else { return };
        self.tell(format!("{other:?} forgets its connections to {one:?} for {broken} ms"));
        self.cluster.fabric().half_open(other, one);
        self.later(broken, Mend::Notice(one, other));
    }

    fn slow_way(&mut self, broken: u64) {
        let Some((one, other)) = self.two_processes() else { return };
        let lag = self.rng.below(LAG_MS_MAX);
        self.tell(format!("slow {one:?} to {other:?} by {lag} ms for {broken} ms"));
        self.cluster.fabric().cuts().slow_down(one, other, Duration::from_millis(lag));
        self.later(broken, Mend::Hasten(one, other));
    }

    fn slow_disk(&mut self, pace: Pace, broken: u64) {
        let node = self.any_node();
        self.tell(format!("disk of {node}: {pace:?} for {broken} ms"));
        self.cluster.disk(node).set_pace(pace);
        self.later(broken, Mend::Disk(node));
    }

    fn freeze_coordinator(&mut self, broken: u64) {
        self.tell(format!("freeze the coordinator for {broken} ms"));
        let cuts = self.cluster.fabric().cuts();
        for node in &self.nodes {
            cuts.cut(process_of(*node), COORDINATOR);
            cuts.cut(COORDINATOR, process_of(*node));
        }
        self.cluster.executor().freeze(COORDINATOR);
        self.later(broken, Mend::ThawCoordinator);
    }

    fn damage(&mut self, damage: Damage, broken: u64) {
        let running = self.cluster.running();
        // Where only some may be damaged, most strikes would miss.
        let victim = self.atlas.victim_among(&running, &self.rng).filter(|_| damage.is_silent());
        let any = running.get(self.below(running.len())).copied();
        let Some(node) = victim.or(any) else { return };
        let must_heal = self.atlas.mode() == Mode::Liveness;
        if !self.atlas.allow(node, damage) {
            return;
        }
        self.tell(format!("disk of {node}: {damage:?}, mended after {broken} ms"));
        self.cluster.disk(node).damage(damage, must_heal);
        self.later(broken, Mend::Disk(node));
    }

    /// Kills a node whose disk was kept, and brings the kept disk back.
    fn roll_back(&mut self) {
        let mut kept = self.living();
        kept.retain(|node| self.cluster.disk(*node).kept().is_some());
        let Some(node) = self.atlas.victim_among(&kept, &self.rng) else { return };
        let noted = self.cluster.coordinator().noted(node);
        let noticed = noted > self.cluster.disk(node).kept();
        if !self.atlas.allow_roll_back(node, noticed) {
            return;
        }
        let Some(disk) = self.cluster.disk(node).roll_back() else { return };
        let dead = self.rng.below(DEAD_MS_MAX.0);
        self.tell(format!("roll the disk of {node} back, start after {dead} ms"));
        self.dead.insert(node);
        self.cluster.kill_node(node);
        self.cluster.replace_disk(node, disk);
        self.cluster.watch().hit("F16 disk rolled back");
        self.later(dead, Mend::Start(node));
    }

    /// Kills a node and spoils its journal or a checkpoint before it comes back.
    fn spoil_records(&mut self) {
        let living = self.living();
        let Some(node) = self.atlas.victim_among(&living, &self.rng) else { return };
        if !self.atlas.allow(node, Damage::RecordRot) {
            return;
        }
        let dead = self.rng.below(DEAD_MS_MAX.0);
        self.tell(format!("kill {node} for {dead} ms, its records rot"));
        self.dead.insert(node);
        self.cluster.kill_node(node);
        let must_heal = self.atlas.mode() == Mode::Liveness;
        self.cluster.disk(node).damage(Damage::RecordRot, must_heal);
        self.later(dead, Mend::Start(node));
    }

    /// Cuts a node and a client off from the coordinator, longer than a lease lasts.
    fn sever(&mut self) {
        let broken = self.rng.between(SEVERED_MS.0, SEVERED_MS.1);
        let (node, client) = (self.any_node(), self.clients[self.below(self.clients.len())]);
        self.tell(format!("{node} and {client:?} hear no coordinator for {broken} ms"));
        for cut_off in [process_of(node), client] {
            for (from, to) in [(cut_off, COORDINATOR), (COORDINATOR, cut_off)] {
                self.cluster.fabric().cuts().cut(from, to);
                self.later(broken, Mend::Join(from, to));
            }
        }
    }

    /// Makes what nodes report slow, and ends the coordinator while some of it is on its way.
    fn late_reports(&mut self) {
        let coordinator = self.cluster.coordinator();
        if coordinator.term().is_none() {
            return;
        }
        let lag = Duration::from_millis(1 + self.rng.below(LAG_MS_MAX));
        let (slow, stop) = (self.rng.below(2000), self.rng.below(1000));
        self.tell(format!("reports are late by {lag:?} for {slow} ms, coordinator restarts"));
        for node in self.nodes.clone() {
            self.cluster.fabric().cuts().slow_down(process_of(node), COORDINATOR, lag);
            self.later(slow, Mend::Hasten(process_of(node), COORDINATOR));
        }
        self.later(stop, Mend::RestartCoordinator);
    }

    /// A node and another process it talks to.
    fn two_processes(&self) -> Option<(ProcessId, ProcessId)> {
        let one = process_of(self.any_node());
        let other = match self.rng.below(4) {
            0 => COORDINATOR,
            1 => self.clients[self.below(self.clients.len())],
            _ => process_of(self.any_node()),
        };
        let pair = if self.rng.below(2) == 0 { (one, other) } else { (other, one) };
        (one != other).then_some(pair)
    }
}
