//! Where everything of a picture stands: uplinks at the left, bridges in the middle, what hangs on them at the right. Pure.
//!
//! Text is measured by the columns of its characters in a font of fixed width, rounded up: no text is wider than its box.

use std::collections::HashMap;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::scene::{Item, Node, Row, Scene, Section};

/// A colour of a network is one of so many.
pub const COLORS: usize = 6;

/// Between the edge of the picture and what is in it, in pixels, as everything here.
const MARGIN: f64 = 24.0;
const PAD: f64 = 14.0;
/// Between columns: lines need room to turn.
const GAP: f64 = 84.0;
/// Between boxes of a column.
const BETWEEN: f64 = 14.0;
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

/// What a box is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A link with a default route.
    Uplink,
    /// A bridge or another link, in one of the colours.
    Hub(usize),
    /// A container, a namespace, a link.
    Node,
    /// What is not drawn.
    Folded,
}

/// A box with its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// What it is.
    pub role: Role,
    /// Its upper left corner.
    pub at: (f64, f64),
    /// Its width and height.
    pub size: (f64, f64),
    /// What is in it.
    pub texts: Vec<Text>,
}

/// A line from a box at the left to one at the right.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The left end.
    pub from: (f64, f64),
    /// How far to the right it turns: from there on it is straight.
    pub turn: f64,
    /// The right end.
    pub to: (f64, f64),
    /// The network's colour; none for the way out.
    pub color: Option<usize>,
}

/// A picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// Width and height.
    pub size: (f64, f64),
    /// Lines, to be drawn first.
    pub lines: Vec<Line>,
    /// Boxes.
    pub shapes: Vec<Shape>,
    /// Text in no box.
    pub texts: Vec<Text>,
}

/// Places a scene.
pub fn place(scene: &Scene) -> Picture {
    let mut picture = Picture::default();
    let mut y = MARGIN;
    for section in &scene.sections {
        if let Some(title) = &section.title {
            picture.texts.push(Text { at: (MARGIN, y + 14.0), pen: Pen::Title, text: cut(title) });
            picture.size.0 = picture.size.0.max(2.0 * MARGIN + wide(Pen::Title, &cut(title)));
            y += 30.0;
        }
        y = Layout::of(section).draw(y, &mut picture) + 2.0 * BETWEEN;
    }
    let mut beside = scene.notes.clone();
    if !scene.alone.is_empty() {
        beside.insert(0, super::text::few("without a network", &scene.alone));
    }
    picture.size.0 = picture.size.0.max(480.0);
    let columns = ((picture.size.0 - 2.0 * MARGIN) / Pen::Dim.size().1) as usize;
    for line in beside.iter().flat_map(|note| super::text::wrapped(note, columns)) {
        picture.texts.push(Text { at: (MARGIN, y + 6.0), pen: Pen::Dim, text: clip(&line, columns) });
        y += Pen::Dim.size().2;
    }
    picture.size.1 = y - if beside.is_empty() { 2.0 * BETWEEN } else { 0.0 } + MARGIN;
    picture
}

fn wide(pen: Pen, text: &str) -> f64 {
    text.width() as f64 * pen.size().1
}

fn cut(text: &str) -> String {
    clip(text, MOST)
}

