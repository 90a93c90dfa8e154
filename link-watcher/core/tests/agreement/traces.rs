//! What real engines do, held against the rules: each step must be one that they allow.
//!
//! A trace has what an engine was told, in order, and what is seen of it after each word and each decision. What is not seen is
//! guessed: which times are over (hold-up, failback). All guesses are followed at once,
//! and those that what is seen rules out are dropped; where none is left, the engine did what the rules do not allow.

use std::collections::BTreeMap;

use link_watcher_common::{maps::View, wire::flags};
use link_watcher_core::{
    engine::GroupStatus,
    event::{Event, LinkVerdict, RemoteState},
};

use super::rules::{End, LINKS, Role, Rules, Verdict, Word};
use super::sim::{CLIENT, SERVER, Sim, side::Step};

/// What an end has said on a link, in order, with the times, ns.
type Spoken = [Vec<(u64, Word)>; LINKS];

/// How far a trace was followed.
#[derive(Debug, Default)]
pub struct Followed {
    pub lives: usize,
    pub words: usize,
    pub decisions: usize,
    pub moves: usize,
    /// Most guesses that were open at a time.
    pub guesses: usize,
}

/// Follows both ends of one history.
///
/// # Errors
///
/// Which step the rules do not allow.
pub fn follow(sim: &Sim, rules: Rules, followed: &mut Followed) -> Result<(), String> {
    let traces = [CLIENT, SERVER].map(|at| sim.sides[at].trace.as_deref().unwrap());
    let spoken = traces.map(spoken);
    // As docs/protocol.md has it, and no sooner.
    let overdue_ns = 2 * sim.setup.detection_ns();
    for (at, role) in [Role::Client, Role::Server].into_iter().enumerate() {
        let end = Watched { role, rules, overdue_ns, peer_spoke: &spoken[1 - at] };
        end.follow(traces[at], followed).map_err(|why| format!("{role:?}: {why}"))?;
    }
    Ok(())
}

fn word(life: u32, view: View) -> Word {
    let is = |flag: u8| view.flags & flag != 0;
    Word { life, epoch: view.epoch, active: is(flags::ACTIVE), hears: is(flags::HEARS) }
}

fn spoken(trace: &[(u64, Step)]) -> Spoken {
    let mut spoken = Spoken::default();
    let mut life = 0;
    for (at_ns, step) in trace {
        let words: Vec<Word> = match step {
            Step::Started { instance, epoch, .. } => {
                life = *instance;
                // Which of the two it is says who it is: a server begins at 0.
                [0, *epoch].map(|epoch| Word { life, epoch, active: false, hears: true }).into()
            }
            Step::Told(..) => continue,
            Step::Decided(_, views) => {
                let views = views.iter().enumerate();
                for (link, view) in views {
                    spoken[link].push((*at_ns, word(life, *view)));
                }
                continue;
            }
        };
        for of_link in &mut spoken {
            of_link.extend(words.iter().map(|word| (*at_ns, *word)));
        }
    }
    spoken
}

/// Whether this was said, no later than now and no earlier than what was heard before; where.
fn place_in(spoken: &[(u64, Word)], heard: Word, now_ns: u64, from: usize) -> Option<usize> {
    let later = spoken.iter().enumerate().skip(from);
    later.take_while(|(_, (at_ns, _))| *at_ns <= now_ns).find(|(_, (_, word))| *word == heard).map(|(place, _)| place)
}

/// One end, and what is known beside what befalls it.
struct Watched<'a> {
    role: Role,
    rules: Rules,
    /// For how long a first verdict is waited for, ns.
    overdue_ns: u64,
    peer_spoke: &'a Spoken,
}

