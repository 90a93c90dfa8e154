//! The demo with somebody at the keys.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use link_watcher_lab::{Direction, End, monotonic_ns};

use super::Verdict;
use super::attack::{self, Attack};
use super::paint::{Paint, outage};
use super::stage::{Stage, down_reason, link_of};
use link_watcher_core::status::GroupSnapshot;

/// How often the picture is drawn anew.
const FRAME: Duration = Duration::from_millis(100);
/// How often the daemons are asked for their status.
const ASK: Duration = Duration::from_millis(150);
/// Lines of the log that are kept.
const LOG_LINES: usize = 14;
/// An incident is over when traffic was steady for so long after it, ns: longer than detection at the default interval.
const QUIET_NS: u64 = 400_000_000;
/// Traffic has recovered when every packet has passed for so long, ns.
const STEADY_NS: u64 = 150_000_000;
/// News of a move comes at most so long after the move: the status is asked for in turn, on a busy machine, ns.
const NEWS_NS: u64 = 1_000_000_000;

/// How a wire is, as far as we did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    None,
    Cut,
    OneWay(Direction),
    NoCarrier,
}

impl Harm {
    fn words(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Cut => "cut",
            Self::OneWay(Direction::ToServer) => "cut to server",
            Self::OneWay(Direction::ToClient) => "cut to client",
            Self::NoCarrier => "no carrier",
        }
    }
}

/// What the daemons said last: the client's group and the server's.
type Snapshots = Mutex<[Option<GroupSnapshot>; 2]>;

struct Live<'a> {
    stage: &'a Stage,
    paint: Paint,
    began_ns: u64,
    harms: Vec<Harm>,
    selected: usize,
    log: VecDeque<String>,
    /// Since when, and what: an incident whose cost is not known yet.
    incident: Option<(u64, String)>,
    /// When the cost of the last incident was reported.
    reported_ns: u64,
    /// The client's active links when we last looked.
    active: Vec<String>,
}

/// Plays until somebody quits.
pub(super) fn run(stage: &Stage, paint: Paint) -> Result<Verdict> {
    let said = Snapshots::default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| ask(stage, &said, &stop));
        let screen = Screen::enter();
        let played = screen.and_then(|_screen| Live::new(stage, paint).play(&said));
        stop.store(true, Ordering::Relaxed);
        played
    })?;
    println!("Everything is removed again.");
    Ok(Verdict::Passed)
}

/// Asks both daemons again and again.
fn ask(stage: &Stage, said: &Snapshots, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let groups = [End::Client, End::Server].map(|end| stage.group(end).ok());
        *said.lock().unwrap_or_else(PoisonError::into_inner) = groups;
        thread::sleep(ASK);
    }
}

/// The terminal in raw mode on its alternate screen; as before when dropped.
struct Screen;

impl Screen {
    fn enter() -> Result<Self> {
        terminal::enable_raw_mode().context("cannot set the terminal to raw mode")?;
        let screen = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide).context("cannot draw on the terminal")?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

impl<'a> Live<'a> {
    fn new(stage: &'a Stage, paint: Paint) -> Self {
        Live {
            stage,
            paint,
            began_ns: monotonic_ns(),
            harms: vec![Harm::None; stage.routers().wires.len()],
            selected: 0,
            log: VecDeque::new(),
            incident: None,
            reported_ns: 0,
            active: vec![stage.trial.first().to_owned()],
        }
    }

