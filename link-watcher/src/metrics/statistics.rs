//! How links were: sums since the start, from which Prometheus makes what it wants, and the last 24 hours over restarts.

use super::{
    Scrape,
    render::{each_link, seconds, with},
    text::{Text, Type},
};
use crate::{
    statistics::{Figures, Period},
    status::GroupSnapshot,
};

/// What each link was since the start; nothing of links beyond those that have statistics.
pub(super) fn of_runs(text: &mut Text, scrape: &Scrape) {
    let of = |group: &GroupSnapshot, link: &str| scrape.runs.get(&(group.name.clone(), link.to_owned()));
    let help = "How long the link was in each state; dampened and absent are down.";
    text.metric("link_watcher_link_state_seconds_total", Type::Counter, help);
    each_link(&scrape.snapshot.groups, |group, link, labels| {
        let Some(Period { up_ms, degraded_ms, down_ms, .. }) = of(group, &link.name) else { return };
        for (state, ms) in [("up", up_ms), ("degraded", degraded_ms), ("down", down_ms)] {
            text.sample("", &with(labels, ("state", state)), *ms as f64 / 1e3);
        }
    });
    let help = "Outages that began: the link went down, was absent or dampened.";
    text.metric("link_watcher_link_outages_total", Type::Counter, help);
    each_link(&scrape.snapshot.groups, |group, link, labels| {
        if let Some(run) = of(group, &link.name) {
            text.sample("", labels, run.outages as f64);
        }
    });
}

/// What each link was in the last 24 hours, as far as it was watched.
pub(super) fn of_last_day(text: &mut Text, groups: &[GroupSnapshot]) {
    let mut gauge = |name, help, value: fn(&Figures) -> Option<f64>| {
        text.metric(name, Type::Gauge, help);
        each_link(groups, |_, link, labels| {
            if let Some(value) = link.statistics.as_ref().and_then(|known| value(&known.last_24h)) {
                text.sample("", labels, value);
            }
        });
    };
    let help = "Share of the last 24 hours, as far as the link was watched, in which it answered, 0 to 1.";
    gauge("link_watcher_link_last_day_availability_ratio", help, |day| day.availability);
    let help = "Outages that began in the last 24 hours.";
    gauge("link_watcher_link_last_day_outages", help, |day| Some(day.outages as f64));
    let help = "How long the link was out in the last 24 hours.";
    gauge("link_watcher_link_last_day_outage_seconds", help, |day| Some(day.outage_s));
    let help = "Share of the probes of the last 24 hours without an answer, outages included, 0 to 1.";
    gauge("link_watcher_link_last_day_loss_ratio", help, |day| day.loss);

    let help = "Longest time from the last good packet until the kernel had the new routes, in the last 24 hours.";
    text.metric("link_watcher_link_last_day_worst_failover_seconds", Type::Gauge, help);
    each_link(groups, |_, link, labels| {
        seconds(text, labels, link.statistics.as_ref().and_then(|known| known.last_24h.worst_failover_ms));
    });
    let help = "Round trips of the last 24 hours, at most 3.2 % off.";
    text.metric("link_watcher_link_last_day_rtt_seconds", Type::Gauge, help);
    each_link(groups, |_, link, labels| {
        let Some(day) = link.statistics.as_ref().map(|known| &known.last_24h) else { return };
        for (percentile, ms) in [("50", day.rtt_median_ms), ("99", day.rtt_p99_ms)] {
            seconds(text, &with(labels, ("percentile", percentile)), ms);
        }
    });
}
