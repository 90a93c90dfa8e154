//! The report for people: 80 columns, plain, to be sent as it is.

use super::{LinkReport, Report};
use crate::{cli::text::wrapped, statistics::Figures};

/// Columns of the table.
const HEADINGS: [&str; 10] = ["DAY", "SEEN", "ANSWERED", "OUT", "SUM", "LONGEST", "FAILOVER", "LOSS", "RTT", "99%"];

const LEGEND: &str = "Days are UTC. SEEN is for how long the link was watched; all else is about that time. ANSWERED is the share of it in \
                      which the link answered; OUT counts the outages that began, SUM and LONGEST are how long they were, LONGEST from \
                      the beginning of an outage even if that was on an earlier day. FAILOVER is the longest time from the last good \
                      packet until the traffic had another way. LOSS is the share of probes without an answer, outages included. RTT is \
                      the median of the round trip in ms, 99% what 99 of 100 do not exceed, both at most 3.2 % off.";

impl Report {
    pub(super) fn render(&self) -> String {
        let mut text = format!("link-watcher on {}, {} to {}\n", self.host, self.since, self.until);
        if self.groups.is_empty() {
            return text + "Nothing is known of these days.\n";
        }
        for group in &self.groups {
            for link in &group.links {
                text += &format!("\n{} {}\n", group.name, link.name);
                text += &table(link);
            }
            let worst = group.worst_failover_ms.map(|ms| format!(", the longest {}", length(ms / 1e3)));
            let moved = match group.failovers {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            };
            let said = format!("{}: a failure moved the traffic {moved}{}.", group.name, worst.unwrap_or_default());
            text += "\n";
            text += &wrapped("", &said);
        }
        text + "\n" + &wrapped("", LEGEND)
    }
}

fn table(link: &LinkReport) -> String {
    let days = link.days.iter().map(|day| row(&day.date, &day.figures));
    let rows: Vec<[String; HEADINGS.len()]> = days.chain([row("in all", &link.total)]).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |cells: [&str; HEADINGS.len()]| {
        let cells = cells.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join(" ") + "\n"
    };
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    line(HEADINGS) + &rows.collect::<String>()
}

fn row(head: &str, figures: &Figures) -> [String; HEADINGS.len()] {
    let dash = || "-".to_owned();
    let rtt = |ms: Option<f64>| ms.map_or_else(dash, milliseconds);
    [
        head.to_owned(),
        length(figures.observed_s),
        figures.availability.map_or_else(dash, answered),
        figures.outages.to_string(),
        length(figures.outage_s),
        length(figures.longest_outage_s),
        figures.worst_failover_ms.map_or_else(dash, |ms| length(ms / 1e3)),
        figures.loss.map_or_else(dash, lost),
        rtt(figures.rtt_median_ms),
        rtt(figures.rtt_p99_ms),
    ]
}

/// A share that is never said to be better than it is: only all of it is 100%.
fn answered(share: f64) -> String {
    if share >= 1.0 { "100%".to_owned() } else { format!("{:.3}%", (share * 100_000.0).floor() / 1_000.0) }
}

/// A share of probes, in at most six columns; only nothing is 0%.
fn lost(share: f64) -> String {
    match share * 100.0 {
        percent if percent <= 0.0 => "0%".to_owned(),
        percent if percent < 0.001 => "<.001%".to_owned(),
        percent if percent < 9.9995 => format!("{percent:.3}%"),
        percent if percent < 100.0 => format!("{:.1}%", percent.min(99.9)),
        _ => "100%".to_owned(),
    }
}

/// A length of time in at most seven columns.
fn length(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        s if s <= 0.0 => "0".to_owned(),
        s if s < 0.001 => "<1ms".to_owned(),
        s if s < 0.9995 => format!("{:.0}ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1}s"),
        s if s < 59.5 => format!("{whole}s"),
        s if s < 3_599.5 => format!("{}m{:02}s", whole / 60, whole % 60),
        // A day is what 24 hours are.
        s if s <= 86_400.0 * 2.0 => format!("{}h{:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// Milliseconds in at most six columns.
fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.3}"),
        ms if ms < 100.0 => format!("{ms:.2}"),
        ms => format!("{ms:.0}"),
    }
}
