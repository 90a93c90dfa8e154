//! Everything that can befall two ends and two links, for the model checker.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use stateright::{Model, Property};

use super::rules::{Choice, End, LINKS, Link, Role, Rules, Verdict, Word};

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// Below the first epoch of a client whose clock is right, and above that of a server that knows none.
const EPOCH_BEFORE: u32 = 1;
const EPOCH: u32 = 2;
/// More choices than that are no end of them.
const EPOCHS: u32 = 60;

/// A word that was overtaken by its sender's next one: it is still on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    pub to: usize,
    pub link: usize,
    pub word: Word,
    /// The receiver's life whose probe it answers, if it answers any.
    pub answers: Option<u32>,
}

/// Both ends, and what is between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub ends: [End; 2],
    /// Whether a link lets packets through, by sender.
    pub passes: [[bool; 2]; LINKS],
    pub held: Option<Held>,
    pub changes_left: u8,
    pub restarts_left: u8,
    /// A rule about a step, not about a state, was broken by the last one.
    pub broken: Option<Broken>,
    /// Something worth knowing that it happens at all has happened.
    pub seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    AnEpochWentBack,
    AnOlderChoiceWasFollowed,
    AChoiceOfAFormerLifeWasFollowed,
    AUsableLinkWasLeftWithoutReason,
    ADeadLinkWasKept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    FormerLifeOutrun,
    DeadChoiceLeft,
    ServerFollowed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A link begins or stops to let packets of each sender through.
    Change { link: usize, passes: [bool; 2] },
    /// A daemon starts anew, perhaps with a clock that stands back.
    Restart { end: usize, back: bool, held: Option<usize> },
    /// Something happens to an end, and it decides. What it said on a link before that may still be on its way.
    Step { end: usize, what: What, held: Option<usize> },
    /// The word that was on its way is lost.
    Lose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing: it has just started.
    Starts,
    /// An echo arrives with its peer's present word.
    Echo(usize),
    /// A probe does, and nothing gets there.
    Probe(usize),
    /// The word that was on its way arrives.
    Late,
    /// No echo has come for the detection time.
    Silent(usize),
    /// A first verdict is not waited for any more.
    Overdue(usize),
    HoldEnds(usize),
    Proved,
    /// All at once that is due.
    Everything,
}

/// What is checked, and how far.
pub struct Agreement {
    pub rules: Rules,
    pub changes: u8,
    pub restarts: u8,
    from_the_start: bool,
    /// How many steps there are at most until nothing is left to do, by state; nothing: it is being looked at.
    calm: Mutex<HashMap<u64, Option<u32>>>,
    hasher: RandomState,
}

impl World {
    fn round_trip(&self, link: usize) -> bool {
        self.passes[link] == [true; 2]
    }

    /// Links that work, the better first.
    pub fn best(&self) -> Option<usize> {
        (0..LINKS).find(|link| self.round_trip(*link))
    }

    /// What is yet to be heard on a link, if it can be.
    fn news(&self, end: usize, link: usize) -> Option<Word> {
        let word = self.ends[1 - end].links[link].said;
        let known = self.ends[end].links[link].heard;
        self.passes[link][1 - end].then_some(())?;
        is_taken(known, word, self.round_trip(link)).then_some(word).filter(|word| known != Some(*word))
    }

    pub fn is_decided(&self) -> bool {
        self.held.is_none() && self.ends.iter().all(|end| !end.stirred)
    }

    /// Nobody has anything to hear, to notice, to wait for or to decide.
    pub fn is_calm(&self) -> bool {
        self.all_due().is_empty()
    }

    /// What happens to an end by itself sooner or later while the links stay as they are.
    fn due(&self, at: usize, what: &mut Vec<What>) {
        let end = &self.ends[at];
        if end.stirred {
            what.push(What::Starts);
        }
        if self.held.is_some_and(|held| held.to == at) {
            what.push(What::Late);
        }
        for (link, known) in end.links.iter().enumerate() {
            let works = self.round_trip(link);
            if works && (known.verdict != Verdict::Up || self.news(at, link).is_some()) {
                what.push(What::Echo(link));
            }
            if !works && known.verdict != Verdict::Down {
                what.push(What::Silent(link));
            }
            if known.holds {
                what.push(What::HoldEnds(link));
            }
        }
        if end.role == Role::Client && end.active == Some(1) && end.links[0].usable() && !end.proved {
            what.push(What::Proved);
        }
    }

