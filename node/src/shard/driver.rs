//! What the tasks of one shard share, and the loop that turns events into orders.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use protocol::checksum::compiled_path;
use protocol::ids::MapVersion;
use protocol::log_budget::LogBudget;
use protocol::message::activity::ShardActivity;
use protocol::message::chunk::ShardStatsReply;
use protocol::message::cluster::TargetHealth;
use protocol::message::{Kind, Message};

use super::control::{Control, ControlEvent, ShardConfig, ShardReport};
use super::event::{ConnId, Event, ReplyTo};
use super::local_queue::LocalQueue;
use super::peers::Peers;
use super::state::ShardState;
use super::stats::Stats;
use super::step::step;
use super::unsent::Unsent;
use crate::io::{Clock, Disk, Env, Link, Nanos, Net, Payload};
use crate::limits::FIGURES_PERIOD_MS;
use crate::store::{ScrubCursor, Store};

/// The connections an environment makes.
pub(super) type LinkOf<E> = <<E as Env>::Net as Net<<E as Env>::Disk>>::Link;

/// A payload as it was received: the first `len` bytes of memory that is never copied.
pub struct Received<D: Disk> {
    /// The memory.
    pub buffer: Rc<D::Buffer>,
    /// Bytes of payload in it.
    pub len: usize,
}

/// What wakes the loop.
#[expect(clippy::large_enum_variant, reason = "nearly every wake is an event")]
pub(super) enum Wake<D: Disk> {
    /// A fact for the pure step.
    Event(Event<Received<D>>),
    /// Someone wants the shard's counters.
    Stats(ReplyTo),
}

/// What the tasks of one shard share. No borrow of a cell in it outlives a statement.
pub(super) struct Driver<E: Env, C: Control> {
    pub(super) env: E,
    pub(super) config: ShardConfig,
    pub(super) store: Rc<Store<E::Disk>>,
    pub(super) control: Rc<C>,
    pub(super) wakes: LocalQueue<Wake<E::Disk>>,
    pub(super) links: RefCell<BTreeMap<ConnId, Rc<LinkOf<E>>>>,
    pub(super) peers: Peers<E>,
    pub(super) map_version: Cell<MapVersion>,
    pub(super) stopped: Cell<bool>,
    pub(super) tick_waits: Cell<bool>,
    pub(super) bytes_in: Cell<u64>,
    pub(super) bytes_out: Cell<u64>,
    pub(super) next_conn: Cell<u64>,
    pub(super) alerts: LogBudget,
    pub(super) stats: Stats,
    /// Where the scrub goes on; the one step under way holds it.
    pub(super) scrub_cursor: Cell<Option<ScrubCursor>>,
    reports: RefCell<Unsent>,
}

impl<E: Env, C: Control> Driver<E, C> {
    pub(super) fn new(
        env: E,
        config: ShardConfig,
        store: Rc<Store<E::Disk>>,
        control: Rc<C>,
    ) -> Driver<E, C> {
        Driver {
            env,
            config,
            store,
            control,
            wakes: LocalQueue::new(),
            links: RefCell::new(BTreeMap::new()),
            peers: Peers::default(),
            map_version: Cell::new(MapVersion(0)),
            stopped: Cell::new(false),
            tick_waits: Cell::new(false),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            next_conn: Cell::new(1),
            alerts: LogBudget::new(),
            stats: Stats::default(),
            scrub_cursor: Cell::new(None),
            reports: RefCell::default(),
        }
    }

    /// Hands a fact about something that was started here to the loop.
    pub(super) fn notify(&self, event: Event<Received<E::Disk>>) {
        self.wakes.push_now(Wake::Event(event));
    }

    /// The clock's time.
    pub(super) fn now(&self) -> Nanos {
        self.env.clock().now()
    }

    /// Turns events into orders until the shard is finished.
    pub(super) async fn turn(self: &Rc<Self>) {
        let env = self.env.clone();
        self.store.measure(move || env.clock().now());
        let mut state = ShardState::new(self.config, self.store.groups());
        let mut orders = Vec::new();
        let (mut health_at, mut figures_at) = (Nanos(0), Nanos(0));
        while !state.core.finished {
            match self.wakes.pop().await {
                Wake::Event(event) => {
                    let now = self.now();
                    if matches!(event, Event::Tick { .. }) {
                        self.tick_waits.set(false);
                        self.repeat_reports();
                        if now >= health_at {
                            health_at = now.after(self.config.timeouts.health);
                            self.report(ShardReport::Health(self.health(&state)));
                        }
                        if now >= figures_at {
                            figures_at = now.after(Duration::from_millis(FIGURES_PERIOD_MS));
                            self.control.publish(|| self.figures(&state));
                        }
                    }
                    step(&mut state, &*self.store, now, event, &mut orders);
                    self.map_version.set(state.core.map.version);
                }
                Wake::Stats(to) => self.reply_stats(&state, to),
            }
            for order in orders.drain(..) {
                self.carry_out(&state.core, order);
            }
        }
    }

