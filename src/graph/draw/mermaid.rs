//! A scene for mermaid, which GitHub and GitLab draw in Markdown.

use std::collections::BTreeSet;

use super::super::escape::mermaid as quoted;
use super::super::scene::{Node, Scene};

/// The text.
pub fn mermaid(scene: &Scene) -> String {
    let mut text = String::from("flowchart LR\n");
    let mut drawn = BTreeSet::new();
    for section in &scene.sections {
        let name = |link: u32| format!("s{}_{link}", section.namespace);
        let title = section.title.clone().unwrap_or_else(|| "host".into());
        text.push_str(&format!("  subgraph c{}[{}]\n", section.namespace, quoted(&[title])));
        for item in super::items(section) {
            text.push_str(&format!("    {}[{}]\n", name(item.link), quoted(&super::item_lines(item))));
        }
        if !section.guests.is_empty() {
            let label = quoted(&[format!("on the host's network: {}", section.guests.join(", "))]);
            text.push_str(&format!("    guests[{label}]\n"));
        }
        text.push_str("  end\n");
        for uplink in &section.uplinks {
            for item in section.items.iter().filter(|item| item.routed) {
                text.push_str(&format!("  {} -.- {}\n", name(uplink.link), name(item.link)));
            }
        }
        for item in super::items(section) {
            for row in &item.rows {
                let Some(node) = super::node_name(row.node) else { continue };
                if drawn.insert(row.node) {
                    let lines = super::node_lines(row.node, super::rows(scene));
                    text.push_str(&format!("  {node}({})\n", quoted(&lines)));
                }
                let line = match super::line_name(row).as_str() {
                    "" => "---".to_owned(),
                    line => format!("---|{}|", quoted(&[line.to_owned()])),
                };
                text.push_str(&format!("  {} {line} {node}\n", name(item.link)));
            }
            if let Some(folded) = &item.folded {
                let node = format!("more_{}_{}", section.namespace, item.link);
                text.push_str(&format!("  {} --- {node}({})\n", name(item.link), quoted(&[folded.text()])));
            }
        }
    }
    for (namespace, item) in super::inner(scene) {
        let node = Node::Namespace(namespace);
        if let Some(name) = super::node_name(node).filter(|_| drawn.contains(&node)) {
            text.push_str(&format!("  {name} -.- s{namespace}_{}\n", item.link));
        }
    }
    for (at, alone) in scene.alone.iter().enumerate() {
        text.push_str(&format!("  alone_{at}({})\n", quoted(std::slice::from_ref(alone))));
    }
    for (at, note) in scene.notes.iter().enumerate() {
        text.push_str(&format!("  note_{at}>{}]\n", quoted(std::slice::from_ref(note))));
    }
    text
}
