//! The lanefs client library.
//!
//! Owns the way from a program's bytes and names to the cluster and back: planning, retries,
//! verification of what was read, sessions, connections. Knows nothing of the command line.
//!
//! Start at [`Client`]. What decides is pure and takes time and seeds as arguments: [`plan`],
//! [`retry`], [`health`]. What does is asynchronous: [`transport`] and the methods of
//! [`Client`], [`FileReader`] and [`FileWriter`].

pub mod cache;
pub mod cli;
pub mod config;
pub mod dev;
pub mod error;
pub mod file;
pub mod health;
pub mod hedge;
pub mod limits;
pub mod plan;
pub mod retry;
pub mod transport;

mod changed;
mod client;
mod core;
mod namespace;
mod session;

pub use client::{Client, ReplicaCheck};
pub use config::Config;
pub use error::{ConfigError, Error};
pub use file::{
    FileBytes, FileEditor, FileReader, FileWriter, ReadMany, ReadManyOptions, ReadStream,
    WholeFile, WriteMode,
};
