//! A scene written down: as text for people, as a picture, and for graphviz and mermaid. Pure functions of a scene.

pub mod content;
pub mod dot;
pub mod mermaid;
pub mod place;
pub mod svg;
pub mod text;

#[cfg(test)]
mod tests;

use super::scene::{Item, Node, Row, Scene, Section};

/// What is on a line between two links, for formats that name lines.
fn line_name(row: &Row) -> String {
    match (row.near.as_str(), row.interface.as_str()) {
        ("", interface) => interface.to_owned(),
        (near, "") => near.to_owned(),
        (near, interface) => format!("{near} ⇄ {interface}"),
    }
}

/// The lines of an item's label.
fn item_lines(item: &Item) -> Vec<String> {
    let mut lines = vec![item.label.clone()];
    lines.extend([&item.what].into_iter().filter(|what| !what.is_empty()).cloned());
    lines.extend(item.addresses.iter().cloned());
    lines.extend(item.notes.iter().cloned());
    lines
}

/// What one node of a picture says, gathered from all rows that are about it: its title, and a line for each row.
fn node_lines<'a>(node: Node, rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for row in rows.filter(|row| row.node == node) {
        if lines.is_empty() {
            let tag = if row.tag.is_empty() { String::new() } else { format!(" ({})", row.tag) };
            lines.push(format!("{}{tag}", row.title));
        }
        let words = [row.interface.as_str(), &row.address].into_iter().chain(row.more.iter().map(String::as_str));
        let words: Vec<&str> = words.chain([row.mac.as_str()]).filter(|word| !word.is_empty()).collect();
        lines.extend(Some(words.join(" ")).filter(|line| !line.is_empty()));
        lines.extend(row.published.iter().map(|(outside, inside)| format!("{outside} → {inside}")));
        lines.extend(Some(row.notes.join(", ")).filter(|line| !line.is_empty()));
    }
    lines
}

/// All rows of a scene.
fn rows(scene: &Scene) -> impl Iterator<Item = &Row> {
    scene.sections.iter().flat_map(items).flat_map(|item| &item.rows)
}

/// The uplinks and the other links of a section.
fn items(section: &Section) -> impl Iterator<Item = &Item> {
    section.uplinks.iter().chain(&section.items)
}

/// Links that are drawn in a namespace that is itself drawn as a node elsewhere, each with the number of that.
fn inner(scene: &Scene) -> impl Iterator<Item = (u64, &Item)> {
    let sections = scene.sections.iter().filter(|section| section.title.is_some());
    sections.flat_map(|section| items(section).map(move |item| (section.namespace, item)))
}

/// The name of a node in dot and mermaid: letters, digits and `_`.
fn node_name(node: Node) -> Option<String> {
    match node {
        Node::Unknown => None,
        Node::Namespace(id) => Some(format!("n{id}")),
        Node::Link(end) => Some(format!("l{}_{}", end.namespace, end.link)),
    }
}