    /// Lets time pass for the loop; at most one tick waits.
    pub(super) async fn tick(self: Rc<Self>) {
        let tick = self.config.timeouts.tick;
        while !self.stopped.get() {
            let begun = self.now();
            self.env.clock().sleep(tick).await;
            let now = self.now();
            self.stats.woke(now.since(begun).saturating_sub(tick));
            self.store.note_time(now);
            if !self.tick_waits.replace(true) {
                self.notify(Event::Tick { fenced: self.store.fenced() });
            }
        }
    }

    /// Passes on what the control core says; `Shutdown` is the last.
    pub(super) async fn listen(self: Rc<Self>) {
        loop {
            let event = self.control.next().await;
            let last = event == ControlEvent::Shutdown;
            self.wakes.push(Wake::Event(Event::Control(event))).await;
            if last {
                return;
            }
        }
    }

    /// Tells the control core. Only what nobody repeats is kept for later.
    pub(super) fn report(&self, report: ShardReport) {
        let once = matches!(report, ShardReport::DropDone(_));
        if !self.control.report(report.clone()) && once && !self.reports.borrow_mut().keep(report) {
            tracing::debug!(target_id = self.config.target.0, "report left to the coordinator");
        }
    }

    /// Tells the control core that the shard has ended, waiting for room a bounded time.
    pub(super) async fn report_end(&self) {
        let waits = self.config.timeouts;
        let attempts = waits.drain.as_nanos() / waits.tick.max(Duration::from_nanos(1)).as_nanos();
        for _ in 0..=attempts {
            if self.control.report(ShardReport::Stopped) {
                return;
            }
            self.env.clock().sleep(waits.tick).await;
        }
        tracing::warn!(target_id = self.config.target.0, "the control core took no end report");
    }

    /// Ends every connection and task.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        let links = std::mem::take(&mut *self.links.borrow_mut());
        for link in links.into_values().chain(self.peers.take_all()) {
            link.close();
        }
    }

    fn repeat_reports(&self) {
        self.reports.borrow_mut().send(|report| self.control.report(report));
    }

    fn health(&self, state: &ShardState<Received<E::Disk>>) -> TargetHealth {
        let (upkeep, aside) = (&state.core.upkeep, self.store.quarantine_size());
        let device = self.store.device_times();
        TargetHealth {
            target: self.config.target,
            durable_lsn: self.store.durable_lsn(),
            free: self.store.free(),
            fenced: self.store.fenced(),
            resync_bytes_left: state.resync_bytes_left(),
            resync_bytes_done: state.core.counters.resync_bytes_done,
            map_version: state.core.map.version,
            resyncs: state.resyncs(),
            scrub_pass: upkeep.scrub.reported,
            scrub_bytes_done: upkeep.scrub.done,
            scrub_bytes_total: upkeep.scrub.total,
            cells_damaged: upkeep.counts.cells_damaged,
            cells_repaired: upkeep.counts.cells_repaired,
            cells_bad: state.cells_bad(),
            quarantined_chunks: aside.chunks,
            quarantined_bytes: aside.bytes,
            device_p99_us: device.transfer_p99_us,
            device_ops: device.transfers,
            flush_p99_us: device.flush_p99_us,
            oldest_io_ms: device.oldest_ms,
        }
    }

    fn reply_stats(&self, state: &ShardState<Received<E::Disk>>, to: ReplyTo) {
        debug_assert_eq!(to.kind, Kind::ShardStats);
        let figures = self.figures(state).encode();
        self.answer(to, protocol::ids::Epoch(0), figures, Payload::empty());
    }

    /// What the shard owns, has done and does.
    fn figures(&self, state: &ShardState<Received<E::Disk>>) -> ShardStatsReply {
        let counters = state.core.counters;
        let capacity = self.store.capacity();
        ShardStatsReply {
            shard: self.config.shard,
            core: self.config.core,
            target: self.config.target,
            generation: self.config.generation,
            port: self.config.port,
            capacity,
            used: capacity.saturating_sub(self.store.free()),
            chunks: self.store.chunks(),
            requests: counters.requests,
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            hops: 0, // Nothing here can pass a request to another shard.
            misroutes: counters.misroutes,
            flushes: self.store.flushes(),
            bytes_copied: self.store.bytes_copied(),
            connections: count(self.links.borrow().len()),
            clear_connections: count(
                self.links.borrow().values().filter(|it| it.is_clear()).count(),
            ),
            checksum_path: compiled_path().to_owned(),
            activity: self.activity(state),
        }
    }

    fn activity(&self, state: &ShardState<Received<E::Disk>>) -> ShardActivity {
        let budget = &state.core.budget;
        let cpu = self.env.clock().cpu_time();
        ShardActivity {
            clock: self.now(),
            allocations: crate::memory::allocations(),
            cpu_ns: u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX),
            events_waiting: count(self.wakes.len()),
            requests_in_flight: count(budget.clients.requests() + budget.peers.requests()),
            transfers_in_flight: count(self.store.transfers_in_flight()),
            ..self.stats.counts()
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl<D: Disk> Clone for Received<D> {
    fn clone(&self) -> Self {
        Received { buffer: Rc::clone(&self.buffer), len: self.len }
    }
}
