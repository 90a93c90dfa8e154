//! Groups and links in lines.

use std::time::SystemTime;

use super::{
    draw::Tone,
    history::{Histories, SAMPLES_MAX},
    picture::Picture,
    text::{clean, fit, left, width},
};
use crate::{
    cli::status::{active, kind, text::ago},
    status::{GroupSnapshot, LinkSnapshot},
};

/// Columns that a name has at least.
const NAME_MIN: usize = 12;
/// Columns of all but the name and the bars, with the blanks between them.
const FIXED: usize = 54;

/// How wide the columns are whose width depends on the screen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    name: usize,
    bars: usize,
}

impl Columns {
    /// For a screen of so many columns: of what is left over, names take what they need, at most a third.
    pub(super) fn for_width(columns: usize, picture: &Picture) -> Self {
        let free = columns.saturating_sub(FIXED);
        let longest = picture.links().map(|(_, link)| width(&clean(&link.name))).max().unwrap_or_default();
        let name = longest.clamp(NAME_MIN, NAME_MIN.max(free / 3));
        Self { name, bars: free.saturating_sub(name).min(SAMPLES_MAX) }
    }

    /// The line above the links.
    pub(super) fn headings(&self) -> String {
        let cells = [left("LINK", self.name), left("STATE", 12)];
        let cells = cells.join(" ");
        format!("   {cells}  RTT ms JIT ms  LOSS SHARE     PKT/S {:>1$}", "ROUND TRIP", self.bars)
    }
}

/// A group in one line.
pub(super) fn group_line(group: &GroupSnapshot, now: SystemTime) -> Vec<(String, Tone)> {
    let (active, usable) = active(group);
    let mut parts = vec![
        (group.name.clone(), Tone::Strong),
        (format!(" ({}): ", kind(group)), Tone::Plain),
        (active, if usable { Tone::Good } else { Tone::Bad }),
    ];
    if let Some(link) = &group.pinned {
        parts.push((format!(", PINNED to {link}"), Tone::Doubtful));
    }
    if !group.failover {
        parts.push((", FAILOVER OFF".to_owned(), Tone::Doubtful));
    }
    if let Some(seconds) = group.peer_silence_s {
        parts.push((format!(", peer's daemon silent for {seconds} s"), Tone::Doubtful));
    }
    parts.push((format!(", since {}: {}", ago(&group.since, now), group.reason), Tone::Plain));
    parts
}

/// A link in one line.
pub(super) fn link_line(
    group: &GroupSnapshot,
    link: &LinkSnapshot,
    selected: bool,
    columns: &Columns,
    histories: &Histories,
) -> Vec<(String, Tone)> {
    let active = group.active.contains(&link.name);
    let mark = match (active, link.usable) {
        (true, _) => '*',
        (false, true) => ' ',
        (false, false) => '-',
    };
    let (state, tone) = match (link.drained, link.state.as_str()) {
        (true, state) => (format!("drained/{state}"), Tone::Doubtful),
        (false, "up") => ("up".to_owned(), Tone::Good),
        (false, state @ ("down" | "absent")) => (state.to_owned(), Tone::Bad),
        (false, state) => (state.to_owned(), Tone::Doubtful),
    };
    let history = histories.of(&group.name, &link.name);
    let rates = history.and_then(|history| history.rates());
    let rates = rates.map_or_else(|| "-".to_owned(), |(sent, received)| format!("{}/{}", rate(sent), rate(received)));
    let share = if link.share > 0.0 { format!("{:.0}%", link.share * 100.0) } else { "-".to_owned() };
    let figures = format!(
        " {:>7} {:>6} {:>5} {share:>5} {rates:>9} ",
        milliseconds(link.rtt_ms),
        milliseconds(link.jitter_ms),
        percent(link.loss)
    );
    let pointer = if selected { '>' } else { ' ' };
    let name_tone = if selected { Tone::Reverse } else { Tone::Plain };
    vec![
        (format!("{pointer}{mark} "), Tone::Plain),
        (left(&link.name, columns.name), name_tone),
        (" ".to_owned(), Tone::Plain),
        (left(&state, 12), tone),
        (figures, Tone::Plain),
        (history.map(|history| history.bars(columns.bars)).unwrap_or_default(), Tone::Plain),
    ]
}

/// The link at this place in words.
pub(super) fn detail(picture: &Picture, at: usize) -> Option<String> {
    let (_, link) = picture.links().nth(at)?;
    let mut text = format!(
        "{}: {} to {}, tier {}, weight {}, {}, {} since {}",
        fit(&link.name, 2 * NAME_MIN),
        link.interface,
        link.remote,
        link.tier,
        link.weight,
        link.engine,
        link.state,
        ago(&link.since, picture.now)
    );
    let down = link.last_down_reason.as_ref().filter(|_| link.state != "up");
    for why in [link.usable_reason.as_ref().or(down), link.suspicion.as_ref()].into_iter().flatten() {
        text += &format!("; {why}");
    }
    Some(text)
}

/// At most six columns up to 99999 ms.
fn milliseconds(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 99.9995 => format!("{ms:.3}"),
        Some(ms) if ms < 999.95 => format!("{ms:.1}"),
        Some(ms) => format!("{ms:.0}"),
    }
}

/// At most five columns.
fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent >= 99.95 { format!("{percent:.0}%") } else { format!("{percent:.1}%") }
}

/// A rate a second in at most four columns.
fn rate(per_s: f64) -> String {
    match per_s {
        ..0.05 => "0".to_owned(),
        ..9.95 => format!("{per_s:.1}"),
        ..999.5 => format!("{per_s:.0}"),
        _ => format!("{:.0}k", per_s / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_to_their_columns() {
        let words = |ms: &[f64]| ms.iter().map(|ms| milliseconds(Some(*ms))).collect::<Vec<_>>();
        assert_eq!(words(&[0.042, 99.9999, 400.0, 12_345.6]), ["0.042", "100.0", "400.0", "12346"]);
        assert_eq!([percent(0.0), percent(0.1234), percent(1.0)], ["0.0%", "12.3%", "100%"]);
        let rates = [0.0, 0.5, 9.96, 10.0, 999.0, 1000.0, 64_000.0].map(rate);
        assert_eq!(rates, ["0", "0.5", "10", "10", "999", "1k", "64k"]);
    }
}
