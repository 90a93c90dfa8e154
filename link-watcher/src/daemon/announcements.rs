//! What peers tell each other beyond keepalives: the prefixes that each wants sent to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::atomic::Ordering::Relaxed,
};

use ipnet::IpNet;
use link_watcher_common::{
    maps::{Party, View},
    wire::Kind,
};
use tracing::{debug, info, warn};

use super::{core::Core, group::Group};
use crate::{
    announce::{self, Own, Way},
    clock,
    event::{GroupId, LinkId, Transition, TransitionKind},
    probe::Order,
    route::LearnedRoute,
};

/// How often the keepalives' generation is looked at, ns. All groups are at the same instants: one wake-up serves them.
const LOOK_NS: u64 = 500_000_000;
/// Least time between two lines of the log about what a peer announces, ns. What is left out in between is counted.
const LINE_GAP_NS: u64 = 10_000_000_000;
/// The same where all is well.
const QUICK_LINE_GAP_NS: u64 = 1_000_000_000;
/// Refused prefixes that a line of the log names.
const NAMED_IN_LINE: usize = 3;

const UNANSWERED: &str = "the peer answers keepalives but not announcements: is UDP";

/// Bounds the lines of the log about one thing.
#[derive(Debug, Default)]
pub(super) struct Lines {
    last_ns: Option<u64>,
}

impl Lines {
    /// Whether it is time for another line.
    fn pass(&mut self, now_ns: u64, gap_ns: u64) -> bool {
        let passes = self.last_ns.is_none_or(|last_ns| now_ns >= last_ns + gap_ns);
        if passes {
            self.last_ns = Some(now_ns);
        }
        passes
    }
}

/// What people have been told of a group's announcements.
#[derive(Debug, Default)]
pub(super) struct Told {
    unanswered: bool,
    missing: bool,
    too_long_here: bool,
    too_long_there: bool,
    refused_there: u32,
    /// Changes of what the peer announces that no line of the log has told yet.
    changes: u64,
    lines: Lines,
    /// Control packets that were refused, and not told.
    broken: u64,
    broken_lines: Lines,
    too_long_lines: Lines,
    refused_lines: Lines,
}

/// When which group's announcements have something to do: with a thousand groups nobody asks them all at every packet.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeSet<(u64, GroupId)>,
    of: BTreeMap<GroupId, u64>,
}

impl Agenda {
    /// The group has something to do at that instant, ns, and no more at another one.
    fn set(&mut self, group: GroupId, due_ns: Option<u64>) {
        let former_ns = match due_ns {
            Some(due_ns) => self.of.insert(group, due_ns),
            None => self.of.remove(&group),
        };
        if let Some(former_ns) = former_ns {
            self.by_time.remove(&(former_ns, group));
        }
        self.by_time.extend(due_ns.map(|due_ns| (due_ns, group)));
    }

    /// The next instant at which a group has something to do, ns.
    fn next_ns(&self) -> Option<u64> {
        self.by_time.first().map(|(due_ns, _)| *due_ns)
    }

    /// Takes out the groups whose time has come.
    fn take_due(&mut self, now_ns: u64) -> Vec<GroupId> {
        let mut due = Vec::new();
        while let Some((due_ns, group)) = self.by_time.pop_first() {
            if due_ns > now_ns {
                self.by_time.insert((due_ns, group));
                break;
            }
            self.of.remove(&group);
            due.push(group);
        }
        due
    }
}

