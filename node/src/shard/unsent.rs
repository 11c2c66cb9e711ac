//! Reports that the control core had no room for and that nobody repeats.

use std::collections::VecDeque;

use super::control::ShardReport;
use crate::limits::REPORTS_WAITING_MAX;

/// At most [`REPORTS_WAITING_MAX`] reports, oldest first.
#[derive(Default)]
pub(super) struct Unsent {
    waiting: VecDeque<ShardReport>,
}

impl Unsent {
    /// Keeps a report for later; false when too many wait, and then the coordinator has to ask again.
    pub(super) fn keep(&mut self, report: ShardReport) -> bool {
        let has_room = self.waiting.len() < REPORTS_WAITING_MAX;
        if has_room {
            self.waiting.push_back(report);
        }
        has_room
    }

    /// Sends what waits, in order, until a report is not taken.
    pub(super) fn send(&mut self, take: impl Fn(ShardReport) -> bool) {
        while let Some(report) = self.waiting.front() {
            if !take(report.clone()) {
                return;
            }
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use protocol::ids::{Fid, GroupId};
    use protocol::message::cluster::DropDoneRequest;

    use super::*;

    fn report(number: u64) -> ShardReport {
        ShardReport::DropDone(DropDoneRequest { groups: vec![(GroupId(1), vec![Fid(number)])] })
    }

    #[test]
    fn reports_are_kept_up_to_the_bound_and_sent_in_order_as_far_as_they_are_taken() {
        let mut unsent = Unsent::default();
        let most = REPORTS_WAITING_MAX as u64;
        assert!((0..most).all(|number| unsent.keep(report(number))));
        assert!(!unsent.keep(report(most)));
        let taken = RefCell::new(Vec::new());
        let take_up_to = |count: u64| {
            let taken = &taken;
            move |report| {
                let room = (taken.borrow().len() as u64) < count;
                if room {
                    taken.borrow_mut().push(report);
                }
                room
            }
        };
        unsent.send(take_up_to(1));
        assert!(unsent.keep(report(most)), "there is room again");
        assert!(!unsent.keep(report(most + 1)));
        unsent.send(take_up_to(u64::MAX));
        assert_eq!(*taken.borrow(), (0..=most).map(report).collect::<Vec<_>>());
    }
}
