//! What is in the boxes of a picture, and how large they are for it. Pure.
//!
//! Text is measured by the columns of its characters in a font of fixed width, rounded up: no text is wider than its box.

use std::collections::HashMap;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::scene::{Item, Node, Row};
use super::place::Role;

const PAD: f64 = 14.0;
/// A line of text is cut beyond so many columns.
const MOST: usize = 56;

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pen {
    /// The name of something.
    Title,
    /// An interface, an address.
    Body,
    /// A published port.
    Port,
    /// What is less important.
    Dim,
    /// Nothing, between two lines.
    Gap,
}

impl Pen {
    /// The font's size, the room for a column (rounded up: fonts of fixed width have 0.55 to 0.605), and for a line.
    pub fn size(self) -> (f64, f64, f64) {
        let (size, line) = match self {
            Self::Title => (14.0, 21.0),
            Self::Body | Self::Port => (12.0, 18.0),
            Self::Dim => (11.0, 16.0),
            Self::Gap => (5.0, 5.0),
        };
        (size, size * 0.62, line)
    }
}

/// A text, with the place of its left end on its base line.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Where.
    pub at: (f64, f64),
    /// How.
    pub pen: Pen,
    /// What, not escaped.
    pub text: String,
}

pub(super) fn wide(pen: Pen, text: &str) -> f64 {
    text.width() as f64 * pen.size().1
}

pub(super) fn cut(text: &str) -> String {
    clip(text, MOST)
}

/// The beginning of a text that is wider.
pub(super) fn clip(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used < columns
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// What is in a box: lines of parts. Of each line it is known which item it hangs on.
#[derive(Debug, Default)]
pub(super) struct Content {
    lines: Vec<(Parts, Option<usize>)>,
}

/// Parts of a line, side by side.
type Parts = Vec<(Pen, String)>;

impl Content {
    pub(super) fn line(&mut self, pen: Pen, text: &str) {
        if !text.is_empty() {
            self.lines.push((vec![(pen, cut(text))], None));
        }
    }

    pub(super) fn size(&self) -> (f64, f64) {
        let line = |parts: &Parts| {
            let gaps = 12.0 * (parts.len().saturating_sub(1)) as f64;
            parts.iter().map(|(pen, text)| wide(*pen, text)).sum::<f64>() + gaps
        };
        let widths = self.lines.iter().map(|(parts, _)| line(parts));
        let high: f64 = self.lines.iter().map(|(parts, _)| high(parts)).sum();
        (widths.fold(0.0, f64::max) + 2.0 * PAD, high + 16.0)
    }

    /// The texts of a box that begins there, and how far below its top each line is that hangs on something.
    pub(super) fn texts(&self, at: (f64, f64)) -> (Vec<Text>, Vec<(usize, f64)>) {
        let (mut texts, mut anchors, mut y) = (Vec::new(), Vec::new(), at.1 + 8.0);
        for (parts, hangs_on) in &self.lines {
            let tall = high(parts);
            let mut x = at.0 + PAD;
            for (pen, text) in parts {
                texts.push(Text { at: (x, y + tall * 0.72), pen: *pen, text: text.clone() });
                x += wide(*pen, text) + 12.0;
            }
            anchors.extend(hangs_on.map(|item| (item, y + tall / 2.0)));
            y += tall;
        }
        (texts, anchors)
    }
}

fn high(parts: &[(Pen, String)]) -> f64 {
    parts.iter().map(|(pen, _)| pen.size().2).fold(0.0, f64::max)
}

/// A box at the right, before it has a place.
pub(super) struct Card {
    pub(super) role: Role,
    pub(super) content: Content,
    /// Whether something of it hangs on an uplink.
    pub(super) above: bool,
    order: f64,
}

/// The box of an uplink or a bridge.
pub(super) fn head(item: &Item) -> Content {
    let mut content = Content::default();
    content.line(Pen::Title, &item.label);
    content.line(Pen::Dim, &item.what);
    item.addresses.iter().for_each(|address| content.line(Pen::Body, address));
    item.notes.iter().for_each(|note| content.line(Pen::Dim, note));
    content
}

/// The boxes of what hangs on items: one for each container, whatever the number of its networks, between its networks.
/// What hangs on an uplink comes first.
pub(super) fn cards(items: &[&Item], uplinks: usize) -> Vec<Card> {
    let mut nodes: Vec<Vec<(usize, &Row)>> = Vec::new();
    let mut known: HashMap<Node, usize> = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        for row in &item.rows {
            let place = *known.entry(row.node).or_insert_with(|| {
                nodes.push(vec![]);
                nodes.len() - 1
            });
            nodes[place].push((at, row));
        }
    }
    let mut cards: Vec<Card> = Vec::new();
    for rows in &nodes {
        let order = rows.iter().map(|(at, _)| *at as f64).sum::<f64>() / rows.len() as f64;
        let above = rows.iter().any(|(at, _)| *at < uplinks);
        cards.push(Card { role: Role::Node, content: card(rows), above, order });
    }
    for (at, item) in items.iter().enumerate() {
        if let Some(folded) = &item.folded {
            let mut content = Content::default();
            content.line(Pen::Dim, &format!("… and {} more", folded.count));
            content.line(Pen::Dim, &folded.range.as_ref().map_or(String::new(), |(a, b)| format!("{a} – {b}")));
            content.lines[0].1 = Some(at);
            cards.push(Card { role: Role::Folded, content, above: at < uplinks, order: at as f64 + 0.01 });
        }
    }
    cards.sort_by(|a, b| b.above.cmp(&a.above).then(a.order.total_cmp(&b.order)));
    cards
}

fn card(rows: &[(usize, &Row)]) -> Content {
    let mut content = Content::default();
    let first = rows[0].1;
    let mut title = vec![(Pen::Title, cut(&first.title))];
    title.extend(Some((Pen::Dim, first.tag.clone())).filter(|(_, tag)| !tag.is_empty()));
    content.lines.push((title, None));
    for (number, (at, row)) in rows.iter().enumerate() {
        if number > 0 {
            content.lines.push((vec![(Pen::Gap, String::new())], None));
        }
        let words = [&row.interface, &row.address].into_iter().chain(&row.more).filter(|word| !word.is_empty());
        let mut parts: Parts = words.map(|word| (Pen::Body, cut(word))).collect();
        // One without an address hangs on its title, or on its notes.
        if parts.is_empty() && rows.len() > 1 {
            parts.push((Pen::Body, cut(&row.near)));
        }
        if parts.is_empty() {
            content.lines[0].1 = Some(*at);
        } else {
            content.lines.push((parts, Some(*at)));
        }
        let near = if row.near.is_empty() { String::new() } else { format!("⇄ {}", row.near) };
        let under = [near, row.mac.clone()].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("  ");
        content.line(Pen::Dim, &under);
        row.published.iter().for_each(|(outside, inside)| content.line(Pen::Port, &format!("{outside} → {inside}")));
        row.notes.iter().for_each(|note| content.line(Pen::Dim, note));
    }
    content
}
