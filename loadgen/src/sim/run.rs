//! One run: a cluster, a load, faults for a while, repair, and everything checked.
//!
//! A broken promise is a panic whose message names it; production code asserts its own in the same
//! way. Who runs many seeds runs them in processes of their own.

use std::rc::Rc;
use std::time::Duration;

use node::io::Nanos;
use protocol::ids::SessionId;

use super::check::Ledger;
use super::client::{SimClient, process_of_client};
use super::cluster::SimCluster;
use super::executor::Stop;
use super::fault::Chaos;
use super::files::Filers;
use super::mark::Marks;
use super::overwrite::Overwriters;
use super::profile::{Mode, Profile};
use super::tree::namers::Namers;
use super::workload::Workload;

/// Longest time that operations, or checks, take after everything is mended.
const SETTLING: Duration = Duration::from_secs(60);

/// The same where reads of what is lost take all their time.
const SETTLING_WITH_LOSS: Duration = Duration::from_secs(3600);

/// Takes the lines of a run.
pub type Log = Box<dyn Fn(Nanos, &str)>;

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// What faults may do.
    pub mode: Mode,
}

/// How a run went; one that broke a promise has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of everything that happened.
    pub hash: u64,
    /// Name of its profile.
    pub profile: &'static str,
    /// Virtual time that passed.
    pub simulated: Duration,
    /// Times that a task ran.
    pub polls: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Reads whose bytes were checked.
    pub read: u64,
    /// Changes of names.
    pub changes: usize,
    /// Overwrites and leased reads.
    pub overwrites: u64,
    /// Situations that were met.
    pub marks: Marks,
}

impl Plan {
    /// The command that repeats the run.
    pub fn command(&self) -> String {
        format!("lanefs-loadgen sim --seed {} --mode {} --trace", self.seed, self.mode.name())
    }

    /// Runs it; `log` is handed every line.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn run(&self, log: Option<Log>) -> Outcome {
        self.run_as(&Profile::of(self.seed), log)
    }

    /// Runs it as another profile than that of its seed.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn run_as(&self, profile: &Profile, log: Option<Log>) -> Outcome {
        let cluster = SimCluster::make(self.seed, &profile.shape);
        let executor = cluster.executor().clone();
        if let Some(log) = log {
            log(executor.now(), &format!("{self:?} {profile:?}"));
            executor.keep_log(log);
        }
        cluster.run_until_healthy();
        let sessions: Vec<SessionId> = (1..=profile.load.clients).map(SessionId).collect();
        let clients: Vec<_> =
            sessions.iter().map(|session| SimClient::new(&cluster, *session)).collect();
        let processes = sessions.into_iter().map(process_of_client).collect();
        let mut chaos = Chaos::new(cluster, profile, self.mode, processes);
        let damaged = chaos.atlas.damaged();
        let min_write = usize::from(profile.shape.min_write);
        let ledger = Ledger::new(&chaos.cluster, min_write, self.mode, damaged);
        let workload = Workload::start(&chaos.cluster, &ledger, &profile.load, &clients);

        let overwriting = if profile.load.overwrites { &clients[..] } else { &[] };
        let overwriters = Overwriters::start(&chaos.cluster, self.mode, overwriting);
        let filing = if profile.load.files { &clients[..] } else { &[] };
        let filers = Filers::start(&chaos.cluster, self.mode, filing);
        let names = chaos.cluster.fork_rng();
        let namers = Namers::start(&executor, chaos.cluster.coordinator(), &names);

        chaos.rage(profile.rage);
        chaos.heal();
        match self.mode {
            Mode::Liveness => {
                chaos.cluster.run_until_healthy();
                chaos.finish_moves();
            }
            Mode::Unrestricted => {
                executor.run_until(SETTLING, || chaos.cluster.coordinator().healthy());
            }
        }
        let cluster = &chaos.cluster;
        workload.stop();
        namers.stop();
        overwriters.stop();
        filers.stop();
        settle(cluster, &workload, "operations");
        settle_namers(cluster, &namers);
        settle_overwriters(cluster, &overwriters, &clients[0]);
        settle_filers(cluster, &filers);
        if self.mode == Mode::Liveness {
            cluster.scrub();
        }
        workload.read_all(&clients);
        settle(cluster, &workload, "checks");
        if self.mode == Mode::Liveness {
            ledger.check_inventories(cluster);
            settle_space(cluster);
            ledger.check_space();
        }
        cluster.coordinator().check();
        executor.finish();
        Outcome {
            hash: executor.event_hash(),
            profile: profile.name,
            simulated: Duration::from_nanos(executor.now().0),
            polls: executor.polls(),
            acknowledged: ledger.acknowledged.get(),
            read: ledger.read.get(),
            changes: namers.changes(),
            overwrites: overwriters.done() + filers.done(),
            marks: cluster.watch().marks(),
        }
    }
}

fn settle(cluster: &SimCluster, workload: &Rc<Workload>, what: &str) {
    let limit = if workload.loses() { SETTLING_WITH_LOSS } else { SETTLING };
    let stop = cluster.executor().run_until(limit, || workload.running() == 0);
    assert_eq!(stop, Stop::Reached, "{what} end in time: {} tasks run", workload.running());
}

fn settle_overwriters(cluster: &SimCluster, overwriters: &Rc<Overwriters>, client: &Rc<SimClient>) {
    let ended = || overwriters.running() == 0;
    let stop = cluster.executor().run_until(SETTLING, ended);
    assert_eq!(stop, Stop::Reached, "overwrites end in time");
    overwriters.read_all(client);
    let stop = cluster.executor().run_until(SETTLING, ended);
    assert_eq!(stop, Stop::Reached, "leased reads end in time");
    overwriters.check();
}

/// Waits until targets have given back what they hold of groups that they left.
fn settle_space(cluster: &SimCluster) {
    if cluster.left_over().is_empty() {
        return;
    }
    for _ in 0..SETTLING.as_secs() {
        cluster.executor().run_until(Duration::from_secs(1), || false);
        if cluster.left_over().is_empty() {
            cluster.watch().hit("space of a left group freed");
            return;
        }
    }
    panic!("space of groups that were left comes back: {:?}", cluster.left_over());
}

fn settle_filers(cluster: &SimCluster, filers: &Rc<Filers>) {
    let limit = if filers.loses() { SETTLING_WITH_LOSS } else { SETTLING };
    let ended = || filers.running() == 0;
    let stop = cluster.executor().run_until(limit, ended);
    assert_eq!(stop, Stop::Reached, "changes of files end in time: {}", filers.running());
    filers.read_all();
    let stop = cluster.executor().run_until(limit, ended);
    assert_eq!(stop, Stop::Reached, "reads of files end in time");
    filers.check();
}

fn settle_namers(cluster: &SimCluster, namers: &Namers) {
    let stop = cluster.executor().run_until(SETTLING, || namers.running() == 0);
    assert_eq!(stop, Stop::Reached, "changes of names end in time");
    namers.check();
}
