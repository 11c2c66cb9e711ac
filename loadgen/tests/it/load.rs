//! `run`, `compare` and `limits` as a person types them, on a cluster of real processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

struct Cluster {
    folder: tempfile::TempDir,
}

impl Cluster {
    fn up() -> Cluster {
        let cluster = Cluster { folder: tempfile::tempdir().unwrap() };
        let up = ["dev", "up", "--dir", "c", "--nodes", "3", "--target-size", "512MiB"];
        let output = cluster.command("lanefs").args(up).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let own = Path::new(env!("CARGO_BIN_EXE_lanefs-loadgen"));
        let mut command = Command::new(own.with_file_name(program));
        command.current_dir(self.folder.path()).env("LANEFS_CONFIG", self.path("c/client.toml"));
        command
    }

    fn loadgen(&self, words: &[&str]) -> Output {
        self.command("lanefs-loadgen").args(words).output().unwrap()
    }

    /// A short run; what it says about a run that this machine made void is no failure of it.
    fn load(&self, words: &[&str]) -> Value {
        let fixed = ["run", "--warm-up", "0", "--seconds", "2", "--json", "out.json"];
        let output = self.loadgen(&[&fixed[..], words].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let void = errors.contains("the run is void");
        assert!(output.status.success() || void, "{words:?}: {errors}");
        serde_json::from_slice(&std::fs::read(self.path("out.json")).unwrap()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = ["dev", "down", "--dir", "c"];
        // The folder goes away in any case; processes that stayed would show in the next test.
        let _ = self.command("lanefs").args(down).output();
    }
}

#[test]
fn every_kind_of_work_moves_what_it_says() {
    let cluster = Cluster::up();
    let small = ["--file", "100000", "--files", "20", "--block", "4096", "--at-once", "4"];
    for work in ["read", "write", "rewrite", "mixed", "meta", "small-files", "epoch"] {
        let seen = cluster.load(&[&["--work", work, "--dir", "/one"], &small[..]].concat());
        let count = |key: &str| seen[key].as_f64().unwrap();
        assert!(count("succeeded") > 10.0 && count("failed") < 0.5, "{work}: {seen}");
        let each = count("bytes_per_s") / count("per_s");
        let expected = match work {
            "read" | "rewrite" => 4096.0..=4096.0,
            "write" | "small-files" => 100_000.0..=100_000.0,
            "mixed" => 4_097.0..=99_999.0,
            "meta" => 0.0..=0.0,
            // The last piece of a file is shorter.
            _ => 3_900.0..=4_096.0,
        };
        assert!((expected.start() - 1.0..=expected.end() + 1.0).contains(&each), "{work}: {each}");
        assert_eq!(seen["seconds"].as_array().unwrap().len(), 2, "{work}");
    }
    let many = ["--work", "small-files", "--dir", "/two/below", "--batch", "20"];
    let seen = cluster.load(&[&many[..], &small[..]].concat());
    let each = seen["bytes_per_s"].as_f64().unwrap() / seen["per_s"].as_f64().unwrap();
    assert!((each - 2_000_000.0).abs() < 1.0, "twenty files with each operation: {seen}");
}

#[test]
fn a_rate_is_kept_and_every_report_is_written() {
    let cluster = Cluster::up();
    let words = [
        "--work",
        "read",
        "--file",
        "65536",
        "--files",
        "4",
        "--block",
        "4096",
        "--rate",
        "200",
        "--at-once",
        "64",
        "--html",
        "out.html",
        "--hlog",
        "out.hlog",
        "--hgrm",
        "out.hgrm",
    ];
    let seen = cluster.load(&words);
    // Two seconds at 200 a second: each operation is due at its own time and none is left out.
    assert_eq!(seen["succeeded"], 400, "{seen}");
    let page = std::fs::read_to_string(cluster.path("out.html")).unwrap();
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
    assert!(std::fs::read_to_string(cluster.path("out.hlog")).unwrap().contains("HIST"));
    let table = std::fs::read_to_string(cluster.path("out.hgrm")).unwrap();
    assert!(table.contains("Total count    =          400"), "{table}");
    let output = cluster.loadgen(&["compare", "out.json", "c/client.toml"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("c/client.toml"), "{errors}");
}

#[test]
fn a_load_of_several_processes_is_one_result() {
    let cluster = Cluster::up();
    let small = ["--file", "65536", "--files", "4", "--block", "4096", "--rate", "200"];
    let load = [&["--work", "read", "--at-once", "64", "--clients", "2"], &small[..]].concat();
    let seen = cluster.load(&[&["--processes", "2"], &load[..]].concat());
    assert_eq!((&seen["succeeded"], &seen["failed"]), (&400.into(), &0.into()), "{seen}");
    assert_eq!(seen["seconds"].as_array().unwrap().len(), 2);

    // The same by hand, as on two machines.
    #[expect(clippy::disallowed_methods, reason = "both parts begin at a time of day")]
    let start = std::time::SystemTime::now() + std::time::Duration::from_secs(4);
    let start = start.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    let parts = ["1/2", "2/2"].map(|part| {
        let file = format!("part-{}.json", &part[..1]);
        let fixed = ["run", "--warm-up", "0", "--seconds", "2", "--mergeable", "--json", &file];
        let own = ["--part", part, "--start-at", &start];
        let words = [&fixed[..], &own[..], &load[..]].concat();
        cluster.command("lanefs-loadgen").args(words).spawn().unwrap()
    });
    for mut part in parts {
        part.wait().unwrap();
    }
    let words = ["merge", "part-1.json", "part-2.json", "--json", "sum.json", "--hgrm", "sum.hgrm"];
    let output = cluster.loadgen(&words);
    let text = std::fs::read(cluster.path("sum.json")).unwrap();
    let sum: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(sum["succeeded"], 400, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(cluster.path("sum.hgrm")).unwrap().contains("=          400"));
}

#[test]
fn what_is_wrong_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.toml"), "work = \"read\"\nblok = 1\n").unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["merge", "bad.toml"], "bad.toml"),
        (&["run", "--part", "3/2", "--start-at", "1"], "1/4"),
        (&["run", "--part", "1/2"], "--start-at"),
        (&["run", "--config", "none.toml"], "none.toml"),
        (&["run", "--block", "0"], "`block`"),
        (&["run", "--files", "5", "--batch", "6"], "`batch`"),
        (&["run", "bad.toml"], "blok"),
        (&["limits", "--rounds", "0"], "--rounds"),
    ];
    for (words, expected) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lanefs-loadgen"));
        let output = command.current_dir(folder.path()).args(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{words:?}: {errors}");
        assert!(errors.contains(expected), "{words:?}: {errors}");
    }
}
