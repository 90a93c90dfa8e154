//! Orders of an operator. What he is told is what is so after the order, not what it was meant to bring about.

use super::Group;
use crate::{
    event::{Action, Command, LinkId, Role, StandingOrders, TransitionKind},
    link::Link,
};

/// Greatest weight of a link.
const MAX_WEIGHT: u32 = 256;

/// An order that is taken in.
struct Taken {
    /// Link that it is about.
    link: Option<LinkId>,
    /// What is so from now on.
    done: String,
    /// Why traffic moves, if it does.
    why: &'static str,
}

impl Group {
    pub(in crate::engine) fn command(
        &mut self,
        now_ns: u64,
        command: Command,
        actions: &mut Vec<Action>,
    ) -> Result<String, String> {
        let Taken { link, done, why } = self.take(now_ns, &command)?;
        self.tell(now_ns, link, TransitionKind::Ordered, done.clone(), 0, actions);
        self.why = Some(why.to_owned());
        // Who orders something does not want to wait for verdicts.
        self.pending_verdicts.clear();
        self.decide(now_ns, actions);
        Ok(format!("{done}; {}", self.outcome(now_ns, &command)))
    }

    fn take(&mut self, now_ns: u64, command: &Command) -> Result<Taken, String> {
        let group = self.spec.name.clone();
        let taken = |link, done: String, why| Ok(Taken { link, done, why });
        let server = self.spec.role == Some(Role::Server);
        match *command {
            Command::Pin { .. } | Command::Unpin { .. } | Command::Next { .. } if server => Err(format!(
                "{group}: the client of this peer chooses its link; run `link-watcher switch` on the client"
            )),
            Command::Pin { link, force, .. } => {
                self.pin(now_ns, link, force)?;
                taken(Some(link), format!("{group} is pinned to {}", self.name(link)), "switched by hand")
            }
            Command::Unpin { .. } => {
                self.orders.pinned = None;
                // Who lets it choose again wants the best now, also where it never goes back by itself.
                self.back_now = true;
                taken(None, format!("{group} chooses again"), "released by hand")
            }
            Command::Next { .. } => {
                let next = self.next_usable(now_ns)?;
                self.orders.pinned = Some(next);
                taken(Some(next), format!("{group} is pinned to {}", self.name(next)), "moved on by hand")
            }
            Command::Failover { on, .. } => {
                self.orders.failover_off = !on;
                let word = if on { "on" } else { "off" };
                taken(None, format!("{group}: automatic failover is {word}"), "automatic failover was switched")
            }
            Command::Drain { link, drained } => {
                self.drain(now_ns, link, drained)?;
                let state = if drained { "out of service" } else { "in service again" };
                taken(Some(link), format!("{group}: {} is {state}", self.name(link)), "drained or undrained by hand")
            }
            Command::DrainOver { link } => {
                self.drain(now_ns, link, false)?;
                let done = format!("{group}: {} is in service again, for its time is over", self.name(link));
                taken(Some(link), done, "the time of a drain is over")
            }
            Command::Weight { link, weight } => {
                let now = self.weigh(link, weight)?;
                let whose = if weight.is_some() { "" } else { ", as the configuration says" };
                let done = format!("{group}: {} has weight {now}{whose}", self.name(link));
                taken(Some(link), done, "its weight was changed by hand")
            }
        }
    }

    /// Where the traffic is after an order, and why it is not where it was ordered to.
    fn outcome(&self, now_ns: u64, command: &Command) -> String {
        let on = if self.active.is_empty() { "no link yet".to_owned() } else { self.names(&self.active) };
        let link = |id: LinkId| self.link(id);
        match *command {
            Command::Pin { link: id, .. } if self.active != [id] => {
                let why = link(id).and_then(|link| link.unusable_because(now_ns));
                let why = why.unwrap_or_else(|| "it is not usable".to_owned());
                let name = self.name(id);
                format!("traffic stays on {on} until {name} is usable, since automatic failover is on: {why}")
            }
            Command::Drain { link: id, drained: true } if self.active.contains(&id) => match self.spec.role {
                Some(Role::Server) => format!("traffic is still on {on}, until the client has moved it"),
                _ => format!("traffic is still on {on}: no other link is usable"),
            },
            Command::Unpin { .. } if self.orders.failover_off => {
                format!("traffic stays on {on}, since automatic failover is off")
            }
            _ => format!("traffic is on {on}"),
        }
    }

