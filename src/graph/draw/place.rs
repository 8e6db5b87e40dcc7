//! Where everything of a picture stands: uplinks at the left, bridges in the middle, what hangs on them at the right. Pure.

use super::super::scene::{Item, Scene, Section};
use super::content::{Card, Content, Pen, Text, cards, clip, cut, head, wide};

/// A colour of a network is one of so many.
pub const COLORS: usize = 6;

/// Between the edge of the picture and what is in it, in pixels, as everything here.
const MARGIN: f64 = 24.0;
/// Between columns: lines need room to turn.
const GAP: f64 = 84.0;
/// Between boxes of a column.
const BETWEEN: f64 = 14.0;

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
