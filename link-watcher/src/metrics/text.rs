//! Prometheus's text format, version 0.0.4 (`exposition_formats.md` of its documentation). Written by hand because the
//! usual crate, `prometheus-client`, writes OpenMetrics only, and holds values that the snapshot holds already.

use std::fmt::Write as _;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

impl Type {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The text so far. All samples of a metric follow its header, as the format wants it.
#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    name: &'static str,
}

impl Text {
    /// Begins a metric.
    pub(super) fn metric(&mut self, name: &'static str, kind: Type, help: &str) {
        self.name = name;
        self.text += &format!("# HELP {name} {}\n# TYPE {name} {}\n", escaped(help, false), kind.as_str());
    }

    /// One sample of the metric; `suffix` is `""`, or that of a part of a histogram.
    pub(super) fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            // Writing to a string cannot fail; here and below.
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(text, true));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {}", number(value));
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Backslashes and line feeds, and in the value of a label double quotes too, are escaped.
fn escaped(text: &str, label: bool) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if label { escaped.replace('"', "\\\"") } else { escaped }
}

/// As Go's `ParseFloat` reads it.
pub(super) fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_line_is_escaped() {
        let mut text = Text::default();
        text.metric("m", Type::Gauge, "one \\ \"two\"\nthree");
        text.sample("", &[("a", "x\"y\\z\n"), ("b", "ü")], 1.5);
        text.sample("_sum", &[], f64::INFINITY);
        assert_eq!(
            text.finish(),
            "# HELP m one \\\\ \"two\"\\nthree\n# TYPE m gauge\nm{a=\"x\\\"y\\\\z\\n\",b=\"ü\"} 1.5\nm_sum +Inf\n"
        );
    }

    #[test]
    fn numbers_are_short_and_exact() {
        let numbers = [0.0, 1.0, 0.000_042, 1e21, f64::NAN, f64::NEG_INFINITY].map(number);
        assert_eq!(numbers, ["0", "1", "0.000042", "1000000000000000000000", "NaN", "-Inf"]);
    }
}
