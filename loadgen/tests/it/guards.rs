//! The table of guards and killing tests is that of the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use loadgen::mutants::table;
use protocol::guard::Guard;

const CRATES: [&str; 4] = ["protocol", "node", "coordinator", "client"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Text of every source file below a folder.
fn sources(folder: &Path, out: &mut String) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Guards that the code of the programs asks about.
fn asked() -> BTreeSet<Guard> {
    let mut text = String::new();
    CRATES.iter().for_each(|name| sources(&root().join(name).join("src"), &mut text));
    let names = text.split("holds(Guard::").skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric())?;
        Guard::named(&rest[..end])
    });
    names.collect()
}

#[test]
fn every_guard_of_the_code_has_a_killing_test_and_every_row_a_guard() {
    let rows: BTreeSet<Guard> = table::read(&root()).unwrap().iter().map(|row| row.guard).collect();
    let asked = asked();
    let without: Vec<_> = asked.difference(&rows).collect();
    assert!(without.is_empty(), "name the killing tests of {without:?} in {}", table::FILE);
    let stray: Vec<_> = rows.difference(&asked).collect();
    assert!(stray.is_empty(), "no line asks about {stray:?}");
}

#[test]
fn every_killing_test_exists() {
    for row in table::read(&root()).unwrap() {
        let package = row.killer.binary.split("::").next().unwrap();
        let mut text = String::new();
        sources(&root().join(package), &mut text);
        let name = row.killer.test.rsplit("::").next().unwrap();
        assert!(text.contains(&format!("fn {name}(")), "{} is not there", row.killer);
    }
}
