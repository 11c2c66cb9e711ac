//! Tells a registered node what it must know at once: map changes and dead files.

use std::sync::Arc;

use protocol::ids::MapVersion;
use protocol::message::cluster::{DropFilesNotice, MapPushNotice};
use protocol::message::heal::FileOrdersNotice;
use protocol::message::{Context, notice_frame};
use protocol::message::{Message, MessageError};
use tokio::sync::mpsc;

use super::Shared;
use super::connection::{Connection, Permits};
use super::links::NodeOrder;

/// Sends notices until the node's connection is replaced or ends.
///
/// Changes that come while an earlier notice still waits for the writer go out as one.
pub(super) async fn tell_node(
    connection: Arc<Connection>,
    mut orders: mpsc::Receiver<NodeOrder>,
    told: MapVersion,
    shared: Arc<Shared>,
) {
    let mut told = told;
    let mut changes = shared.proposer.map_changes();
    // The map may have changed between the registration's answer and this line.
    changes.mark_changed();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(NodeOrder::DropFiles(groups)) => {
                    notify(&connection, &shared, &DropFilesNotice { groups }).await;
                }
                Some(NodeOrder::FileOrders(groups)) => {
                    notify(&connection, &shared, &FileOrdersNotice { groups }).await;
                }
                // The link was replaced or detached.
                None => return,
            },
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let newest = *changes.borrow_and_update();
                if newest > told {
                    let delta = shared.proposer.delta_since(told);
                    told = delta.to;
                    notify(&connection, &shared, &MapPushNotice { delta }).await;
                }
            }
        }
    }
}

async fn notify<M: Message>(connection: &Connection, shared: &Shared, message: &M) {
    let context = Context {
        map_version: shared.proposer.view().map.version,
        cluster_tag: shared.about.cluster.tag(),
        ..Context::default()
    };
    match notice_frame(message, context) {
        Ok((header, body)) => connection.send(&header, &body, Permits::default()).await,
        // The node learns it from its next heartbeat or the repetition; a person should know.
        Err(error @ MessageError::TooLong { .. }) => {
            tracing::error!(%error, "notice to a node does not fit a frame");
        }
        Err(error) => tracing::error!(%error, "notice to a node cannot be written"),
    }
}
