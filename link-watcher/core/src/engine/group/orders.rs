//! Orders of an operator.

use super::Group;
use crate::{
    event::{Action, Command, LinkId, LinkVerdict, Role, What},
    link::Link,
};

/// Greatest weight of a link.
const MAX_WEIGHT: u32 = 256;

impl Group {
    pub(in crate::engine) fn command(
        &mut self,
        now_ns: u64,
        command: Command,
        actions: &mut Vec<Action>,
    ) -> Result<String, String> {
        let group = self.spec.name.clone();
        let client_only = |what: &str| {
            format!("{group}: the client of this peer chooses its link; run `link-watcher {what}` on the client")
        };
        let server = self.spec.role == Some(Role::Server);
        let (about, done, why) = match command {
            Command::Pin { .. } | Command::Unpin { .. } if server => return Err(client_only("switch")),
            Command::Next { .. } if server => return Err(client_only("switch")),
            Command::Pin { link, .. } => {
                self.pin(now_ns, link)?;
                (Some(link), format!("{group} is pinned to {}", self.name(link)), "switched by hand")
            }
            Command::Unpin { .. } => {
                self.pinned = None;
                // Who lets it choose again wants the best now.
                for link in &mut self.links {
                    link.trust();
                }
                (None, format!("{group} chooses again"), "released by hand")
            }
            Command::Next { .. } => {
                let next = self.next_usable(now_ns)?;
                self.pinned = Some(next);
                (Some(next), format!("{group} is pinned to {}", self.name(next)), "moved on by hand")
            }
            Command::Failover { on, .. } => {
                self.failover = on;
                let word = if on { "on" } else { "off" };
                (None, format!("{group}: automatic failover is {word}"), "automatic failover was switched")
            }
            Command::Drain { link, drained } => {
                self.drain(now_ns, link, drained)?;
                let state = if drained { "out of service" } else { "in service again" };
                (Some(link), format!("{group}: {} is {state}", self.name(link)), "drained or undrained by hand")
            }
            Command::Weight { link, weight } => {
                self.weigh(link, weight)?;
                let done = format!("{group}: {} has weight {weight} until the next reload", self.name(link));
                (Some(link), done, "its weight was changed by hand")
            }
        };
        self.tell(now_ns, about, What::Ordered, done.clone(), 0, actions);
        self.why = Some(why.to_owned());
        self.settle(now_ns, actions);
        let on = if self.active.is_empty() { "no link yet".to_owned() } else { self.names(&self.active) };
        Ok(format!("{done}; traffic is on {on}"))
    }

    fn pin(&mut self, now_ns: u64, id: LinkId) -> Result<(), String> {
        let link = self.link(id).ok_or("no such link")?;
        if self.never_chosen(link) {
            return Err(format!("{} has tier 0: it is never chosen; give it another tier first", link.spec.name));
        }
        if !link.usable(now_ns) && self.failover {
            return Err(format!(
                "{} is not usable ({}): switching there would cut the traffic. `link-watcher status` says more",
                link.spec.name,
                unusable_because(link, now_ns)
            ));
        }
        self.pinned = Some(id);
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

    fn weigh(&mut self, id: LinkId, weight: u32) -> Result<(), String> {
        if !(1..=MAX_WEIGHT).contains(&weight) {
            return Err(format!("a weight is 1 to {MAX_WEIGHT}; `link-watcher drain` takes a link out of service"));
        }
        self.link_mut(id).ok_or("no such link")?.spec.weight = weight;
        Ok(())
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
        Ok(())
    }
}

fn unusable_because(link: &Link, now_ns: u64) -> &'static str {
    match link.verdict() {
        LinkVerdict::Starting => "no verdict yet",
        LinkVerdict::Down => "it is down",
        LinkVerdict::Absent => "its interface is absent",
        LinkVerdict::Degraded => "it is degraded",
        LinkVerdict::Up if link.drained => "it is drained",
        LinkVerdict::Up if link.holds(now_ns) => "it is up again, but must hold first",
        LinkVerdict::Up if link.peer.is_some_and(|peer| peer.drained) => "it is drained by the peer",
        LinkVerdict::Up => "the peer does not hear us on it",
    }
}
