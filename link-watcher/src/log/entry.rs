//! One entry of the log.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

/// Longest text of an entry, bytes: with its fields it fits into a datagram of any socket's default buffer.
pub(super) const MAX_TEXT_LEN: usize = 64 << 10;

/// What an event says.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: SystemTime,
    pub(super) level: Level,
    /// For people.
    pub(super) text: String,
    /// For machines: `MESSAGE_ID` and what begins with `LW_`, as the journal has them.
    pub(super) fields: Vec<(String, String)>,
}

impl Entry {
    pub(super) fn new(level: Level, text: String) -> Self {
        Self { at: SystemTime::now(), level, text, fields: Vec::new() }
    }

    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut entry = Self::new(*event.metadata().level(), String::new());
        event.record(&mut entry);
        shorten(&mut entry.text, MAX_TEXT_LEN);
        entry
    }
}

/// Cuts a text that is too long, and shows that.
pub(super) fn shorten(text: &mut String, max_len: usize) {
    if text.len() > max_len {
        // Offset 0 is always a boundary.
        let end = (0..=max_len).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Without the quotes that a text has as a value.
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        if name == "message_id" || name.starts_with("lw_") {
            self.fields.push((name.to_ascii_uppercase(), format!("{value:?}")));
            return;
        }
        // Writing to a String does not fail. Here and below.
        if name == "message" {
            // It stands first, whatever the order of the fields is.
            self.text.insert_str(0, &format!("{value:?}"));
        } else if !name.starts_with("log.") {
            // What libraries say besides.
            let _ = write!(self.text, " {name}={value:?}");
        }
    }
}