impl Core {
    pub(super) fn control(&mut self, link: LinkId, instance: u32, kind: Kind, body: &[u8]) {
        let now_ns = clock::now_ns();
        let Some(group) = self.links.get(&link).and_then(|link| self.groups.get_mut(&link.group)) else { return };
        let result = match kind {
            Kind::AnnounceAck => group.sender.acknowledge(now_ns, link, instance, body).map(|()| None),
            Kind::Announce => {
                group.announced_over = Some(link);
                group.receiver.take(now_ns, instance, body)
            }
            Kind::Notice => {
                if !group.sender.asked(now_ns, instance, body) {
                    debug!("{}: a notice that this version does not know", group.config.name);
                }
                Ok(None)
            }
            Kind::Probe | Kind::Echo | Kind::StackProbe | Kind::StackEcho => Ok(None),
        };
        let group_id = group.id;
        match result {
            Ok(Some(body)) => self.order(Order::Control { link, kind: Kind::AnnounceAck, body }),
            Ok(None) => {}
            Err(error) => {
                group.told.broken += 1;
                if group.told.broken_lines.pass(now_ns, LINE_GAP_NS) {
                    let more = more(std::mem::take(&mut group.told.broken) - 1);
                    let name = &group.config.name;
                    warn!("{name}: a control packet of the peer's is refused: {error}{more}");
                }
            }
        }
        self.schedule_announcements(group_id);
    }

    /// Enters when a group's announcements have something to do next. To be called after whatever may change that; what is
    /// forgotten is found at the next look.
    pub(super) fn schedule_announcements(&mut self, id: GroupId) {
        let due_ns = self.groups.get(&id).and_then(|group| {
            let receiver_ns = group.receiver.next_deadline_ns();
            [group.sender.next_deadline_ns(), receiver_ns].into_iter().flatten().min()
        });
        self.agenda.set(id, due_ns);
    }

    /// When announcements have something to do.
    pub(super) fn announcements_due_ns(&self) -> u64 {
        let look_ns = (!self.groups.is_empty()).then_some(self.look_ns);
        self.agenda.next_ns().into_iter().chain(look_ns).min().unwrap_or(u64::MAX)
    }

    /// Does what is due of the announcements of all groups.
    pub(super) fn announce(&mut self) {
        let now_ns = clock::now_ns();
        if self.announcements_due_ns() > now_ns {
            return;
        }
        let due = if self.look_ns <= now_ns {
            self.look_ns = (now_ns / LOOK_NS + 1) * LOOK_NS;
            self.suspect(now_ns);
            self.groups.keys().copied().collect()
        } else {
            self.agenda.take_due(now_ns)
        };
        for id in due {
            self.announce_group(now_ns, id);
            self.schedule_announcements(id);
        }
    }

    fn announce_group(&mut self, now_ns: u64, id: GroupId) {
        let Some(group) = self.groups.get(&id) else { return };
        let ways = self.ways(now_ns, group);
        let keepalive = announce::newest(ways.iter().map(|way| {
            let state = &self.tables.states()[way.link.0 as usize];
            let generation = state.peer_generation.load(Relaxed) as u16;
            (state.last_echo_ns.load(Relaxed), Party::unpack(state.peer.load(Relaxed)).instance, generation)
        }));
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut orders = Vec::new();
        for (link, body) in group.sender.poll(now_ns, &ways) {
            orders.push(Order::Control { link, kind: Kind::Announce, body });
        }
        let generation = u64::from(group.sender.generation());
        for link in &group.links {
            self.tables.intents()[link.0 as usize].generation.store(generation, Relaxed);
        }
        group.receiver.hear(now_ns, keepalive);
        let due = group.receiver.poll(now_ns);
        for way in ways.iter().filter(|_| due.ask.is_some()) {
            let body = due.ask.clone().unwrap_or_default();
            orders.push(Order::Control { link: way.link, kind: Kind::Notice, body });
        }
        if let Some(list) = due.list {
            group.list = list;
            self.judge(id);
        }
        for order in orders {
            self.order(order);
        }
        self.tell_of_announcements(now_ns, id);
    }

