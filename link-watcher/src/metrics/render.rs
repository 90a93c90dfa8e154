//! Every metric, from what is so and what has happened; pure.

use std::collections::BTreeMap;

use super::{
    Scrape, To,
    histogram::Histogram,
    statistics,
    text::{Text, Type, number},
};
use crate::{
    notify::Results,
    status::{GroupSnapshot, LinkSnapshot},
};

/// The text of a scrape, and of what became of notifications by each notifier.
pub fn render(scrape: &Scrape, notifications: &BTreeMap<String, Results>) -> String {
    let groups = &scrape.snapshot.groups;
    let mut text = Text::default();
    text.metric("link_watcher_build_info", Type::Gauge, "The daemon that runs; always 1.");
    text.sample("", &[("version", &scrape.snapshot.version)], 1.0);

    let config = &scrape.snapshot.config;
    let help = "Whether the configuration that was last read is the one that runs.";
    text.metric("link_watcher_config_last_reload_successful", Type::Gauge, help);
    text.sample("", &[], flag(config.last_reload_successful));
    let help = "When the configuration that runs was read, seconds since 1970.";
    text.metric("link_watcher_config_last_reload_success_timestamp_seconds", Type::Gauge, help);
    text.sample("", &[], config.since_unix_s);

    text.metric("link_watcher_link_up", Type::Gauge, "Whether the link answers within its thresholds.");
    each_link(groups, |_, link, labels| text.sample("", labels, flag(link.state == "up")));
    text.metric("link_watcher_link_usable", Type::Gauge, "Whether traffic may use the link.");
    each_link(groups, |_, link, labels| text.sample("", labels, flag(link.usable)));
    text.metric("link_watcher_link_active", Type::Gauge, "Whether the link carries its group's traffic.");
    each_link(groups, |group, link, labels| text.sample("", labels, flag(group.active.contains(&link.name))));
    text.metric(
        "link_watcher_link_rtt_seconds",
        Type::Gauge,
        "Round-trip time, smoothed; none before the first answer.",
    );
    each_link(groups, |_, link, labels| seconds(&mut text, labels, link.rtt_ms));
    text.metric("link_watcher_link_jitter_seconds", Type::Gauge, "Variation of the round-trip time, smoothed.");
    each_link(groups, |_, link, labels| seconds(&mut text, labels, link.jitter_ms));
    text.metric("link_watcher_link_loss_ratio", Type::Gauge, "Share of the last probes that got no answer, 0 to 1.");
    each_link(groups, |_, link, labels| text.sample("", labels, link.loss));
    let help = "Share of the last probes lost on their way to the peer (there), and of their echoes (back), 0 to 1.";
    text.metric("link_watcher_link_one_way_loss_ratio", Type::Gauge, help);
    each_link(groups, |_, link, labels| {
        for (direction, loss) in [("there", link.loss_there), ("back", link.loss_back)] {
            if let Some(loss) = loss {
                text.sample("", &with(labels, ("direction", direction)), loss);
            }
        }
    });

    text.metric("link_watcher_link_transitions_total", Type::Counter, "Changes of the link's state, by the new one.");
    each_link(groups, |group, link, labels| {
        let counted = scrape.counters.transitions.get(&(group.name.clone(), link.name.clone()));
        for (to, name) in To::ALL {
            let count = counted.map_or(0, |counted| counted[to as usize]);
            text.sample("", &with(labels, ("to", name)), count as f64);
        }
    });
    let help = "Probes sent, and answers received.";
    text.metric("link_watcher_keepalives_total", Type::Counter, help);
    each_link(groups, |_, link, labels| {
        for (direction, count) in [("sent", link.sent), ("received", link.received)] {
            text.sample("", &with(labels, ("direction", direction)), count as f64);
        }
    });
    let help = "Packets to a peer's port that were not taken for what they claim to be, by the reason.";
    text.metric("link_watcher_dropped_total", Type::Counter, help);
    each_link(groups, |group, link, labels| {
        // Only peers send keepalives that could be refused.
        if group.kind != "peer" {
            return;
        }
        let dropped = link.dropped;
        for (cause, count) in [
            ("malformed", dropped.malformed),
            ("unknown", dropped.unknown),
            ("replayed", dropped.replayed),
            ("forged", dropped.forged),
            ("reflected", dropped.reflected),
            ("late", dropped.late),
            ("distant", dropped.distant),
            ("version", dropped.version),
            ("junk", dropped.junk),
        ] {
            text.sample("", &with(labels, ("cause", cause)), count as f64);
        }
    });

    statistics::of_runs(&mut text, scrape);
    statistics::of_last_day(&mut text, groups);

    text.metric("link_watcher_routes", Type::Gauge, "Prefixes that stand in the kernel as desired, and that do not.");
    for group in groups {
        for (state, count) in [("installed", group.routes.installed), ("refused", group.routes.refused)] {
            text.sample("", &[("group", &group.name), ("state", state)], count as f64);
        }
    }
    let help = "Whether the peer has what we announce in use.";
    text.metric("link_watcher_announcements_acknowledged", Type::Gauge, help);
    for group in groups {
        if let Some(announcements) = &group.announcements {
            text.sample("", &[("group", &group.name)], flag(announcements.acknowledged));
        }
    }
    let help = "From the last good packet on a link that failed until the kernel had the new routes.";
    text.metric("link_watcher_failover_seconds", Type::Histogram, help);
    for group in groups {
        let none = Histogram::default();
        histogram(&mut text, &group.name, scrape.counters.failovers.get(&group.name).unwrap_or(&none));
    }
    let help = "Notifications: messages sent, tries that failed, messages given up.";
    text.metric("link_watcher_notifications_total", Type::Counter, help);
    for (notifier, results) in notifications {
        for (result, count) in [("sent", results.sent), ("failed", results.failed), ("given-up", results.given_up)] {
            text.sample("", &[("notifier", notifier), ("result", result)], count as f64);
        }
    }
    text.finish()
}

pub(super) type Labels<'a> = [(&'a str, &'a str)];

pub(super) fn each_link(groups: &[GroupSnapshot], mut sample: impl FnMut(&GroupSnapshot, &LinkSnapshot, &Labels<'_>)) {
    for group in groups {
        for link in &group.links {
            sample(group, link, &[("group", &group.name), ("link", &link.name), ("interface", &link.interface)]);
        }
    }
}

pub(super) fn with<'a>(labels: &Labels<'a>, further: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
    labels.iter().copied().chain([further]).collect()
}

const fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// What is not known has no sample.
pub(super) fn seconds(text: &mut Text, labels: &Labels<'_>, ms: Option<f64>) {
    if let Some(ms) = ms {
        // Rounded to the nanosecond that it was measured in: 0.042 ms is 0.000042 s.
        text.sample("", labels, (ms * 1e6).round() / 1e9);
    }
}

fn histogram(text: &mut Text, group: &str, histogram: &Histogram) {
    for (bound_ns, count) in histogram.cumulative() {
        text.sample("_bucket", &[("group", group), ("le", &number(bound_ns as f64 / 1e9))], count as f64);
    }
    text.sample("_bucket", &[("group", group), ("le", "+Inf")], histogram.count as f64);
    text.sample("_sum", &[("group", group)], histogram.sum_ns as f64 / 1e9);
    text.sample("_count", &[("group", group)], histogram.count as f64);
}
