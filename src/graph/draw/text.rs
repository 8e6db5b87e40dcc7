//! A scene as lines of text: an uplink at the top, bridges below it, and a line for whatever hangs on them.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::escape::ascii;
use super::super::scene::{Item, Row, Scene, Section};

/// How text is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// No line is wider.
    pub width: usize,
    /// Lines and arrows of Unicode; else ASCII alone.
    pub unicode: bool,
    /// Colours.
    pub color: bool,
}

impl Look {
    /// `text` as it is written: what is measured must be what is seen.
    fn plain(self, text: &str) -> String {
        if self.unicode { text.to_owned() } else { in_ascii(text) }
    }
}

/// A part of a line and how it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part(Style, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Name,
    Network,
    Address,
    Port,
    Dim,
}

impl Style {
    /// The numbers of SGR (ECMA-48).
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Name => "1",
            Self::Network => "1;34",
            Self::Address => "36",
            Self::Port => "32",
            Self::Dim => "2",
        }
    }
}

const GAP: usize = 2;
/// A name is shortened to this.
const NAME: usize = 28;
/// What is left at least for ports and notes, where there are some.
const TAIL: usize = 30;

/// The text.
pub fn text(scene: &Scene, look: Look) -> String {
    let columns = Columns::of(scene, look);
    let mut lines: Vec<Vec<Part>> = Vec::new();
    for section in &scene.sections {
        if !lines.is_empty() {
            lines.push(vec![]);
        }
        lines.extend(section_lines(section, &columns, look));
    }
    let mut beside: Vec<String> = Vec::new();
    if !scene.alone.is_empty() {
        beside.push(few("without a network", &scene.alone));
    }
    beside.extend(scene.notes.iter().cloned());
    if !beside.is_empty() && !lines.is_empty() {
        lines.push(vec![]);
    }
    for note in beside {
        lines.extend(wrapped(&look.plain(&note), look.width).into_iter().map(|line| vec![Part(Style::Dim, line)]));
    }
    lines.iter().map(|line| written(line, look)).collect()
}

/// `what: a, b, c and 5 more`
pub(super) fn few(what: &str, all: &[String]) -> String {
    const MOST: usize = 8;
    let first = all.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(MOST) {
        0 => format!("{what}: {first}"),
        more => format!("{what}: {first} and {more} more"),
    }
}

/// Cut at blanks, so that no line is wider where that can be.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| line.width());
        if last > 0 && last + 1 + word.width() > width {
            lines.push(format!("  {word}"));
        } else if let Some(line) = lines.last_mut() {
            let blank = if last > 0 { " " } else { "" };
            line.push_str(&format!("{blank}{word}"));
        }
    }
    lines
}

fn section_lines(section: &Section, columns: &Columns, look: Look) -> Vec<Vec<Part>> {
    let mut lines: Vec<Vec<Part>> = Vec::new();
    if let Some(title) = &section.title {
        lines.push(vec![Part(Style::Name, title.clone())]);
    }
    let trunk = |text: &str| Part(Style::Dim, text.to_owned());
    for item in &section.uplinks {
        // The trunk goes on where something follows.
        let last = section.items.is_empty();
        lines.extend(head(item, vec![], !last, look));
        lines.extend(branch(item, &[], last, columns));
    }
    if !section.guests.is_empty() {
        let text = look.plain(&few("on the host's network", &section.guests));
        let bar = if section.items.is_empty() { "" } else { "│  " };
        lines.extend(wrapped(&text, look.width - 4).into_iter().map(|line| vec![trunk(bar), Part(Style::Plain, line)]));
    }
    for (at, item) in section.items.iter().enumerate() {
        let last = at + 1 == section.items.len();
        let airy = !item.rows.is_empty() || at > 0 && !section.items[at - 1].rows.is_empty();
        if airy && lines.len() > usize::from(section.title.is_some()) {
            lines.push(vec![trunk("│")]);
        }
        lines.extend(head(item, vec![trunk(if last { "└─ " } else { "├─ " })], false, look));
        lines.extend(branch(item, &[trunk(if last { "   " } else { "│  " })], true, columns));
    }
    lines
}

