//! Rows in a redb file.
//!
//! The log is the truth; this file only has to be atomic. A batch is kept as an [`Overlay`] over a
//! read transaction and written by one write transaction, so reading inside a batch never touches
//! the writer, and a row that a batch changes ten times is written once.

use std::path::Path;

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use crate::kv::{Kv, KvError, KvRead, Overlay, Row};

/// A table in a redb file.
pub struct Redb {
    database: Database,
    committed: RedbSnapshot,
    batch: Overlay,
}

/// Rows of one commit of a [`Redb`].
pub struct RedbSnapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Redb {
    /// Opens the file, or creates it.
    ///
    /// # Units
    /// `cache` is the engine's page cache in bytes; it is the bound of the table's memory.
    ///
    /// # Errors
    /// [`KvError::Engine`] when the file is in use, is no redb file, or is damaged.
    pub fn open(path: &Path, cache: usize) -> Result<Redb, KvError> {
        let database =
            Database::builder().set_cache_size(cache).create(path).map_err(engine("open"))?;
        // A new file has no table yet, and a table cannot be read before it was made.
        let write = database.begin_write().map_err(engine("begin"))?;
        write.open_table(TABLE).map_err(engine("make the table"))?;
        write.commit().map_err(engine("commit"))?;
        let committed = view(&database)?;
        Ok(Redb { database, committed, batch: Overlay::default() })
    }
}

impl KvRead for RedbSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let value = ReadableTable::get(&self.table, key).map_err(engine("read"))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let rows = ReadableTable::range(&self.table, from..to).map_err(engine("scan"))?;
        rows.take(limit)
            .map(|row| {
                let (key, value) = row.map_err(engine("scan"))?;
                Ok((key.value().to_vec(), value.value().to_vec()))
            })
            .collect()
    }
}

impl KvRead for Redb {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.batch.get(&self.committed, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        self.batch.scan(&self.committed, from, to, limit)
    }
}

impl Kv for Redb {
    type Snapshot = RedbSnapshot;

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    fn commit(&mut self, durable: bool) -> Result<(), KvError> {
        let mut write = self.database.begin_write().map_err(engine("begin"))?;
        let durability = if durable { Durability::Immediate } else { Durability::None };
        write.set_durability(durability).map_err(engine("set durability"))?;
        // One-phase commits had a recovery defect that two-phase commits never had; quick repair
        // saves the allocator's state, so that opening after a crash does not walk the file.
        write.set_two_phase_commit(true);
        write.set_quick_repair(durable);
        {
            let mut table = write.open_table(TABLE).map_err(engine("open the table"))?;
            for (key, value) in self.batch.take() {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()),
                    None => table.remove(key.as_slice()),
                }
                .map_err(engine("write"))?;
            }
        }
        write.commit().map_err(engine("commit"))?;
        self.committed = view(&self.database)?;
        Ok(())
    }

    fn snapshot(&self) -> Result<RedbSnapshot, KvError> {
        view(&self.database)
    }
}

fn view(database: &Database) -> Result<RedbSnapshot, KvError> {
    let read = database.begin_read().map_err(engine("begin a read"))?;
    let table = read.open_table(TABLE).map_err(engine("open the table"))?;
    Ok(RedbSnapshot { table })
}

fn engine<E: std::fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> KvError {
    move |error| KvError::Engine { operation, reason: error.to_string() }
}

const TABLE: TableDefinition<&'static [u8], &'static [u8]> = TableDefinition::new("lanefs");
