//! What plans want done on the side: reports of damage, probes of targets, doubts about primaries.
//!
//! Nobody waits for it, and what becomes of it is told to the log alone.

use bytes::Bytes;
use protocol::message::chunk::ShardStatsRequest;
use protocol::message::operate::UnreachableReply;
use protocol::status::Status;

use super::Core;
use crate::plan::{Attempt, Doubt, Errand, Inquiry};

impl Core {
    /// Has things done on the side; what becomes of them is told to nobody but the log.
    pub(super) fn run_errands(&self, errands: Vec<Errand>) {
        for errand in errands {
            let Some(core) = self.me.upgrade() else { return };
            tokio::spawn(async move { core.run(errand).await });
        }
    }

    async fn run(&self, errand: Errand) {
        match errand {
            Errand::Report(attempt) => {
                let (target, key) = (attempt.target, attempt.request.key);
                let confirmed = match self.send(&attempt, Bytes::new()).await {
                    Ok(answer) => answer.status == Status::Ok,
                    Err(_) => false,
                };
                tracing::warn!(%target, %key, taken = confirmed, "bad cells read and reported");
            }
            Errand::Probe(attempt) => {
                self.is_there(&attempt).await;
            }
            Errand::Doubt(doubt) => self.inquire(doubt).await,
        }
    }

    /// Asks a target whether it is there, and remembers what came of it.
    async fn is_there(&self, question: &Attempt<ShardStatsRequest>) -> bool {
        let there = self.send(question, Bytes::new()).await.is_ok();
        let (now, health) = (self.now(), &mut self.conditions().health);
        match there {
            true => health.on_heard(question.target, now),
            false => health.on_failed(question.target, now),
        }
        there
    }

    /// Finds out who of a group answers, and tells the coordinator when only the primary does not.
    async fn inquire(&self, mut doubt: Doubt) {
        let mut answered = false;
        let accusation = loop {
            match doubt.next(self.now(), answered) {
                Inquiry::Ask(question) => answered = self.is_there(&question).await,
                Inquiry::Accuse(accusation) => break accusation,
                Inquiry::Drop => return,
            }
        };
        tracing::warn!(target = %accusation.target, group = %accusation.group, "primary not reached");
        let what = "report of a primary that is not reached";
        if let Err(error) = self.ask::<_, UnreachableReply>(what, &accusation).await {
            tracing::debug!(%error, "nobody took the report");
        }
    }
}
