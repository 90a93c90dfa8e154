//! Text for people that fits a terminal.

/// Columns that everybody has.
const WIDTH: usize = 80;

/// A paragraph of lines of at most 80 columns, each behind `indent`; those behind the first stand two further in, or where the
/// text begins if the indent has a number. A word that is longer stays whole.
pub(super) fn wrapped(indent: &str, text: &str) -> String {
    // What the text begins with belongs to its indent.
    let words_at = text.len() - text.trim_start().len();
    let indent = format!("{indent}{}", &text[..words_at]);
    let mut out = String::new();
    let further = if indent.trim().is_empty() { format!("{indent}  ") } else { " ".repeat(indent.chars().count()) };
    let mut line = indent.clone();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out += &line;
            out.push('\n');
            line.clone_from(&further);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    out + &line + "\n"
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
