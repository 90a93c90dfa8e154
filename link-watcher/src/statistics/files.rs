//! Where statistics are kept: below the state directory one file a day, `statistics/2026-11-29.json`, and the last day in
//! steps, `statistics/last-day.json`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::warn;

use super::{Archive, Day, DayRecord, MAX_DAYS, Step, Steps};
use crate::state::{FileError, StateFile, Store};

/// Version of a day's file, and its longest length, bytes: 1,024 links of which each has some 300.
const DAY: (u32, u64) = (1, 8 << 20);
/// The same of the steps: 1,024 links with 144 steps of some 150 bytes.
const STEPS: (u32, u64) = (1, 64 << 20);
/// Entries of the directory that are looked at: others may have put something there.
const MAX_ENTRIES: usize = 4 * MAX_DAYS;
/// The last day that has a date of four digits for its year.
const LAST_DAY: u32 = 2_932_896;

/// A day as people and file names have it: `2026-11-29`.
pub fn date(day: Day) -> String {
    let since_1970 = Duration::from_secs(u64::from(day.0.min(LAST_DAY)) * 86_400);
    let time = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_1970).to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}

/// The day of a date such as `2026-11-29`.
pub fn day_of(date: &str) -> Option<Day> {
    let begins = humantime::parse_rfc3339(&format!("{date}T00:00:00Z")).ok()?;
    let since_1970 = begins.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u32::try_from(since_1970.as_secs() / 86_400).ok().map(Day)
}

/// The files of an instance.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Those below this state directory. Nothing is touched yet.
    pub fn below(state_directory: &Path) -> Self {
        Self { directory: state_directory.join("statistics") }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn day_file(&self, day: Day) -> StateFile {
        StateFile::new(self.directory.join(format!("{}.json", date(day))), DAY.0, DAY.1)
    }

    fn steps_file(&self) -> StateFile {
        StateFile::new(self.directory.join("last-day.json"), STEPS.0, STEPS.1)
    }

    /// The newest days that have a file, at most [`MAX_DAYS`], in order; none where the directory cannot be read.
    pub fn days(&self) -> Vec<Day> {
        let mut days = self.all_days();
        days.drain(..days.len().saturating_sub(MAX_DAYS));
        days
    }

    fn all_days(&self) -> Vec<Day> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().take(MAX_ENTRIES).flatten();
        let day = |name: &str| day_of(name.strip_suffix(".json")?);
        let mut days: Vec<Day> = entries.filter_map(|entry| day(entry.file_name().to_str()?)).collect();
        days.sort_unstable();
        days
    }

    /// What was kept of a day; nothing where there is no file.
    ///
    /// # Errors
    ///
    /// Where it cannot be read or understood.
    pub fn read(&self, day: Day) -> Result<Option<DayRecord>, FileError> {
        self.day_file(day).read()
    }

    /// The last day in steps, as it was kept. What cannot be read is said, and begins anew.
    pub(super) fn steps(&self) -> Steps {
        let file = self.steps_file();
        file.read().map(Option::unwrap_or_default).unwrap_or_else(|error| {
            // Not among the arguments: those are nobody's where nothing is logged.
            let said = file.give_up("the last day's history is not known", &error);
            warn!("{said}");
            Steps::new()
        })
    }
}

impl Archive for Files {
    fn day(&mut self, day: Day) -> Option<DayRecord> {
        self.read(day).unwrap_or_else(|error| {
            let consequence = format!("the statistics of {} begin anew", date(day));
            let said = self.day_file(day).give_up(&consequence, &error);
            warn!("{said}");
            None
        })
    }
}

/// What is to be kept.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Today, and the day before as long as it is in memory.
    pub days: Vec<(Day, DayRecord)>,
    /// The present step.
    pub step: Step,
    /// The last day in steps.
    pub steps: Steps,
    /// The daemon stops.
    pub last: bool,
}

/// What writes it: a day when it has changed, the steps when another one has begun and at the end, so that a flash disk is not
/// worn out.
#[derive(Debug)]
pub struct Writer {
    files: Files,
    days: BTreeMap<Day, DayRecord>,
    step: Option<Step>,
}

impl Writer {
    pub(super) const fn new(files: Files) -> Self {
        Self { files, days: BTreeMap::new(), step: None }
    }

    fn write(&mut self, what: &Kept) -> Result<(), FileError> {
        for (day, record) in &what.days {
            if record.groups.is_empty() || self.days.get(day) == Some(record) {
                continue;
            }
            self.files.day_file(*day).write(record, true)?;
            let new = self.days.insert(*day, record.clone()).is_none();
            if new {
                self.forget_old();
            }
        }
        self.days.retain(|day, _| what.days.iter().any(|(known, _)| known == day));
        if what.last || self.step != Some(what.step) {
            self.files.steps_file().write(&what.steps, true)?;
            self.step = Some(what.step);
        }
        Ok(())
    }

    /// The newest stay by number and not by age: a clock that was wrong for a moment must not empty the directory.
    fn forget_old(&self) {
        let days = self.files.all_days();
        for day in days.iter().take(days.len().saturating_sub(MAX_DAYS)) {
            let path = self.files.day_file(*day).path().to_owned();
            if let Err(error) = fs::remove_file(&path) {
                warn!("old statistics stay: {}: {error}", path.display());
            }
        }
    }
}

