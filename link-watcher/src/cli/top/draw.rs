//! The picture on a screen. Nothing needs a colour to be read.
//!
//! ```text
//! title, what is wrong with the daemon
//! headings
//! groups and their links, as many as have a place, around the selected one
//! the selected link in words
//! ── events ──
//! the newest events
//! answer to the last order
//! keys
//! ```

use std::time::{Duration, SystemTime};

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Widget},
};

use super::{
    links::{Columns, detail, group_line, link_line},
    picture::Entry,
    text::{fit, left, width, wrap},
    view::{COLUMNS_MIN, LINES_MIN, Overlay, View, is_large_enough},
};
use crate::{
    cli::{
        events,
        status::{notes, text::short},
    },
    control::EventRecord,
};

/// Lines of events at least.
const EVENTS_MIN: usize = 5;
/// Lines of one event at most.
const EVENT_LINES_MAX: usize = 4;
/// Lines of what is said of the selected link.
const DETAIL_LINES: usize = 2;
/// Lines of an answer at most.
const MESSAGE_LINES_MAX: usize = 3;
const KEYS: &str = "↑↓  s switch  a auto  d drain  u undrain  f failover  p pause  ? help  q quit";
const HELP: &[&str] = &[
    "↑ ↓ k j         select a link; Home End: the first, the last",
    "s               switch: pin the group to the selected link",
    "a               auto: let the group choose again",
    "d   u           drain the selected link; undrain it",
    "f               automatic failover of the group off or on",
    "PgUp PgDn       older and newer events",
    "p               pause: hold the picture; the daemon goes on",
    "q   Ctrl-C      quit",
    "",
    "What may cut traffic is asked first; y does it, any other key does not.",
    "",
    "> selected   * carries traffic   - not usable",
    "PKT/S           probes sent and answers received a second",
    "ROUND TRIP      one bar a second; a gap: most probes were lost. What is",
    "                steady stands at half the height",
];

/// How something is emphasised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Doubtful,
    Strong,
    Reverse,
}

impl Tone {
    pub(super) fn style(self, coloured: bool) -> Style {
        let style = Style::new();
        let colour = |colour: Color| if coloured { style.fg(colour) } else { style };
        match self {
            Self::Plain => style,
            Self::Good => colour(Color::Green),
            Self::Bad => colour(Color::Red),
            Self::Doubtful => colour(Color::Yellow),
            Self::Strong => style.add_modifier(Modifier::BOLD),
            Self::Reverse => style.add_modifier(Modifier::REVERSED),
        }
    }
}

/// Draws all of it.
pub(super) fn draw(view: &View, area: Rect, buffer: &mut Buffer) {
    let mut page = Page { area, buffer, coloured: view.is_coloured(), at: 0 };
    // By what there is to draw on: the view learns of another size only afterwards.
    if !is_large_enough((area.width, area.height)) {
        let size = format!("{}x{} is too small: {COLUMNS_MIN}x{LINES_MIN} is needed; q quits", area.width, area.height);
        page.text(&size, Tone::Strong);
        return;
    }
    let picture = view.picture();
    title(&mut page, view);
    let columns = Columns::for_width(page.columns(), picture);
    page.text(&columns.headings(), Tone::Strong);
    let message = message(view, page.columns());
    // The detail, the line above the events, the answer and the keys.
    let left_over = page.lines_left().saturating_sub(DETAIL_LINES + message.len() + 2);
    let events_min = EVENTS_MIN.max(left_over / 3);
    let unseen = body(&mut page, view, &columns, left_over.saturating_sub(events_min));
    let rule_at = page.at + DETAIL_LINES as u16;
    let detail = view.selected_at().and_then(|at| detail(picture, at)).unwrap_or_default();
    for line in wrap(&detail, page.columns(), 4).iter().take(DETAIL_LINES) {
        page.text(line, Tone::Plain);
    }
    page.at = rule_at;
    let rule = rule(view, unseen, page.columns());
    page.text(&rule, Tone::Plain);
    let room = page.lines_left().saturating_sub(message.len() + 1);
    log(&mut page, view, room);
    // Bounded by the few lines that a message has.
    page.at = area.height.saturating_sub(message.len() as u16 + 1);
    for (line, tone) in &message {
        page.text(line, *tone);
    }
    let keys = left(KEYS, page.columns());
    page.text(&keys, Tone::Reverse);
    match view.overlay() {
        Some(Overlay::Help) => {
            let lines: Vec<String> = HELP.iter().map(|line| (*line).to_owned()).collect();
            window(&mut page, " link-watcher top ", &lines);
        }
        Some(Overlay::Question(question)) => {
            let mut lines = wrap(&question.text, page.columns().saturating_sub(16), 0);
            lines.push(String::new());
            lines.push("y: yes    any other key: no".to_owned());
            window(&mut page, " really? ", &lines);
        }
        None => {}
    }
}

