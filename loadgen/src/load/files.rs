//! The files that a load works on, made before it begins.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, Config};
use protocol::ids::Ino;
use protocol::message::namespace::{Entry, NamespaceOp, SetAttributes};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::scenario::{Scenario, Work};
use crate::cluster::StepError;
use crate::dice::Dice;

/// Files that are made at once before the load begins.
const FILL_AT_ONCE: usize = 8;
/// Pause between two looks for files that another process makes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes handed to a new file at once.
pub(super) const FILL_PIECE: u64 = 4 << 20;

/// The failures of the client, with what was tried.
pub(super) fn failed(what: &str) -> impl Fn(client::Error) -> StepError + '_ {
    move |error| StepError::Different(format!("{what}: {error}"))
}

/// Makes sure that the files are there, of the right size; those that are already are kept.
///
/// # Errors
/// [`StepError::Different`] when the cluster refuses.
pub(super) async fn prepare(
    config: &Config,
    scenario: &Scenario,
    path: &str,
) -> Result<(), StepError> {
    let client = Client::connect(config).await.map_err(failed("connect"))?;
    let dir = folder(&client, path).await?;
    if matches!(scenario.work, Work::Write | Work::Rewrite | Work::Meta) {
        return client.close().await.map_err(failed("close"));
    }
    let room = Arc::new(Semaphore::new(FILL_AT_ONCE));
    let mut tasks = JoinSet::new();
    for number in 0..scenario.files {
        let permit = Arc::clone(&room).acquire_owned().await;
        let (client, scenario) = (client.clone(), scenario.clone());
        let name = format!("{path}/{}", name(number));
        tasks.spawn(async move {
            let made = fill(&client, dir, &scenario, number, &name).await;
            drop(permit);
            made
        });
        while let Some(ended) = tasks.try_join_next() {
            ended.map_err(|error| StepError::Different(error.to_string()))??;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| StepError::Different(error.to_string()))??;
    }
    client.close().await.map_err(failed("close"))
}

/// Waits until another process has made the files.
///
/// # Errors
/// [`StepError::Different`] when there is no cluster. Missing files are waited for.
pub(super) async fn await_files(
    config: &Config,
    scenario: &Scenario,
    path: &str,
) -> Result<(), StepError> {
    let client = Client::connect(config).await.map_err(failed("connect"))?;
    let last = match scenario.work {
        Work::Write | Work::Rewrite | Work::Meta => path.to_owned(),
        _ => format!("{path}/{}", name(scenario.files - 1)),
    };
    while client.lookup(last.as_bytes(), true).await.is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    client.close().await.map_err(failed("close"))
}

/// The folder of a load, made with those above it where they are not there.
pub(super) async fn folder(client: &Client, path: &str) -> Result<Ino, StepError> {
    let (mut parent, mut reached) = (Ino::ROOT, String::new());
    for name in path.split('/').filter(|name| !name.is_empty()) {
        reached = format!("{reached}/{name}");
        parent = match client.lookup(reached.as_bytes(), true).await {
            Ok(entry) => entry.attributes.ino,
            Err(_) => make_folder(client, parent, name, &reached).await?,
        };
    }
    Ok(parent)
}

async fn make_folder(
    client: &Client,
    parent: Ino,
    name: &str,
    path: &str,
) -> Result<Ino, StepError> {
    let (name, attributes) = (name.as_bytes().to_vec(), SetAttributes::default());
    let made = client.mutate(NamespaceOp::Mkdir { parent, name, attributes }).await;
    let made = made.map_err(failed(path))?;
    made.map(|entry| entry.attributes.ino)
        .ok_or_else(|| StepError::Different(format!("{path} was made without an inode")))
}

async fn fill(
    client: &Client,
    dir: Ino,
    scenario: &Scenario,
    number: u32,
    path: &str,
) -> Result<(), StepError> {
    if let Ok(entry) = client.lookup(path.as_bytes(), true).await
        && entry.attributes.size == scenario.file
    {
        return Ok(());
    }
    make(client, dir, scenario, number, &name(number)).await.map(drop)
}

/// Makes one file of the scenario's size, in the place of one of that name.
///
/// # Errors
/// [`StepError::Different`] when the cluster refuses.
pub(super) async fn make(
    client: &Client,
    dir: Ino,
    scenario: &Scenario,
    number: u32,
    name: &str,
) -> Result<Entry, StepError> {
    let told = failed(name);
    let mut writer = client.create(dir, scenario.file).await.map_err(&told)?;
    let mut left = scenario.file;
    let mut dice = Dice::new(scenario.seed ^ u64::from(number));
    while left > 0 {
        let len = left.min(FILL_PIECE);
        writer.write(bytes(&mut dice, len)).await.map_err(&told)?;
        left -= len;
    }
    let attributes = SetAttributes::default();
    writer.publish(dir, name.as_bytes(), attributes, true).await.map_err(&told)
}

/// The name of a file that every client knows.
pub(super) fn name(number: u32) -> String {
    format!("file-{number}")
}

/// Bytes that do not repeat.
fn bytes(dice: &mut Dice, len: u64) -> Vec<u8> {
    let words = len.div_ceil(8);
    let mut bytes: Vec<u8> = (0..words).flat_map(|_| dice.draw().to_le_bytes()).collect();
    bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    bytes
}
