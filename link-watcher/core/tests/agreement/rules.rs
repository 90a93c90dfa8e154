//! The rules by which two ends agree on a link, written a second time, from docs/protocol.md and for two links of two
//! tiers: no clock (what takes time happens some time or other), no packets (an end hears words), no orders, no
//! interfaces. The model checker walks through all that can come of them ([`super::world`]); what the real engine does
//! is held against them step by step ([`super::traces`]).

/// Links of the model; link 0 is the better one.
pub const LINKS: usize = 2;

/// Which rules hold; one is left out to see that its want is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    All,
    /// The server takes any word of its client for the newest.
    WithoutComparingEpochs,
    /// A client does not look at the epochs that the server still says of the client's former life.
    WithoutOutrunningTheFormerLife,
    /// Words of a client's former life count like those of the present one.
    WithoutTellingLivesApart,
    /// The server waits for its client where it finds the chosen link dead.
    WithoutLeavingADeadChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Starting,
    /// No verdict, and none is waited for any more.
    Overdue,
    Up,
    /// Answers, but badly.
    Degraded,
    Down,
}

impl Verdict {
    const fn works(self) -> bool {
        matches!(self, Self::Up | Self::Degraded)
    }
}

/// What an end says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Word {
    /// Its daemon's life.
    pub life: u32,
    pub epoch: u32,
    pub active: bool,
    pub hears: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Client,
    Server,
}

/// What an end believes of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    pub verdict: Verdict,
    /// It is back, and must go on being good for a while.
    pub holds: bool,
    /// The peer said that it does not hear us, and has not said otherwise since.
    pub unheard: bool,
    /// The peer's newest word on it.
    pub heard: Option<Word>,
    /// What this end says on it since its last decision.
    pub said: Word,
}

impl Link {
    /// Both ends hear each other.
    fn answers_both_ways(&self) -> bool {
        self.verdict == Verdict::Up && self.heard.is_some_and(|word| word.hears)
    }

    /// Traffic may use it.
    pub fn usable(&self) -> bool {
        self.answers_both_ways() && !self.holds
    }

    /// It may turn out usable any moment.
    fn undecided(&self) -> bool {
        self.verdict == Verdict::Starting || (self.verdict == Verdict::Up && self.heard.is_none())
    }
}

/// What a server knows of its client's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// The client's life that made it.
    pub life: u32,
    pub epoch: u32,
    pub link: usize,
    /// The server had to leave it because it was dead here.
    pub fell: bool,
}

/// One life of one end's daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct End {
    pub role: Role,
    pub life: u32,
    pub epoch: u32,
    pub links: [Link; LINKS],
    /// What is chosen.
    pub active: Option<usize>,
    /// Where the traffic goes since the last decision.
    pub carried: Option<usize>,
    /// The peer's life that counts.
    pub peer_life: Option<u32>,
    /// Something has happened since the last decision.
    pub stirred: bool,
    /// Client: the server was seen to follow this epoch.
    pub followed: bool,
    /// Client: the better link has been usable for the failback time.
    pub proved: bool,
    /// Server: the client's newest choice.
    pub choice: Option<Choice>,
}

impl End {
    /// A daemon starts; traffic goes by `carried` since before.
    pub fn start(role: Role, life: u32, epoch: u32, carried: Option<usize>) -> Self {
        let epoch = if role == Role::Client { epoch } else { 0 };
        let said = Word { life, epoch, active: false, hears: true };
        let link = Link { verdict: Verdict::Starting, holds: false, unheard: false, heard: None, said };
        Self {
            role,
            life,
            epoch,
            links: [link; LINKS],
            active: carried,
            carried,
            peer_life: None,
            stirred: true,
            followed: false,
            proved: false,
            choice: None,
        }
    }

    /// Probes have come to a verdict.
    pub fn judge(&mut self, link: usize, verdict: Verdict) {
        let before = std::mem::replace(&mut self.links[link].verdict, verdict);
        if verdict == Verdict::Up && before != Verdict::Up {
            self.links[link].holds = matches!(before, Verdict::Down | Verdict::Degraded);
        }
        self.stirred = true;
    }

    /// The hold-up time of a link is over.
    pub const fn hold_ends(&mut self, link: usize) {
        self.links[link].holds = false;
        self.stirred = true;
    }

    /// The better link has been usable for the failback time.
    pub const fn prove(&mut self) {
        self.proved = true;
        self.stirred = true;
    }

