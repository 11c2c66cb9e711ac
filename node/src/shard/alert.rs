//! Lines in the log for whoever operates the node, bounded in number.

use super::control::Control;
use super::driver::Driver;
use super::effect::Alert;
use crate::io::Env;

impl<E: Env, C: Control> Driver<E, C> {
    /// Writes a line, unless there were too many of late.
    pub(super) fn alert(&self, alert: &Alert) {
        let Some(suppressed) = self.alerts.admit(self.now()) else { return };
        let target_id = self.config.target.0;
        match alert {
            Alert::FellBack { group, key, version } => tracing::error!(
                target_id,
                group = group.0,
                %key,
                %version,
                suppressed,
                "possible_rollback: no member trusts this version, the one before is served"
            ),
            Alert::NoRoom { group, target, pause } => tracing::warn!(
                target_id,
                group = group.0,
                member = target.0,
                pause_s = pause.as_secs(),
                suppressed,
                "syncing member has no room, copies to it wait; free space there or drain it"
            ),
            Alert::Differs { group, key, target } => tracing::error!(
                target_id,
                group = group.0,
                %key,
                member = target.0,
                suppressed,
                "a member silently holds a chunk otherwise than the others and is copied to anew; \
                 check its device"
            ),
            Alert::TakenOver { group, key, version } => tracing::warn!(
                target_id,
                group = group.0,
                %key,
                %version,
                suppressed,
                "this target lacked a version of the last writes of its group and took it over from \
                 another member; check its device if that happens often"
            ),
            Alert::Divergent { group, key, target } => tracing::error!(
                target_id,
                group = group.0,
                %key,
                member = target.0,
                suppressed,
                "two replicas hold other bytes under one version; keep both containers for analysis"
            ),
        }
    }
}
