//! Text for people that fits a terminal.

/// Columns of a terminal that nobody has made wider.
pub(super) const WIDTH: usize = 80;

/// Words in lines of at most `width` columns: `head` stands before the first line, `further` before the others. A word that is
/// longer stays whole.
pub(super) fn fold<W: AsRef<str>>(
    words: impl IntoIterator<Item = W>,
    width: usize,
    head: &str,
    further: &str,
) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        let word = word.as_ref();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            last => {
                let before = if last.is_some() { further } else { head };
                lines.push(format!("{before}{word}"));
            }
        }
    }
    lines
}

/// A paragraph of lines of at most 80 columns, each behind `indent`; those behind the first stand two further in, or where the
/// text begins if the indent has a number.
pub(super) fn wrapped(indent: &str, text: &str) -> String {
    // What the text begins with belongs to its indent.
    let words_at = text.len() - text.trim_start().len();
    let indent = format!("{indent}{}", &text[..words_at]);
    let further = if indent.trim().is_empty() { format!("{indent}  ") } else { " ".repeat(indent.chars().count()) };
    fold(text.split_whitespace(), WIDTH, &indent, &further).join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_no_word_is_lost() {
        let text = "word ".repeat(60) + &"x".repeat(90) + " end";
        let folded = wrapped("  ", &text);
        assert!(folded.lines().all(|line| line.chars().count() <= 80 || line.trim() == "x".repeat(90)));
        assert!(folded.lines().skip(1).all(|line| line.starts_with("    ")));
        assert_eq!(folded.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
        assert_eq!(wrapped("", "  a b"), "  a b\n");
        let second = wrapped(" 1. ", &text).lines().nth(1).map(str::to_owned);
        assert!(second.is_some_and(|line| line.starts_with("    word")));
    }
}
