//! Suspects nodes that give no sign of life, and counts their leases. Pure: time comes in.
//!
//! Suspicion removes a node from its groups; it is allowed to be wrong. A lease is a promise to the
//! node; it is never shortened.
//!
//! Silence is no silence of a node when this process was the one that stopped (a signal, a machine
//! that was paused): it shows as a long time between two ticks, and every node then gets time to be
//! heard again. Otherwise all of them would be removed at once by the first tick afterwards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::guard::{self, Guard};
use protocol::ids::NodeId;
use protocol::time::Nanos;

use crate::limits::{
    GAP_BUCKETS, GAP_WINDOW, LEASE_DRIFT, NODE_LEASE, OWN_PAUSE_MIN, RETURN_TIME, SUSPICION_GAPS,
    SUSPICION_MAX, SUSPICION_MIN,
};

/// What the detector found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// No sign of life for too long, or its process is gone.
    Suspected(NodeId),
    /// A suspected node gave a sign of life.
    Returned(NodeId),
}

/// Watches all registered nodes.
#[derive(Clone, Debug)]
pub struct Detector {
    /// What each heartbeat grants.
    lease: Duration,
    nodes: BTreeMap<NodeId, Watched>,
    /// The last tick.
    ticked: Nanos,
}

#[derive(Clone, Debug)]
struct Watched {
    /// Last sign of life; `None` until the first one after a coordinator start.
    last: Option<Nanos>,
    /// Not suspected for silence before this; a heartbeat ends it.
    not_before: Nanos,
    lease_end: Nanos,
    /// Largest gap of each part of the window, newest last: start of the part, gap.
    gaps: VecDeque<(Nanos, Duration)>,
    lost: bool,
    refused: bool,
    suspected: bool,
}

impl Detector {
    /// Watches the nodes of the map a coordinator starts with: each node and whether the map has it
    /// up.
    ///
    /// Every node is taken to have the longest lease that any process may have granted, because the
    /// one before may have granted it just now. A node the map has up gets a lease and time to
    /// connect again before silence counts, because it has to notice that its connection broke.
    pub fn new(
        known: impl IntoIterator<Item = (NodeId, bool)>,
        lease: Duration,
        now: Nanos,
    ) -> Detector {
        let lease_end = lease_end(now, lease.max(NODE_LEASE));
        let watched = |up: bool| Watched {
            not_before: now.after(lease).after(RETURN_TIME),
            suspected: !up,
            ..Watched::fresh(None, lease_end)
        };
        let nodes = known.into_iter().map(|(node, up)| (node, watched(up))).collect();
        Detector { lease, nodes, ticked: now }
    }

    /// Takes note that a node registered: it is alive and its history starts anew.
    pub fn registered(&mut self, node: NodeId, now: Nanos) {
        self.nodes.insert(node, Watched::fresh(Some(now), lease_end(now, self.lease)));
    }

    /// Takes note of a heartbeat and renews the lease; a node that never registered is ignored.
    pub fn heartbeat(&mut self, node: NodeId, now: Nanos) -> Option<Finding> {
        let watched = self.nodes.get_mut(&node)?;
        if let Some(last) = watched.last {
            watched.note_gap(now, now.since(last));
        }
        watched.last = Some(now);
        watched.not_before = Nanos(0);
        watched.lease_end = watched.lease_end.max(lease_end(now, self.lease));
        watched.lost = false;
        watched.refused = false;
        std::mem::take(&mut watched.suspected).then_some(Finding::Returned(node))
    }

    /// Takes note that the node's heartbeat connection broke.
    pub fn connection_lost(&mut self, node: NodeId, _now: Nanos) -> Option<Finding> {
        let watched = self.nodes.get_mut(&node)?;
        watched.lost = true;
        watched.suspect_gone(node)
    }

    /// Takes note that a live host refused a connection to the node's port.
    ///
    /// Alone it proves little (the node may not listen yet); with a broken connection it proves
    /// that the process is gone.
    pub fn connect_refused(&mut self, node: NodeId, _now: Nanos) -> Option<Finding> {
        let watched = self.nodes.get_mut(&node)?;
        watched.refused = true;
        watched.suspect_gone(node)
    }

    /// Finds the nodes that have been silent for too long, ascending.
    pub fn tick(&mut self, now: Nanos) -> Vec<Finding> {
        let mut findings = Vec::new();
        let pause = now.since(std::mem::replace(&mut self.ticked, now));
        for (&node, watched) in &mut self.nodes {
            if pause >= OWN_PAUSE_MIN && guard::holds(Guard::OwnPause) {
                let heard_again = now.after(pause.min(RETURN_TIME));
                watched.not_before = watched.not_before.max(heard_again);
            }
            if !watched.suspected && now > watched.deadline() {
                watched.suspected = true;
                findings.push(Finding::Suspected(node));
            }
        }
        findings
    }