    fn all_due(&self) -> Vec<(usize, What)> {
        let mut all = Vec::new();
        for end in 0..2 {
            let mut what = Vec::new();
            self.due(end, &mut what);
            all.extend(what.into_iter().map(|what| (end, what)));
        }
        all
    }
}

/// Whether the kernel takes a word in: of another life than before only as an answer, and of this one none that was overtaken.
const fn is_taken(known: Option<Word>, word: Word, answered: bool) -> bool {
    match known {
        Some(known) if known.life == word.life => word.epoch >= known.epoch,
        _ => answered,
    }
}

impl Agreement {
    pub fn new(rules: Rules, changes: u8, restarts: u8) -> Self {
        Self { rules, changes, restarts, from_the_start: false, calm: Mutex::default(), hasher: RandomState::new() }
    }

    /// Two daemons that have just started, instead of two that have agreed.
    pub fn with_a_start(self) -> Self {
        Self { from_the_start: true, ..self }
    }

    fn apply(&self, world: &mut World, action: Action) {
        (world.broken, world.seen) = (None, None);
        match action {
            Action::Change { link, passes } => {
                world.passes[link] = passes;
                world.changes_left -= 1;
            }
            Action::Restart { end, back, held } => {
                hold(world, end, held);
                let old = &world.ends[end];
                let epoch = if back { EPOCH_BEFORE } else { old.epoch + 1 };
                world.ends[end] = End::start(old.role, old.life + 1, epoch, old.carried);
                world.restarts_left -= 1;
            }
            Action::Step { end, what, held } => {
                let late = if what == What::Late { world.held.take() } else { None };
                hold(world, end, held);
                let former = world.ends[end].clone();
                match (what, late) {
                    (What::Everything, _) => {
                        let mut all = Vec::new();
                        world.due(end, &mut all);
                        all.into_iter().for_each(|what| self.happen(world, end, what));
                    }
                    (_, Some(held)) => {
                        let answered = held.answers == Some(former.life);
                        if is_taken(former.links[held.link].heard, held.word, answered) {
                            self.hear(world, end, held.link, held.word);
                        }
                    }
                    _ => self.happen(world, end, what),
                }
                let heard = world.ends[end].clone();
                world.ends[end].decide(self.rules);
                judge(world, end, &former, &heard);
            }
            Action::Lose => world.held = None,
        }
    }

    fn happen(&self, world: &mut World, end: usize, what: What) {
        match what {
            What::Echo(link) | What::Probe(link) => {
                let word = world.ends[1 - end].links[link].said;
                if is_taken(world.ends[end].links[link].heard, word, world.round_trip(link)) {
                    self.hear(world, end, link, word);
                }
                if world.held.is_some_and(|held| (held.to, held.link) == (end, link)) {
                    world.held = None; // overtaken on its own way: dropped
                }
                if world.round_trip(link) && world.ends[end].links[link].verdict != Verdict::Up {
                    world.ends[end].judge(link, Verdict::Up);
                }
            }
            What::Silent(link) => world.ends[end].judge(link, Verdict::Down),
            What::Overdue(link) => world.ends[end].judge(link, Verdict::Overdue),
            What::HoldEnds(link) => world.ends[end].hold_ends(link),
            What::Proved => world.ends[end].prove(),
            What::Starts | What::Late | What::Everything => {}
        }
    }

    fn hear(&self, world: &mut World, at: usize, link: usize, word: Word) {
        let end = &mut world.ends[at];
        let (epoch, active) = (end.epoch, end.active);
        end.hear(link, word, self.rules);
        if end.epoch != epoch {
            world.seen = Some(Seen::FormerLifeOutrun);
        } else if end.active != active {
            world.seen = Some(Seen::ServerFollowed);
        }
    }

    /// How many steps it takes at most until nothing is left to do; nothing: for ever.
    fn steps_to_calm(&self, world: &World) -> Option<u32> {
        let mut world = world.clone();
        (world.changes_left, world.restarts_left, world.broken, world.seen) = (0, 0, None, None);
        let mut known = self.calm.lock().unwrap();
        self.longest(world, &mut known)
    }

