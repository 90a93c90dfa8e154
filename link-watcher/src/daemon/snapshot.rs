//! What is so, for people and scripts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{core::Core, group::Group};
use crate::{
    announce::Reason,
    clock,
    engine::{GroupStatus, LinkStatus},
    event::{LinkId, LinkVerdict},
    probe::Verifier,
    route::RouteSink as _,
    status::{
        AnnouncementsSnapshot, DroppedSnapshot, GroupSnapshot, LinkSnapshot, PeerViewSnapshot, RefusedPrefix,
        RoutesSnapshot, Snapshot,
    },
};
use ipnet::IpNet;
use link_watcher_common::{
    maps::{Counters, LinkState, View},
    wire::flags,
};

/// Refusals that the status lists.
const MAX_REFUSALS_SHOWN: usize = 32;
/// Prefixes that it lists.
pub(super) const MAX_PREFIXES_SHOWN: usize = 32;

impl Core {
    /// The whole state, as of now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now_ns = clock::now_ns();
        let status = self.engine.status(now_ns);
        let engines = self.links.values().filter_map(|link| link.running.as_ref()).map(|running| running.engine);
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: (now_ns - self.started_ns) as f64 / 1e9,
            engine: super::links::engine_of_most(engines, self.config.daemon.engine),
            config: self.config_snapshot(),
            groups: status
                .iter()
                .filter_map(|status| self.group_snapshot(status).or_else(|| self.uplinks_snapshot(status)))
                .collect(),
            orders_asleep: self.orders.asleep_in_words(),
            state_problem: self.orders.problem(),
            statistics_problem: None,
        }
    }

    fn group_snapshot(&self, status: &GroupStatus) -> Option<GroupSnapshot> {
        let group = self.groups.get(&status.id)?;
        let report = self.routes.report(status.id);
        let announced = group.judged.refusals.iter();
        let mut refusals: Vec<String> =
            announced.map(|(prefix, why)| format!("{prefix}: announced, but {why}")).collect();
        refusals.extend(report.refused.iter().map(|refusal| refusal.say(&|id| self.group_name(id))));
        let conceded = group.conceded().iter().take(MAX_REFUSALS_SHOWN);
        refusals.extend(
            conceded.map(|(prefix, other)| format!("{prefix}: left to {}, whose links work", self.group_name(*other))),
        );
        refusals.truncate(MAX_REFUSALS_SHOWN);
        Some(GroupSnapshot {
            name: group.config.name.clone(),
            kind: "peer".to_owned(),
            role: Some(group.config.role),
            failover: status.failover,
            pinned: status.pinned.map(|link| self.link_name(link)),
            orders: self.orders.of(&group.config.name),
            active: status.active.iter().map(|link| self.link_name(*link)).collect(),
            since: clock::rfc3339(status.since_ns),
            reason: status.reason.clone(),
            peer_silence_s: (status.peer_silence_seconds > 0).then_some(status.peer_silence_seconds),
            routes: RoutesSnapshot {
                installed: report.installed,
                refused: report.refused.len() + group.judged.refused + group.conceded().len(),
                refusals,
                prefixes: group.prefixes().iter().take(MAX_PREFIXES_SHOWN).map(ToString::to_string).collect(),
                table: Some(group.config.table),
                rule_priority: None,
            },
            announced_to_us: group.judged.accepted.iter().map(ToString::to_string).collect(),
            announcements: Some(announcements(group)),
            links: status.links.iter().filter_map(|link| self.link_snapshot(link, &status.active)).collect(),
            // Whoever shows it puts them in.
            failovers_today: 0,
            worst_failover_today_ms: None,
        })
    }

    fn link_snapshot(&self, status: &LinkStatus, active: &[LinkId]) -> Option<LinkSnapshot> {
        let link = self.links.get(&status.id)?;
        let running = link.running.as_ref();
        let state = &self.tables.states()[status.id.0 as usize];
        let stats = self.stats.of(status.id.0);
        // Of now, not of when it went down.
        let hint =
            (status.verdict == LinkVerdict::Down).then(|| self.address_hint(status.id, clock::now_ns())).flatten();
        let last_down_reason = match (status.last_down_reason.clone(), hint) {
            (Some(why), Some(hint)) => Some(format!("{why}; {hint}")),
            (why, hint) => why.or(hint),
        };
        let each_way = stats.loss_each_way();
        let (rtt_ns, jitter_ns) = (state.srtt_ns.load(Relaxed), state.jitter_ns.load(Relaxed));
        Some(LinkSnapshot {
            name: link.config.name.clone(),
            interface: link.config.interface.clone(),
            tier: link.config.tier,
            weight: status.weight,
            share: status.share,
            state: status.verdict.as_str().to_owned(),
            usable: status.usable,
            usable_reason: status.usable_reason.clone(),
            drained: status.drained || status.drained_by_peer,
            drained_by: ends(status.drained, status.drained_by_peer),
            carried_by: ends(active.contains(&status.id), status.carries_for_peer),
            connections: None,
            engine: running.map_or("none", |running| running.engine).to_owned(),
            engine_reason: running.and_then(|running| running.engine_reason.clone()),
            slot: running.filter(|running| running.verifier == Verifier::Kernel).map(|_| link.id.0),
            since: clock::rfc3339(status.since_ns),
            remote: link.config.remote.to_string(),
            rtt_ms: (rtt_ns > 0).then_some(rtt_ns as f64 / 1e6),
            jitter_ms: (rtt_ns > 0).then_some(jitter_ns as f64 / 1e6),
            loss: stats.loss_ppm.load(Relaxed) as f64 / 1e6,
            loss_there: each_way.map(|loss| loss.there),
            loss_back: each_way.map(|loss| loss.back),
            sent: stats.sent.load(Relaxed),
            received: state.echoes.load(Relaxed),
            dropped: self.dropped(status.id),
            flaps: status.flaps,
            penalty: status.penalty.round() as u32,
            last_down_reason,
            suspicion: link.unbound.clone().or_else(|| link.suspicion.as_ref().map(ToString::to_string)),
            local: running.map(|running| running.local).or(link.config.local).map(|local| local.to_string()),
            detection_ms: Some((link.interval_ns * u64::from(link.multiplier)) as f64 / 1e6),
            last_good: time_of(state.last_echo_ns.load(Relaxed)),
            peer: peer_view(state),
            targets: Vec::new(),
            required_targets: None,
            last_failure: None,
            mark: None,
            table: None,
            worst_lateness_ms: Some(stats.worst_lateness_ns.load(Relaxed) as f64 / 1e6),
            statistics: None,
        })
    }

    /// What the kernel program and the socket engine counted of a link.
    pub(super) fn counted(&self, link: LinkId) -> Counters {
        let mut counters = self.stats.of(link.0).counters();
        if let Some(kernel) = self.attacher.counters(link) {
            counters.add(&kernel);
        }
        counters
    }

    /// What the kernel program and the socket engine dropped.
    fn dropped(&self, link: LinkId) -> DroppedSnapshot {
        let counters = self.counted(link);
        DroppedSnapshot {
            malformed: counters.malformed,
            unknown: counters.unknown,
            replayed: counters.replayed,
            forged: counters.forged,
            reflected: counters.reflected,
            late: counters.late,
            distant: counters.distant,
            version: counters.version,
            junk: self.stats.of(link.0).junk.load(Relaxed),
        }
    }
}

