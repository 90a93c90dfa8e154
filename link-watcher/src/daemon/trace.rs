//! `trace-packets`: the talkative copy of the kernel program, for as long as somebody reads what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};
use tracing::info;

use super::core::Core;
use crate::{
    bpf::{DROPPED, TraceParts},
    clock,
    control::{Author, MAX_TRACE_MS, PacketRecord, TraceLine, TraceRequest, Traced},
    error::chain,
    probe::Verifier,
    realtime,
};

/// Between two readings: with the lines that one gives, [`TRACE_LINES_A_SECOND`](crate::control::TRACE_LINES_A_SECOND).
const PERIOD: Duration = Duration::from_millis(50);
/// How often it is said how many packets were left out.
const ACCOUNT_PERIOD: Duration = Duration::from_secs(1);
/// Lines that wait for a client that reads slowly.
const QUEUE: usize = 1024;

/// What a link is called: its group's name, and its own.
type Names = BTreeMap<u32, (String, String)>;

/// Somebody waits for it.
type Answer = oneshot::Sender<Result<Traced, String>>;

impl Core {
    /// Begins a trace, or says why not. The kernel's verifier takes its time, so that a thread of its own does it and answers.
    pub(super) fn trace_packets(&mut self, request: &TraceRequest, author: &Author, answer: Answer) {
        let begun = self.prepare(request, author).and_then(|(parts, names, said)| {
            let time = Duration::from_millis(request.for_ms);
            let object = crate::bpf_object().ok_or("this daemon was built without the kernel program")?;
            info!("{} traces packets: {said}", author.by);
            Ok((parts, names, said, time, object))
        });
        match begun {
            // Whoever asked may have gone: that is their affair. Here and below.
            Err(why) => drop(answer.send(Err(why))),
            Ok((parts, names, said, time, object)) => {
                let follow = move || follow(parts, object, &names, said, time, answer);
                // Where there can be no thread, the one who asks learns it from the end of the channel.
                if let Err(error) = thread::Builder::new().name("lw-trace".to_owned()).spawn(follow) {
                    tracing::warn!("nobody can tell of packets: {error}");
                }
            }
        }
    }

    fn prepare(&mut self, request: &TraceRequest, author: &Author) -> Result<(TraceParts, Names, String), String> {
        if !(1..=MAX_TRACE_MS).contains(&request.for_ms) {
            return Err(format!("a trace takes 1 ms to {} minutes", MAX_TRACE_MS / 60_000));
        }
        let group = request.group.as_deref().map(|name| self.find_group(name)).transpose()?;
        let only = match (&request.group, &request.link) {
            (Some(group), Some(link)) => Some(self.find_link(group, link)?.1),
            _ => None,
        };
        if let Some(name) = request.group.as_ref().filter(|_| group.is_some_and(|id| !self.groups.contains_key(&id))) {
            return Err(format!(
                "{name} is a group of uplinks, whose probes are sent and read by the daemon and not by the kernel program: \
                 `link-watcher status {name} LINK` shows target by target what they say"
            ));
        }
        let wanted = self
            .links
            .values()
            .filter(|link| group.is_none_or(|group| link.group == group) && only.is_none_or(|only| link.id == only));
        let (mut names, mut ifindexes, mut left_out) = (Names::new(), BTreeSet::new(), Vec::new());
        for link in wanted {
            let group = self.groups.get(&link.group).map_or("", |group| group.config.name.as_str());
            let name = format!("{group} {}", link.config.name);
            match &link.running {
                Some(running) if running.verifier == Verifier::Kernel => {
                    names.insert(link.id.0, (group.to_owned(), link.config.name.clone()));
                    ifindexes.insert(running.ifindex);
                }
                Some(running) => {
                    let reason =
                        running.engine_reason.as_deref().unwrap_or("the configuration says engine = \"socket\"");
                    left_out.push(format!("{name} (by a socket: {reason})"));
                }
                None => left_out.push(format!("{name} (it does not run)")),
            }
        }
        if names.is_empty() {
            return Err(match left_out.as_slice() {
                [] => "there is no link to a peer".to_owned(),
                _ => format!(
                    "the kernel program verifies the keepalives of none of these links: {}. `link-watcher status GROUP LINK` counts what a \
                     socket refuses, by cause",
                    left_out.join(", ")
                ),
            });
        }
        let listed: Vec<String> = names.values().map(|(group, link)| format!("{group} {link}")).collect();
        let mut said =
            format!("{} for {}", listed.join(", "), humantime::format_duration(Duration::from_millis(request.for_ms)));
        if !left_out.is_empty() {
            said += &format!("; not {}", left_out.join(", "));
        }
        let who = format!("{}, since {}: {said}", author.by, clock::rfc3339(clock::now_ns()));
        let parts = self.attacher.trace(&ifindexes, names.keys().copied().collect(), who)?;
        Ok((parts, names, said))
    }
}

