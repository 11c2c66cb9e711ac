//! The main task of the control executor: coordinator on one side, shards on the other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_lite::future;
use protocol::ids::{CoordinatorId, TargetId};
use protocol::message::chunk::ShardStatsReply;
use protocol::metrics::expose;
use protocol::tls;

use super::session::{Session, SessionError};
use super::state::{Identity, State};
use crate::config::Coordinator;
use crate::io::NoDisk;
use crate::io::glommio::admin::AdminPort;
use crate::io::glommio::clock::BootClock;
use crate::io::glommio::link::GlommioLink;
use crate::io::glommio::mesh::{Port, Wakeup};
use crate::io::glommio::net::{GlommioNet, TlsConfigs};
use crate::io::{Clock, Incoming, Link, NetError, Outgoing};
use crate::limits::{MESH_TO_CONTROL_MAX, RECONNECT_MAX_MS, RECONNECT_MIN_MS};
use crate::metrics::{Figures, METRICS, Source};
use crate::shard::{Control as ShardControl, ControlEvent, ShardReport};

/// The control executor's end of the queues to one shard.
pub type ShardPort = Port<ControlEvent, ShardReport>;

/// A shard's end of the queues to the control executor.
#[derive(Debug)]
pub struct ControlPort(pub Port<ShardReport, ControlEvent>);

impl ShardControl for ControlPort {
    async fn next(&self) -> ControlEvent {
        self.0.receive().await
    }

    fn report(&self, report: ShardReport) -> bool {
        self.0.send(report).is_ok()
    }

    fn publish(&self, figures: impl FnOnce() -> ShardStatsReply) {
        // The next ones follow in a second.
        let _ = self.0.send(ShardReport::Figures(Box::new(figures())));
    }
}

/// The order to stop, given from outside the executors.
#[derive(Debug, Default)]
pub struct StopOrder {
    asked: AtomicBool,
    wakeup: Wakeup,
}

impl StopOrder {
    /// Orders the node to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.wakeup.wake();
    }

    /// Where the control executor is woken; the mesh uses it too.
    pub fn wakeup(&self) -> &Wakeup {
        &self.wakeup
    }
}

/// What the control executor starts with.
pub struct Setup {
    /// Who the node is.
    pub identity: Identity,
    /// Coordinators, in the order in which they are tried.
    pub coordinators: Vec<Coordinator>,
    /// What handshakes present and demand.
    pub tls: TlsConfigs,
    /// One end for each shard, in the shards' order.
    pub ports: Vec<ShardPort>,
    /// When to stop.
    pub stop: Arc<StopOrder>,
    /// Where metrics are told.
    pub metrics: Option<SocketAddr>,
}

/// Keeps the node in the cluster until it was ordered to stop and every shard has ended.
pub async fn run(setup: Setup) {
    let (cluster, tls) = (setup.identity.cluster, setup.tls);
    let port = setup.metrics.and_then(|address| {
        let port = AdminPort::listen(address, Arc::clone(&tls.server), cluster);
        port.inspect_err(|error| tracing::error!(%address, %error, "metrics are not told")).ok()
    });
    let net = GlommioNet::new(cluster, tls, Rc::new(NoDisk));
    let control = Rc::new(Control {
        state: RefCell::new(State::new(setup.identity)),
        figures: RefCell::default(),
        coordinators: setup.coordinators,
        net,
        ports: setup.ports,
        stop: setup.stop,
        live: RefCell::new(None),
        stopped: Cell::new(0),
    });
    let told = control.clone();
    let metrics = async move {
        match port {
            Some(port) => port.serve(Rc::new(move || expose(METRICS, &told.source()))).await,
            None => std::future::pending().await,
        }
    };
    let outside = future::or(control.serve_coordinator(), metrics);
    future::or(control.serve_shards(), outside).await;
}

struct Control {
    state: RefCell<State>,
    figures: RefCell<Figures>,
    coordinators: Vec<Coordinator>,
    net: GlommioNet<NoDisk>,
    ports: Vec<ShardPort>,
    stop: Arc<StopOrder>,
    /// The connection to the coordinator, while there is one.
    live: RefCell<Option<Live>>,
    /// Shards that have ended.
    stopped: Cell<usize>,
}

struct Live {
    link: Rc<GlommioLink<NoDisk>>,
    session: Session,
}

/// Why a connection to a coordinator ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// What a conversation waits for.
enum Event {
    Frame(Result<Incoming<NoDisk>, NetError>),
    Due,
}