/// When something happened, monotonic ns; 0: never.
pub(super) fn time_of(at_ns: u64) -> Option<String> {
    (at_ns > 0).then(|| clock::rfc3339(at_ns))
}

/// How the peer sees a link, as the verifier of packets has written it.
fn peer_view(state: &LinkState<AtomicU64>) -> Option<PeerViewSnapshot> {
    if state.peer.load(Relaxed) == 0 {
        return None;
    }
    let view = View::unpack(state.peer_view.load(Relaxed));
    Some(PeerViewSnapshot {
        hears: view.flags & flags::HEARS != 0,
        active: view.flags & flags::ACTIVE != 0,
        drained: view.flags & flags::DRAINED != 0,
        restarting: view.flags & flags::RESTARTING != 0,
        rank: view.rank,
        received: state.peer_received.load(Relaxed),
        probes: state.probes.load(Relaxed),
        last_probe: time_of(state.last_probe_ns.load(Relaxed)),
    })
}

/// At which ends something is so.
pub(super) fn ends(here: bool, peer: bool) -> Vec<String> {
    [(here, "here"), (peer, "peer")].iter().filter(|(so, _)| *so).map(|(_, end)| (*end).to_owned()).collect()
}

fn announcements(group: &Group) -> AnnouncementsSnapshot {
    let (sender, receiver) = (group.sender.status(), group.receiver.status());
    let refused = |refusals: &[(IpNet, Reason)]| -> Vec<RefusedPrefix> {
        let refused =
            |(prefix, why): &(IpNet, Reason)| RefusedPrefix { prefix: prefix.to_string(), why: why.to_string() };
        refusals.iter().map(refused).collect()
    };
    let unanswered = format!("the peer answers keepalives but not announcements: is UDP {} let in?", group.config.port);
    let problem = if sender.unanswered || receiver.missing {
        Some(unanswered)
    } else if let Some(most) = sender.too_long {
        Some(format!("the peer refuses lists of more than {most} prefixes (its `max-prefixes`)"))
    } else {
        let most = group.config.max_prefixes;
        receiver.too_long.map(|length| format!("the peer's {length} prefixes are refused: `max-prefixes` is {most}"))
    };
    AnnouncementsSnapshot {
        sent: sender.sent,
        acknowledged: sender.acknowledged,
        since: clock::rfc3339(sender.since_ns),
        refused_by_peer: refused(&sender.refusals),
        refused_by_peer_count: sender.refused as usize,
        received: group.list.len(),
        refused: refused(&group.judged.refusals),
        refused_count: group.judged.refused,
        problem,
    }
}