    fn play(mut self, said: &Snapshots) -> Result<()> {
        self.note("traffic runs both ways; break something");
        let interrupted = self.stage.routers().lab.interrupt();
        while !interrupted.load(Ordering::Relaxed) {
            let groups = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.follow(&groups);
            self.draw(&groups)?;
            if !event::poll(FRAME).context("cannot read the keyboard")? {
                continue;
            }
            if let Event::Key(key) = event::read().context("cannot read the keyboard")?
                && key.kind == KeyEventKind::Press
            {
                if quits(key) {
                    return Ok(());
                }
                // A key that fails, say because a daemon does not answer, is no reason to end the play.
                if let Err(error) = self.press(key.code, &groups) {
                    self.note(&format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        let seconds = (monotonic_ns() - self.began_ns) as f64 / 1e9;
        self.log.push_back(format!("{seconds:>7.1} s  {text}"));
    }

    /// Notes what the daemons did and what it cost.
    fn follow(&mut self, groups: &[Option<GroupSnapshot>; 2]) {
        if let Some(group) = &groups[0]
            && group.active != self.active
        {
            let from = self.active.join(" + ");
            let reason = down_reason(group, &from).unwrap_or_else(|| group.reason.clone());
            self.note(&format!("  {from} -> {}: {reason}", group.active.join(" + ")));
            self.active.clone_from(&group.active);
            // A move of its own accord, such as the return to a repaired link: what it costs is of interest too. Unless it is
            // one that was accounted for before the daemon told of it.
            let now_ns = monotonic_ns();
            if self.incident.is_none() && now_ns > self.reported_ns + NEWS_NS {
                self.incident = Some((now_ns - QUIET_NS, "moved by itself".to_owned()));
            }
        }
        let Some((since_ns, what)) = &self.incident else {
            return;
        };
        let steady = Direction::BOTH.iter().all(|way| self.stage.trial.meter.steady_ns(*way) >= STEADY_NS);
        if steady && monotonic_ns() > since_ns + QUIET_NS {
            let reports = self.stage.trial.reports(*since_ns);
            let text = format!(
                "  {what}: out to server {}, to client {}, {} lost",
                outage(reports[0].outage_ns),
                outage(reports[1].outage_ns),
                reports[0].lost + reports[1].lost
            );
            self.incident = None;
            self.reported_ns = monotonic_ns();
            self.note(&text);
        }
    }

    fn press(&mut self, key: KeyCode, groups: &[Option<GroupSnapshot>; 2]) -> Result<()> {
        match key {
            KeyCode::Char(digit @ '1'..='9') => {
                let number = digit as usize - '1' as usize;
                if number < self.harms.len() {
                    self.selected = number;
                    self.harm(Harm::Cut)?;
                }
            }
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down => self.selected = (self.selected + 1).min(self.harms.len() - 1),
            KeyCode::Right => self.harm(Harm::OneWay(Direction::ToServer))?,
            KeyCode::Left => self.harm(Harm::OneWay(Direction::ToClient))?,
            KeyCode::Char('c') => self.harm(Harm::NoCarrier)?,
            KeyCode::Char('m') => {
                for number in 0..self.harms.len() {
                    self.stage.routers().wires[number].mend()?;
                    self.harms[number] = Harm::None;
                }
                self.begin("all links repaired".to_owned());
            }
            KeyCode::Char('d') => {
                let name = self.name();
                let drained =
                    groups[0].as_ref().and_then(|group| link_of(group, &name)).is_some_and(|link| link.drained);
                let command = if drained { "undrain" } else { "drain" };
                self.begin(format!("{name} {command}ed"));
                self.stage.order(command, &name)?;
            }
            KeyCode::Char('s') => {
                let name = self.name();
                let pinned = groups[0].as_ref().is_some_and(|group| group.pinned.as_deref() == Some(name.as_str()));
                let target = if pinned { "auto" } else { name.as_str() };
                self.begin(format!("switched to {target}"));
                self.stage.order("switch", target)?;
            }
            KeyCode::Char('f') => self.attack()?,
            _ => {}
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.stage.routers().setup.links[self.selected].name.clone()
    }

    /// Does harm to the selected wire, or mends it where that harm is done already.
    fn harm(&mut self, harm: Harm) -> Result<()> {
        let wire = &self.stage.routers().wires[self.selected];
        let before = self.harms[self.selected];
        let name = self.name();
        if before != Harm::None {
            wire.mend()?;
        }
        self.harms[self.selected] = Harm::None;
        if before == harm {
            self.begin(format!("{name} repaired"));
            return Ok(());
        }
        self.begin(format!("{name}: {}", harm.words()));
        match harm {
            Harm::None => {}
            Harm::Cut => drop(wire.cut()?),
            Harm::OneWay(direction) => drop(wire.cut_one_way(direction)?),
            Harm::NoCarrier => drop(wire.cut_carrier(End::Client)?),
        }
        self.harms[self.selected] = harm;
        Ok(())
    }

    /// Thousands of packets that are not what they seem, on the selected link.
    fn attack(&mut self) -> Result<()> {
        let name = self.name();
        self.begin(format!("attacks on {name}"));
        let loot = attack::capture(self.stage, &name)?;
        for attack in Attack::ALL {
            let counted = attack::launch(self.stage, &name, attack, &loot)?;
            self.note(&format!("  {counted}"));
        }
        Ok(())
    }

    fn begin(&mut self, what: String) {
        self.note(&what);
        self.incident = Some((monotonic_ns(), what));
    }

    fn draw(&self, groups: &[Option<GroupSnapshot>; 2]) -> Result<()> {
        let mut out = io::stdout().lock();
        let (width, height) = terminal::size().unwrap_or((80, 24));
        queue!(out, cursor::MoveTo(0, 0))?;
        for line in self.picture(groups).iter().take(usize::from(height)) {
            queue!(out, style::Print(clip(line, width)), terminal::Clear(terminal::ClearType::UntilNewLine))?;
            queue!(out, cursor::MoveToNextLine(1))?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
        out.flush().context("cannot draw on the terminal")
    }

    fn picture(&self, groups: &[Option<GroupSnapshot>; 2]) -> Vec<String> {
        let paint = self.paint;
        let mut lines = vec![
            paint.strong("link-watcher demo: hosts ── client ══ links ══ server ── hosts"),
            String::new(),
            paint.faint("     link      wire           client says  server says      rtt    loss   traffic"),
        ];
        for (number, link) in self.stage.routers().setup.links.iter().enumerate() {
            let [client, server] = [0, 1].map(|end| {
                let group = groups[end].as_ref()?;
                Some((link_of(group, &link.name)?, group.active.contains(&link.name)))
            });
            let verdict = |said: &Option<(&link_watcher_core::status::LinkSnapshot, bool)>| {
                let text = said.as_ref().map_or("no answer".to_owned(), |(link, _)| {
                    if link.drained { "drained".to_owned() } else { link.state.clone() }
                });
                let padded = format!("{text:<11}");
                match text.as_str() {
                    "up" => paint.good(&padded),
                    "down" | "absent" | "no answer" => paint.bad(&padded),
                    _ => paint.warn(&padded),
                }
            };
            let (rtt, loss) = client.as_ref().map_or((String::new(), String::new()), |(link, _)| {
                (
                    link.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.3} ms")),
                    format!("{:.0} %", link.loss * 100.0),
                )
            });
            let carries = match [&client, &server].map(|said| said.as_ref().is_some_and(|(_, active)| *active)) {
                [true, true] => paint.strong("<======>"),
                [true, false] => paint.strong("=======>"),
                [false, true] => paint.strong("<======="),
                [false, false] => String::new(),
            };
            let harm = self.harms[number].words();
            let wire = if harm.is_empty() { format!("{:<14}", "sound") } else { paint.bad(&format!("{harm:<14}")) };
            lines.push(format!(
                "{} {} {:<9} {wire} {}  {}  {rtt:>9}  {loss:>5}   {carries}",
                if number == self.selected { ">" } else { " " },
                number + 1,
                link.name,
                verdict(&client),
                verdict(&server),
            ));
        }
        lines.push(String::new());
        for (direction, words) in [(Direction::ToServer, "to server"), (Direction::ToClient, "to client")] {
            let silence_ns = self.stage.trial.meter.silence_ns(direction);
            let now = if silence_ns > 0 {
                paint.bad(&format!("out for {}", outage(silence_ns)))
            } else {
                paint.good("flows")
            };
            lines.push(format!("     traffic {words}: {now}"));
        }
        if let Some(group) = &groups[0] {
            lines.push(paint.faint(&format!("     {}", group.reason)));
        }
        lines.push(String::new());
        lines.extend(self.log.iter().cloned());
        lines.push(String::new());
        let client = self.stage.routers().client.path().display();
        lines.push(paint.faint(&format!("  look inside from another terminal: nsenter --net={client} ip route")));
        lines.push(paint.faint("  1 2 3 cut or mend a link   up down select one   right left cut one way   c carrier"));
        lines.push(
            paint.faint(
                "  d drain   s switch to it, again for automatic   f forge, replay, reflect   m mend all   q quit",
            ),
        );
        lines
    }
}

fn quits(key: KeyEvent) -> bool {
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
        || (key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL))
}

/// The part of a line that fits the terminal. Escape sequences take no room.
fn clip(line: &str, width: u16) -> String {
    let mut room = width;
    let mut escape = false;
    line.chars()
        .filter(|character| {
            if *character == '\x1b' {
                escape = true;
            }
            if escape {
                escape = *character != 'm';
                return true;
            }
            let fits = room > 0;
            room = room.saturating_sub(1);
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_clipped_and_its_colours_end() {
        assert_eq!(clip("\x1b[1mabcdef\x1b[0m", 3), "\x1b[1mabc\x1b[0m");
        assert_eq!(clip("abc", 80), "abc");
    }
}