/// What is said to whoever sits there: one line, of which nothing may be on it, or as many as it needs.
fn message(view: &View, columns: usize) -> Vec<(String, Tone)> {
    let Some(message) = view.message() else { return vec![(String::new(), Tone::Plain)] };
    let (mark, tone) = if message.good { ("", Tone::Good) } else { ("! ", Tone::Bad) };
    let lines = wrap(&format!("{mark}{}", message.text), columns, 2);
    lines.into_iter().take(MESSAGE_LINES_MAX).map(|line| (line, tone)).collect()
}

/// A screen that is written line by line.
struct Page<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
    coloured: bool,
    /// The next line.
    at: u16,
}

impl Page<'_> {
    fn columns(&self) -> usize {
        self.area.width.into()
    }

    fn lines_left(&self) -> usize {
        self.area.height.saturating_sub(self.at).into()
    }

    fn text(&mut self, text: &str, tone: Tone) {
        self.spans(&[(text.to_owned(), tone)]);
    }

    fn spans(&mut self, parts: &[(String, Tone)]) {
        if self.at >= self.area.height {
            return;
        }
        let mut room = self.columns();
        let mut line = Line::default();
        for (text, tone) in parts {
            let text = fit(text, room);
            room = room.saturating_sub(width(&text));
            line.push_span(Span::styled(text, tone.style(self.coloured)));
        }
        self.buffer.set_line(self.area.x, self.area.y + self.at, &line, self.area.width);
        self.at += 1;
    }
}

/// The first line, and a second one where something is wrong with the daemon.
fn title(page: &mut Page<'_>, view: &View) {
    let picture = view.picture();
    let text = match &picture.status {
        Some((snapshot, _)) => {
            let uptime = Duration::try_from_secs_f64(snapshot.uptime_s).unwrap_or_default();
            let (version, engine) = (&snapshot.version, &snapshot.engine);
            format!("link-watcher {version}, engine {engine}, running for {}", short(uptime))
        }
        None if view.problem().is_some() => "link-watcher".to_owned(),
        None => "link-watcher: asking the daemon".to_owned(),
    };
    let paused = if view.is_paused() { "PAUSED (p): " } else { "" };
    let text = format!("{paused}{text}");
    let time = format!(" {} UTC", time_of_day(&rfc3339(picture.now)));
    let columns = page.columns();
    page.spans(&[(left(&text, columns - width(&time)), Tone::Strong), (time, Tone::Plain)]);
    if let Some(problem) = view.problem() {
        let seen = picture.status.as_ref().map_or_else(String::new, |(_, at)| {
            format!("; below: as it was {} ago", short(picture.now.duration_since(*at).unwrap_or_default()))
        });
        let lines = wrap(&format!("! {problem}; trying again{seen}"), columns, 2);
        for line in lines.iter().take(3) {
            page.text(&left(line, columns), Tone::Reverse);
        }
    } else if let Some((snapshot, _)) = &picture.status {
        let mut notes = notes::of_daemon(&snapshot.config);
        notes.extend(snapshot.state_problem.iter().cloned());
        if let Some(first) = notes.first() {
            let more = if notes.len() > 1 { format!(" ({} notes, see status)", notes.len()) } else { String::new() };
            page.text(&format!("!{more} {first}"), Tone::Doubtful);
        }
    }
}

/// Lines of the body that have no place above and below.
struct Unseen {
    above: usize,
    below: usize,
}