/// An uplink or a bridge, on as many lines as it needs. `followed` says that the line below stands on the same trunk as it.
fn head(item: &Item, tree: Vec<Part>, followed: bool, look: Look) -> Vec<Vec<Part>> {
    let indent = 3 * tree.len();
    let mut parts = vec![Part(Style::Network, short(&item.label, NAME)), Part(Style::Dim, item.what.clone())];
    parts.extend(item.addresses.iter().map(|address| Part(Style::Address, address.clone())));
    if !item.notes.is_empty() {
        parts.extend(item.notes.iter().enumerate().map(|(at, note)| {
            let dot = if at > 0 { "· " } else { "" };
            Part(Style::Plain, format!("{dot}{note}"))
        }));
    }
    let more: Vec<Part> =
        tree.iter().map(|Part(style, text)| Part(*style, text.replace('├', "│").replace(['└', '─'], " "))).collect();
    let mut lines = vec![tree];
    let mut used = indent;
    for Part(style, text) in parts.into_iter().filter(|Part(_, text)| !text.is_empty()) {
        let noted = text.starts_with('·');
        let text = look.plain(&text);
        let gap = match (used > indent, noted) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => GAP,
        };
        if used + gap + text.width() > look.width && used > indent + 2 {
            lines.push(more.clone());
            // As the rows below it stand.
            let bar = if item.rows.is_empty() && !followed { "   " } else { "│  " };
            if let Some(line) = lines.last_mut() {
                line.push(Part(Style::Dim, bar.into()));
                let dot = if noted { look.plain("· ").len() } else { 0 };
                line.push(Part(style, text[dot..].to_owned()));
            }
            used = indent + 3 + text.width();
        } else if let Some(line) = lines.last_mut() {
            line.push(Part(Style::Plain, " ".repeat(gap)));
            used += gap + text.width();
            line.push(Part(style, text));
        }
    }
    lines
}

/// What hangs on an item, below `tree`. `last` says that nothing follows on the same trunk.
fn branch(item: &Item, tree: &[Part], last: bool, columns: &Columns) -> Vec<Vec<Part>> {
    let mut lines = Vec::new();
    let count = item.rows.len() + usize::from(item.folded.is_some());
    let mut start = |at: usize, parts: Vec<Vec<Part>>| {
        let end = last && at + 1 == count;
        for (line, parts) in parts.into_iter().enumerate() {
            let bars = match (line, end) {
                (0, true) => "└─ ",
                (0, false) => "├─ ",
                (_, true) => "   ",
                (_, false) => "│  ",
            };
            let tree = tree.iter().cloned().chain([Part(Style::Dim, bars.into())]);
            lines.push(tree.chain(parts).collect());
        }
    };
    for (at, row) in item.rows.iter().enumerate() {
        start(at, columns.row(row, 3 - 3 * tree.len().min(1)));
    }
    if let Some(folded) = &item.folded {
        start(count - 1, vec![vec![Part(Style::Dim, folded.text())]]);
    }
    lines
}

/// The columns of rows, as wide as the widest cell.
#[derive(Debug)]
struct Columns {
    widths: [usize; 6],
    look: Look,
}

/// The columns by which a line is made shorter, in this order: hardware address, further addresses, the near end.
const DROPPED: [usize; 3] = [5, FURTHER, 2];
/// The column of further addresses.
const FURTHER: usize = 4;

impl Columns {
    fn of(scene: &Scene, look: Look) -> Self {
        let (mut widths, mut tail) = ([0; 6], 0);
        for row in super::rows(scene) {
            for (column, Part(_, cell)) in cells(row, look).iter().enumerate() {
                widths[column] = widths[column].max(cell.width());
            }
            tail = tail.max(ends(row, look).iter().map(|Part(_, end)| end.width()).max().unwrap_or(0));
        }
        let mut columns = Self { widths, look };
        for column in DROPPED {
            if columns.end() + tail.min(TAIL) > look.width {
                columns.widths[column] = 0;
            }
        }
        columns
    }

    /// Where ports and notes begin.
    fn end(&self) -> usize {
        6 + self.widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum::<usize>()
    }

