//! Probes of uplinks with real packets: a router with two interfaces to a provider that has the targets.
#![allow(clippy::unwrap_used)]

mod route_support;
mod uplink_probe_support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use link_watcher::{
    config::{HttpTarget, ProbeKind, TcpRefusal},
    event::LinkId,
    health::{Degraded, Verdict},
    uplink::{
        Path,
        probe::{Evidence, NoEvidence, ProbedUplink, UplinkProber, UplinkReport, spawn},
    },
};
use route_support::{ip, namespace};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use uplink_probe_support::*;

/// Verdicts as they come.
struct Bench {
    prober: UplinkProber,
    reports: mpsc::Receiver<UplinkReport>,
}

impl Bench {
    fn new(uplinks: Vec<ProbedUplink>) -> Self {
        Self::with(uplinks, 64, Arc::new(NoEvidence))
    }

    fn with(uplinks: Vec<ProbedUplink>, queue: usize, evidence: Arc<dyn Evidence>) -> Self {
        let (sender, reports) = mpsc::channel(queue);
        let prober = spawn(sender, evidence).unwrap();
        prober.set(uplinks);
        Self { prober, reports }
    }

    async fn next(&mut self) -> UplinkReport {
        let deadline = Instant::now() + DEADLINE;
        timeout_at(deadline, self.reports.recv()).await.expect("a verdict in time").expect("the prober runs")
    }

    /// The first verdict of so many uplinks.
    async fn first_verdicts(&mut self, count: u32) -> BTreeMap<u32, UplinkReport> {
        let mut first = BTreeMap::new();
        while first.len() < count as usize {
            let report = self.next().await;
            first.entry(report.link.0).or_insert(report);
        }
        first
    }

