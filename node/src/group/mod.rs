//! Replication rules of one placement group: pure.
