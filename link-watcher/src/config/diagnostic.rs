//! What is wrong with a configuration, and where: rendered with the offending line, for people.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

/// Most errors that are kept of one file, and most warnings: nobody reads more at once.
const MAX_KEPT: usize = 100;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It can be run, but probably is not what was meant.
    Warning,
}

/// Where in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters are meant, at least 1.
    pub width: usize,
    /// The line's text.
    pub text: String,
}

/// One thing that is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The configuration file.
    pub file: PathBuf,
    /// Where in it; nothing if it is about the file itself.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// It is wrong only for whoever asks: with more privilege it might be right.
    pub needs_privilege: bool,
}

impl Diagnostic {
    /// On one line, for a log: file, line, column, what is wrong and what would be right.
    pub fn summary(&self) -> String {
        let mut text = self.file.display().to_string();
        if let Some(place) = &self.place {
            text += &format!(":{}:{}", place.line, place.column);
        }
        text += &format!(": {}", self.message);
        if let Some(help) = &self.help {
            text += &format!(" ({help})");
        }
        text
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.message)?;
        let Some(place) = &self.place else {
            write!(f, "\n --> {}", self.file.display())?;
            if let Some(help) = &self.help {
                write!(f, "\n  = help: {help}")?;
            }
            return Ok(());
        };
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs under tabs, so that the caret stands where it should however wide they are shown.
        let indent: String =
            place.text.chars().take(place.column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        write!(f, "\n{gutter}--> {}:{}:{}", self.file.display(), place.line, place.column)?;
        write!(f, "\n{gutter} |\n{number} | {}", place.text)?;
        write!(f, "\n{gutter} | {indent}{}", "^".repeat(place.width))?;
        if let Some(help) = &self.help {
            write!(f, "\n{gutter} = help: {help}")?;
        }
        Ok(())
    }
}

/// A configuration that is refused. It displays every finding, errors and warnings, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The configuration file.
    pub file: PathBuf,
    /// What is wrong with it, at least one error.
    pub diagnostics: Vec<Diagnostic>,
    /// How many more errors there are that were not kept.
    pub omitted: usize,
}

impl Refused {
    /// How many errors.
    pub fn errors(&self) -> usize {
        self.omitted + self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// Whether more privilege would help against every error.
    pub fn needs_privilege(&self) -> bool {
        let mut errors = self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        errors.all(|diagnostic| diagnostic.needs_privilege)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            write!(f, "{diagnostic}\n\n")?;
        }
        if self.omitted > 0 {
            write!(f, "{} more errors are not shown\n\n", self.omitted)?;
        }
        let errors = self.errors();
        write!(f, "{} is refused: {errors} error{}", self.file.display(), if errors == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Refused {}

/// Collects what is wrong with one file.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    file: &'a Path,
    text: &'a str,
    /// Offsets at which lines begin.
    line_starts: Vec<usize>,
    found: RefCell<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// Keys that are there in another place, or whose section has another name.
    excused: BTreeSet<&'static str>,
    /// With the offsets that it is about.
    advice: Vec<(usize, Diagnostic)>,
    /// With the offsets that they are about.
    kept: Vec<(usize, Diagnostic)>,
    errors: usize,
    warnings: usize,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { file, text, line_starts, found: RefCell::default() }
    }

    /// The file's path, as it was given.
    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// The line that an offset lies in, from 1.
    pub(crate) fn line_of(&self, span: &Range<usize>) -> usize {
        self.line_starts.partition_point(|line_start| *line_start <= span.start)
    }

    pub(crate) fn error(&self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, span, message.into(), help.into(), false);
    }

    pub(crate) fn warning(&self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, span, message.into(), help.into(), false);
    }

    /// Adds a finding; an empty `help` is none.
    pub(crate) fn add(
        &self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
        help: String,
        needs_privilege: bool,
    ) {
        let mut found = self.found.borrow_mut();
        // What several sections inherit is looked at for each of them, and said once.
        if found.kept.iter().any(|(start, known)| *start == span.start && known.message == message) {
            return;
        }
        let count = match severity {
            Severity::Error => &mut found.errors,
            Severity::Warning => &mut found.warnings,
        };
        *count += 1;
        if *count > MAX_KEPT {
            return;
        }
        found.kept.push((span.start, self.diagnostic(severity, span, message, help, needs_privilege)));
    }

    fn diagnostic(
        &self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
        help: String,
        needs_privilege: bool,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            file: self.file.to_owned(),
            place: Some(self.place(span)),
            message,
            help: Some(help).filter(|help| !help.is_empty()),
            needs_privilege,
        }
    }

    /// A key is there, but not where it should be, which is reported: it is not missed as well.
    pub(crate) fn excuse(&self, key: &'static str) {
        self.found.borrow_mut().excused.insert(key);
    }

    /// Whether that was said of a key.
    pub(crate) fn excused(&self, key: &str) -> bool {
        self.found.borrow().excused.contains(key)
    }

    /// A warning that is worth reading only where there is no error: whoever mends one shall not read advice meanwhile.
    pub(crate) fn advice(&self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let advice = self.diagnostic(Severity::Warning, span, message.into(), help.into(), false);
        self.found.borrow_mut().advice.push((span.start, advice));
    }

    /// Whether there is any error yet.
    pub(crate) fn any_error(&self) -> bool {
        self.found.borrow().errors > 0
    }

    /// What was found, in the order of the file, and how many errors more.
    pub(crate) fn into_sorted(self) -> (Vec<Diagnostic>, usize) {
        let mut found = self.found.into_inner();
        if found.errors == 0 {
            let room = MAX_KEPT.saturating_sub(found.warnings);
            found.kept.extend(found.advice.into_iter().take(room));
        }
        found.kept.sort_by_key(|(start, _)| *start);
        let kept = found.kept.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        (kept, found.errors.saturating_sub(MAX_KEPT))
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let start = floor_char_boundary(self.text, span.start);
        let line = self.line_of(&(start..start));
        // There is always a line that begins at or below an offset: the first begins at 0.
        let line_start = self.line_starts[line - 1];
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        // A value over several lines is marked on its first.
        let end = floor_char_boundary(self.text, span.end).clamp(start, line_end);
        Place {
            line,
            column: self.text[line_start..start].chars().count() + 1,
            width: self.text[start..end].trim_end().chars().count().max(1),
            text: self.text[line_start..line_end].trim_end().to_owned(),
        }
    }
}

/// The closest character boundary at or below an offset.
fn floor_char_boundary(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    // Offset 0 is always a boundary.
    (0..=offset).rev().find(|offset| text.is_char_boundary(*offset)).unwrap_or(0)
}

/// The known word that an unknown one is closest to, if it is close.
pub(super) fn nearest<'w>(unknown: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let close_enough = (unknown.chars().count() / 3).max(1);
    let mut scored: Vec<_> = known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&unknown.to_lowercase(), word), word))
        .filter(|(distance, _)| *distance <= close_enough)
        .collect();
    scored.sort();
    scored.first().map(|(_, word)| *word)
}

/// Words as a list for people: `a, b or c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