    fn longest(&self, world: World, known: &mut HashMap<u64, Option<u32>>) -> Option<u32> {
        let key = self.hasher.hash_one(&world);
        if let Some(steps) = known.get(&key) {
            return *steps;
        }
        known.insert(key, None);
        if world.ends[CLIENT].epoch > EPOCHS {
            return None;
        }
        let mut longest = 0;
        for (end, what) in world.all_due() {
            let mut next = world.clone();
            self.apply(&mut next, Action::Step { end, what, held: None });
            (next.broken, next.seen) = (None, None);
            longest = longest.max(self.longest(next, known)? + 1);
        }
        known.insert(key, Some(longest));
        Some(longest)
    }

    /// Whether this property is an example of what may be, and no fault.
    pub fn is_expected(&self, name: &str) -> bool {
        self.properties().iter().any(|property| property.name == name && !property.expectation.discovery_is_failure())
    }

    /// Most steps from any state until nothing is left to do.
    pub fn longest_way_to_calm(&self) -> u32 {
        self.calm.lock().unwrap().values().flatten().copied().max().unwrap_or(0)
    }
}

/// Holds a step against what it was made on: `former` the end before it, `heard` before it decided.
fn judge(world: &mut World, at: usize, former: &End, heard: &End) {
    let end = &world.ends[at];
    if end.role == Role::Client && end.epoch < former.epoch {
        world.broken = Some(Broken::AnEpochWentBack);
    }
    let older = |(now, then): (Choice, Choice)| now.epoch < then.epoch;
    // A choice of another life is forgotten when that is heard.
    if end.peer_life == former.peer_life && end.choice.zip(former.choice).is_some_and(older) {
        world.broken = Some(Broken::AnOlderChoiceWasFollowed);
    }
    if end.choice.is_some_and(|choice| Some(choice.life) != end.peer_life) {
        world.broken = Some(Broken::AChoiceOfAFormerLifeWasFollowed);
    }
    if end.choice.is_some_and(|choice| choice.fell && Some(choice.link) != end.active) {
        world.seen = Some(Seen::DeadChoiceLeft);
    }
    let is_dead = |link: usize| end.links[link].verdict == Verdict::Down;
    if end.active.is_some_and(is_dead) && end.links.iter().any(Link::usable) {
        world.broken = Some(Broken::ADeadLinkWasKept);
    }
    let Some(left) = former.carried.filter(|left| end.active != Some(*left)) else { return };
    let reason = match end.role {
        Role::Client => heard.active != heard.carried || (left == 1 && end.proved),
        Role::Server => end.choice.is_some_and(|choice| Some(choice.link) == end.active),
    };
    if end.links[left].usable() && !reason {
        world.broken = Some(Broken::AUsableLinkWasLeftWithoutReason);
    }
}

/// The present word of an end on a link is overtaken by its next one, and goes on being on its way.
fn hold(world: &mut World, from: usize, link: Option<usize>) {
    let Some(link) = link else { return };
    let answers = world.passes[link][1 - from].then_some(world.ends[1 - from].life);
    world.held = Some(Held { to: 1 - from, link, word: world.ends[from].links[link].said, answers });
}

