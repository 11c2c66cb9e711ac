//! What a simulated client does on the side, as the client library does.

use std::cell::RefCell;
use std::rc::Rc;

use client::plan::{Attempt, Conditions, Doubt, Errand, Inquiry};
use coordinator::membership::Witness;
use node::io::{Link, Net, Outgoing, Payload};
use protocol::ids::{MapVersion, RequestId, SessionId};
use protocol::message::chunk::ShardStatsRequest;
use protocol::message::{Context, Message, request_frame};

use super::client::process_of_client;
use super::cluster::CLUSTER;
use super::coordinator::SimCoordinator;
use super::disk::SimDisk;
use super::executor::Executor;
use super::net::SimNet;

/// Runs the errands of one client; clones share everything.
#[derive(Clone)]
pub struct Errands {
    /// Runs their tasks.
    pub executor: Executor,
    /// The client's end of the network.
    pub net: Rc<SimNet<SimDisk>>,
    /// Who is told about primaries that are not reached.
    pub coordinator: SimCoordinator,
    /// The client.
    pub session: SessionId,
    /// What the client knows of the targets.
    pub conditions: Rc<RefCell<Conditions>>,
}

impl Errands {
    /// Starts errands; nobody waits for them.
    pub fn start(&self, errands: Vec<Errand>) {
        for errand in errands {
            let this = self.clone();
            let process = process_of_client(self.session);
            self.executor.spawn(process, async move { this.run(errand).await });
        }
    }

    async fn run(&self, errand: Errand) {
        match errand {
            // Whether the member took it shows in its repairs.
            Errand::Report(report) => drop(self.ask(&report).await),
            Errand::Probe(question) => drop(self.is_there(&question).await),
            Errand::Doubt(doubt) => self.inquire(doubt).await,
        }
    }

    async fn is_there(&self, question: &Attempt<ShardStatsRequest>) -> bool {
        let there = self.ask(question).await.is_some();
        let now = self.executor.now();
        let health = &mut self.conditions.borrow_mut().health;
        match there {
            true => health.on_heard(question.target, now),
            false => health.on_failed(question.target, now),
        }
        there
    }

    async fn inquire(&self, mut doubt: Doubt) {
        let mut answered = false;
        loop {
            match doubt.next(self.executor.now(), answered) {
                Inquiry::Ask(question) => answered = self.is_there(&question).await,
                Inquiry::Accuse(accusation) => {
                    let witness = Witness::Client(self.session.0);
                    return self.coordinator.unreachable(&accusation, witness);
                }
                Inquiry::Drop => return,
            }
        }
    }

    /// Sends one request; something when anything came back in time.
    async fn ask<R: Message>(&self, attempt: &Attempt<R>) -> Option<()> {
        let give_up_at = attempt.give_up_at;
        let late = async {
            self.executor.until(give_up_at).await;
            None
        };
        super::first(self.exchange(attempt), late).await
    }

    async fn exchange<R: Message>(&self, attempt: &Attempt<R>) -> Option<()> {
        let linked = self.net.connect(attempt.node, attempt.target, attempt.address).await;
        let link = linked.ok()?;
        let context = Context {
            epoch: attempt.epoch,
            map_version: MapVersion(0),
            cluster_tag: CLUSTER.tag(),
        };
        let left = attempt.give_up_at.since(self.executor.now()).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let (header, body) =
            request_frame(RequestId(1), &attempt.request, context, deadline_ms).ok()?;
        link.send(Outgoing { header, body, payload: Payload::empty() }).ok()?;
        let answered = link.receive().await.is_ok();
        link.close();
        answered.then_some(())
    }
}
