//! A folder, a network, a runtime and a cluster for as long as one piece of work takes.

use std::path::Path;

use tokio::runtime::Runtime;

use super::lab::{Lab, Plan};
use crate::cluster::{StepError, file_error};

/// Runs `work` on a fresh cluster in a folder of its own below `parent`.
///
/// The folder is removed when the work was done, and kept with the logs when it failed.
///
/// # Errors
/// What the work failed with, or that the cluster could not be made.
pub(super) fn run<T>(
    parent: &Path,
    name: &str,
    plan: Plan,
    work: impl AsyncFnOnce(Lab) -> Result<T, StepError>,
) -> Result<T, StepError> {
    let root = parent.join(format!("lanefs-{name}-{}", std::process::id()));
    std::fs::create_dir(&root).map_err(file_error(&root))?;
    // The network first: threads that exist already would stay outside of it.
    let network = Lab::network(&plan)?;
    let runtime = Runtime::new()
        .map_err(|source| StepError::Start { program: "the runtime".to_owned(), source })?;
    let outcome = runtime.block_on(async {
        let lab = Lab::start(&root, plan, network)?;
        tokio::select! {
            outcome = work(lab) => outcome.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    });
    drop(runtime);
    match outcome {
        Ok(done) => {
            std::fs::remove_dir_all(&root).map_err(file_error(&root))?;
            done.ok_or_else(|| StepError::Different("interrupted".to_owned()))
        }
        Err(error) => {
            println!("{name}: logs and containers are in {}", root.display());
            Err(error)
        }
    }
}