    /// When the node's newest lease has certainly ended; `None` for a node that is not known.
    ///
    /// A node counts its lease from when it sent the heartbeat, this from when it arrived, and this
    /// clock may be the faster one.
    pub fn lease_end(&self, node: NodeId) -> Option<Nanos> {
        self.nodes.get(&node).map(|watched| watched.lease_end)
    }

    /// Nodes that gave a sign of life to this process and are not suspected.
    pub fn live(&self) -> BTreeSet<NodeId> {
        let live = self.nodes.iter().filter(|(_, node)| node.last.is_some() && !node.suspected);
        live.map(|(&node, _)| node).collect()
    }

    /// True while the node is suspected.
    pub fn suspects(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|watched| watched.suspected)
    }

    /// When `tick` next has something to find; `None` when nothing can become suspect.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let watched = self.nodes.values().filter(|watched| !watched.suspected);
        watched.map(Watched::deadline).min()
    }
}

impl Watched {
    fn fresh(last: Option<Nanos>, lease_end: Nanos) -> Watched {
        Watched {
            last,
            not_before: Nanos(0),
            lease_end,
            gaps: VecDeque::new(),
            lost: false,
            refused: false,
            suspected: false,
        }
    }

    fn deadline(&self) -> Nanos {
        let silent = self.last.map_or(Nanos(0), |last| last.after(self.patience(last)));
        silent.max(self.not_before)
    }

    fn patience(&self, now: Nanos) -> Duration {
        let recent = self.gaps.iter().filter(|(start, _)| now.since(*start) <= GAP_WINDOW);
        let largest = recent.map(|(_, gap)| *gap).max().unwrap_or_default();
        largest.saturating_mul(SUSPICION_GAPS).clamp(SUSPICION_MIN, SUSPICION_MAX)
    }

    fn note_gap(&mut self, now: Nanos, gap: Duration) {
        let part = GAP_WINDOW / GAP_PARTS;
        match self.gaps.back_mut() {
            Some((start, largest)) if now.since(*start) < part => *largest = gap.max(*largest),
            _ => self.gaps.push_back((now, gap)),
        }
        while self.gaps.len() > GAP_BUCKETS {
            self.gaps.pop_front();
        }
    }

    fn suspect_gone(&mut self, node: NodeId) -> Option<Finding> {
        let gone = self.lost && self.refused && !self.suspected;
        self.suspected |= gone;
        gone.then_some(Finding::Suspected(node))
    }
}

fn lease_end(received: Nanos, lease: Duration) -> Nanos {
    received.after(lease + lease / LEASE_DRIFT)
}

