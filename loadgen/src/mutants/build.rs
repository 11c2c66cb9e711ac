//! Builds the tests with removable guards and finds the binaries they are in.
//!
//! The ordinary target folder is used: cargo keeps units of other features apart, so third-party
//! code is built once and the ordinary build stays warm.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use thiserror::Error;

/// A test binary and the folder its tests expect to run in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestBinary {
    /// The executable.
    pub path: PathBuf,
    /// The folder of its package.
    pub folder: PathBuf,
}

/// Everything the build made.
#[derive(Clone, Debug, Default)]
pub struct Binaries {
    tests: BTreeMap<String, TestBinary>,
    programs: BTreeMap<String, PathBuf>,
}

/// Why there are no tests to run.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Cargo could not be run.
    #[error("cannot run {0}: {1}")]
    NoCargo(String, std::io::Error),
    /// Cargo said no.
    #[error("the tests do not build with the feature protocol/mutants: see above")]
    Failed,
    /// The build made no such program.
    #[error("the build made no program {0}")]
    NoProgram(String),
}

impl Binaries {
    /// Finds a test binary by the name that `cargo nextest list` gives it.
    pub fn test(&self, name: &str) -> Option<&TestBinary> {
        self.tests.get(name)
    }

    /// Finds a program.
    ///
    /// # Errors
    /// [`BuildError::NoProgram`].
    pub fn program(&self, name: &str) -> Result<PathBuf, BuildError> {
        self.programs.get(name).cloned().ok_or_else(|| BuildError::NoProgram(name.to_owned()))
    }

    /// Takes in one line of cargo's report.
    fn note(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return };
        let Some(path) = message["executable"].as_str().map(PathBuf::from) else { return };
        let target = &message["target"];
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest.parent().unwrap_or(manifest).to_owned();
        let package = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (kind, name) = (target["kind"][0].as_str(), target["name"].as_str().unwrap_or(""));
        if message["profile"]["test"] != true {
            self.programs.insert(name.to_owned(), path);
            return;
        }
        let name = match kind {
            Some("lib") => package,
            Some("bin") => format!("{package}::bin/{name}"),
            _ => format!("{package}::{name}"),
        };
        self.tests.insert(name, TestBinary { path, folder });
    }
}

/// Builds programs and tests with removable guards.
///
/// # Errors
/// As [`BuildError`] says; the compiler's words are on standard error.
pub fn build(root: &Path) -> Result<Binaries, BuildError> {
    let mut binaries = Binaries::default();
    for words in [["build", "--bins"], ["test", "--no-run"]] {
        for line in cargo(root, &words)?.lines() {
            binaries.note(line);
        }
    }
    Ok(binaries)
}

fn cargo(root: &Path, words: &[&str]) -> Result<String, BuildError> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(&cargo)
        .args(words)
        .args(["--workspace", "--quiet", "--features", "protocol/mutants"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| BuildError::NoCargo(cargo, error))?;
    if !output.status.success() {
        return Err(BuildError::Failed);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, name: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/src/node/Cargo.toml",
            "target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},
            "executable":"/out/{name}"}}"#
        )
    }

    #[test]
    fn binaries_have_the_names_that_nextest_shows() {
        let mut binaries = Binaries::default();
        for (kind, name, test) in
            [("lib", "node", true), ("test", "it", true), ("bin", "lanefs-node", true)]
        {
            binaries.note(&line(kind, name, test));
        }
        binaries.note(&line("bin", "lanefs-node", false));
        binaries.note("not a message");
        let names: Vec<&str> = binaries.tests.keys().map(String::as_str).collect();
        assert_eq!(names, ["node", "node::bin/lanefs-node", "node::it"]);
        let it = TestBinary { path: "/out/it".into(), folder: "/src/node".into() };
        assert_eq!(binaries.test("node::it"), Some(&it));
        assert!(binaries.program("lanefs-node").is_ok() && binaries.program("lanefs").is_err());
    }
}
