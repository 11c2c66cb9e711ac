//! Clocks that run apart, and the leases that must bear it.
//!
//! One scene, without chance: a member of a group is cut off from everybody but one client, who
//! reads from it on and on; another client overwrites what is read, over the members that are left.
//! The change is acknowledged when the coordinator holds the lease of the lost member to be over;
//! that member answers while its own clock says that its lease runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use loadgen::sim::client::{SimClient, process_of_client};
use loadgen::sim::cluster::{SimCluster, process_of, target_of};
use loadgen::sim::coordinator::COORDINATOR;
use loadgen::sim::executor::{ProcessId, Stop};
use loadgen::sim::profile::Shape;
use loadgen::sim::register::Violation;
use loadgen::sim::register::book::{Book, SLOT_LEN};
use node::io::Nanos;
use protocol::cluster_map::Role;
use protocol::ids::{ChunkKey, Fid, GroupId, Handle, NodeId, SessionId};
use protocol::message::chunk::WriteClass;

use client::plan::ReadTask;

/// Process of the workload itself.
const WORKLOAD: ProcessId = ProcessId(900);
/// The node that is cut off.
const LOST: NodeId = NodeId(1);
const KEY: ChunkKey = ChunkKey { fid: Fid(77), index: 0 };
/// Slots of the chunk.
const SLOTS: usize = 4;
/// Time for everything that needs no lease to end.
const SOON: Duration = Duration::from_secs(5);
/// Time in which the lease has ended on every clock, and the change is acknowledged.
const LATER: Duration = Duration::from_secs(30);
/// Time between two reads: much shorter than what is measured.
const READ_EVERY: Duration = Duration::from_millis(2);

/// Largest deviation that the protocol states, in parts per million.
const STATED: i32 = 1000;
/// A lease of 10 s is 9.94 s long for the node and 10.01 s for the coordinator: what a node's clock
/// may be slower by, whatever else happens, in parts per million.
const BORNE: i32 = 6900;
/// Slower by this the node outlives also the tick of the coordinator's timers.
const TOO_SLOW: i32 = 20_000;

/// What the scene led to.
#[derive(Debug)]
struct Story {
    /// Time from the acknowledgement of the change until the last answer of the lost member was
    /// asked for; none when it was asked for before.
    outlived: Option<Duration>,
    /// How long the lost member answered after it had been replaced.
    answered: Duration,
    verdict: Result<(), Violation>,
}

/// The parts of the scene.
struct Scene {
    cluster: SimCluster,
    group: GroupId,
    book: RefCell<Book>,
    /// When the change was acknowledged.
    changed: Cell<Option<Nanos>>,
    /// When the last read that was answered began.
    last_read: Cell<Nanos>,
}

impl Scene {
    /// A group in which the node whose clock runs `ppm` parts per million fast has a role.
    fn new(role: Role, ppm: i32) -> Scene {
        let shape = Shape { clock_ppm_max: 0, ..Shape::small(3) };
        let cluster = SimCluster::with_clocks(5, &shape, |node| (node == LOST).then_some(ppm));
        cluster.run_until_healthy();
        let map = cluster.coordinator().map();
        let has_role = |members: &[protocol::cluster_map::Member]| {
            members.iter().any(|it| it.target == target_of(LOST) && it.role == role)
        };
        let group = map.groups.values().find(|group| has_role(&group.members)).unwrap().id;
        Scene {
            cluster,
            group,
            book: RefCell::default(),
            changed: Cell::new(None),
            last_read: Cell::new(Nanos(0)),
        }
    }

    fn now(&self) -> Nanos {
        self.cluster.executor().now()
    }

    async fn write(&self, client: &SimClient, seq: u64) {
        let (value, bytes) = self.book.borrow_mut().begin(KEY, 0..SLOTS, self.now());
        let place = (self.group, KEY);
        let written = client.write(place, WriteClass::Mutation, seq, 0, &bytes).await;
        written.unwrap();
        self.book.borrow_mut().end(value, self.now());
    }

    /// Reads from the lost member alone; what it answered is in the book.
    async fn read(&self, client: &SimClient) {
        let task = ReadTask {
            group: self.group,
            key: KEY,
            offset: 0,
            len: u32::try_from(SLOTS * SLOT_LEN).unwrap(),
            chunk_len: 0,
            trunc_gen: 0,
            handle: Handle(0),
            growth_only: false,
            stamp: protocol::ids::MapVersion(0),
        };
        let start = self.now();
        if let Some(bytes) = client.read_replica(task, target_of(LOST)).await {
            let span = (start, self.now());
            self.book.borrow_mut().read(KEY, 0, &bytes, span).unwrap();
            self.last_read.set(start);
        }
    }

