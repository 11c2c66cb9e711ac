//! The cluster map of one process: read by everyone, refreshed by one at a time.

use std::sync::{Arc, PoisonError, RwLock};

use protocol::cluster_map::{ClusterMap, MapDelta, MapGap};
use protocol::ids::MapVersion;

/// Holds the newest map this process has seen.
#[derive(Default)]
pub struct MapCache {
    map: RwLock<Arc<ClusterMap>>,
    /// Refreshes that have ended; held while one is under way, so there is one at a time.
    refreshes: tokio::sync::Mutex<u64>,
    ended: std::sync::atomic::AtomicU64,
}

/// The right to refresh the map, or the news that someone just did.
pub enum Turn<'a> {
    /// This caller refreshes; others wait until it is dropped.
    Mine(TurnGuard<'a>),
    /// A refresh that was under way has ended meanwhile.
    Done,
}

/// Ends a refresh when it is dropped, whatever came of it.
pub struct TurnGuard<'a> {
    ended: &'a std::sync::atomic::AtomicU64,
    count: tokio::sync::MutexGuard<'a, u64>,
}

impl MapCache {
    /// The newest map; the empty one at version 0 before the first refresh.
    pub fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Version of the newest map; 0 before the first refresh.
    pub fn version(&self) -> MapVersion {
        self.map().version
    }

    /// Takes part in the next refresh: does it, or waits for whoever is at it.
    ///
    /// # Cancel safety
    /// Nothing has happened; another waiting caller gets the turn.
    pub async fn turn(&self) -> Turn<'_> {
        let before = self.ended.load(std::sync::atomic::Ordering::Acquire);
        let count = self.refreshes.lock().await;
        if *count == before {
            Turn::Mine(TurnGuard { ended: &self.ended, count })
        } else {
            Turn::Done
        }
    }

    /// Takes over what a delta says.
    ///
    /// # Errors
    /// [`MapGap`] when changes between this map and the delta are missing.
    pub fn apply(&self, delta: &MapDelta) -> Result<Arc<ClusterMap>, MapGap> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if delta.to > map.version {
            let mut newer = ClusterMap::clone(&map);
            newer.apply(delta)?;
            *map = Arc::new(newer);
        }
        Ok(Arc::clone(&map))
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        *self.count += 1;
        self.ended.store(*self.count, std::sync::atomic::Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(from: u64, to: u64, full: bool) -> MapDelta {
        MapDelta { from: MapVersion(from), to: MapVersion(to), full, ..MapDelta::default() }
    }

    #[test]
    fn an_older_delta_changes_nothing_and_a_gap_is_an_error() {
        let cache = MapCache::default();
        assert_eq!(cache.apply(&delta(0, 5, true)).unwrap().version, MapVersion(5));
        assert_eq!(cache.apply(&delta(3, 4, false)).unwrap().version, MapVersion(5));
        assert!(cache.apply(&delta(7, 8, false)).is_err());
        assert_eq!(cache.version(), MapVersion(5));
    }

    #[tokio::test]
    async fn callers_that_come_during_a_refresh_share_it() {
        let cache = Arc::new(MapCache::default());
        let Turn::Mine(guard) = cache.turn().await else { panic!("the first caller refreshes") };
        let other = Arc::clone(&cache);
        let waiting = tokio::spawn(async move { matches!(other.turn().await, Turn::Done) });
        tokio::task::yield_now().await;
        drop(guard);
        assert!(waiting.await.unwrap());
        assert!(matches!(cache.turn().await, Turn::Mine(_)), "the next refresh is a new one");
    }
}
