//! The core's part in uplinks: reports to the engine, decisions to the worker, the status.

use ipnet::IpNet;
use tokio::sync::oneshot;

use super::{Answer, Decision, Order, Report, UplinkGroup};
use crate::{
    clock,
    daemon::{
        core::Core,
        publish::Cause,
        snapshot::{MAX_PREFIXES_SHOWN, ends, time_of},
    },
    engine::{GroupStatus, LinkStatus},
    event::{Event, Health, LinkId, LinkVerdict, Plan},
    health::{TargetFigures, Verdict},
    status::{DroppedSnapshot, GroupSnapshot, LinkSnapshot, RoutesSnapshot, TargetSnapshot},
    trace::Trace,
};

/// Most operators that wait for a group at a time.
const MAX_WAITING: usize = 64;

impl Core {
    pub(in crate::daemon) fn uplink_report(&mut self, report: Report) {
        let now_ns = clock::now_ns();
        self.uplinks_touched = true;
        let noticed = Cause { due_ns: None, woke_ns: None, received_ns: now_ns };
        match report {
            Report::Device { link, device, lack } => {
                if let Some(lack) = lack {
                    tracing::warn!("{}: {lack}", self.link_name(link));
                }
                self.causes.failed(link, noticed);
                self.engine.handle(now_ns, Event::Device { link, device });
            }
            Report::Probed { link, verdict, last_good_ns, last_failure } => {
                let (health, why) = match verdict {
                    Verdict::Up => (Health::Up, String::new()),
                    Verdict::Degraded(degraded) => (Health::Degraded, degraded.to_string()),
                    Verdict::Down(down) => (Health::Down, down.to_string()),
                };
                let why = match last_failure {
                    Some(last) if health != Health::Up => format!("{why}; the last one: {last}"),
                    _ => why,
                };
                self.causes.failed(link, noticed);
                self.engine.handle(now_ns, Event::Probed { link, health, why, last_good_ns });
            }
            Report::VerdictPending { link, until_ns } => {
                self.engine.handle(now_ns, Event::VerdictPending { link, until_ns })
            }
            Report::Adopted { group, links } => self.engine.handle(now_ns, Event::Adopted { group, links }),
            Report::Done { done, done_ns } => {
                let Some(group) = self.uplink_groups.get_mut(&done.group) else { return };
                let complete = group.decision.as_ref() == Some(&done);
                group.standing = Some(done);
                if !complete {
                    return;
                }
                for (answer, result) in group.waiting.drain(..) {
                    // Whoever asked may have gone: that is their affair.
                    let _ = answer.send(result);
                }
                for (transition, trace) in std::mem::take(&mut group.deferred) {
                    self.publish(&transition, Some(Trace { routed_ns: done_ns, ..trace }));
                }
            }
        }
    }

    /// Hands what the engine has decided about uplinks to the worker, where it has changed.
    pub(in crate::daemon) fn hand_over(&mut self) {
        let Some(uplinks) = &self.uplinks else { return };
        let status = self.engine.status(clock::now_ns());
        for group in self.uplink_groups.values_mut() {
            let status = status.iter().find(|status| status.id == group.id);
            let (Some(plan), Some(status)) = (&group.plan, status.filter(|status| !status.waits)) else { continue };
            let decision = decision(status, plan);
            // Never waits: the worker may be waiting for the core to take its reports.
            if group.decision.as_ref() == Some(&decision) {
                continue;
            }
            if uplinks.try_order(Order::Decided(decision.clone())) {
                group.decision = Some(decision);
            } else {
                self.uplinks_touched = true;
            }
        }
    }

    /// Answers whoever ordered something, as soon as what follows from it stands in the kernel.
    pub(in crate::daemon) fn answer_when_done(&mut self, answer: oneshot::Sender<Answer>, result: Answer) {
        let busy = |group: &&mut UplinkGroup| group.is_pending() && group.waiting.len() < MAX_WAITING;
        match self.uplink_groups.values_mut().find(busy) {
            Some(group) => group.waiting.push((answer, result)),
            None => drop(answer.send(result)),
        }
    }

    /// Tells the worker what peers serve, where that has changed.
    pub(in crate::daemon) async fn exclude_peer_prefixes(&mut self) {
        let Some(uplinks) = &self.uplinks else { return };
        let served = self.groups.values().flat_map(|group| group.prefixes().to_vec());
        let served: Vec<IpNet> = served.filter(|prefix| prefix.prefix_len() > 0).collect();
        if served != self.excluded {
            self.excluded.clone_from(&served);
            uplinks.order(Order::Exclude(served)).await;
        }
    }

