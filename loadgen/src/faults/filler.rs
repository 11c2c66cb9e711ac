//! Files that fill every target until the cluster refuses to take more.

use std::time::Duration;

use client::{Client, Error};
use protocol::ids::Ino;
use protocol::message::namespace::{NamespaceOp, SetAttributes};
use protocol::status::Status;

use crate::cluster::{StepError, now};
use crate::dice::Dice;

/// Length of one file: wide enough to touch many groups.
const FILE_BYTES: usize = 32 << 20;
/// Bytes handed to the client at once.
const PIECE: usize = 1 << 20;
/// More files than any lab has room for.
const FILES_MAX: u32 = 4_096;
/// Refusals in a row after which the cluster counts as full: another group may still have room.
const REFUSALS: u32 = 6;
/// Removed files must have given their room back within this.
const ROOM_WITHIN: Duration = Duration::from_secs(90);
/// Pause between two attempts to write again.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Files that are in the way.
#[derive(Debug, Default)]
pub struct Filler {
    names: Vec<Vec<u8>>,
    bytes: u64,
}

impl Filler {
    /// Writes files until they are refused for want of space.
    ///
    /// # Errors
    /// [`StepError`] when a write fails for any other reason, or never does.
    pub async fn fill(client: &Client, seed: u64) -> Result<Filler, StepError> {
        let mut filler = Filler::default();
        let mut dice = Dice::new(seed);
        let mut refused = 0;
        for number in 0..FILES_MAX {
            let name = format!("filler-{seed:x}-{number}").into_bytes();
            match write(client, &name, FILE_BYTES, &mut dice).await {
                Ok(()) => {
                    filler.names.push(name);
                    filler.bytes += FILE_BYTES as u64;
                    refused = 0;
                }
                Err(error) if error.status() == Some(Status::NoSpace) => refused += 1,
                Err(error) => return Err(StepError::Different(error.to_string())),
            }
            if refused == REFUSALS {
                return Ok(filler);
            }
        }
        Err(StepError::Different("no target became full".to_owned()))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes the files and waits until there is room; how long that took.
    ///
    /// # Errors
    /// [`StepError`] when a file cannot be removed or the room does not come back.
    pub async fn remove(self, client: &Client) -> Result<Duration, StepError> {
        for name in self.names {
            let op = NamespaceOp::Unlink { parent: Ino::ROOT, name };
            client.mutate(op).await.map_err(|error| StepError::Different(error.to_string()))?;
        }
        let begun = now();
        let mut dice = Dice::new(1);
        loop {
            let probe = write(client, b"probe", FILE_BYTES, &mut dice).await;
            match probe {
                Ok(()) => break,
                Err(_) if begun.elapsed() < ROOM_WITHIN => tokio::time::sleep(TRY_EVERY).await,
                Err(error) => {
                    let seconds = ROOM_WITHIN.as_secs();
                    let what = format!("removed files to give their room back ({error})");
                    return Err(StepError::Timeout { seconds, what });
                }
            }
        }
        let took = begun.elapsed();
        let op = NamespaceOp::Unlink { parent: Ino::ROOT, name: b"probe".to_vec() };
        client.mutate(op).await.map_err(|error| StepError::Different(error.to_string()))?;
        Ok(took)
    }
}

async fn write(client: &Client, name: &[u8], len: usize, dice: &mut Dice) -> Result<(), Error> {
    let mut writer = client.create(Ino::ROOT, len as u64).await?;
    for _ in 0..len / PIECE {
        let mut piece = vec![0; PIECE];
        piece.chunks_mut(8).for_each(|word| word.copy_from_slice(&dice.draw().to_le_bytes()));
        if let Err(error) = writer.write(piece).await {
            writer.abandon().await;
            return Err(error);
        }
    }
    writer.publish(Ino::ROOT, name, SetAttributes::default(), true).await.map(drop)
}
