//! Words and numbers of the status, and lines that fit.

use std::time::{Duration, SystemTime};

use crate::cli::{
    Style,
    text::{WIDTH, fold},
};

/// How long ago an RFC 3339 time was; what cannot be read is shown as it is.
pub(in crate::cli) fn ago(since: &str, now: SystemTime) -> String {
    match elapsed(since, now) {
        Some(elapsed) => format!("{elapsed} ago"),
        None => elapsed_or_dash(since, now),
    }
}

/// For how long something has been so; what cannot be read is shown as it is.
pub(super) fn elapsed_or_dash(since: &str, now: SystemTime) -> String {
    elapsed(since, now).unwrap_or_else(|| if since.is_empty() { "-" } else { since }.to_owned())
}

fn elapsed(since: &str, now: SystemTime) -> Option<String> {
    let since = humantime::parse_rfc3339(since).ok()?;
    // A clock that was set back makes "now".
    Some(short(now.duration_since(since).unwrap_or_default()))
}

/// A duration in its two largest units.
pub(in crate::cli) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Milliseconds, in at most eight columns for all that a link can take.
pub(super) fn milliseconds(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.3} ms"),
        Some(ms) if ms < 100.0 => format!("{ms:.2} ms"),
        Some(ms) => format!("{ms:.0} ms"),
    }
}

/// A share, 0 to 1, in at most four columns; only nothing is "0%", and only all of it "100%".
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent <= 0.0 => "0%".to_owned(),
        percent if percent < 0.1 => "<.1%".to_owned(),
        percent if percent < 9.95 => format!("{percent:.1}%"),
        percent if percent < 100.0 => format!("{:.0}%", percent.min(99.0)),
        _ => "100%".to_owned(),
    }
}

/// A text in words; what stands between backquotes is to be typed, and so is one word.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut quoted = false;
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(last) if quoted => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        quoted ^= word.matches('`').count() % 2 == 1;
    }
    words
}

/// A paragraph: `head` before its first line, as many spaces before the others.
pub(super) fn paragraph(head: &str, text: &str) -> String {
    let lines = fold(words(text), WIDTH, head, &" ".repeat(head.chars().count()));
    lines.into_iter().map(|line| line + "\n").collect()
}

/// A paragraph that deserves a look.
pub(super) fn note(indent: usize, text: &str, style: Style) -> String {
    let spaces = " ".repeat(indent);
    paragraph(&format!("{spaces}! "), text).replacen('!', &style.warning("!"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let short = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([short(0), short(59), short(60)], ["0s", "59s", "1m 0s"]);
        assert_eq!([short(3_661), short(90_000)], ["1h 1m", "1d 1h"]);
    }

    #[test]
    fn times_are_relative() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(ago("1970-01-01T00:01:28.500Z", now), "11s ago");
        assert_eq!(ago("1970-01-01T00:02:28.500Z", now), "0s ago");
        assert_eq!((ago("", now).as_str(), ago("never", now).as_str()), ("-", "never"));
        assert_eq!(elapsed_or_dash("1970-01-01T00:01:28.500Z", now), "11s");
    }

    #[test]
    fn figures_have_few_columns() {
        let ms = |ms| milliseconds(Some(ms));
        assert_eq!([ms(0.0417), ms(9.5), ms(12.345), ms(123.4)], ["0.042 ms", "9.500 ms", "12.35 ms", "123 ms"]);
        let shares = [0.0, 0.0004, 0.004, 0.0996, 0.5, 0.9999, 1.0].map(percent);
        assert_eq!(shares, ["0%", "<.1%", "0.4%", "10%", "50%", "99%", "100%"]);
        assert!((0..=1_000_000).step_by(7).all(|ppm| percent(f64::from(ppm) / 1e6).len() <= 4));
    }

    #[test]
    fn lines_fit_and_what_is_typed_stays_whole() {
        let wrap = |text: &str, width| fold(words(text), width, "", "");
        let text = "drained here by root since 11s ago; `link-watcher undrain hq optic` puts it back";
        assert_eq!(
            wrap(text, 40),
            ["drained here by root since 11s ago;", "`link-watcher undrain hq optic` puts it", "back"]
        );
        assert_eq!(wrap(&"x".repeat(50), 40), ["x".repeat(50)]);
        assert_eq!(paragraph("  - ", "a b"), "  - a b\n");
    }
}