    /// A group of uplinks in the status: what of it stands in the kernel.
    pub(in crate::daemon) fn uplinks_snapshot(&self, status: &GroupStatus) -> Option<GroupSnapshot> {
        let group = self.uplink_groups.get(&status.id)?;
        let problems = self.uplinks.as_ref().and_then(|uplinks| uplinks.standing().groups.get(&status.id).cloned());
        let problems = problems.unwrap_or_default();
        let installed = if problems.is_empty() { group.config.routes.len() } else { 0 };
        Some(GroupSnapshot {
            peer_silence_s: None,
            name: group.config.name.clone(),
            kind: "uplinks".to_owned(),
            role: None,
            failover: status.failover,
            pinned: status.pinned.map(|link| self.link_name(link)),
            orders: self.orders.of(&group.config.name),
            active: group.active().map(|link| self.link_name(link)).collect(),
            since: clock::rfc3339(status.since_ns),
            reason: status.reason.clone(),
            routes: RoutesSnapshot {
                installed,
                refused: problems.len(),
                refusals: problems,
                prefixes: group.config.routes.iter().take(MAX_PREFIXES_SHOWN).map(ToString::to_string).collect(),
                table: Some(group.config.table_base),
                rule_priority: Some(group.config.rule_priority),
            },
            announced_to_us: Vec::new(),
            announcements: None,
            links: status.links.iter().filter_map(|link| self.uplink_snapshot(group, link)).collect(),
            failovers_today: 0,
            worst_failover_today_ms: None,
        })
    }

    fn uplink_snapshot(&self, group: &UplinkGroup, status: &LinkStatus) -> Option<LinkSnapshot> {
        let (_, config) = group.uplinks().find(|(id, _)| *id == status.id)?;
        let uplinks = self.uplinks.as_ref();
        let measured = uplinks.and_then(|uplinks| uplinks.figures(status.id));
        let figures = measured.as_ref().map(|known| known.figures);
        let way = uplinks.and_then(|uplinks| uplinks.standing().ways.get(&status.id).cloned());
        let ms = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e6);
        let served = group.standing.as_ref().is_some_and(|known| known.usable.contains(&status.id));
        let target = |(target, known): &(String, TargetFigures)| TargetSnapshot {
            target: target.clone(),
            answers: known.answers,
            rtt_ms: ms(known.rtt_ns),
            jitter_ms: ms(known.jitter_ns),
            loss: known.loss.map(|loss| f64::from(loss.0) / 1e6),
            flaky: known.flaky,
        };
        let probe = &config.probe;
        Some(LinkSnapshot {
            suspicion: None,
            name: config.name.clone(),
            interface: config.interface.clone(),
            tier: config.tier,
            weight: status.weight,
            share: if group.active().any(|link| link == status.id) { status.share } else { 0.0 },
            state: status.verdict.as_str().to_owned(),
            usable: status.usable && served,
            usable_reason: match &status.usable_reason {
                None if status.usable && !served => Some("its routes are on their way to the kernel".to_owned()),
                reason => reason.clone(),
            },
            drained: status.drained,
            drained_by: ends(status.drained, false),
            carried_by: ends(group.active().any(|link| link == status.id), false),
            connections: uplinks.and_then(|uplinks| uplinks.standing().connections.get(&status.id).copied()),
            engine: config.probe.kind.as_str().to_owned(),
            engine_reason: None,
            slot: None,
            since: clock::rfc3339(status.since_ns),
            local: way.as_ref().map(|way| way.locals.clone()).filter(|locals| !locals.is_empty()),
            mark: way.as_ref().map(|way| format!("{:#x}/{:#x}", way.mark, group.config.fwmark_mask)),
            table: way.as_ref().map(|way| way.table),
            remote: way.map(|way| way.gateways).unwrap_or_default(),
            detection_ms: Some((probe.interval * probe.fall).as_secs_f64() * 1e3),
            last_good: figures.and_then(|figures| time_of(figures.last_good_ns)),
            peer: None,
            targets: measured.iter().flat_map(|known| &known.targets).map(target).collect(),
            required_targets: Some(probe.required),
            last_failure: measured.as_ref().and_then(|known| known.last_failure.clone()),
            rtt_ms: ms(figures.and_then(|figures| figures.rtt_ns)),
            jitter_ms: ms(figures.and_then(|figures| figures.jitter_ns)),
            loss_there: None,
            loss_back: None,
            loss: figures.map_or(0.0, |figures| f64::from(figures.loss.0) / 1e6),
            sent: figures.map_or(0, |figures| figures.sent),
            received: figures.map_or(0, |figures| figures.received),
            dropped: DroppedSnapshot::default(),
            flaps: status.flaps,
            penalty: status.penalty.round() as u32,
            last_down_reason: status.last_down_reason.clone(),
            worst_lateness_ms: None,
            statistics: None,
        })
    }
}

pub(super) fn decision(status: &GroupStatus, plan: &Plan) -> Decision {
    let of = |test: &dyn Fn(&LinkStatus) -> bool| -> Vec<LinkId> {
        status.links.iter().filter(|link| test(link)).map(|link| link.id).collect()
    };
    // What carries traffic from before the start is taken for good until there is a verdict.
    let taken_over = |link: &LinkStatus| {
        link.verdict == LinkVerdict::Starting && plan.active.iter().any(|(active, _)| *active == link.id)
    };
    Decision {
        group: status.id,
        active: plan.active.clone(),
        usable: of(&|link| link.usable || taken_over(link)),
        dead: of(&|link| matches!(link.verdict, LinkVerdict::Down | LinkVerdict::Absent)),
        drained: of(&|link| link.drained),
    }
}
