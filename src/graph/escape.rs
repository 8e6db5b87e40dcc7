//! Untrusted text made harmless: link aliases, container names, comments. Everything that is drawn goes through here.

use crate::error::printable;

/// `text` without what speaks to a terminal or turns the direction of writing: control characters, and the invisible ones of
/// Unicode, are shown by their numbers.
pub fn shown(text: &str) -> String {
    let hidden = |c: char| {
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}'
            | '\u{61c}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let text = printable(text);
    if !text.chars().any(hidden) {
        return text;
    }
    text.chars().flat_map(|c| if hidden(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `text` in ASCII alone, every other character by its number.
pub fn ascii(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_ascii() { vec![c] } else { c.escape_unicode().collect() }).collect()
}

/// For XML, between tags and in attributes.
pub fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in shown(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // No characters of XML 1.0.
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// A string of dot, with its quotes. Lines are separated by `\n` in `lines`.
pub fn dot(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| shown(line).replace('\\', "\\\\").replace('"', "\\\"")).collect();
    format!("\"{}\"", lines.join("\\n"))
}

/// A string of mermaid, with its quotes. Its labels are read as HTML and as Markdown, so whatever is no letter or digit of
/// theirs is written as a number.
pub fn mermaid(lines: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || " .:/,-()→⇄…–·".contains(c);
    let line = |line: &String| {
        let one = |c: char| if plain(c) { c.to_string() } else { format!("#{};", u32::from(c)) };
        // It breaks lines at `\n`, which may stand in a name: not with a word joiner (U+2060) in between.
        shown(line).chars().map(one).collect::<String>().replace("#92;n", "#92;#8288;n")
    };
    format!("\"{}\"", lines.iter().map(line).collect::<Vec<_>>().join("<br/>"))
}

/// JSON that a terminal can be shown: serde leaves some control characters as they are.
pub fn json(text: &str) -> String {
    let one = |c: char| if c.is_control() && c != '\n' { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    if text.chars().any(|c| c.is_control() && c != '\n') { text.chars().map(one).collect() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "a\u{1b}[2J\u{9b}1m\u{202e}\"]'><script>&amp;\\\n--> end\u{7f}";

    #[test]
    fn nothing_speaks_to_the_terminal() {
        let evil = vec![EVIL.to_owned()];
        let json = json(&serde_json::to_string(EVIL).unwrap());
        for text in [shown(EVIL), xml(EVIL), dot(&evil), mermaid(&evil), json.clone()] {
            assert!(!text.chars().any(char::is_control), "{text}");
        }
        assert!(!shown(EVIL).contains('\u{202e}'));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), EVIL);
        assert!(ascii("ä→").is_ascii());
    }

    #[test]
    fn nothing_leaves_its_string() {
        assert_eq!(xml("<a b='c'>&\""), "&lt;a b=&#39;c&#39;&gt;&amp;&quot;");
        assert_eq!(dot(&["a\"b\\".into(), "c".into()]), "\"a\\\"b\\\\\\nc\"");
        assert_eq!(mermaid(&["a\"]; b#".into(), "c".into()]), "\"a#34;#93;#59; b#35;<br/>c\"");
        assert_eq!(mermaid(&["a\\nb\\\\N".into()]), "\"a#92;#8288;nb#92;#92;N\"");
        let text = mermaid(&[EVIL.into()]);
        assert!(!text.trim_matches('"').contains(['"', '<', '>', '&', '`', '[', ']', '{', '}']), "{text}");
    }
}