/// Tells, until the time is over, nobody reads any more, or the daemon stops.
fn follow(parts: TraceParts, object: &[u8], names: &Names, said: String, time: Duration, answer: Answer) {
    realtime::lower();
    let mut trace = match parts.begin(object) {
        Ok(trace) => trace,
        Err(error) => return drop(answer.send(Err(chain(&error)))),
    };
    let (lines_in, lines) = mpsc::channel(QUEUE);
    let cut_short = Arc::new(AtomicBool::new(false));
    if answer.send(Ok(Traced { said, lines, cut_short: Arc::clone(&cut_short) })).is_err() {
        return;
    }
    let begun = Instant::now();
    let mut account = Account::default();
    while begun.elapsed() < time && !trace.is_over() {
        thread::sleep(PERIOD.min(time.saturating_sub(begun.elapsed())));
        let reading = trace.read();
        let at = clock::rfc3339(clock::now_ns());
        for (slot, what) in &reading.lines {
            let Some(line) = names.get(slot).map(|names| record(&at, names, what)) else { continue };
            match lines_in.try_send(TraceLine::Packet(line)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => account.unread += 1,
                Err(TrySendError::Closed(_)) => return,
            }
        }
        if lines_in.is_closed() {
            return;
        }
        let last = begun.elapsed() >= time || trace.is_over();
        if let Some(left_out) = account.due(reading.left_out, Instant::now(), last) {
            // Where there is no room for it now, it is in the next one.
            match lines_in.try_send(TraceLine::LeftOut(left_out)) {
                Ok(()) => account.said += left_out,
                Err(_) => account.said_at = None,
            }
        }
    }
    // Before `lines_in` is dropped, which is how it is noticed.
    cut_short.store(begun.elapsed() < time, Ordering::Release);
    info!("the trace of packets is over");
}

/// What was left out, and how much of it was said.
#[derive(Debug, Default)]
struct Account {
    /// Lines that found no room with a client that reads slowly.
    unread: u64,
    said: u64,
    said_at: Option<Instant>,
}

impl Account {
    /// How many more were left out since that was said; nothing where it is not time for it.
    fn due(&mut self, deferred: u64, now: Instant, last: bool) -> Option<u64> {
        let early = self.said_at.is_some_and(|at| now.duration_since(at) < ACCOUNT_PERIOD);
        let left_out = (deferred + self.unread).saturating_sub(self.said);
        if left_out == 0 || (early && !last) {
            return None;
        }
        self.said_at = Some(now);
        Some(left_out)
    }
}

/// What the kernel program says, what that is, and why; of what is dropped also the counter's name.
const MEANINGS: &[(&str, &str, Option<&str>, &str)] = &[
    ("probe answered", "answered", None, "a good probe of the peer's"),
    ("echo taken in", "taken-in", None, "the echo of a probe of ours: the link works"),
    ("control packet passed on", "passed-on", None, "a good control packet, which is the daemon's affair"),
    ("dropped: malformed", "dropped", Some("malformed"), "its length or its header is not that of a keepalive"),
    (
        "dropped: from an address that is no link's",
        "dropped",
        Some("unknown"),
        "it comes from an address that is no `remote` of the configuration",
    ),
    ("dropped: replayed", "dropped", Some("replayed"), "its sequence was seen before, or its session is over"),
    ("dropped: reflected", "dropped", Some("reflected"), "it is ours and came back, or both ends have the same role"),
    ("dropped: forged", "dropped", Some("forged"), "its signature fits none of the keys"),
    ("dropped: late", "dropped", Some("late"), "an echo that comes too late to show that the link works"),
    ("dropped: from too far away", "dropped", Some("distant"), "its TTL or hop limit is less than `max-hops` allows"),
    ("dropped: another version", "dropped", Some("version"), "the peer speaks another version of the protocol"),
];

fn record(at: &str, (group, link): &(String, String), said: &str) -> PacketRecord {
    let known = MEANINGS.iter().find(|(known, ..)| *known == said);
    let (what, cause, why) = match known {
        Some((_, what, cause, why)) => (*what, cause.map(str::to_owned), (*why).to_owned()),
        None if said.starts_with(DROPPED) => ("dropped", None, said.to_owned()),
        None => ("taken-in", None, said.to_owned()),
    };
    PacketRecord {
        time: at.to_owned(),
        group: group.clone(),
        link: link.clone(),
        direction: "in".to_owned(),
        what: what.to_owned(),
        cause,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_kernel_program_says_has_a_meaning() {
        let program = include_str!("../../../link-watcher-ebpf/src/log.rs");
        let said: Vec<&str> = program.split("\"{} ").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let known: Vec<&str> = MEANINGS.iter().map(|(said, ..)| *said).collect();
        assert_eq!(said, known);
    }

    #[test]
    fn a_packet_is_said_with_its_cause() {
        let record = record("T", &("hq".to_owned(), "optic".to_owned()), "dropped: forged");
        assert_eq!((record.what.as_str(), record.cause.as_deref()), ("dropped", Some("forged")));
        assert_eq!((record.group.as_str(), record.link.as_str()), ("hq", "optic"));
    }

    #[test]
    fn each_packet_that_is_left_out_is_counted_once_and_at_most_once_a_second() {
        let (mut account, begun) = (Account::default(), Instant::now());
        let mut due = |deferred, ms, last| {
            let due = account.due(deferred, begun + Duration::from_millis(ms), last);
            account.said += due.unwrap_or_default();
            due
        };
        assert_eq!(due(0, 0, false), None);
        assert_eq!(due(10, 50, false), Some(10));
        assert_eq!(due(30, 100, false), None, "too early");
        assert_eq!(due(90, 1_100, false), Some(80));
        assert_eq!(due(95, 1_200, true), Some(5), "the last one");
        account.unread = 7;
        assert_eq!(account.due(95, begun + Duration::from_secs(9), false), Some(7));
    }

    #[test]
    fn the_promised_number_of_lines() {
        let readings = Duration::from_secs(1).as_millis() / PERIOD.as_millis();
        let lines = readings * crate::bpf::LINES_A_READING as u128;
        assert_eq!(lines, u128::from(crate::control::TRACE_LINES_A_SECOND));
    }
}
