//! A network namespace that belongs to one thread and goes with it, so nothing is left behind however a test ends.
#![allow(dead_code)] // Each test file uses its own part.

use std::{
    future::Future,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use link_watcher::{
    event::GroupId,
    route::{
        Actuation, GroupRoutes, NetlinkObjects, NetlinkRoutes, NetlinkTables, Nexthop, Notice, Report, RouteBackend,
        RouteSink, Routes, TableRange,
    },
    system::{Interfaces, KernelEvents},
};
use link_watcher_programs::IP;

/// The group that most tests use.
pub(crate) const GROUP: GroupId = GroupId(0);
/// A second, ns.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Where tables and nexthop objects of that group begin.
pub(crate) const TABLE_BASE: u32 = 7000;

/// Runs `body` in a new network namespace with the loopback up.
pub(crate) fn namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // Only the network namespace of this thread changes, which shares nothing else that matters here.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("a network namespace needs root");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip`, which must succeed, and gives what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    let output = IP.command().args(arguments.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ip -batch`.
pub(crate) fn ip_batch(lines: impl Iterator<Item = String>) {
    use std::io::Write;
    let mut child = IP.command().args(["-batch", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let text: String = lines.map(|line| line + "\n").collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Three links eth1 to eth3 with the routers 10.248.248.1, .249.1 and .250.1, and 2001:db8:1::1 to 2001:db8:3::1; far1
/// to far3 are the other ends.
pub(crate) fn three_links() {
    for i in 1..=3 {
        link(i);
    }
}

/// One of them, ready when this returns: with carrier, and with every route that the kernel makes of it.
pub(crate) fn link(i: u32) {
    ip(&format!("link add eth{i} type veth peer name far{i}"));
    for end in ["eth", "far"] {
        // Link-local addresses would come a second later, with routes.
        ip(&format!("link set {end}{i} addrgenmode none"));
    }
    ip(&format!("addr add 10.248.{}.2/24 dev eth{i}", 247 + i));
    ip(&format!("addr add 2001:db8:{i}::2/64 dev eth{i} nodad"));
    ip(&format!("link set far{i} up"));
    ip(&format!("link set eth{i} up"));
    let deadline = Instant::now() + Duration::from_secs(5);
    let ready = |end: &str, routes: &[&str]| {
        let shown = ip(&format!("-6 route show table all dev {end}{i}"));
        ip(&format!("-o link show {end}{i}")).contains("state UP") && routes.iter().all(|route| shown.contains(route))
    };
    let local = format!("local 2001:db8:{i}::2");
    while !(ready("eth", &["multicast", &local]) && ready("far", &["multicast"])) {
        assert!(Instant::now() < deadline, "link {i} has carrier in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ifindex(i: u32) -> u32 {
    Interfaces::read().unwrap().index(&format!("eth{i}")).unwrap_or(0)
}

/// The IPv4 router behind a link.
pub(crate) fn v4(i: u32) -> Nexthop {
    hop(i, &format!("10.248.{}.1", 247 + i))
}

/// The IPv6 router behind a link.
pub(crate) fn v6(i: u32) -> Nexthop {
    hop(i, &format!("2001:db8:{i}::1"))
}

pub(crate) fn hop(i: u32, gateway: &str) -> Nexthop {
    Nexthop { ifindex: ifindex(i), gateway: gateway.parse::<IpAddr>().unwrap(), weight: 1 }
}

pub(crate) fn nets(prefixes: &[&str]) -> Vec<IpNet> {
    prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

pub(crate) fn desired(prefixes: &[&str], active: &[Nexthop], backups: &[Nexthop]) -> GroupRoutes {
    GroupRoutes {
        table: 254,
        prefixes: nets(prefixes).into(),
        active: active.to_vec(),
        backups: backups.to_vec(),
        ..GroupRoutes::default()
    }
}

/// Our routes as `ip` shows them, without trailing blanks.
pub(crate) fn ours() -> Vec<String> {
    show("proto 208")
}

pub(crate) fn show(filter: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = ip(&format!("{family} -o route show table all {filter}"));
        // Multipath routes come on several lines.
        lines.extend(text.replace("\\", "").lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    lines
}

/// Everything that is not ours, byte for byte.
pub(crate) fn foreign() -> String {
    let all = ip("-4 -d -o route show table all") + &ip("-6 -d -o route show table all");
    // Where link-watcher is installed, iproute2 knows the protocol by name.
    let is_ours = |line: &str| line.contains("proto 208") || line.contains("proto link-watcher");
    all.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n")).collect()
}

/// The route back-end with its events, and a clock in the test's hand.
pub(crate) struct Bench {
    pub(crate) routes: Routes<NetlinkRoutes>,
    pub(crate) events: KernelEvents,
    pub(crate) now_ns: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let events = KernelEvents::open().unwrap();
        Self { routes: Routes::new(NetlinkRoutes::open().unwrap()), events, now_ns: SECOND }
    }

    pub(crate) async fn apply(&mut self, desired: &GroupRoutes) -> Report {
        self.observe();
        self.routes.apply(self.now_ns, GROUP, desired).await
    }

    /// Hands over the events that the kernel has queued, as it does before the call that causes them returns.
    pub(crate) fn observe(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        while let Some(event) = self.events.try_next() {
            notices.extend(self.routes.observe(self.now_ns, &event));
        }
        notices
    }

    /// The events, and what is due because of them `after_ns` later.
    pub(crate) async fn settle(&mut self, after_ns: u64) -> Vec<Notice> {
        let mut notices = self.observe();
        self.now_ns += after_ns;
        notices.extend(self.routes.tick(self.now_ns).await);
        notices
    }
}

/// All back-ends behind their sink, with their events, and a clock in the test's hand.
pub(crate) struct AllBackEnds {
    pub(crate) sink: Actuation<NetlinkRoutes, NetlinkTables, NetlinkObjects>,
    pub(crate) events: KernelEvents,
    pub(crate) now_ns: u64,
}

impl AllBackEnds {
    pub(crate) fn new() -> Self {
        let events = KernelEvents::open().unwrap();
        let sink = Actuation::new(
            NetlinkRoutes::open().unwrap(),
            NetlinkTables::open().unwrap(),
            NetlinkObjects::open().unwrap(),
        );
        Self { sink, events, now_ns: SECOND }
    }

    pub(crate) fn observe(&mut self) -> Vec<Notice> {
        self.events.filter(self.sink.filtered()).unwrap();
        let mut notices = Vec::new();
        while let Some(event) = self.events.try_next() {
            notices.extend(self.sink.observe(self.now_ns, &event));
        }
        notices
    }

    /// Everything that is due within `after_ns`.
    pub(crate) async fn settle(&mut self, after_ns: u64) -> Vec<Notice> {
        let end_ns = self.now_ns + after_ns;
        let mut notices = Vec::new();
        loop {
            notices.extend(self.observe());
            let due_ns = self.sink.next_deadline_ns();
            if due_ns > end_ns {
                self.now_ns = end_ns;
                return notices;
            }
            self.now_ns = self.now_ns.max(due_ns);
            notices.extend(self.sink.tick(self.now_ns).await);
        }
    }
}

/// A wish about the three links, or those of them that are of the active one's family.
pub(crate) fn wish(
    choice: RouteBackend,
    prefixes: impl IntoIterator<Item = IpNet>,
    active: &[Nexthop],
    backups: &[Nexthop],
) -> GroupRoutes {
    GroupRoutes {
        table: 254,
        prefixes: prefixes.into_iter().collect(),
        active: active.to_vec(),
        backups: backups.to_vec(),
        links: (1..=3)
            .flat_map(|i| [v4(i), v6(i)])
            .filter(|link| active.first().is_none_or(|a| a.gateway.is_ipv4() == link.gateway.is_ipv4()))
            .collect(),
        choice,
        range: TableRange { table_base: TABLE_BASE, rule_priority: 32_600 },
        ..GroupRoutes::default()
    }
}

/// Where the kernel sends a packet.
pub(crate) fn way(address: &str) -> String {
    let text = ip(&format!("-o route get {address}"));
    let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap_or("").to_owned()
}
