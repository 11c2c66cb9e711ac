//! The exhaustive search finds nothing, and goes as far as it says.

use std::time::Duration;

use loadgen::search::{Faults, Scope, Task, scopes, search};

/// Enough for the first thousands of departures from the usual order.
const STATES: usize = 25_000;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_short_search_of_every_scope_breaks_no_invariant() {
    for scope in scopes() {
        let found = search(&scope, LIMIT, STATES);
        assert!(found.violation.is_none(), "{}: {:#?}", scope.name, found.violation);
        assert!(found.departures.is_some() && found.states >= STATES, "{}", scope.name);
    }
}

#[test]
fn a_search_without_faults_is_complete_and_always_the_same() {
    let scope = Scope {
        name: "one write",
        operations: vec![Task { offset: 0, after: None }],
        doubts: 0,
        min_write: 2,
        faults: Faults { crashes: 0, suspicions: 0, breaks: 0 },
    };
    let found = || search(&scope, LIMIT, usize::MAX);
    let first = found();
    assert!(first.complete && first.violation.is_none(), "{first:#?}");
    assert_eq!(first.states, found().states);
}
