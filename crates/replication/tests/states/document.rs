//! What was found, as Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::explore::{Edge, Seen};
use crate::roles;

/// What follows is generated.
pub(crate) const BEGINS: &str = "<!-- generated from here on -->";

pub(crate) fn generated(machine: &BTreeMap<Edge, Seen>, roles: &[roles::Edge]) -> String {
    let mut text = format!("{BEGINS}\n\n## The machine, as a diagram\n\n");
    text += &machine_diagram(machine);
    text += "\n## The machine, as a table\n";
    text += &machine_table(machine);
    text += "\n## The replica's role, as a diagram\n\n";
    text += &role_diagram(roles);
    text += "\n## The replica's role, as a table\n";
    text += &role_table(roles);
    text
}

/// All that leads from one state to another, in one arrow.
fn machine_diagram(edges: &BTreeMap<Edge, Seen>) -> String {
    let mut arrows: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for edge in edges.keys().filter(|edge| edge.from != edge.to) {
        let events = arrows.entry((&edge.from, &edge.to)).or_default();
        events.insert(&edge.event);
    }
    let arrows = arrows.into_iter();
    diagram(
        "Disabled",
        arrows.map(|((from, to), events)| {
            let events: Vec<_> = events.into_iter().collect();
            format!("{from} --> {to}: {}", events.join(" / "))
        }),
    )
}

fn diagram(first: &str, arrows: impl Iterator<Item = String>) -> String {
    let mut text = format!("```mermaid\nstateDiagram-v2\n    [*] --> {first}\n");
    for arrow in arrows {
        let _ = writeln!(text, "    {arrow}");
    }
    text + "```\n"
}

fn machine_table(edges: &BTreeMap<Edge, Seen>) -> String {
    let mut text = String::new();
    let mut state = "";
    for (edge, seen) in edges {
        if edge.from != state {
            state = &edge.from;
            let _ = write!(
                text,
                "\n### {state}\n\n| event | next state | actions |\n| --- | --- | --- |\n"
            );
        }
        let next = if edge.to == edge.from { "-" } else { &edge.to };
        let _ = writeln!(text, "| {} | {next} | {} |", edge.event, seen.actions());
    }
    text
}

fn role_diagram(edges: &[roles::Edge]) -> String {
    let mut arrows: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for edge in edges {
        if let Ok(to) = &edge.to
            && *to != edge.from
        {
            arrows
                .entry((identifier(&edge.from), identifier(to)))
                .or_default()
                .push(edge.event);
        }
    }
    // This one the primary makes of it, by its last delta.
    let prepared = ("Replica".into(), "PreparedForFailover".into());
    arrows
        .entry(prepared)
        .or_default()
        .push("its primary stops");
    let arrows = arrows.into_iter();
    diagram(
        "Replica",
        arrows.map(|((from, to), events)| format!("{from} --> {to}: {}", events.join(" / "))),
    )
}

fn identifier(role: &str) -> String {
    role.chars().filter(|c| c.is_alphanumeric()).collect()
}

fn role_table(edges: &[roles::Edge]) -> String {
    let mut text = "\n| role | event | next role, or why not |\n| --- | --- | --- |\n".to_owned();
    for edge in edges {
        let next = match &edge.to {
            Ok(to) if *to == edge.from => "-".into(),
            Ok(to) => to.clone(),
            Err(reason) => format!("refused: {reason}"),
        };
        let _ = writeln!(text, "| {} | {} | {next} |", edge.from, edge.event);
    }
    text
}