    /// The peer says something on a link.
    pub fn hear(&mut self, at: usize, word: Word, rules: Rules) {
        let link = &mut self.links[at];
        let before = link.heard.replace(word);
        link.unheard |= !word.hears && before.is_some_and(|before| before.hears);
        if word.hears && std::mem::take(&mut link.unheard) {
            link.holds = true;
        }
        let tells_lives_apart = rules != Rules::WithoutTellingLivesApart;
        if self.peer_life != Some(word.life) && before.map(|before| before.life) != Some(word.life) {
            self.peer_life = Some(word.life);
            if tells_lives_apart {
                (self.followed, self.choice) = (false, None);
            }
        }
        self.stirred = true;
        if self.role == Role::Server {
            return;
        }
        if self.epoch < word.epoch && rules != Rules::WithoutOutrunningTheFormerLife {
            self.epoch = word.epoch + 1;
            self.followed = false;
        }
        if !word.active || word.epoch != self.epoch || (self.peer_life != Some(word.life) && tells_lives_apart) {
            return;
        }
        if self.active == Some(at) {
            self.followed = true;
        } else if self.followed && self.links[at].usable() {
            // The server has left the choice that it had followed: it finds it dead.
            self.proved = false;
            self.active = Some(at);
        }
    }

    /// Decides on all that has happened, and says so.
    pub fn decide(&mut self, rules: Rules) {
        self.proved &= self.links[0].usable();
        self.active = match self.role {
            Role::Client => self.select(self.proved),
            Role::Server => self.follow(rules),
        };
        if self.role == Role::Client && self.active != self.carried {
            self.epoch += 1;
            self.followed = false;
        }
        self.carried = self.active;
        for (at, link) in self.links.iter_mut().enumerate() {
            let hears = link.verdict != Verdict::Down;
            link.said = Word { life: self.life, epoch: self.epoch, active: self.active == Some(at), hears };
        }
        self.stirred = false;
    }

    /// The better link that is usable; what is active stays while it works.
    fn select(&self, may_go_back: bool) -> Option<usize> {
        let first = |test: &dyn Fn(&Link) -> bool| self.links.iter().position(test);
        let is = |test: &dyn Fn(&Link) -> bool| self.active.is_some_and(|at| test(&self.links[at]));
        if is(&Link::usable) {
            return if may_go_back { first(&Link::usable) } else { self.active };
        }
        if is(&Link::undecided) {
            return self.active;
        }
        if let Some(best) = first(&Link::usable) {
            let waits = self.active.is_none() && self.links[..best].iter().any(Link::undecided);
            return (!waits).then_some(best);
        }
        if let Some(best) = first(&Link::answers_both_ways) {
            return if is(&Link::answers_both_ways) { self.active } else { Some(best) };
        }
        first(&|link| link.verdict == Verdict::Degraded).or(self.active)
    }

    /// The client's word; its own judgement where that is dead here.
    fn follow(&mut self, rules: Rules) -> Option<usize> {
        self.learn_choice(rules);
        let Some(mut choice) = self.choice else {
            let works = |at: usize| !matches!(self.links[at].verdict, Verdict::Down);
            return if self.active.is_some_and(works) { self.active } else { self.select(false) };
        };
        self.epoch = choice.epoch;
        let chosen = &self.links[choice.link];
        let still_meant = self.active == Some(choice.link)
            || chosen.heard.is_some_and(|word| word.active && word.epoch == choice.epoch);
        let works = chosen.verdict.works() && still_meant && (!choice.fell || !chosen.holds);
        if works || rules == Rules::WithoutLeavingADeadChoice {
            return Some(choice.link);
        }
        choice.fell |= chosen.verdict == Verdict::Down;
        self.choice = Some(choice);
        self.select(false)
    }

    fn learn_choice(&mut self, rules: Rules) {
        let stamped = self.links.iter().enumerate().filter_map(|(at, link)| {
            let word = link.heard.filter(|word| word.active)?;
            let counts = Some(word.life) == self.peer_life || rules == Rules::WithoutTellingLivesApart;
            counts.then_some((word, at))
        });
        let newest = match rules {
            Rules::WithoutComparingEpochs => stamped.max_by_key(|(_, at)| *at),
            _ => stamped.max_by_key(|(word, _)| word.epoch),
        };
        let Some((Word { life, epoch, .. }, link)) = newest else { return };
        let is_newer = |known: Choice| match rules {
            Rules::WithoutComparingEpochs => known.epoch != epoch,
            _ => known.epoch < epoch,
        };
        if self.choice.is_none_or(is_newer) {
            self.choice = Some(Choice { life, epoch, link, fell: false });
        }
    }
}