/// Groups and links around the selected one, in at most `lines_max` lines.
fn body(page: &mut Page<'_>, view: &View, columns: &Columns, lines_max: usize) -> Unseen {
    let picture = view.picture();
    let selected = view.selected_at();
    let mut rows = Vec::new();
    let mut marked = 0;
    let mut number = 0;
    for group in picture.groups() {
        rows.push((group, None));
        for link in &group.links {
            if selected == Some(number) {
                marked = rows.len();
            }
            rows.push((group, Some((link, selected == Some(number)))));
            number += 1;
        }
    }
    let from = marked.saturating_sub(lines_max / 2).min(rows.len().saturating_sub(lines_max));
    let until = rows.len().min(from + lines_max);
    for (group, link) in &rows[from..until] {
        match link {
            None => page.spans(&group_line(group, picture.now)),
            Some((link, marked)) => {
                page.spans(&link_line(group, link, *marked, columns, &picture.histories));
            }
        }
    }
    Unseen { above: from, below: rows.len() - until }
}

/// The line above the events; it says what of the links and of the events is out of sight.
fn rule(view: &View, unseen: Unseen, columns: usize) -> String {
    let mut text = "── events ".to_owned();
    if view.events_back() > 0 {
        text += &format!("── {} newer ones below ", view.events_back());
    }
    if unseen.above + unseen.below > 0 {
        text += &format!("── lines of links above: {}, below: {} ", unseen.above, unseen.below);
    }
    let missing = columns.saturating_sub(width(&text));
    text + &"─".repeat(missing)
}

/// The newest events in `room` lines, the newest lowest.
fn log(page: &mut Page<'_>, view: &View, room: usize) {
    let picture = view.picture();
    let today = rfc3339(picture.now);
    let mut lines: Vec<(String, Tone)> = Vec::new();
    for entry in picture.log.iter().rev().skip(view.events_back()) {
        let (text, tone) = match entry {
            Entry::Event(record) => event(record, &today),
            Entry::Lost(count) => {
                (format!("{count} events came faster than they were read and are lost"), Tone::Doubtful)
            }
        };
        let wrapped = wrap(&text, page.columns(), 4);
        if lines.len() + wrapped.len().min(EVENT_LINES_MAX) > room {
            break;
        }
        lines.extend(wrapped.into_iter().take(EVENT_LINES_MAX).rev().map(|line| (line, tone)));
    }
    if picture.log.is_empty() {
        lines.push(("none yet".to_owned(), Tone::Plain));
    }
    for (line, tone) in lines.iter().rev() {
        page.text(line, *tone);
    }
}

/// An event in words, in UTC. One of today needs no date.
fn event(record: &EventRecord, today: &str) -> (String, Tone) {
    let same_day = record.time.get(..10).is_some_and(|date| today.get(..10) == Some(date));
    let time = if same_day { time_of_day(&record.time) } else { record.time.replacen('T', " ", 1) };
    let tone = match record.what.as_str() {
        "link-up" => Tone::Good,
        "link-down" | "no-usable-link" => Tone::Bad,
        _ => Tone::Plain,
    };
    (events::render(&EventRecord { time, ..record.clone() }, crate::cli::Style::default()), tone)
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// `12:00:00.123` of `2026-11-20T12:00:00.123Z`.
fn time_of_day(rfc3339: &str) -> String {
    rfc3339.get(11..).map_or(rfc3339, |time| time.trim_end_matches('Z')).to_owned()
}

/// A window in the middle.
fn window(page: &mut Page<'_>, title: &str, lines: &[String]) {
    let longest = lines.iter().map(|line| width(line)).chain([width(title)]).max().unwrap_or_default();
    // Bounded by the screen, whose size has 16 bits.
    let columns = (longest + 4).min(page.columns()) as u16;
    let height = (lines.len() + 2).min(page.area.height.into()) as u16;
    let area = Rect {
        x: page.area.x + (page.area.width - columns) / 2,
        y: page.area.y + (page.area.height - height) / 2,
        width: columns,
        height,
    };
    Clear.render(area, page.buffer);
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    Paragraph::new(lines).block(Block::bordered().title(title.to_owned())).render(area, page.buffer);
}