    /// Nobody hears the lost node but the reader, and the reader hears nobody else.
    fn cut_off(&self, reader: SessionId) {
        let cuts = self.cluster.fabric().cuts();
        let others = [COORDINATOR, process_of(NodeId(2)), process_of(NodeId(3))];
        for alone in [process_of(LOST), process_of_client(reader)] {
            for other in others {
                cuts.cut(alone, other);
                cuts.cut(other, alone);
            }
        }
    }

    fn replaced(&self) -> bool {
        let map = self.cluster.coordinator().map();
        let group = &map.groups[&self.group];
        group.active && group.member(target_of(LOST)).is_none()
    }

    fn run_until(&self, limit: Duration, done: impl Fn() -> bool) {
        assert_eq!(self.cluster.executor().run_until(limit, done), Stop::Reached);
    }
}

/// Plays the scene with a lost member of this role, whose clock is that much faster.
fn play(role: Role, ppm: i32, watched: bool) -> Story {
    let scene = Rc::new(Scene::new(role, ppm));
    if !watched {
        scene.cluster.watch().let_late_answers_pass();
    }
    let executor = scene.cluster.executor().clone();
    let [writer, reader] = [1, 2].map(|id| SimClient::new(&scene.cluster, SessionId(id)));
    let (prepared, first) = (Rc::new(Cell::new(false)), Rc::clone(&scene));
    let (done, old_writer, old_reader) =
        (Rc::clone(&prepared), Rc::clone(&writer), Rc::clone(&reader));
    executor.spawn(WORKLOAD, async move {
        first.write(&old_writer, 1).await;
        let len = u32::try_from(SLOTS * SLOT_LEN).unwrap();
        // Now the reader has a map too.
        let place = (first.group, KEY);
        old_reader.read_as(place, false, 0, len, 0).await.unwrap();
        done.set(true);
    });
    scene.run_until(SOON, || prepared.get());
    executor.run_until(Duration::from_secs(1), || false);
    scene.read_on(&reader);
    executor.run_until(Duration::from_millis(50), || false);
    assert!(scene.last_read.get() > Nanos(0), "a {role:?} answers");

    scene.cut_off(SessionId(2));
    scene.run_until(SOON, || scene.replaced());
    let replaced = scene.now();
    let second = Rc::clone(&scene);
    executor.spawn(WORKLOAD, async move {
        second.write(&writer, 2).await;
        second.changed.set(Some(second.now()));
    });
    scene.run_until(LATER, || scene.changed.get().is_some());
    executor.run_until(Duration::from_secs(2), || false);

    let (changed, last) = (scene.changed.get().unwrap(), scene.last_read.get());
    let story = Story {
        outlived: (last > changed).then(|| last.since(changed)),
        answered: last.since(replaced),
        verdict: scene.book.borrow().check().map_err(|(_, _, violation)| violation),
    };
    executor.finish();
    story
}

impl Scene {
    /// Has the reader read on and on.
    fn read_on(self: &Rc<Self>, reader: &Rc<SimClient>) {
        let (scene, reader) = (Rc::clone(self), Rc::clone(reader));
        let executor = self.cluster.executor().clone();
        self.cluster.executor().spawn(WORKLOAD, async move {
            loop {
                scene.read(&reader).await;
                executor.sleep(READ_EVERY).await;
            }
        });
    }
}

#[test]
fn clocks_within_what_leases_bear_show_nobody_what_was_overwritten() {
    for role in [Role::Primary, Role::Backup] {
        for ppm in [0, STATED, -STATED, -BORNE, 50_000] {
            let story = play(role, ppm, true);
            assert_eq!(story.verdict, Ok(()), "{role:?} at {ppm}: {story:?}");
            assert_eq!(story.outlived, None, "{role:?} at {ppm}: {story:?}");
            assert!(story.answered > SOON, "it answers while its lease runs: {story:?}");
        }
    }
}

#[test]
fn a_clock_that_no_lease_bears_makes_the_register_checker_find_a_stale_read() {
    for role in [Role::Primary, Role::Backup] {
        for ppm in [-TOO_SLOW, -50_000] {
            let story = play(role, ppm, false);
            assert!(story.outlived.is_some(), "{role:?} at {ppm}: {story:?}");
            let found =
                matches!(story.verdict, Err(Violation::Both { .. } | Violation::Lost { .. }));
            assert!(found, "{role:?} at {ppm}: {story:?}");
        }
    }
}

#[test]
#[should_panic(expected = "no leased answer after the lease ended")]
fn a_clock_that_no_lease_bears_is_found_by_the_fence_checker() {
    play(Role::Backup, -50_000, true);
}