    /// Links over which announcements may go, the best first: those that carry the group's traffic, those that stand by, and
    /// others that answer.
    fn ways(&self, now_ns: u64, group: &Group) -> Vec<Way> {
        let plan = group.plan.as_ref();
        let active = plan.into_iter().flat_map(|plan| plan.active.iter().map(|(link, _)| *link));
        let backups = plan.into_iter().flat_map(|plan| plan.backups.iter().copied());
        let mut ways: Vec<Way> = Vec::new();
        for id in active.chain(backups).chain(group.links.iter().copied()) {
            let Some(link) = self.links.get(&id).filter(|link| link.running.is_some()) else { continue };
            let state = &self.tables.states()[id.0 as usize];
            let last_ns = state.last_echo_ns.load(Relaxed);
            // A little more than the detection time: the order of the plan tells what is down. A daemon that is known to be
            // silent answers no announcement, and that it does not accuses nobody.
            let lives = View::unpack(state.peer_view.load(Relaxed)).silence_seconds == 0;
            let answers = lives && last_ns != 0 && now_ns < last_ns + 2 * link.interval_ns * u64::from(link.multiplier);
            if answers && ways.iter().all(|way| way.link != id) {
                ways.push(Way { link: id, rtt_ns: state.srtt_ns.load(Relaxed) });
            }
        }
        ways
    }

    /// Judges a peer's list, by the configuration and the interfaces as they are now.
    fn judge(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let before = group.judged.clone();
        let acknowledgement = group.judge(&self.own);
        if let (Some(body), Some(link)) = (acknowledgement, group.announced_over) {
            self.order(Order::Control { link, kind: Kind::AnnounceAck, body });
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.judged == before {
            return;
        }
        self.rerouted.insert(id);
        group.told.changes += 1;
    }

    /// Tells people of announcements that nobody answers or that do not come, once, and when that is over.
    fn tell_of_announcements(&mut self, now_ns: u64, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let (sender, receiver) = (group.sender.status(), group.receiver.status());
        let (name, port) = (&group.config.name, group.config.port);
        let refused = group.judged.refused > 0;
        if group.told.changes > 0
            && group.told.lines.pass(now_ns, if refused { LINE_GAP_NS } else { QUICK_LINE_GAP_NS })
        {
            let more = more(std::mem::take(&mut group.told.changes) - 1);
            let words = group.announced_in_words(NAMED_IN_LINE);
            if refused {
                warn!("{name}: {words}{more}");
            } else {
                info!("{name}: {words}{more}");
            }
        }
        let unanswered = std::mem::replace(&mut group.told.unanswered, sender.unanswered);
        let missing = std::mem::replace(&mut group.told.missing, receiver.missing);
        let here = std::mem::replace(&mut group.told.too_long_here, receiver.too_long.is_some());
        let there = std::mem::replace(&mut group.told.too_long_there, sender.too_long.is_some());
        if let Some(length) = receiver.too_long.filter(|_| !here) {
            let most = group.config.max_prefixes;
            if group.told.too_long_lines.pass(now_ns, LINE_GAP_NS) {
                warn!("{name}: the peer announces {length} prefixes, and `max-prefixes` is {most}: refused whole");
            }
        }
        if let Some(most) = sender.too_long.filter(|_| !there) {
            warn!("{name}: the peer refuses our {} prefixes whole: its `max-prefixes` is {most}", sender.sent);
        }
        let refused = std::mem::replace(&mut group.told.refused_there, sender.refused);
        if sender.refused > refused && group.told.refused_lines.pass(now_ns, LINE_GAP_NS) {
            let first = sender.refusals.first().map(|(prefix, why)| format!(", such as {prefix}: there {why}"));
            warn!("{name}: the peer refuses {} of our prefixes{}", sender.refused, first.unwrap_or_default());
        }
        let silent = sender.unanswered || receiver.missing;
        if silent != (unanswered || missing) {
            let (what, why) = if silent {
                (TransitionKind::AnnouncementsUnanswered, format!("{UNANSWERED} {port} let in?"))
            } else {
                (TransitionKind::AnnouncementsAnswered, "the peer answers announcements".to_owned())
            };
            let transition = Transition { at_ns: now_ns, group: id, link: None, what, why, last_good_ns: 0 };
            self.publish(&transition, None);
        }
    }

    /// Computes again what each group announces: its own list, and the prefixes of its interfaces. What it accepts depends on
    /// the interfaces too.
    pub(super) fn gather_announcements(&mut self) {
        let now_ns = clock::now_ns();
        let protocols = self.groups.values().flat_map(|group| &group.config.announce_routes).copied().collect();
        self.routes.follow(now_ns, &protocols);
        let (learned, changes) = self.routes.learned();
        self.learned_changes = changes;
        if learned.is_none() && !std::mem::replace(&mut self.too_many_learned, learned.is_none()) {
            warn!(
                "announce-routes: the main table has too many of these routes to follow them; none of them is announced"
            );
        }
        self.too_many_learned &= learned.is_none();
        for group in self.groups.values_mut() {
            let mut prefixes = group.config.announce.clone();
            let mut indices = Vec::new();
            for interface in &group.config.announce_interfaces {
                prefixes.extend(self.interfaces.connected(interface));
                indices.extend(self.interfaces.index(interface));
            }
            // Never a default: it would lead everything here that the peer has no route for.
            let behind = |route: &&LearnedRoute| {
                group.config.announce_routes.contains(&route.protocol)
                    && route.prefix.prefix_len() > 0
                    && !route.interfaces.is_empty()
                    && route.interfaces.iter().all(|ifindex| indices.contains(ifindex))
            };
            prefixes.extend(learned.unwrap_or_default().iter().filter(behind).map(|route| route.prefix));
            let left_out = group.sender.set(now_ns, prefixes);
            if left_out > 0 {
                warn!("{}: {left_out} prefixes too many to announce were left out", group.config.name);
            }
            let generation = u64::from(group.sender.generation());
            for link in &group.links {
                self.tables.intents()[link.0 as usize].generation.store(generation, Relaxed);
            }
        }
        self.own = self.what_is_ours();
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            if self.groups[&id].to_be_judged(&self.own) {
                self.judge(id);
            }
            self.schedule_announcements(id);
        }
    }

