//! Changes of an open batch, laid over the rows of the last commit.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::kv::{KvError, KvRead, Row};

/// Changed rows by key; `None` is a removed row.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Overlay {
    /// Sets a row.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.rows.insert(key, Some(value));
    }

    /// Removes a row.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    /// True when nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes all changes out, ascending by key.
    pub fn take(&mut self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        std::mem::take(&mut self.rows)
    }

    /// Reads one row through the overlay.
    ///
    /// # Errors
    /// Those of `below`.
    pub fn get<R: KvRead>(&self, below: &R, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.rows.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => below.get(key),
        }
    }

    /// Reads a range through the overlay.
    ///
    /// # Errors
    /// Those of `below`.
    ///
    /// # Cost
    /// Reads at most as many rows of `below` as `limit` and the changed rows of the range together.
    pub fn scan<R: KvRead>(
        &self,
        below: &R,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, KvError> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut changed = self.rows.range::<[u8], _>(bounds).peekable();
        if changed.peek().is_none() {
            return below.scan(from, to, limit);
        }
        // Every removed row can hide one row of the table below, so that many more are read.
        let removed = self.rows.range::<[u8], _>(bounds).filter(|(_, value)| value.is_none());
        let mut stored =
            below.scan(from, to, limit.saturating_add(removed.count()))?.into_iter().peekable();
        let mut rows = Vec::new();
        while rows.len() < limit {
            let take_changed = match (changed.peek(), stored.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((changed, _)), Some((stored, _))) => *changed <= stored,
            };
            if !take_changed {
                rows.extend(stored.next());
                continue;
            }
            if let Some((key, value)) = changed.next() {
                if stored.peek().is_some_and(|(hidden, _)| hidden == key) {
                    stored.next();
                }
                rows.extend(value.as_ref().map(|value| (key.clone(), value.clone())));
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Kv, Memory};

    fn key(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn keys(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn a_scan_merges_new_changed_and_removed_rows_up_to_its_limit() -> Result<(), KvError> {
        let mut below = Memory::default();
        for name in ["a", "b", "c", "d", "e"] {
            below.put(key(name), vec![0]);
        }
        below.commit(true)?;
        let below = below.snapshot()?;
        let mut overlay = Overlay::default();
        overlay.delete(key("a"));
        overlay.delete(key("c"));
        overlay.put(key("b"), vec![1]);
        overlay.put(key("bb"), vec![1]);
        let rows = overlay.scan(&below, b"a", b"z", 3)?;
        assert_eq!(keys(&rows), ["b", "bb", "d"]);
        assert_eq!(rows[0].1, [1]);
        assert_eq!(keys(&overlay.scan(&below, b"a", b"z", 9)?), ["b", "bb", "d", "e"]);
        assert_eq!(keys(&overlay.scan(&below, b"d", b"e", 9)?), ["d"]);
        assert_eq!(overlay.scan(&below, b"z", b"a", 9)?, []);
        assert_eq!(overlay.get(&below, b"c")?, None);
        Ok(())
    }
}