    fn row(&self, row: &Row, shift: usize) -> Vec<Vec<Part>> {
        let (mut line, width) = (Vec::new(), self.look.width);
        // The names of rows that hang on an uplink begin further left; what follows stands below the others.
        let mut shift = shift;
        for (Part(style, cell), wide) in
            cells(row, self.look).into_iter().zip(self.widths).filter(|(_, wide)| *wide > 0)
        {
            let pad = wide.saturating_sub(cell.width()) + GAP + std::mem::take(&mut shift);
            line.push(Part(style, cell));
            line.push(Part(Style::Plain, " ".repeat(pad)));
        }
        let mut lines = vec![line];
        let mut start = self.end();
        let mut used = start;
        // Addresses for which there is no column are no less worth a place than ports.
        let further = row.more.iter().filter(|_| self.widths[FURTHER] == 0);
        let further = further.map(|address| Part(Style::Address, address.clone()));
        let ends: Vec<Part> = further.chain(ends(row, self.look)).collect();
        // Beside the columns, or below them where there is no room for that.
        if start + ends.iter().map(|Part(_, end)| end.width()).max().unwrap_or(0) > width {
            (start, used) = (8, width);
        }
        for Part(style, end) in ends {
            let gap = if used > start { GAP } else { 0 };
            if used > start && used + gap + end.width() > width {
                lines.push(vec![Part(Style::Plain, " ".repeat(start - 6))]);
                used = start;
            } else if let Some(line) = lines.last_mut() {
                line.push(Part(Style::Plain, " ".repeat(gap)));
                used += gap;
            }
            used += end.width();
            if let Some(line) = lines.last_mut() {
                line.push(Part(style, end));
            }
        }
        lines
    }
}

/// Name, far end, near end, address, further addresses, hardware address.
fn cells(row: &Row, look: Look) -> [Part; 6] {
    let tag = if row.tag.is_empty() { String::new() } else { format!(" ({})", row.tag) };
    let near = if row.near.is_empty() { String::new() } else { format!("⇄ {}", row.near) };
    [
        Part(Style::Name, format!("{}{tag}", short(&row.title, NAME))),
        Part(Style::Plain, row.interface.clone()),
        Part(Style::Dim, near),
        Part(Style::Address, row.address.clone()),
        Part(Style::Address, row.more.join(" ")),
        Part(Style::Dim, row.mac.clone()),
    ]
    .map(|Part(style, text)| Part(style, look.plain(&text)))
}

/// Ports and notes.
fn ends(row: &Row, look: Look) -> Vec<Part> {
    let port = |(outside, inside): &(String, String)| Part(Style::Port, format!("{outside} → {inside}"));
    let ports = row.published.iter().map(port);
    let all = ports.chain(row.notes.iter().map(|note| Part(Style::Dim, note.clone())));
    all.map(|Part(style, text)| Part(style, look.plain(&text))).collect()
}

/// The beginning of a text that is too wide.
fn short(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used < width
    };
    // Where there is no room at all, not even that.
    text.chars().take_while(fits).chain(['…']).take(width).collect()
}

fn written(parts: &[Part], look: Look) -> String {
    let mut line = String::new();
    let mut left = look.width;
    let whole: usize = parts.iter().map(|Part(_, text)| look.plain(text).width()).sum();
    let blank_from = parts.iter().rposition(|Part(_, text)| !text.trim().is_empty()).map_or(0, |last| last + 1);
    for Part(style, text) in &parts[..blank_from] {
        let mut text = look.plain(text);
        // Of a line that is too wide the end is left out.
        if whole > look.width && text.width() > left {
            text = if look.unicode { short(&text, left) } else { text.chars().take(left).collect() };
        }
        left -= text.width().min(left);
        let color = look.color && !style.code().is_empty() && !text.trim().is_empty();
        if color {
            line.push_str(&format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()));
        } else {
            line.push_str(&text);
        }
    }
    format!("{}\n", line.trim_end())
}

/// The lines and arrows of this file in ASCII, and what else there is by its number.
fn in_ascii(text: &str) -> String {
    const SAME: [(&str, &str); 10] = [
        ("├─", "|-"),
        ("└─", "`-"),
        ("│", "|"),
        ("⇄", "<>"),
        ("→", "->"),
        ("·", "-"),
        ("…", "..."),
        ("–", "-"),
        ("├", "|"),
        ("└", "`"),
    ];
    ascii(&SAME.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)))
}
