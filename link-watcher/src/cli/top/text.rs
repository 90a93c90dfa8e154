//! Text that others wrote, made fit for a terminal.

use unicode_width::UnicodeWidthChar;

/// Characters of one text that are looked at: more than any terminal shows of it.
const LEN_MAX: usize = 2048;
/// Stands for a character that is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// The text without anything that a terminal obeys instead of showing it: control characters, and those without a width,
/// which turn the direction of writing or hide. Its width is that of its characters.
pub(super) fn clean(text: &str) -> String {
    let shown = |c: char| match (c, c.width()) {
        ('\n' | '\t', _) => ' ',
        (_, None | Some(0)) => REPLACEMENT,
        _ => c,
    };
    text.chars().take(LEN_MAX).map(shown).collect()
}

/// Columns of a text that is clean.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The text in at most `columns_max` columns; `…` stands for what does not fit.
pub(super) fn fit(text: &str, columns_max: usize) -> String {
    let text = clean(text);
    if width(&text) <= columns_max {
        return text;
    }
    let mut kept = take(&text, columns_max.saturating_sub(1)).to_owned();
    if columns_max > 0 {
        kept.push('…');
    }
    kept
}

/// As [`fit`], filled with blanks at its right.
pub(super) fn left(text: &str, columns_max: usize) -> String {
    let text = fit(text, columns_max);
    let missing = columns_max.saturating_sub(width(&text));
    text + &" ".repeat(missing)
}

/// The text in lines of at most `columns_max` columns, broken between words where there are any; the second and later ones
/// begin with `indent` blanks.
pub(super) fn wrap(text: &str, columns_max: usize, indent: usize) -> Vec<String> {
    let text = clean(text);
    let indent = if indent < columns_max { indent } else { 0 };
    let mut lines = Vec::new();
    let mut rest = text.trim_end();
    while !rest.is_empty() {
        let blanks = if lines.is_empty() { 0 } else { indent };
        let head = match take(rest, columns_max.max(1).saturating_sub(blanks).max(1)) {
            // One character that is wider than all there is.
            "" => &rest[..rest.chars().next().map_or(0, char::len_utf8)],
            head => head,
        };
        let whole = head.len() == rest.len() || rest[head.len()..].starts_with(' ');
        let end = match head.rfind(' ') {
            Some(blank) if !whole && blank > 0 => blank,
            _ => head.len(),
        };
        lines.push(" ".repeat(blanks) + rest[..end].trim_end());
        rest = rest[end..].trim_start();
    }
    lines
}

/// The longest beginning that fits.
fn take(text: &str, columns_max: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += columns(c);
        if used > columns_max {
            return &text[..at];
        }
    }
    text
}

fn columns(c: char) -> usize {
    c.width().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_not_kept() {
        assert_eq!(clean("a\x1b[2Jb\r\u{7}\u{9b}c"), "a�[2Jb���c");
        assert_eq!(clean("one\ntwo\tthree"), "one two three");
        assert_eq!(clean("a\u{202e}b\u{200b}c"), "a�b�c", "neither what turns the direction nor what hides");
        assert_eq!(clean(&"x".repeat(1 << 20)).len(), LEN_MAX);
    }

    #[test]
    fn text_is_cut_where_it_does_not_fit() {
        assert_eq!([fit("optic", 5), fit("optic", 4), fit("optic", 0)], ["optic", "opt…", ""]);
        assert_eq!(fit("日本語", 5), "日本…", "wide characters take two columns");
        assert_eq!([left("ab", 4), left("日本語", 4)], ["ab  ", "日… "]);
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("one two three", 7, 0), ["one two", "three"]);
        assert_eq!(wrap("one two three", 9, 2), ["one two", "  three"]);
        assert_eq!(wrap("abcdefghij", 4, 2), ["abcd", "  ef", "  gh", "  ij"]);
        assert_eq!(wrap("日本", 1, 8), ["日", "本"], "even where nothing fits it comes to an end");
        assert!(wrap("", 10, 2).is_empty());
    }
}