impl Control {
    /// Takes the shards' reports and gives them their news, until every shard has ended.
    async fn serve_shards(&self) {
        poll_fn(|context| {
            self.stop.wakeup.register(context.waker());
            if self.stop.asked.load(Ordering::Acquire) {
                self.state.borrow_mut().shutdown();
            }
            if self.take_reports() {
                context.waker().wake_by_ref();
            }
            self.give_news();
            if self.stopped.get() == self.ports.len() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Takes what shards reported; true when there may be more.
    fn take_reports(&self) -> bool {
        let mut more = false;
        for port in &self.ports {
            let taken = std::iter::from_fn(|| port.try_receive()).take(MESH_TO_CONTROL_MAX);
            more |= taken.map(|report| self.take_report(report)).count() == MESH_TO_CONTROL_MAX;
        }
        more
    }

    fn take_report(&self, report: ShardReport) {
        match report {
            ShardReport::Health(health) => self.state.borrow_mut().note_health(health),
            ShardReport::Figures(figures) => {
                self.figures.borrow_mut().note(BootClock.now(), *figures);
            }
            ShardReport::Stopped => self.stopped.set(self.stopped.get() + 1),
            report => {
                let map = self.state.borrow().map_version();
                if let Some(live) = self.live.borrow_mut().as_mut()
                    && let Some(frame) = live.session.report(&report, map)
                {
                    live.send(frame);
                }
            }
        }
    }

    fn give_news(&self) {
        let mut state = self.state.borrow_mut();
        let (map, outboxes) = state.outboxes();
        for (outbox, port) in outboxes.iter_mut().zip(&self.ports) {
            outbox.flush(map, |event| port.send(event).is_ok());
        }
    }

    /// Talks to one coordinator after the other, for ever.
    async fn serve_coordinator(&self) {
        let mut pause = RECONNECT_MIN_MS;
        let mut said = String::new();
        for coordinator in self.coordinators.iter().cycle() {
            let ended = self.talk_to(coordinator).await;
            let was_registered =
                self.live.borrow_mut().take().is_some_and(|live| live.session.registered());
            let text = format!("coordinator {}: {ended}", coordinator.id);
            if was_registered || text != said {
                tracing::warn!(
                    coordinator = coordinator.id,
                    address = %coordinator.address,
                    reason = %ended,
                    "not connected to the coordinator; trying again"
                );
                said = text;
            }
            pause = if was_registered { RECONNECT_MIN_MS } else { pause };
            BootClock.sleep(Duration::from_millis(pause)).await;
            pause = longer(pause);
        }
    }

    /// Connects, registers and stays registered as long as that lasts.
    async fn talk_to(&self, coordinator: &Coordinator) -> Ended {
        let identity = tls::Identity::Coordinator(CoordinatorId(coordinator.id));
        let connected = self.net.connect_to(&identity, TargetId(0), coordinator.address).await;
        let link = match connected {
            Ok(link) => link,
            Err(error) => return error.into(),
        };
        let mut session = Session::new(BootClock.now());
        let register = session.register(&self.state.borrow());
        if let Err(error) = link.send(register) {
            return error.into();
        }
        *self.live.borrow_mut() = Some(Live { link: Rc::clone(&link), session });
        let mut registered = false;
        loop {
            let event = future::or(async { Event::Frame(link.receive().await) }, self.due()).await;
            if let Err(ended) = self.react(event) {
                link.close();
                return ended;
            }
            self.give_news();
            if !registered && self.is_registered() {
                registered = true;
                let state = self.state.borrow();
                tracing::info!(
                    node = %state.identity().node,
                    coordinator = coordinator.id,
                    map_version = %state.map_version(),
                    "ready"
                );
            }
        }
    }

    /// What metrics are read from.
    fn source(&self) -> Source {
        let state = self.state.borrow();
        let shards = self.figures.borrow().shards(BootClock.now(), state.health());
        Source {
            node: state.identity().node,
            map_version: state.map_version(),
            registered: self.is_registered(),
            shards,
        }
    }

    fn is_registered(&self) -> bool {
        self.live.borrow().as_ref().is_some_and(|live| live.session.registered())
    }

    async fn due(&self) -> Event {
        let idle = self.live.borrow().as_ref().map(|live| live.session.idle(BootClock.now()));
        BootClock.sleep(idle.unwrap_or_default()).await;
        Event::Due
    }

    fn react(&self, event: Event) -> Result<(), Ended> {
        let mut live = self.live.borrow_mut();
        let Some(live) = live.as_mut() else { return Err(NetError::Closed.into()) };
        let state = &mut *self.state.borrow_mut();
        let now = BootClock.now();
        let answer = match event {
            Event::Frame(frame) => live.session.receive(now, &frame?, state)?,
            Event::Due => None,
        };
        // Frames may come in faster than the timer is looked at, so what is due is said here too.
        let beat = live.session.tick(now, state)?;
        for frame in [answer, beat].into_iter().flatten() {
            live.link.send(frame)?;
        }
        Ok(())
    }
}

impl Live {
    /// Sends a report; one that finds no room is repeated by its shard.
    fn send(&self, frame: Outgoing<NoDisk>) {
        if let Err(error) = self.link.send(frame) {
            tracing::debug!(%error, "report not sent");
        }
    }
}

/// The pause after one that did not help, in milliseconds.
fn longer(pause_ms: u64) -> u64 {
    (pause_ms * 2).min(RECONNECT_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_attempts_double_up_to_the_longest() {
        let pauses = std::iter::successors(Some(RECONNECT_MIN_MS), |pause| Some(longer(*pause)));
        let pauses: Vec<_> = pauses.take(12).collect();
        assert_eq!(pauses[..3], [1, 2, 4].map(|times| times * RECONNECT_MIN_MS));
        assert!(pauses.is_sorted());
        assert_eq!(pauses[10..], [RECONNECT_MAX_MS; 2]);
    }
}
