//! Colours, where the terminal is to have them.

use std::io::IsTerminal;

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    /// Colours if standard output is a terminal and `NO_COLOR` (no-color.org) is unset or empty.
    pub(super) fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { on: std::io::stdout().is_terminal() && !refused }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// As it should be.
    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// Not as it should be.
    pub(super) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// Out of the ordinary, and meant to be.
    pub(super) fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    /// Important.
    pub(super) fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Unimportant.
    pub(super) fn faint(self, text: &str) -> String {
        self.with("2", text)
    }
}

/// A duration in milliseconds, as wide as ten characters; nothing lost is a dash.
pub(super) fn outage(outage_ns: u64) -> String {
    if outage_ns == 0 { "-".to_owned() } else { format!("{:.1} ms", outage_ns as f64 / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_text_stays_as_it_is() {
        assert_eq!(Paint { on: false }.bad("text"), "text");
        assert_eq!(Paint { on: true }.good("text"), "\x1b[32mtext\x1b[0m");
    }

    #[test]
    fn outages_are_in_milliseconds() {
        assert_eq!(outage(0), "-");
        assert_eq!(outage(312_040_000), "312.0 ms");
    }
}
