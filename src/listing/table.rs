//! Aligned columns. What a cell says may come from an image or a command line, so it never speaks to the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::error::printable;

/// What stands in a cell that has nothing to say.
const EMPTY: &str = "-";
const GAP: &str = "  ";

/// How the cells of a column are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// Aligned at the right, as numbers are.
    pub right: bool,
    /// The width beyond which a cell is shortened.
    pub limit: Option<usize>,
}

/// `rows` below `heads`, each column as wide as its widest cell on the terminal. `layouts` may be shorter than a row.
pub fn table(heads: &[String], rows: &[Vec<String>], layouts: &[Layout]) -> String {
    let layout = |column: usize| layouts.get(column).copied().unwrap_or_default();
    let lines: Vec<Vec<String>> = std::iter::once(heads.to_vec())
        .chain(rows.iter().map(|row| {
            row.iter().enumerate().map(|(column, cell)| shown(cell, layout(column).limit)).collect::<Vec<_>>()
        }))
        .collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.width()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let start = text.len();
        for (column, cell) in line.iter().enumerate() {
            let pad = widths[column] - cell.width();
            let (before, after) = if layout(column).right { (pad, 0) } else { (0, pad) };
            if column > 0 {
                text.push_str(GAP);
            }
            text.extend(std::iter::repeat_n(' ', before));
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', after));
        }
        text.truncate(start + text[start..].trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

fn shown(cell: &str, limit: Option<usize>) -> String {
    let cell = printable(cell);
    match limit {
        _ if cell.is_empty() => EMPTY.into(),
        Some(limit) if cell.width() > limit => shorten(&cell, limit),
        _ => cell,
    }
}

/// The beginning of `text` and `…`, together at most `limit` wide.
fn shorten(text: &str, limit: usize) -> String {
    let mut width = 0;
    let mut short: String = text
        .chars()
        .take_while(|c| {
            width += c.width().unwrap_or(0);
            width < limit
        })
        .collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split('|').map(str::to_owned).collect()
    }

    #[test]
    fn columns_align_by_what_the_terminal_shows() {
        let layouts = [Layout::default(), Layout { right: true, limit: None }, Layout { right: false, limit: Some(8) }];
        let rows = ["web|7|sleep", "日本|1234||x", "\u{1b}[31m|0|a long command", "e\u{301}|5|日本語日本語"].map(words);
        // The accent has no width: without it the line looks the same.
        let text = table(&words("NAME|N|COMMAND"), &rows, &layouts).replace('\u{301}', "");
        insta::assert_snapshot!(text, @r"
        NAME           N  COMMAND
        web            7  sleep
        日本        1234  -         x
        \u{1b}[31m     0  a long …
        e              5  日本語…
        ");
    }

    #[test]
    fn no_line_ends_in_blanks() {
        let text = table(&words("A|B"), &["x|y".to_owned(), "long|longer".to_owned()].map(|row| words(&row)), &[]);
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert_eq!(table(&words("A|B"), &[], &[]), "A  B\n");
    }
}