impl Store<Kept> for Writer {
    fn keep(&mut self, what: &Kept) -> Result<(), String> {
        self.write(what).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::statistics::{GroupRecord, Period};

    fn desk() -> (TempDir, Files, Writer) {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::below(directory.path());
        (directory, files.clone(), Writer::new(files))
    }

    fn record(up_ms: u64) -> DayRecord {
        let period = Period { up_ms, ..Period::default() };
        let links = BTreeMap::from([("optic".to_owned(), period)]);
        DayRecord { groups: BTreeMap::from([("hq".to_owned(), GroupRecord { links, ..GroupRecord::default() })]) }
    }

    fn steps(up_ms: u64) -> Steps {
        let period = Period { up_ms, ..Period::default() };
        let of_link = BTreeMap::from([(Step(7), period)]);
        BTreeMap::from([("hq".to_owned(), BTreeMap::from([("optic".to_owned(), of_link)]))])
    }

    fn kept(days: &[(u32, u64)], step: u32) -> Kept {
        let days: Vec<(Day, DayRecord)> = days.iter().map(|(day, up_ms)| (Day(*day), record(*up_ms))).collect();
        Kept { step: Step(step), steps: steps(u64::from(step)), days, last: false }
    }

    #[test]
    fn a_day_has_a_date() {
        assert_eq!(date(Day(0)), "1970-01-01");
        assert_eq!(date(Day(20_786)), "2026-11-29");
        assert_eq!(day_of("2026-11-29"), Some(Day(20_786)));
        assert_eq!((date(Day(u32::MAX)), day_of("9999-12-31")), ("9999-12-31".to_owned(), Some(Day(LAST_DAY))));
        assert_eq!((day_of("last-day"), day_of("1969-12-31"), day_of("2026-13-01")), (None, None, None));
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let (_directory, mut files, mut writer) = desk();
        assert_eq!((files.days(), files.day(Day(8)), files.steps()), (vec![], None, Steps::new()));
        writer.keep(&kept(&[(7, 1), (8, 2)], 3)).unwrap();
        assert_eq!((files.days(), files.day(Day(8))), (vec![Day(7), Day(8)], Some(record(2))));
        assert_eq!(files.steps(), steps(3));
        let text = fs::read_to_string(files.directory.join("1970-01-09.json")).unwrap();
        assert_eq!(
            text,
            "{\"version\":1,\"content\":{\"hq\":{\"failovers\":{\"count\":0,\"worst_ns\":0},\"links\":{\"optic\":{\"up_ms\":2}}}}}\n"
        );
    }

    #[test]
    fn only_what_has_changed_is_written() {
        let (_directory, files, mut writer) = desk();
        writer.keep(&kept(&[(7, 1), (8, 2)], 3)).unwrap();
        fs::remove_file(files.directory.join("1970-01-08.json")).unwrap();
        fs::remove_file(files.directory.join("last-day.json")).unwrap();
        writer.keep(&kept(&[(7, 1), (8, 3)], 3)).unwrap();
        assert_eq!((files.days(), files.steps()), (vec![Day(8)], Steps::new()));
        writer.keep(&Kept { last: true, ..kept(&[(8, 3)], 3) }).unwrap();
        assert_eq!(files.steps(), steps(3), "at the end all of it");
    }

    #[test]
    fn the_newest_days_stay() {
        let (_directory, files, mut writer) = desk();
        for day in 0..MAX_DAYS as u32 + 3 {
            writer.keep(&kept(&[(day, 1)], 3)).unwrap();
        }
        let days = files.days();
        assert_eq!((days.len(), days[0]), (MAX_DAYS, Day(3)));
        fs::write(files.directory.join("2026-11-29.json.new"), "").unwrap();
        assert_eq!(files.days().len(), MAX_DAYS, "what a crash leaves is no day");
    }

    #[test]
    fn what_is_not_understood_is_put_aside_and_begins_anew() {
        let (_directory, mut files, mut writer) = desk();
        writer.keep(&kept(&[(7, 1), (8, 1)], 3)).unwrap();
        let path = |name: &str| files.directory.join(name);
        fs::write(path("1970-01-08.json"), "{\"version\":9,\"content\":1}").unwrap();
        fs::write(path("last-day.json"), "{\"version\":1,\"content\":").unwrap();
        let aside = [path("1970-01-08.json.unreadable"), path("last-day.json.unreadable")];
        assert_eq!((files.steps(), files.day(Day(7)), files.day(Day(8))), (Steps::new(), None, Some(record(1))));
        assert!(aside.iter().all(|path| path.exists()));
    }

    #[test]
    fn a_disk_that_refuses_is_told_and_the_day_is_written_later() {
        let (directory, files, mut writer) = desk();
        fs::write(directory.path().join("statistics"), "in the way").unwrap();
        let refused = writer.keep(&kept(&[(7, 1)], 3)).unwrap_err();
        assert!(refused.contains("statistics"), "{refused}");
        fs::remove_file(directory.path().join("statistics")).unwrap();
        writer.keep(&kept(&[(7, 1)], 3)).unwrap();
        assert_eq!(files.read(Day(7)).unwrap(), Some(record(1)));
        let mode = fs::metadata(files.day_file(Day(7)).path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
