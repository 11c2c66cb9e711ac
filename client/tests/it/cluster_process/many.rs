//! Many small files with one command.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{Cluster, tree};

#[test]
fn files_named_one_by_one_are_fetched_together_and_each_failure_is_a_line() {
    let cluster = Cluster::up(&["--nodes", "1"]);
    let source = cluster.path("source");
    tree::make(&source);
    cluster.ok(&["put", "-r", "source", "/"]);
    fs::create_dir(cluster.path("back")).expect("writable");
    let names: Vec<_> = (0..300).map(|number| format!("file{number}")).collect();
    let paths = names.iter().map(|name| format!("/source/folder/below/{name}"));
    let mut arguments = vec!["get".to_owned()];
    arguments.extend(paths);
    // What is in the way of one file stops no other.
    fs::create_dir(cluster.path("back/file7")).expect("writable");
    let more = ["/source/small", "/source/large", "/missing", "/source", "/source/small/", "back"];
    arguments.extend(more.map(str::to_owned));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let output = cluster.run(&arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let says = ["back/file7: is a directory", "/missing: no such file", "/source: is a directory"];
    for says in says.iter().chain(&["/source/small: not a directory"]) {
        assert!(errors.contains(says), "{says}: {errors}");
    }
    assert_eq!(errors.lines().count(), 4, "{errors}");
    for name in names.iter().filter(|name| *name != "file7") {
        let (from, to) = (source.join("folder/below").join(name), cluster.path("back").join(name));
        assert!(fs::read(from).expect("there") == fs::read(to).expect("there"), "{name}");
    }
    for name in ["small", "large"] {
        let (from, to) = (source.join(name), cluster.path("back").join(name));
        let (from, to) = (fs::metadata(from).expect("there"), fs::metadata(to).expect("there"));
        assert_eq!((from.mode(), from.size()), (to.mode(), to.size()), "{name}");
    }
    let left = fs::read_dir(cluster.path("back")).expect("a folder").count();
    assert_eq!(left, 302, "no temporary file stays");
}