impl Model for Agreement {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let [client, server] = [Role::Client, Role::Server].map(|role| End::start(role, 1, EPOCH, None));
        let mut world = World {
            ends: [client, server],
            passes: [[true; 2]; LINKS],
            held: None,
            changes_left: self.changes,
            restarts_left: self.restarts,
            broken: None,
            seen: None,
        };
        if !self.from_the_start {
            while let Some((end, what)) = world.all_due().first().copied() {
                self.apply(&mut world, Action::Step { end, what, held: None });
            }
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let may_be_held = |from: usize, link: usize| {
            let unheard = world.ends[1 - from].links[link].heard != Some(world.ends[from].links[link].said);
            unheard && world.held.is_none() && world.passes[link][from]
        };
        for at in 0..2 {
            let mut steps = Vec::new();
            world.due(at, &mut steps);
            if steps.len() > 1 {
                steps.push(What::Everything);
            }
            for link in 0..LINKS {
                if world.round_trip(link) {
                    continue;
                }
                if world.news(at, link).is_some() {
                    steps.push(What::Probe(link));
                }
                if world.ends[at].links[link].verdict == Verdict::Starting {
                    steps.push(What::Overdue(link));
                }
            }
            let said = |world: &World, link: usize| world.ends[at].links[link].said;
            for what in steps {
                let step = |held| Action::Step { end: at, what, held };
                actions.push(step(None));
                if (0..LINKS).any(|link| may_be_held(at, link)) {
                    let mut next = world.clone();
                    self.apply(&mut next, step(None));
                    let held =
                        (0..LINKS).filter(|link| may_be_held(at, *link) && said(&next, *link) != said(world, *link));
                    actions.extend(held.map(|link| step(Some(link))));
                }
            }
            if world.restarts_left > 0 {
                let held = (0..LINKS).filter(|link| may_be_held(at, *link)).map(Some);
                for held in held.chain([None]) {
                    actions.push(Action::Restart { end: at, back: false, held });
                    if at == CLIENT {
                        actions.push(Action::Restart { end: at, back: true, held });
                    }
                }
            }
        }
        if world.held.is_some() {
            actions.push(Action::Lose);
        }
        if world.changes_left > 0 {
            for link in 0..LINKS {
                let all = [[true, true], [false, true], [true, false], [false, false]];
                let others = all.into_iter().filter(|passes| *passes != world.passes[link]);
                actions.extend(others.map(|passes| Action::Change { link, passes }));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.apply(&mut next, action);
        Some(next)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.ends[CLIENT].epoch <= EPOCHS
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn broken(world: &World, broken: Broken) -> bool {
            world.broken == Some(broken)
        }
        vec![
            Property::always("an epoch never goes back within a life", |_, w| !broken(w, Broken::AnEpochWentBack)),
            Property::always("no older choice is followed", |_, w| !broken(w, Broken::AnOlderChoiceWasFollowed)),
            Property::always("no choice of a former life is followed", |_, w| {
                !broken(w, Broken::AChoiceOfAFormerLifeWasFollowed)
            }),
            Property::always("no usable link is left without reason", |_, w: &World| {
                !broken(w, Broken::AUsableLinkWasLeftWithoutReason)
            }),
            Property::always("no dead link is kept while another is usable", |_, w| {
                !broken(w, Broken::ADeadLinkWasKept)
            }),
            Property::always("with nothing left to hear they are on one link", |_, w: &World| {
                !w.apart_without_reason()
            }),
            Property::always("once calm both are on the best link", |_, w: &World| {
                !w.is_calm() || w.best().is_none_or(|best| w.ends.iter().all(|end| end.carried == Some(best)))
            }),
            Property::always("it becomes calm", |model: &Self, w: &World| model.steps_to_calm(w).is_some()),
            Property::sometimes("both are on the worse link", |_, w: &World| {
                w.ends.iter().all(|end| end.carried == Some(1))
            }),
            Property::sometimes(
                "they are apart",
                |_, w: &World| matches!((w.ends[0].carried, w.ends[1].carried), (Some(a), Some(b)) if a != b),
            ),
            Property::sometimes("the former life is outrun", |_, w: &World| w.seen == Some(Seen::FormerLifeOutrun)),
            Property::sometimes("the server leaves a dead choice", |_, w: &World| w.seen == Some(Seen::DeadChoiceLeft)),
            Property::sometimes("the client goes where its server is", |_, w: &World| {
                w.seen == Some(Seen::ServerFollowed)
            }),
        ]
    }
}

impl World {
    /// Both links work and everybody knows, nothing is on its way, nobody has anything to decide or to wait for, and yet
    /// traffic takes one link there and the other one back.
    fn apart_without_reason(&self) -> bool {
        let knows = |at: usize, link: usize| {
            let known = &self.ends[at].links[link];
            known.verdict == Verdict::Up && !known.holds && known.heard == Some(self.ends[1 - at].links[link].said)
        };
        let all_know = (0..LINKS).all(|link| self.round_trip(link) && knows(CLIENT, link) && knows(SERVER, link));
        all_know && self.is_decided() && self.ends[CLIENT].carried != self.ends[SERVER].carried
    }
}