    fn pin(&mut self, now_ns: u64, id: LinkId, force: bool) -> Result<(), String> {
        let link = self.link(id).ok_or("no such link")?;
        let name = &link.spec.name;
        if self.never_chosen(link) {
            return Err(format!("{name} has tier 0: it is never chosen; give it another tier first"));
        }
        if link.drained {
            return Err(format!("{name} is out of service: `link-watcher undrain {} {name}` first", self.spec.name));
        }
        if link.drained_by_peer() {
            return Err(format!("{name} is out of service: the peer's operator drained it, and undrains it there"));
        }
        if let (false, Some(why)) = (force, link.unusable_because(now_ns)) {
            return Err(format!(
                "{name} is not usable ({why}): switching there would cut the traffic. `link-watcher status` says more; \
                 --force pins it all the same"
            ));
        }
        self.orders.pinned = Some(id);
        Ok(())
    }

    fn next_usable(&self, now_ns: u64) -> Result<LinkId, String> {
        let order = self.preference();
        let at = order.iter().position(|id| self.active.contains(id)).map_or(0, |at| at + 1);
        let rotated = order.iter().cycle().skip(at).take(order.len());
        let mut usable =
            rotated.filter(|id| !self.active.contains(id) && self.link(**id).is_some_and(|l| l.usable(now_ns)));
        usable.next().copied().ok_or_else(|| format!("{}: no other link is usable, the traffic stays", self.spec.name))
    }

    /// Gives a link another weight, or again that of the configuration; says which.
    fn weigh(&mut self, id: LinkId, weight: Option<u32>) -> Result<u32, String> {
        if weight.is_some_and(|weight| !(1..=MAX_WEIGHT).contains(&weight)) {
            return Err(format!("a weight is 1 to {MAX_WEIGHT}; `link-watcher drain` takes a link out of service"));
        }
        match weight {
            Some(weight) => drop(self.orders.weights.insert(id, weight)),
            None => drop(self.orders.weights.remove(&id)),
        }
        self.link(id).map(|link| self.weight(link)).ok_or_else(|| "no such link".to_owned())
    }

    fn drain(&mut self, now_ns: u64, id: LinkId, drained: bool) -> Result<(), String> {
        let others =
            self.links.iter().any(|link| link.spec.id != id && link.usable(now_ns) && !self.never_chosen(link));
        if drained && self.active.contains(&id) && !others {
            return Err(format!(
                "{} carries the traffic of {} and no other link is usable: nothing would be left",
                self.name(id),
                self.spec.name
            ));
        }
        self.link_mut(id).ok_or("no such link")?.drained = drained;
        if drained {
            self.orders.drained.insert(id);
        } else {
            self.orders.drained.remove(&id);
        }
        Ok(())
    }

    /// These orders stand from now on, whatever was ordered before.
    pub(super) fn stand(&mut self, orders: StandingOrders) {
        self.orders = orders;
        let known: Vec<LinkId> = self.links.iter().map(|link| link.spec.id).collect();
        self.orders.pinned = self.orders.pinned.filter(|id| known.contains(id));
        for link in &mut self.links {
            link.drained = self.orders.drained.contains(&link.spec.id);
        }
    }

    /// A link's share among the active links of one tier, 1 to 256.
    pub(super) fn weight(&self, link: &Link) -> u32 {
        self.orders.weights.get(&link.spec.id).copied().unwrap_or(link.spec.weight)
    }
}
