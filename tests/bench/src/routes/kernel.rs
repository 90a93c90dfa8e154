//! How long a failover takes, by back-end and number of prefixes: on a real kernel, in a network namespace that goes with
//! its thread.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use link_watcher::{
    clock,
    event::GroupId,
    route::{
        Actuation, COMPAT_MODE, Family, GroupRoutes, NetlinkObjects, NetlinkRoutes, NetlinkTables, Nexthop,
        RouteBackend, RouteSink as _, TableRange, udp_ways,
    },
    system::{Interfaces, KernelEvents},
};
use link_watcher_programs::IP;

const GROUP: GroupId = GroupId(0);
/// Source ports of the flows of which it is seen whether they move.
const FLOW_PORTS: Range<u16> = 10_000..30_000;
/// Longest time until everything stands.
const PATIENCE: Duration = Duration::from_secs(120);

/// Fails over `rounds` times between two links with so many prefixes: from the decision until the traffic is led through the
/// other link, ns, each.
pub(super) fn failovers(choice: RouteBackend, family: Family, prefixes: u32, rounds: u32) -> io::Result<Vec<u64>> {
    alone(move || measure(choice, family, prefixes, rounds))
}

/// Runs this in a thread with a network namespace of its own.
fn alone<T: Send + 'static, F: Future<Output = io::Result<T>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::spawn(move || {
        // Only the network namespace of this thread changes, which shares nothing else that matters here.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
    });
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the measuring thread has panicked")))
}

async fn measure(choice: RouteBackend, family: Family, prefixes: u32, rounds: u32) -> io::Result<Vec<u64>> {
    if choice == RouteBackend::Nexthop {
        // Nobody else reads routes here.
        fs::write(COMPAT_MODE, "0")?;
    }
    // A new address that has proved to be nobody else's (RFC 4862, section 5.4) makes the kernel walk through all IPv6
    // tables, 20 ms for 100,000 routes, for which everybody waits. Those of a router have done so long ago.
    fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
    let links = [link(1, family)?, link(2, family)?];
    let wanted = wanted(choice, family, prefixes, &links);
    let mut events = KernelEvents::open()?;
    let mut sink = sink()?;
    let mut moved_ns = Vec::new();
    for round in 0..=rounds as usize {
        let (active, backup) = (links[round % 2], links[(round + 1) % 2]);
        let desired = GroupRoutes { active: vec![active], backups: vec![backup], ..wanted.clone() };
        let before = Instant::now();
        sink.apply(clock::now_ns(), GROUP, &desired).await;
        if round > 0 {
            moved_ns.push(before.elapsed().as_nanos() as u64);
        }
        let deadline = Instant::now() + PATIENCE;
        while sink.report(GROUP).installed < prefixes as usize
            || sink.next_deadline_ns() <= clock::now_ns() + 100_000_000
        {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{prefixes} prefixes do not stand within {PATIENCE:?}")));
            }
            events.filter(sink.filtered())?;
            while let Some(event) = events.try_next() {
                sink.observe(clock::now_ns(), &event);
            }
            sink.tick(clock::now_ns()).await;
        }
    }
    Ok(moved_ns)
}

fn wanted(choice: RouteBackend, family: Family, prefixes: u32, links: &[Nexthop]) -> GroupRoutes {
    GroupRoutes {
        table: 254,
        prefixes: (0..prefixes).map(|i| prefix(family, i)).collect::<Arc<[IpNet]>>(),
        links: links.to_vec(),
        choice,
        range: TableRange { table_base: 10_000, rule_priority: 32_600 },
        ..GroupRoutes::default()
    }
}

fn sink() -> io::Result<Actuation<NetlinkRoutes, NetlinkTables, NetlinkObjects>> {
    Ok(Actuation::new(NetlinkRoutes::open()?, NetlinkTables::open()?, NetlinkObjects::open()?))
}

/// Of flows over three links with equal weights: the share that moves though its own link stays, when another one goes,
/// 0 to 1.
pub(super) fn flows_moved(choice: RouteBackend) -> io::Result<f64> {
    alone(move || async move {
        // By addresses and ports (Documentation/networking/ip-sysctl.rst).
        fs::write("/proc/sys/net/ipv4/fib_multipath_hash_policy", "1")?;
        let links = [link(1, Family::V4)?, link(2, Family::V4)?, link(3, Family::V4)?];
        let wanted = wanted(choice, Family::V4, 1, &links);
        let mut sink = sink()?;
        let mut outs = Vec::new();
        for active in [&links[..], &links[..2]] {
            sink.apply(clock::now_ns(), GROUP, &GroupRoutes { active: active.to_vec(), ..wanted.clone() }).await;
            while sink.next_deadline_ns() <= clock::now_ns() {
                sink.tick(clock::now_ns()).await;
            }
            outs.push(udp_ways(Ipv4Addr::new(32, 0, 0, 9), FLOW_PORTS)?);
        }
        let gone = links[2].ifindex;
        let moved = outs[0].iter().zip(&outs[1]).filter(|(before, after)| before != after && **before != gone);
        Ok(moved.count() as f64 / FLOW_PORTS.len() as f64)
    })
}

/// Makes a link to a router behind it.
fn link(i: u32, family: Family) -> io::Result<Nexthop> {
    let (address, gateway) = match family {
        Family::V4 => (format!("10.248.{i}.2/24"), format!("10.248.{i}.1")),
        Family::V6 => (format!("2001:db8:{i}::2/64"), format!("2001:db8:{i}::1")),
    };
    ip(&format!("link add eth{i} type veth peer name far{i}"))?;
    ip(&format!("addr add {address} dev eth{i}"))?;
    ip(&format!("link set far{i} up"))?;
    ip(&format!("link set eth{i} up"))?;
    let ifindex = Interfaces::read()?.index(&format!("eth{i}")).unwrap_or(0);
    let gateway = gateway.parse().map_err(io::Error::other)?;
    Ok(Nexthop { ifindex, gateway, weight: 1 })
}

fn ip(arguments: &str) -> io::Result<()> {
    let done = IP.command().args(arguments.split_whitespace()).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other(format!("ip {arguments}: {done}"))) }
}

/// The prefix of this number: /24 in 32.0.0.0/3, /48 in 2001:db8::/32 and behind it.
fn prefix(family: Family, i: u32) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(0x2000_0000 + (i << 8)), 24)),
        Family::V6 => {
            let bits = (0x2001_0db8_0000_0000_u128 << 64) + (u128::from(i + 256) << 80);
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(bits), 48))
        }
    }
}
