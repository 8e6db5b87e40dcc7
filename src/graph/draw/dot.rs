//! A scene for graphviz (dot(1)): `minirun graph --format dot | dot -Tpng`.

use std::collections::BTreeSet;

use super::super::escape::dot as quoted;
use super::super::scene::{Node, Scene};

/// The text.
pub fn dot(scene: &Scene) -> String {
    let mut text = String::from(
        "graph minirun {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=11];\n  \
         edge [fontname=\"sans-serif\", fontsize=9];\n",
    );
    let mut drawn = BTreeSet::new();
    for section in &scene.sections {
        let name = |link: u32| format!("s{}_{link}", section.namespace);
        text.push_str(&format!("  subgraph cluster_{} {{\n", section.namespace));
        let title = section.title.clone().unwrap_or_else(|| "host".into());
        text.push_str(&format!("    label={};\n", quoted(&[title])));
        for item in super::items(section) {
            let label = quoted(&super::item_lines(item));
            text.push_str(&format!("    {} [label={label}, style=\"rounded,bold\"];\n", name(item.link)));
        }
        if !section.guests.is_empty() {
            let label = quoted(&[format!("on the host's network: {}", section.guests.join(", "))]);
            text.push_str(&format!("    guests [label={label}];\n"));
        }
        text.push_str("  }\n");
        for uplink in &section.uplinks {
            for item in section.items.iter().filter(|item| item.routed) {
                text.push_str(&format!("  {} -- {} [style=dashed];\n", name(uplink.link), name(item.link)));
            }
        }
        for item in super::items(section) {
            for row in &item.rows {
                let Some(node) = super::node_name(row.node) else { continue };
                if drawn.insert(row.node) {
                    let lines = super::node_lines(row.node, super::rows(scene));
                    text.push_str(&format!("  {node} [label={}];\n", quoted(&lines)));
                }
                let line = quoted(&[super::line_name(row)]);
                text.push_str(&format!("  {} -- {node} [label={line}];\n", name(item.link)));
            }
            if let Some(folded) = &item.folded {
                let node = format!("more_{}_{}", section.namespace, item.link);
                let label = quoted(&[folded.text()]);
                text.push_str(&format!("  {node} [label={label}, style=dashed];\n  {} -- {node};\n", name(item.link)));
            }
        }
    }
    for (namespace, item) in super::inner(scene) {
        let node = Node::Namespace(namespace);
        if let Some(name) = super::node_name(node).filter(|_| drawn.contains(&node)) {
            text.push_str(&format!("  {name} -- s{namespace}_{} [style=dotted];\n", item.link));
        }
    }
    for (at, alone) in scene.alone.iter().enumerate() {
        text.push_str(&format!("  alone_{at} [label={}, style=dotted];\n", quoted(std::slice::from_ref(alone))));
    }
    if !scene.notes.is_empty() {
        text.push_str(&format!("  label={};\n", quoted(&scene.notes)));
    }
    text.push_str("}\n");
    text
}