/// The beginning of a text that is wider.
fn clip(text: &str, columns: usize) -> String {
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
struct Content {
    lines: Vec<(Parts, Option<usize>)>,
}

/// Parts of a line, side by side.
type Parts = Vec<(Pen, String)>;

impl Content {
    fn line(&mut self, pen: Pen, text: &str) {
        if !text.is_empty() {
            self.lines.push((vec![(pen, cut(text))], None));
        }
    }

    fn size(&self) -> (f64, f64) {
        let line = |parts: &Parts| {
            let gaps = 12.0 * (parts.len().saturating_sub(1)) as f64;
            parts.iter().map(|(pen, text)| wide(*pen, text)).sum::<f64>() + gaps
        };
        let widths = self.lines.iter().map(|(parts, _)| line(parts));
        let high: f64 = self.lines.iter().map(|(parts, _)| high(parts)).sum();
        (widths.fold(0.0, f64::max) + 2.0 * PAD, high + 16.0)
    }

    /// The texts of a box that begins there, and how far below its top each line is that hangs on something.
    fn texts(&self, at: (f64, f64)) -> (Vec<Text>, Vec<(usize, f64)>) {
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
struct Card {
    role: Role,
    content: Content,
    /// Whether something of it hangs on an uplink.
    above: bool,
    order: f64,
}

/// A section, before it has a place.
struct Layout<'a> {
    uplinks: Vec<Content>,
    /// The uplinks and what else there is, in this order: lines and colours go by these numbers.
    items: Vec<&'a Item>,
    /// How many of them are uplinks.
    first: usize,
    hubs: Vec<Content>,
    cards: Vec<Card>,
    /// Where the columns begin, and how wide they are.
    columns: [(f64, f64); 3],
}

impl<'a> Layout<'a> {
    fn of(section: &'a Section) -> Self {
        let items: Vec<&Item> = section.uplinks.iter().chain(&section.items).collect();
        let first = section.uplinks.len();
        let mut uplinks: Vec<Content> = section.uplinks.iter().map(head).collect();
        if !section.guests.is_empty() {
            let mut guests = Content::default();
            guests.line(Pen::Title, "on the host's network");
            section.guests.iter().take(8).for_each(|name| guests.line(Pen::Body, name));
            if section.guests.len() > 8 {
                guests.line(Pen::Dim, &format!("… and {} more", section.guests.len() - 8));
            }
            uplinks.push(guests);
        }
        let hubs: Vec<Content> = section.items.iter().map(head).collect();
        let cards = cards(&items, first);
        let widest = |all: &mut dyn Iterator<Item = &Content>| all.map(|content| content.size().0).fold(0.0, f64::max);
        let widths = [
            widest(&mut uplinks.iter()),
            widest(&mut hubs.iter()),
            widest(&mut cards.iter().map(|card| &card.content)),
        ];
        let step = |width: f64| if width > 0.0 { width + GAP } else { 0.0 };
        let hub_x = MARGIN + step(widths[0]);
        let columns = [(MARGIN, widths[0]), (hub_x, widths[1]), (hub_x + step(widths[1]), widths[2])];
        Self { uplinks, items, first, hubs, cards, columns }
    }

    /// Draws it below `top`; where it ends.
    fn draw(&self, top: f64, picture: &mut Picture) -> f64 {
        let right = self.columns.iter().filter(|(_, width)| *width > 0.0).map(|(x, width)| x + width);
        picture.size.0 = picture.size.0.max(right.fold(0.0, f64::max) + MARGIN);
        // The cards say where everything else stands.
        let (anchors, free, end) = self.draw_cards(top, picture);
        let (ways, hubs_end) = self.draw_hubs(free, &anchors, picture);
        end.max(hubs_end).max(self.draw_uplinks(top, &anchors, &ways, picture))
    }

    /// One below the other. Where each item has something to lead to, where bridges may begin, and where they end: lines from
    /// uplinks pass above all bridges.
    fn draw_cards(&self, top: f64, picture: &mut Picture) -> (Vec<Vec<f64>>, f64, f64) {
        let mut anchors: Vec<Vec<f64>> = vec![vec![]; self.items.len()];
        let (mut y, mut free) = (top, top);
        let (x, width) = self.columns[2];
        for card in &self.cards {
            let (texts, hung) = card.content.texts((x, y));
            hung.into_iter().for_each(|(item, y)| anchors[item].push(y));
            let size = (width, card.content.size().1);
            picture.shapes.push(Shape { role: card.role, at: (x, y), size, texts });
            y += size.1 + BETWEEN;
            if card.above {
                free = y;
            }
        }
        (anchors, free, y - BETWEEN)
    }

    /// Each as near to the middle of what hangs on it as can be. The middles of those that get out, and the lowest end.
    fn draw_hubs(&self, top: f64, anchors: &[Vec<f64>], picture: &mut Picture) -> (Vec<f64>, f64) {
        let (x, width) = self.columns[1];
        let card_x = self.columns[2].0;
        let wanted: Vec<Option<f64>> = anchors[self.first..].iter().map(|all| mean(all)).collect();
        let (mut ways, mut end) = (Vec::new(), 0.0);
        for (at, top) in stacked(&self.hubs, &wanted, top).into_iter().enumerate() {
            let high = self.hubs[at].size().1;
            let item = self.first + at;
            let from = (x + width, top + high / 2.0);
            fan(from, high, card_x, (card_x, &anchors[item]), Some(at % COLORS), picture);
            let texts = self.hubs[at].texts((x, top)).0;
            picture.shapes.push(Shape { role: Role::Hub(at % COLORS), at: (x, top), size: (width, high), texts });
            ways.extend(Some(from.1).filter(|_| self.items[item].routed));
            end = f64::max(end, top + high);
        }
        (ways, end)
    }

    fn draw_uplinks(&self, top: f64, anchors: &[Vec<f64>], ways: &[f64], picture: &mut Picture) -> f64 {
        let (x, width) = self.columns[0];
        let (hub_x, card_x) = (self.columns[1].0, self.columns[2].0);
        let is_uplink = |at: usize| at < self.first;
        let own = |at: usize| if is_uplink(at) { anchors[at].as_slice() } else { &[] };
        let wanted: Vec<Option<f64>> = (0..self.uplinks.len())
            .map(|at| mean(&[own(at), if is_uplink(at) { ways } else { &[] }].concat()))
            .collect();
        let mut end = 0.0f64;
        for (at, top) in stacked(&self.uplinks, &wanted, top).into_iter().enumerate() {
            let size = (width, self.uplinks[at].size().1);
            let right = (x + width, top + size.1 / 2.0);
            if is_uplink(at) {
                fan(right, size.1, hub_x, (hub_x, ways), None, picture);
                fan(right, size.1, hub_x, (card_x, own(at)), Some(COLORS - 1 - at % COLORS), picture);
            }
            let role = if is_uplink(at) { Role::Uplink } else { Role::Node };
            let texts = self.uplinks[at].texts((x, top)).0;
            picture.shapes.push(Shape { role, at: (x, top), size, texts });
            end = end.max(top + size.1);
        }
        end
    }
}

fn mean(all: &[f64]) -> Option<f64> {
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

/// Lines from one box to several places, which leave it side by side.
fn fan(from: (f64, f64), high: f64, turn: f64, to: (f64, &[f64]), color: Option<usize>, picture: &mut Picture) {
    let mut targets = to.1.to_vec();
    targets.sort_by(f64::total_cmp);
    let apart = (9.0f64).min((high - 16.0) / targets.len().max(1) as f64);
    let middle = (targets.len().saturating_sub(1)) as f64 / 2.0;
    for (at, y) in targets.into_iter().enumerate() {
        let start = from.1 + (at as f64 - middle) * apart;
        picture.lines.push(Line { from: (from.0, start), turn, to: (to.0, y), color });
    }
}

/// The upper edges of boxes in one column, as near to where they want their middles as they do not touch.
fn stacked(all: &[Content], wanted: &[Option<f64>], top: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    let key = |at: usize| wanted[at].unwrap_or(f64::MAX);
    order.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
    let mut tops = vec![top; all.len()];
    let mut free = top;
    for at in order {
        let high = all[at].size().1;
        tops[at] = wanted[at].map_or(free, |middle| free.max(middle - high / 2.0));
        free = tops[at] + high + BETWEEN;
    }
    tops
}

/// The box of an uplink or a bridge.
fn head(item: &Item) -> Content {
    let mut content = Content::default();
    content.line(Pen::Title, &item.label);
    content.line(Pen::Dim, &item.what);
    item.addresses.iter().for_each(|address| content.line(Pen::Body, address));
    item.notes.iter().for_each(|note| content.line(Pen::Dim, note));
    content
}

/// The boxes of what hangs on items: one for each container, whatever the number of its networks, between its networks.
/// What hangs on an uplink comes first.
fn cards(items: &[&Item], uplinks: usize) -> Vec<Card> {
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
