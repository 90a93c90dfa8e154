//! `link-watcher report`: how links were, by day, from the daemon or from what it has written.

mod render;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use serde::Serialize;

use super::{
    Arguments, Exit, Failure,
    output::{document, print},
    status::Scope,
};
use crate::{
    config,
    control::{Client, ClientError},
    log,
    state::FileError,
    statistics::{Day, DayRecord, Failovers, Figures, Files, MAX_DAYS, Period, date, today},
};

const DAY_S: u64 = 86_400;

/// How links were.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    /// This machine's name.
    host: String,
    /// First day, UTC.
    since: String,
    /// Last day, UTC: today.
    until: String,
    /// Who has told it: `daemon`, or `files` where none runs.
    source: &'static str,
    /// Groups, by name.
    groups: Vec<GroupReport>,
}

/// How a group was.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct GroupReport {
    name: String,
    /// How often its traffic was moved away from a failure.
    failovers: u32,
    /// The longest of these took so long, ms.
    worst_failover_ms: Option<f64>,
    /// Links, by name; also those that have been renamed or removed since.
    links: Vec<LinkReport>,
}

/// How a link was.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct LinkReport {
    name: String,
    total: Figures,
    /// The days of which something is known, the oldest first.
    days: Vec<DayReport>,
}

/// What is known of a link, day by day.
type DaysOf<'a> = Vec<(Day, &'a Period)>;

#[derive(Clone, Debug, PartialEq, Serialize)]
struct DayReport {
    date: String,
    #[serde(flatten)]
    figures: Figures,
}

/// Prints it.
pub(super) fn run(
    arguments: &Arguments,
    socket: &Path,
    scope: &Scope,
    since: Duration,
    json: bool,
) -> Result<Exit, Failure> {
    let until = today();
    let first = first_day(until, since);
    let (source, days) = match Client::connect(socket).and_then(|mut client| client.days(first)) {
        Ok(days) => ("daemon", days),
        Err(error @ ClientError::NoDaemon { .. }) => {
            let Ok(directory) = config::state_directory_of(&arguments.config_path()) else { return Err(error.into()) };
            let files = Files::below(&directory);
            let days = from_files(&files, first)?;
            if files.days().is_empty() {
                return Err(error.into());
            }
            log::say(&format!(
                "link-watcher: no daemon answers on {}: this is what it has written to {}",
                socket.display(),
                directory.display()
            ));
            ("files", days)
        }
        Err(error) => return Err(error.into()),
    };
    let report = Report::new(first, until, source, &days, scope)
        .map_err(|unknown| Failure::new(Exit::Usage, format!("link-watcher: {unknown}")))?;
    print(&if json { document(&report)? } else { report.render() })?;
    Ok(Exit::Done)
}

/// The first of as many days as this is long, today among them.
fn first_day(until: Day, since: Duration) -> Day {
    let days = since.as_secs().div_ceil(DAY_S).clamp(1, MAX_DAYS as u64);
    Day(until.0.saturating_sub(days as u32 - 1))
}

fn from_files(files: &Files, first: Day) -> Result<Vec<(Day, DayRecord)>, Failure> {
    // Whoever may not look learns it, instead of an empty report.
    if let Err(error) = std::fs::read_dir(files.directory())
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return Err(denied(&files.directory().display().to_string()));
    }
    let mut days = Vec::new();
    for day in files.days().into_iter().filter(|day| *day >= first) {
        match files.read(day) {
            Ok(record) => days.push((day, record.unwrap_or_default())),
            Err(FileError::Io { path, error }) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(denied(&path.display().to_string()));
            }
            // The other days are worth something without it.
            Err(error) => log::say(&format!("link-watcher: {} is left out: {error}", date(day))),
        }
    }
    Ok(days)
}

fn denied(path: &str) -> Failure {
    let said =
        format!("link-watcher: {path} is for root only, and no daemon answers that could be asked: run this with sudo");
    Failure::new(Exit::Privilege, said)
}

impl Report {
    /// What is asked for, of these days.
    fn new(
        since: Day,
        until: Day,
        source: &'static str,
        days: &[(Day, DayRecord)],
        scope: &Scope,
    ) -> Result<Self, String> {
        let mut failovers: BTreeMap<&str, Failovers> = BTreeMap::new();
        let mut links: BTreeMap<&str, BTreeMap<&str, DaysOf<'_>>> = BTreeMap::new();
        for (day, record) in days.iter().filter(|(day, _)| *day >= since && *day <= until) {
            for (name, group) in &record.groups {
                failovers.entry(name).or_default().merge(group.failovers);
                let known = links.entry(name).or_default();
                for (link, period) in &group.links {
                    known.entry(link).or_default().push((*day, period));
                }
            }
        }
        scope.check_names(links.iter().map(|(group, links)| (*group, links.keys().copied().collect())))?;
        let wanted = |name: &Option<String>, known: &str| name.as_ref().is_none_or(|name| name == known);
        let groups = links.iter().filter(|(name, _)| wanted(&scope.group, name)).map(|(name, links)| {
            let failovers = failovers.get(name).copied().unwrap_or_default();
            GroupReport {
                name: (*name).to_owned(),
                failovers: failovers.count,
                worst_failover_ms: failovers.worst_ms(),
                links: links
                    .iter()
                    .filter(|(name, _)| wanted(&scope.link, name))
                    .map(|(name, days)| LinkReport::new(name, days))
                    .collect(),
            }
        });
        Ok(Self { host: host(), since: date(since), until: date(until), source, groups: groups.collect() })
    }
}

impl LinkReport {
    fn new(name: &str, days: &[(Day, &Period)]) -> Self {
        let mut total = Period::default();
        days.iter().for_each(|(_, period)| total.merge(period));
        let days = days.iter().map(|(day, period)| DayReport { date: date(*day), figures: period.figures() });
        Self { name: name.to_owned(), total: total.figures(), days: days.collect() }
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
