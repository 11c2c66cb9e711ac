//! A container in memory that can lose power.
