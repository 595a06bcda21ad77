//! `STATES.md` says what the machine does: the table and the diagrams in it are what a search of the
//! real machine and the real role finds. `AFTERIMAGE_STATES=write cargo test` writes them anew.

mod document;
mod explore;
mod roles;

use std::collections::BTreeSet;
use std::path::Path;

use afterimage_replication::{Request, State};

#[test]
fn the_document_says_what_the_machine_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("STATES.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let (prose, _) = written.split_once(document::BEGINS).expect("the marker");
    let found = prose.to_owned() + &document::generated(&explore::EDGES, &roles::edges());
    if std::env::var("AFTERIMAGE_STATES").is_ok_and(|mode| mode == "write") {
        std::fs::write(&path, found).unwrap();
        return;
    }
    for (number, (found, written)) in (1..).zip(found.lines().zip(written.lines())) {
        let what = "STATES.md is of another machine: AFTERIMAGE_STATES=write writes it anew";
        assert_eq!(written, found, "line {number}: {what}");
    }
    assert_eq!(written.len(), found.len(), "STATES.md has another length");
}

#[test]
fn the_search_comes_to_every_state_request_event_and_action() {
    let edges = &*explore::EDGES;
    let states: BTreeSet<_> = edges.keys().map(|edge| edge.from.as_str()).collect();
    let machine = State::ALL.into_iter().filter(|state| state.is_primary());
    for state in machine {
        let name = state.to_string();
        assert!(states.contains(name.as_str()), "never in {state}");
    }
    let events: BTreeSet<_> = edges.keys().map(|edge| edge.event.as_str()).collect();
    for request in Request::ALL {
        let request = format!("{request:?}");
        assert!(events.contains(request.as_str()), "never asked: {request}");
    }
    for event in explore::EVENTS {
        assert!(events.contains(event), "never happened: {event}");
    }
    let actions: BTreeSet<_> = edges.values().flat_map(explore::Seen::names).collect();
    for action in explore::ACTIONS {
        assert!(actions.contains(action), "never asked for: {action}");
    }
}
