//! The map: fetched when there is none, refreshed when a plan wants a newer one or an answer spoke
//! of one, by one task at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::cluster_map::ClusterMap;
use protocol::ids::MapVersion;
use protocol::message::cluster::{MapFetchReply, MapFetchRequest};

use super::Core;
use crate::cache::Turn;
use crate::error::Error;
use crate::limits::{ATTEMPT_LOOK_MS, REFRESH_JITTER_MS, REFRESH_WAIT_MS, WRITE_MAP_LOOK_MS};
use crate::retry::Jitter;

impl Core {
    /// The map, fetched when there is none yet.
    pub(crate) async fn map(&self) -> Result<Arc<ClusterMap>, Error> {
        if self.map.version() == MapVersion(0) {
            self.refresh_map().await
        } else {
            Ok(self.map.map())
        }
    }

    /// Fetches what is new in the map, or waits for whoever is at it.
    ///
    /// # Cancel safety
    /// The map is as it was or newer; another waiting caller refreshes.
    pub(crate) async fn refresh_map(&self) -> Result<Arc<ClusterMap>, Error> {
        let Turn::Mine(_guard) = self.map.turn().await else { return Ok(self.map.map()) };
        let have = self.map.version();
        let reply: MapFetchReply = self.ask("cluster map", &MapFetchRequest { have }).await?;
        if reply.delta.cluster != self.cluster && reply.delta.to > have {
            let detail = "the answer is the map of another cluster".into();
            return Err(Error::Protocol { what: "cluster map".into(), detail });
        }
        if let Ok(map) = self.map.apply(&reply.delta) {
            return Ok(map);
        }
        let from_start = MapFetchRequest { have: MapVersion(0) };
        let reply: MapFetchReply = self.ask("cluster map", &from_start).await?;
        self.map.apply(&reply.delta).map_err(|gap| {
            let detail = format!("{gap} although the whole map was asked for");
            Error::Protocol { what: "cluster map".into(), detail }
        })
    }

    /// A refresh on behalf of a plan, which goes on with the old map when there is no newer one.
    pub(super) async fn refresh_for_plan(&self) {
        if self.map.version() != MapVersion(0) {
            let jitter = Jitter::new(self.operation_seed()).up_to(REFRESH_JITTER_MS);
            self.wait_until(self.now().after(Duration::from_millis(jitter))).await;
        }
        let longest = Duration::from_millis(REFRESH_WAIT_MS);
        match tokio::time::timeout(longest, self.refresh_map()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "map not refreshed"),
            Err(_) => tracing::debug!("map not refreshed in time"),
        }
    }

    /// Looks for a newer map now and then, at once when some answer spoke of one.
    pub(super) async fn keep_map_fresh(&self) -> Infallible {
        let mut looked = self.now();
        loop {
            let look_at = self.now().after(Duration::from_millis(ATTEMPT_LOOK_MS));
            self.wait_until(look_at).await;
            let is_due = self.now().since(looked) >= Duration::from_millis(WRITE_MAP_LOOK_MS);
            if is_due || self.newest_map.load(Ordering::Relaxed) > self.map.version().0 {
                if let Err(error) = self.refresh_map().await {
                    tracing::debug!(%error, "map not refreshed");
                }
                looked = self.now();
            }
        }
    }
}
