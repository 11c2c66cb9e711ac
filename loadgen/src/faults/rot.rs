//! The fault of bits that change at rest: reads stay right, and the damage is found and repaired.
//!
//! Not every bit that is flipped counts: the only copy of a cell in a container may lie in space of a
//! group that the target has left.

use std::collections::BTreeSet;

use client::Client;

use super::corrupt;
use super::inject::Scene;
use super::judge;
use super::menu::Order;
use super::scrub;
use crate::cluster::StepError;
use crate::dice::Dice;

/// Cells that lose a bit.
const CELLS: usize = 12;
/// Clients that read each damaged file: each chooses its replicas by itself.
const CLIENTS: usize = 6;

pub(super) async fn carry_out(scene: &mut Scene<'_>, order: &Order) -> Result<String, StepError> {
    let container = scene.lab.container(order.node);
    let mut dice = Dice::new(order.seed);
    // Nothing is removed meanwhile, so what is damaged stays in use.
    let rest = scene.workload.rest().await?;
    let before = scrub::found(scene.client).await?;
    let (ledger, run) = (scene.workload.ledger(), scene.workload.run());
    let flips = corrupt::flip(&container, ledger, run, CELLS, &mut dice)?;
    let files: BTreeSet<u64> = flips.iter().map(|flip| flip.stamp.file).collect();
    for _ in 0..CLIENTS {
        let config = scene.lab.client_config()?;
        let client = Client::connect(&config).await.map_err(judge::failed)?;
        for file in ledger.live().iter().filter(|file| files.contains(&file.number)) {
            judge::read_whole(&client, run, file).await?;
        }
        client.close().await.map_err(judge::failed)?;
    }
    let last = scrub::run(scene.client, u64::MAX).await?.pop();
    let found = last.map_or(0, |sample| sample.found).saturating_sub(before);
    if found == 0 && !flips.is_empty() {
        return Err(StepError::Different(format!("none of the damage was found: {flips:?}")));
    }
    drop(rest);
    Ok(format!("node {}, {} bits, {found} damaged cells found", order.node, flips.len()))
}
