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
use super::mark::Marks;
use super::profile::{Mode, Profile};
use super::workload::Workload;

/// Longest time that operations, or checks, take after everything is mended.
const SETTLING: Duration = Duration::from_secs(60);

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
    pub fn run(&self, log: Option<Box<dyn Fn(Nanos, &str)>>) -> Outcome {
        let profile = Profile::of(self.seed);
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
        let ledger = Ledger::new(&cluster, usize::from(profile.shape.min_write));
        let workload = Workload::start(&cluster, &ledger, &profile.load, &clients);
        let processes = sessions.into_iter().map(process_of_client).collect();
        let mut chaos = Chaos::new(cluster, &profile, processes);

        chaos.rage(profile.rage);
        chaos.heal();
        let cluster = &chaos.cluster;
        cluster.run_until_healthy();
        workload.stop();
        settle(cluster, &workload, "operations");
        workload.read_all(&clients[0]);
        settle(cluster, &workload, "checks");
        ledger.check_inventories(cluster);
        executor.finish();
        Outcome {
            hash: executor.event_hash(),
            profile: profile.name,
            simulated: Duration::from_nanos(executor.now().0),
            polls: executor.polls(),
            acknowledged: ledger.acknowledged.get(),
            read: ledger.read.get(),
            marks: Marks::default(),
        }
    }
}

fn settle(cluster: &SimCluster, workload: &Rc<Workload>, what: &str) {
    let stop = cluster.executor().run_until(SETTLING, || workload.running() == 0);
    assert_eq!(stop, Stop::Reached, "{what} end in time: {} tasks run", workload.running());
}