#[expect(clippy::cast_possible_truncation, reason = "a small constant, checked below")]
const GAP_PARTS: u32 = GAP_BUCKETS as u32;
const _: () = assert!(GAP_PARTS as usize == GAP_BUCKETS && GAP_PARTS > 0);

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const BEAT: Duration = Duration::from_millis(250);

    /// A node that registered at 0 and then sent `beats` heartbeats, one each 250 ms.
    fn beating(beats: u32) -> (Detector, Nanos) {
        let mut detector = Detector::new([], NODE_LEASE, Nanos(0));
        let mut now = Nanos(0);
        detector.registered(NODE, now);
        for _ in 0..beats {
            now = now.after(BEAT);
            assert_eq!(detector.heartbeat(NODE, now), None);
        }
        (detector, now)
    }

    fn silence(detector: &mut Detector, since: Nanos) -> Duration {
        let deadline = detector.next_deadline().unwrap_or_default();
        detector.ticked = deadline; // It is asked all the time.
        assert_eq!(detector.tick(deadline), []);
        assert_eq!(detector.tick(Nanos(deadline.0 + 1)), [Finding::Suspected(NODE)]);
        assert_eq!(detector.tick(Nanos(deadline.0 + 2)), [], "said once");
        deadline.since(since)
    }

    #[test]
    fn silence_is_measured_against_the_largest_gap_of_the_last_minute() {
        let (mut detector, now) = beating(0);
        assert_eq!(silence(&mut detector, now), SUSPICION_MIN);
        let (mut detector, now) = beating(4);
        assert_eq!(silence(&mut detector, now), BEAT * 4);
        let (mut detector, mut now) = beating(4);
        now = now.after(Duration::from_millis(600));
        detector.heartbeat(NODE, now);
        assert_eq!(silence(&mut detector.clone(), now), Duration::from_millis(2400));
        for _ in 0..300 {
            now = now.after(BEAT);
            detector.heartbeat(NODE, now);
            assert!(detector.nodes[&NODE].gaps.len() <= GAP_BUCKETS);
        }
        assert_eq!(silence(&mut detector, now), BEAT * 4, "the long gap is forgotten");
    }

    #[test]
    fn a_pause_of_the_detector_is_no_silence_of_the_nodes() {
        for (pause, grace) in [
            (OWN_PAUSE_MIN, OWN_PAUSE_MIN),
            (Duration::from_secs(2), Duration::from_secs(2)),
            (Duration::from_secs(18), RETURN_TIME),
        ] {
            let (mut detector, now) = beating(2);
            assert_eq!(detector.tick(now), []);
            let woken = now.after(pause);
            assert_eq!(detector.tick(woken), [], "{pause:?}");
            let expected = (pause + grace).max(BEAT * 4);
            assert_eq!(silence(&mut detector.clone(), now), expected, "still silent");
            assert_eq!(detector.heartbeat(NODE, woken), None);
            let patience = (pause * 4).clamp(SUSPICION_MIN, SUSPICION_MAX);
            assert_eq!(silence(&mut detector, woken), patience, "heard again");
        }
        let mut detector = Detector::new([(NODE, true)], NODE_LEASE, Nanos(0));
        let woken = Nanos(0).after(Duration::from_secs(18));
        assert_eq!(detector.tick(woken), [], "it was stopped before anybody registered");
        assert_eq!(silence(&mut detector, woken), RETURN_TIME);
    }

    #[test]
    fn irregular_heartbeats_do_not_hide_a_dead_node_for_long() {
        let (mut detector, now) = beating(1);
        let now = now.after(Duration::from_secs(2));
        detector.heartbeat(NODE, now);
        assert_eq!(silence(&mut detector, now), SUSPICION_MAX);
    }

    #[test]
    fn a_lost_connection_and_a_refused_port_together_suspect_at_once() {
        let (mut detector, now) = beating(2);
        assert_eq!(detector.connect_refused(NODE, now), None);
        assert_eq!(detector.heartbeat(NODE, now), None);
        assert_eq!(detector.connection_lost(NODE, now), None);
        assert_eq!(detector.connect_refused(NODE, now), Some(Finding::Suspected(NODE)));
        assert_eq!(detector.connect_refused(NODE, now), None, "said once");
        assert!(detector.suspects(NODE) && detector.live().is_empty());
        assert_eq!(detector.heartbeat(NODE, now), Some(Finding::Returned(NODE)));
        assert_eq!(detector.live(), BTreeSet::from([NODE]));
    }

    #[test]
    fn a_lease_ends_later_here_than_at_the_node_and_is_never_shortened() {
        let short = Duration::from_secs(2);
        let mut detector = Detector::new([(NODE, true)], short, Nanos(0));
        let longest = Nanos(0).after(Duration::from_millis(10_010));
        assert_eq!(detector.lease_end(NODE), Some(longest), "as any process may have granted");
        detector.heartbeat(NODE, Nanos(0).after(BEAT));
        assert_eq!(detector.lease_end(NODE), Some(longest));
        let later = Nanos(0).after(Duration::from_secs(9));
        detector.heartbeat(NODE, later);
        let end = later.after(Duration::from_millis(2002));
        assert_eq!(detector.lease_end(NODE), Some(end));
    }

    #[test]
    fn after_a_coordinator_start_every_node_has_a_lease_and_time_to_return() {
        let start = Nanos(5);
        let mut detector = Detector::new([(NODE, true), (NodeId(2), false)], NODE_LEASE, start);
        assert_eq!(silence(&mut detector.clone(), start), NODE_LEASE + RETURN_TIME);
        assert_eq!(detector.lease_end(NODE), Some(lease_end(start, NODE_LEASE)));
        assert_eq!(detector.live(), BTreeSet::new());
        let soon = start.after(BEAT);
        assert_eq!(detector.heartbeat(NODE, soon), None);
        assert_eq!(detector.heartbeat(NodeId(2), soon), Some(Finding::Returned(NodeId(2))));
        assert_eq!(detector.lease_end(NODE), Some(lease_end(soon, NODE_LEASE)));
        assert_eq!(detector.tick(soon.after(SUSPICION_MIN)), []);
        assert_eq!(detector.heartbeat(NodeId(9), soon), None, "never registered");
    }
}