    /// Gathers again what we announce, where routes of others have come or gone.
    pub(super) fn follow_learned(&mut self) {
        if self.routes.learned().1 != self.learned_changes {
            self.gather_announcements();
        }
    }

    /// What no peer has a say in.
    fn what_is_ours(&self) -> Own {
        let addresses = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        let networks = addresses.flat_map(|address| {
            let network = IpNet::new(address.peer.unwrap_or(address.address), address.prefix_len).ok();
            network.into_iter().chain([IpNet::from(address.address)])
        });
        let links = self.links.values();
        let ends = links.flat_map(|link| {
            let local: Option<IpAddr> = link.config.local.or(link.running.as_ref().map(|running| running.local));
            local.into_iter().chain([link.config.remote])
        });
        Own::new(networks, ends)
    }
}

fn more(left_out: u64) -> String {
    if left_out == 0 { String::new() } else { format!(" (and {left_out} times before, which were not logged)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_due_when_it_said_last() {
        let mut agenda = Agenda::default();
        let [one, two, three] = [1, 2, 3].map(GroupId);
        agenda.set(one, Some(30));
        agenda.set(two, Some(20));
        agenda.set(three, Some(40));
        agenda.set(one, Some(10));
        agenda.set(three, None);
        assert_eq!(agenda.next_ns(), Some(10));
        assert_eq!(agenda.take_due(9), []);
        assert_eq!(agenda.take_due(20), [one, two]);
        assert_eq!(agenda.next_ns(), None);
        agenda.set(two, Some(50));
        assert_eq!(agenda.take_due(60), [two]);
        assert_eq!(agenda.take_due(u64::MAX), []);
    }
}