    /// Waits until so many more answers have come than there were.
    async fn answers(&self, link: u32, more: u64) {
        let received = || self.prober.figures(LinkId(link)).map_or(0, |known| known.figures.received);
        let (before, deadline) = (received(), Instant::now() + DEADLINE);
        while received() < before + more {
            assert!(Instant::now() < deadline, "answers in time: {:?}", self.prober.figures(LinkId(link)));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn all_kinds() -> Vec<(&'static str, ProbeKind)> {
    let page = |target: &str| HttpTarget {
        tls: false,
        host: "check.example.com".to_owned(),
        address: target.parse().unwrap(),
        path: "/".to_owned(),
    };
    let http = |targets: &[&str]| ProbeKind::Http {
        targets: targets.iter().map(|target| page(target)).collect(),
        status: 200..=299,
        body: Some("all is well".to_owned()),
    };
    let tcp = |targets: &[&str]| ProbeKind::Tcp { targets: servers(targets), refused: TcpRefusal::Up };
    let dns = |targets: &[&str]| ProbeKind::Dns { targets: servers(targets), query: "example.com".to_owned() };
    vec![
        ("icmp", icmp(&["203.0.113.1", "203.0.113.2"])),
        ("icmp6", icmp(&["2001:db8:ff::1", "2001:db8:ff::2"])),
        ("tcp", tcp(&["203.0.113.1:80", "203.0.113.2:80"])),
        ("tcp6", tcp(&["[2001:db8:ff::1]:80", "[2001:db8:ff::2]:80"])),
        ("tcp refused", tcp(&["203.0.113.1:1", "[2001:db8:ff::1]:1"])),
        ("http", http(&["203.0.113.1:80", "203.0.113.2:80"])),
        ("http6", http(&["[2001:db8:ff::1]:80", "[2001:db8:ff::2]:80"])),
        ("dns", dns(&["203.0.113.1:53", "203.0.113.2:53"])),
        ("dns6", dns(&["[2001:db8:ff::1]:53", "[2001:db8:ff::2]:53"])),
        ("arp, ndp", ProbeKind::Arp { targets: Vec::new() }),
    ]
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_kind_gets_its_answers() {
    namespace(|| async {
        let _provider = Provider::with_targets().await;
        // Whatever does not carry the uplink's mark does not leave, but for the kernel's own neighbour discovery.
        nft("add table inet t");
        nft("add chain inet t out { type filter hook output priority 0; policy drop; }");
        nft(&format!("add rule inet t out meta mark {MARK} accept"));
        nft("add rule inet t out icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept");
        let kinds = all_kinds();
        let uplinks = kinds.iter().zip(0..).map(|((_, kind), id)| uplink(id, kind.clone(), 2));
        let mut bench = Bench::new(uplinks.collect());
        for (id, report) in bench.first_verdicts(kinds.len() as u32).await {
            assert_eq!(report.verdict, Verdict::Up, "{}: {:?}", kinds[id as usize].0, report.last_failure);
        }
        for id in 0..kinds.len() as u32 {
            bench.answers(id, 1).await;
            let figures = bench.prober.figures(LinkId(id)).unwrap().figures;
            assert!(figures.rtt_ns.unwrap() < 500_000_000, "{figures:?}");
        }
        bench.prober.stop();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_does_not_answer_is_down_and_holds_nobody_up() {
    namespace(|| async {
        let provider = Provider::with_targets().await;
        // Silence, not refusals.
        provider.ip("route add blackhole 203.0.113.128/25").await;
        provider.ip("route add blackhole 2001:db8:fe::/64").await;
        let dead = [
            icmp(&["203.0.113.129"]),
            icmp(&["2001:db8:fe::1"]),
            ProbeKind::Tcp { targets: servers(&["203.0.113.129:80"]), refused: TcpRefusal::Up },
            ProbeKind::Dns { targets: servers(&["203.0.113.129:53"]), query: "example.com".to_owned() },
            // Somebody is there, but does not speak DNS.
            ProbeKind::Dns { targets: servers(&["203.0.113.1:54"]), query: "example.com".to_owned() },
            ProbeKind::Arp { targets: vec!["198.51.100.77".parse().unwrap()] },
            ProbeKind::Arp { targets: vec!["2001:db8:1::77".parse().unwrap()] },
        ];
        let mut uplinks: Vec<_> = dead.into_iter().zip(0..).map(|(kind, id)| uplink(id, kind, 1)).collect();
        // One dead target of two is nothing.
        uplinks.push(uplink(7, icmp(&["203.0.113.129", "203.0.113.1"]), 1));
        let mut bench = Bench::new(uplinks);
        let verdicts = bench.first_verdicts(8).await;
        for (id, report) in &verdicts {
            match (id, report.verdict) {
                (7, Verdict::Up) => {}
                (0..7, Verdict::Down(_)) => assert!(report.last_failure.is_some(), "{report:?}"),
                _ => panic!("{report:?}"),
            }
        }
        assert_eq!(verdicts[&0].last_failure.as_deref(), Some("203.0.113.129: no answer within 400ms"));
        bench.prober.stop();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_answer_by_another_interface_does_not_count() {
    namespace(|| async {
        let provider = Provider::with_targets().await;
        let kinds: Vec<_> =
            all_kinds().into_iter().filter(|(name, _)| ["icmp", "tcp", "http", "dns"].contains(name)).collect();
        provider.answers_by_the_other_way(true).await;
        let uplinks = kinds.iter().zip(0..).map(|((_, kind), id)| uplink(id, kind.clone(), 1));
        let mut bench = Bench::new(uplinks.collect());
        for (id, report) in bench.first_verdicts(kinds.len() as u32).await {
            assert!(matches!(report.verdict, Verdict::Down(_)), "{}: {report:?}", kinds[id as usize].0);
        }
        assert!(echo_replies() > 0, "they did come, by eth2");
        provider.answers_by_the_other_way(false).await;
        for _ in 0..kinds.len() {
            assert_eq!(bench.next().await.verdict, Verdict::Up);
        }
        bench.prober.stop();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_gateway_that_forwards_nothing_answers_arp_alone() {
    namespace(|| async {
        let _provider = Provider::new().await;
        let uplinks = vec![
            uplink(0, ProbeKind::Arp { targets: Vec::new() }, 1),
            uplink(1, icmp(&["203.0.113.1", "203.0.113.2"]), 1),
        ];
        let mut bench = Bench::new(uplinks);
        let verdicts = bench.first_verdicts(2).await;
        assert_eq!(verdicts[&0].verdict, Verdict::Up);
        assert!(matches!(verdicts[&1].verdict, Verdict::Down(_)));
        bench.prober.stop();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refusal_by_a_router_is_no_answer() {
    namespace(|| async {
        let provider = Provider::with_targets().await;
        provider
            .run(|| {
                nft("add table inet t");
                nft("add chain inet t in { type filter hook input priority 0; }");
                nft("add rule inet t in tcp dport 1 reject with icmpx port-unreachable");
            })
            .await;
        let tcp = |target| ProbeKind::Tcp { targets: servers(&[target]), refused: TcpRefusal::Up };
        let targets = ["203.0.113.1:1", "[2001:db8:ff::1]:1", "203.0.113.1:2", "[2001:db8:ff::1]:2"];
        let uplinks = targets.iter().zip(0..).map(|(target, id)| uplink(id, tcp(target), 1));
        let mut bench = Bench::new(uplinks.collect());
        let verdicts = bench.first_verdicts(4).await;
        for (id, report) in verdicts {
            assert_eq!(report.verdict == Verdict::Up, id >= 2, "{}: {report:?}", targets[id as usize]);
        }
        bench.prober.stop();
    });
}

/// A port that nobody serves, where a connection is wanted.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refusal_by_the_server_is_an_answer_unless_a_connection_is_wanted() {
    namespace(|| async {
        let _provider = Provider::with_targets().await;
        let tcp = |port, refused| ProbeKind::Tcp { targets: servers(&[&format!("203.0.113.1:{port}")]), refused };
        let kinds = [(1, TcpRefusal::Up), (1, TcpRefusal::Down), (80, TcpRefusal::Down)];
        let uplinks = kinds.iter().zip(0..).map(|((port, refused), id)| uplink(id, tcp(*port, *refused), 1));
        let mut bench = Bench::new(uplinks.collect());
        for (id, report) in bench.first_verdicts(3).await {
            assert_eq!(report.verdict == Verdict::Up, id != 1, "{id}: {report:?}");
            let failure = report.last_failure.unwrap_or_default();
            assert_eq!(failure.contains("the server refuses"), id == 1, "{failure}");
        }
        bench.prober.stop();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_address_and_a_new_interface_change_nothing() {
    namespace(|| async {
        let provider = Provider::with_targets().await;
        let mut uplink = uplink(0, icmp(&["203.0.113.1", "203.0.113.2"]), 2);
        let mut bench = Bench::new(vec![uplink.clone()]);
        assert_eq!(bench.next().await.verdict, Verdict::Up);
        bench.answers(0, 4).await;
        let sent = bench.prober.figures(LinkId(0)).unwrap().figures.sent;

        ip("addr del 198.51.100.2/24 dev eth1");
        ip("addr add 198.51.100.99/24 dev eth1");
        ip("route replace default via 198.51.100.1 dev eth1");
        uplink.ipv4 = Some(Path { source: Some("198.51.100.99".parse().unwrap()), ..uplink.ipv4.unwrap() });
        bench.prober.set(vec![uplink.clone()]);
        bench.answers(0, 4).await;
        assert!(bench.prober.figures(LinkId(0)).unwrap().figures.sent > sent, "it goes on, and does not begin anew");
        // What does not change is not disturbed.
        bench.prober.set(vec![uplink.clone()]);
        bench.answers(0, 4).await;
        assert!(bench.reports.try_recv().is_err(), "no verdict has changed");

        // Gone for longer than three rounds, then back.
        ip("link del eth1");
        (uplink.ifindex, uplink.ipv4, uplink.ipv6) = (0, None, None);
        bench.prober.set(vec![uplink.clone()]);
        let gone = bench.next().await;
        assert!(matches!(gone.verdict, Verdict::Down(_)) && gone.last_good_ns > 0, "{gone:?}");
        assert!(gone.last_failure.unwrap().ends_with("there is no interface eth1 now"));
        provider.connect(1).await;
        ip("route replace default via 198.51.100.1 dev eth1");
        bench.prober.set(vec![uplink_probe_support::uplink(0, uplink.config.kind.clone(), 2)]);
        assert_eq!(bench.next().await.verdict, Verdict::Up);
        bench.prober.set(Vec::new());
        let deadline = Instant::now() + DEADLINE;
        while bench.prober.figures(LinkId(0)).is_some() {
            assert!(Instant::now() < deadline, "what is not wanted is forgotten");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.prober.stop();
    });
}

struct Counter(AtomicU64);

impl Evidence for Counter {
    fn replies(&self, _: LinkId, _: u64) -> Option<u64> {
        // Growing from look to look.
        Some(self.0.fetch_add(1, Relaxed))
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn replies_of_connections_are_only_asked_for_in_doubt() {
    namespace(|| async {
        let provider = Provider::with_targets().await;
        let evidence = Arc::new(Counter(AtomicU64::new(0)));
        let uplinks = vec![uplink(0, icmp(&["203.0.113.1", "203.0.113.2"]), 2)];
        let mut bench = Bench::with(uplinks, 64, Arc::clone(&evidence) as Arc<dyn Evidence>);
        assert_eq!(bench.next().await.verdict, Verdict::Up);
        let looked = evidence.0.load(Relaxed);
        bench.answers(0, 6).await;
        assert_eq!(evidence.0.load(Relaxed), looked, "no doubt, no look");
        provider.ip("addr flush dev lo").await;
        assert_eq!(bench.next().await.verdict, Verdict::Degraded(Degraded::OnlyReplies));
        bench.prober.stop();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_queue_loses_no_last_verdict() {
    namespace(|| async {
        let provider = Provider::with_targets().await;
        let uplinks = (0..5).map(|id| uplink(id, icmp(&["203.0.113.1"]), 1)).collect();
        let mut bench = Bench::with(uplinks, 1, Arc::new(NoEvidence));
        for id in 0..5 {
            bench.answers(id, 2).await;
        }
        provider.ip("addr flush dev lo").await;
        let down = |id| {
            let verdict = bench.prober.figures(LinkId(id)).unwrap().figures.verdict;
            matches!(verdict, Some(Verdict::Down(_)))
        };
        let deadline = Instant::now() + DEADLINE;
        while !(0..5).all(down) {
            assert!(Instant::now() < deadline, "a full queue stops no probe");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // One stood in the queue, as the first that was said; of each the last one follows.
        let mut last = BTreeMap::new();
        while last.len() < 5 || last.values().any(|verdict| *verdict == Verdict::Up) {
            let report = bench.next().await;
            last.insert(report.link, report.verdict);
        }
        bench.prober.stop();
    });
}
