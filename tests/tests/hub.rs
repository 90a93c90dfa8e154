//! One router with several peers: what one of them does is not another one's outage.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use link_watcher_lab::cable::Cable;
use link_watcher_lab::daemon::{Daemon, binary};
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::routers::fresh_key;
use link_watcher_lab::status::{active, group};
use link_watcher_lab::trial::PATIENCE;
use link_watcher_lab::{Direction, Lab};
use serde_json::Value;

const INTERVAL_MS: u64 = 50;
/// Prefixes of the greedy peer's long list: as many as are taken unless `max-prefixes` says otherwise.
const MOST: usize = 4096;
const CUTS: usize = 12;

/// Links of the hub: peer, link, third octet of its network.
const LINKS: [(&str, &str, u8); 3] = [("site", "a", 1), ("site", "b", 2), ("greedy", "c", 3)];

struct Hub {
    lab: Lab,
    hub: Daemon,
    site: Daemon,
    greedy: Daemon,
    /// As [`LINKS`].
    cables: Vec<Cable>,
}

fn group_text(peer: &str, role: &str, key: &str, further: &str) -> String {
    let mut text = format!(
        "[[peer]]\nname = \"{peer}\"\nrole = \"{role}\"\nkey-files = [\"{key}\"]\ninterval = \"{INTERVAL_MS}ms\"\nmultiplier = 3\n\
         hold-up = \"0s\"\nfailback = \"0s\"\ndampening = false\n{further}\n"
    );
    let ends = if role == "server" { [1, 2] } else { [2, 1] };
    for (_, link, net) in LINKS.iter().filter(|(of, ..)| *of == peer) {
        let [local, remote] = ends.map(|end| format!("10.248.{net}.{end}"));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[[peer.link]]\nname = \"{link}\"\ninterface = \"{peer}-{link}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n"
        );
    }
    text
}

/// The client's file with so many prefixes.
fn announcing(key: &str, count: usize) -> String {
    let list: Vec<String> = (0..count).map(|n| format!("\"10.{}.{}.0/24\"", 32 + n / 256, n % 256)).collect();
    group_text("greedy", "client", key, &format!("routes = [\"203.0.113.0/24\"]\nannounce = [{}]", list.join(", ")))
}

impl Hub {
    fn start() -> Self {
        let lab = Lab::new().unwrap();
        let namespace = |role: &str| Arc::new(lab.namespace(role).unwrap());
        let (hub, site, greedy, middle) =
            (namespace("hub"), namespace("site"), namespace("greedy"), namespace("cables"));
        Cable::prepare_middle(&middle).unwrap();
        let mut cables = Vec::new();
        for (peer, link, net) in LINKS {
            let far: &Namespace = if peer == "site" { &site } else { &greedy };
            let interface = format!("{peer}-{link}");
            cables.push(Cable::lay(&format!("{peer}{link}"), &middle, (far, &interface), (&hub, &interface)).unwrap());
            for (end, station) in [(1, &*hub), (2, far)] {
                station.ip(&format!("addr add 10.248.{net}.{end}/30 dev {interface}")).unwrap();
            }
        }
        let daemon =
            |name: &str, namespace: &Arc<Namespace>| Daemon::prepare(&lab, namespace, name, &binary().unwrap());
        let [hub, site, greedy] =
            [("hub", &hub), ("site", &site), ("greedy", &greedy)].map(|(name, at)| daemon(name, at).unwrap());
        let mut of_hub = String::new();
        for (peer, end, accept) in [("site", &site, "10.20.0.0/16"), ("greedy", &greedy, "10.32.0.0/11")] {
            let key = fresh_key().unwrap();
            let path = hub.write_key(&format!("{peer}.key"), &key).unwrap();
            let further = format!("accept = [\"{accept}\"]");
            of_hub.push_str(&group_text(peer, "server", path.to_str().unwrap(), &further));
            end.write_key("peer.key", &key).unwrap();
        }
        hub.write_config("", &of_hub).unwrap();
        let further = "routes = [\"203.0.113.0/24\"]\nannounce = [\"10.20.20.0/24\"]";
        site.write_config("", &group_text("site", "client", "peer.key", further)).unwrap();
        greedy.write_config("", &announcing("peer.key", 1)).unwrap();
        for daemon in [&hub, &site, &greedy] {
            daemon.start().unwrap();
        }
        let hub = Self { lab, hub, site, greedy, cables };
        hub.wait_site("a");
        hub
    }

    /// Until the hub's and the site's traffic is on that link.
    fn wait_site(&self, link: &str) {
        for daemon in [&self.hub, &self.site] {
            let there = || Ok((active(&daemon.status()?, "site") == [link]).then_some(()));
            self.lab.wait_until(&format!("the site's traffic on {link}"), PATIENCE, there).unwrap();
        }
    }

    fn installed(&self) -> usize {
        let status = self.hub.status().unwrap();
        group(&status, "greedy").unwrap()["routes"]["installed"].as_u64().unwrap() as usize
    }
}

/// From the instant at which the hub was to notice that link a is dead to its new routes, ms, for each cut.
fn delays_ms(hub: &Hub) -> Vec<f64> {
    let text = hub.hub.command(&["events", "--json"]).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let moves = events.filter(|event| {
        event["group"] == "site" && event["what"] == "active-changed" && event["from"] == serde_json::json!(["a"])
    });
    let delay = |event: Value| {
        let at = |point: &str| event["trace"][point].as_u64();
        let begin = at("due_ns").or(at("received_ns")).or(at("decided_ns")).unwrap();
        (at("routed_ns").unwrap() - begin) as f64 / 1e6
    };
    moves.map(delay).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_peer_with_ever_new_lists_holds_up_no_other_peers_failover() {
    let hub = Hub::start();
    let done = AtomicBool::new(false);
    let mut longest = 0;
    thread::scope(|scope| {
        let greed = scope.spawn(|| {
            let mut lists = 0;
            // As many as one may send; the hub takes two a second.
            while !done.load(Ordering::Relaxed) {
                let count = [1, MOST][lists % 2];
                hub.greedy.write_config("", &announcing("peer.key", count)).unwrap();
                hub.greedy.command(&["reload"]).unwrap();
                hub.lab.pause(Duration::from_millis(300)).unwrap();
                lists += 1;
            }
            lists
        });
        for _ in 0..CUTS {
            hub.cables[0].cut(&Direction::BOTH).unwrap();
            hub.wait_site("b");
            longest = longest.max(hub.installed());
            hub.cables[0].mend().unwrap();
            hub.wait_site("a");
            longest = longest.max(hub.installed());
        }
        done.store(true, Ordering::Relaxed);
        let lists = greed.join().unwrap();
        assert!(lists > 4, "{lists} lists");
    });
    let mut delays = delays_ms(&hub);
    delays.sort_by(f64::total_cmp);
    println!("{} failovers beside lists of up to {longest} prefixes: {delays:.2?} ms", delays.len());
    assert!(delays.len() >= CUTS && longest > MOST / 2, "{} failovers, {longest} prefixes at most", delays.len());
    let worst = delays.last().unwrap();
    assert!(*worst < INTERVAL_MS as f64, "one took {worst} ms longer than its detection");
}
