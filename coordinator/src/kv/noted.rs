//! A table that tells which rows were changed, for who looks at them again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::kv::{Kv, KvError, KvRead, Row};

/// A table under another one's name that notes the key of every row that is set or removed.
#[derive(Debug, Default)]
pub struct Noted<K> {
    kv: K,
    touched: Touched,
}

/// Keys of rows that were set or removed since they were last taken; clones share them.
///
/// Each key is held once, so it is never more than the table ever had.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    keys: Rc<RefCell<BTreeSet<Vec<u8>>>>,
}

impl<K> Noted<K> {
    /// A table and the notes on it.
    pub fn new(kv: K) -> (Noted<K>, Touched) {
        let touched = Touched::default();
        (Noted { kv, touched: touched.clone() }, touched)
    }
}

impl Touched {
    /// Takes the keys, ascending.
    pub fn take(&self) -> BTreeSet<Vec<u8>> {
        self.keys.take()
    }

    fn note(&self, key: &[u8]) {
        let mut keys = self.keys.borrow_mut();
        if !keys.contains(key) {
            keys.insert(key.to_vec());
        }
    }
}

impl<K: Kv> KvRead for Noted<K> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, KvError> {
        self.kv.scan(from, to, limit)
    }
}

impl<K: Kv> Kv for Noted<K> {
    type Snapshot = K::Snapshot;

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.touched.note(&key);
        self.kv.put(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.touched.note(&key);
        self.kv.delete(key);
    }

    fn commit(&mut self, durable: bool) -> Result<(), KvError> {
        self.kv.commit(durable)
    }

    fn snapshot(&self) -> Result<K::Snapshot, KvError> {
        self.kv.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Memory;

    #[test]
    fn every_row_that_was_set_or_removed_is_told_once() -> Result<(), KvError> {
        let (mut kv, touched) = Noted::new(Memory::default());
        kv.put(b"b".to_vec(), vec![1]);
        kv.put(b"b".to_vec(), vec![2]);
        kv.delete(b"a".to_vec());
        kv.commit(true)?;
        assert_eq!(touched.take(), BTreeSet::from([b"a".to_vec(), b"b".to_vec()]));
        assert_eq!(touched.take(), BTreeSet::new());
        assert_eq!(kv.get(b"b")?, Some(vec![2]));
        assert_eq!(kv.scan(b"a", b"z", 9)?.len(), 1);
        Ok(())
    }
}