impl Watched<'_> {
    fn follow(&self, trace: &[(u64, Step)], followed: &mut Followed) -> Result<(), String> {
        let rules = self.rules;
        let mut possible: Vec<End> = Vec::new();
        let mut overdue_from_ns = 0;
        let mut heard_up_to: BTreeMap<(usize, u32), usize> = BTreeMap::new();
        for (at_ns, step) in trace {
            let former = possible.clone();
            let guesses = |known: Vec<End>| guesses(known, *at_ns >= overdue_from_ns);
            match step {
                Step::Started { instance, epoch, adopted } => {
                    let carried = adopted.first().copied();
                    possible = vec![End::start(self.role, *instance, *epoch, carried)];
                    overdue_from_ns = at_ns + self.overdue_ns;
                    followed.lives += 1;
                    continue;
                }
                Step::Told(event, status) => {
                    let words = said_in(event);
                    if let Some((link, said)) = words {
                        let from = heard_up_to.entry((link, said.life)).or_default();
                        *from = place_in(&self.peer_spoke[link], said, *at_ns, *from).ok_or_else(|| {
                            format!("at {at_ns} ns: heard what was not said, or was overtaken: {said:?}")
                        })?;
                        followed.words += 1;
                    }
                    possible = guesses(possible);
                    for end in &mut possible {
                        if let Some((link, said)) = words {
                            end.hear(link, said, rules);
                        }
                        take_verdicts(end, status);
                    }
                    // A hold-up time may be none.
                    possible = guesses(possible);
                    possible.retain(|end| links_are(end, status));
                }
                Step::Decided(status, views) => {
                    // A silence that was put down to a stop of the peer is judged now.
                    possible.iter_mut().for_each(|end| take_verdicts(end, status));
                    possible = guesses(possible);
                    possible.iter_mut().for_each(|end| end.decide(rules));
                    let moved = former.first().map(|end| end.carried);
                    possible.retain(|end| links_are(end, status) && decided(end, status, views));
                    followed.decisions += 1;
                    followed.moves += usize::from(moved != possible.first().map(|end| end.carried));
                }
            }
            followed.guesses = followed.guesses.max(possible.len());
            if possible.is_empty() {
                return Err(format!("at {at_ns} ns the rules do not allow {step:#?}\nfrom any of {former:#?}"));
            }
        }
        Ok(())
    }
}

fn said_in(event: &Event) -> Option<(usize, Word)> {
    let Event::RemoteState { link, state } = event else { return None };
    let RemoteState { instance, epoch, active, hears, .. } = *state;
    Some((link.0 as usize, Word { life: instance, epoch, active, hears }))
}

/// All that it may be by now, for whatever time has passed; `overdue`: enough for a first verdict.
fn guesses(known: Vec<End>, overdue: bool) -> Vec<End> {
    let mut all = known;
    let mut next = 0;
    while let Some(end) = all.get(next).cloned() {
        next += 1;
        let mut add = |changed: End| {
            if !all.contains(&changed) {
                all.push(changed);
            }
        };
        for (at, link) in end.links.iter().enumerate() {
            let mut later = end.clone();
            if link.holds {
                later.hold_ends(at);
                add(later);
            } else if overdue && link.verdict == Verdict::Starting {
                later.judge(at, Verdict::Overdue);
                add(later);
            }
        }
        if end.role == Role::Client && end.active == Some(1) && end.links[0].usable() && !end.proved {
            let mut later = end.clone();
            later.prove();
            add(later);
        }
    }
    all
}

fn take_verdicts(end: &mut End, status: &GroupStatus) {
    for (at, link) in status.links.iter().enumerate() {
        let verdict = match link.verdict {
            LinkVerdict::Starting => continue,
            LinkVerdict::Up => Verdict::Up,
            LinkVerdict::Degraded => Verdict::Degraded,
            LinkVerdict::Down | LinkVerdict::Absent | LinkVerdict::Dampened => Verdict::Down,
        };
        if end.links[at].verdict != verdict {
            end.judge(at, verdict);
        }
    }
}

fn links_are(end: &End, status: &GroupStatus) -> bool {
    end.links.iter().zip(&status.links).all(|(link, seen)| {
        link.usable() == seen.usable && link.heard.is_some_and(|word| word.active) == seen.carries_for_peer
    })
}

fn decided(end: &End, status: &GroupStatus, views: &[View]) -> bool {
    let active: Vec<usize> = status.active.iter().map(|id| id.0 as usize).collect();
    let carried: Vec<usize> = end.carried.into_iter().collect();
    let said = |(link, view): (&super::rules::Link, &View)| link.said == word(end.life, *view);
    active == carried && end.links.iter().zip(views).all(said)
}
