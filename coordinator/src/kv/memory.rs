//! Rows in memory, for tests, models and the simulator.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::kv::{Kv, KvError, KvRead, Overlay, Row};

/// A table in memory.
///
/// `commit` keeps nothing beyond the process; a crash is a new table. [`Memory::crash`] returns the
/// rows of the last durable commit, as a machine that lost power would find them.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    batch: Overlay,
    rows: MemorySnapshot,
    durable: MemorySnapshot,
}

/// Rows of one commit.
#[derive(Clone, Debug, Default)]
pub struct MemorySnapshot {
    rows: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Memory {
    /// The table that is found after a crash: only durable commits.
    pub fn crash(self) -> Memory {
        Memory { batch: Overlay::default(), rows: self.durable.clone(), durable: self.durable }
    }
}

impl KvRead for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.rows.range::<[u8], _>(bounds).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl KvRead for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.batch.get(&self.rows, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        self.batch.scan(&self.rows, from, to, limit)
    }
}

impl Kv for Memory {
    type Snapshot = MemorySnapshot;

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    fn commit(&mut self, durable: bool) -> Result<(), KvError> {
        // Copies all rows when a snapshot still holds the old ones: the price of a simple table.
        let rows = Arc::make_mut(&mut self.rows.rows);
        for (key, value) in self.batch.take() {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        if durable {
            self.durable = self.rows.clone();
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<MemorySnapshot, KvError> {
        Ok(self.rows.clone())
    }
}
