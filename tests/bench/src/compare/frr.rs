//! FRR: a BGP session over each link, with BFD to end it; routes of the heavier session win. Debian's FRR 8.4 has no static
//! routes that follow BFD.

use std::fmt::Write as _;

use anyhow::Result;
use link_watcher_lab::{End, outside, routers::TwoRouters, service::Service};
use link_watcher_programs::{FRR_BFDD, FRR_BGPD};

use super::{BFD_PORT, ENDS, FloodKind, Heard, Package, Program, Timers, bfd_junk, links};

pub(crate) struct Frr;

impl Program for Frr {
    fn part(&self) -> &'static str {
        "Beside others: FRR, BGP sessions that follow its BFD"
    }

    fn package(&self) -> Option<Package> {
        Some(Package::new(FRR_BFDD, "--version"))
    }

    fn timers(&self) -> Vec<Timers> {
        // 10 ms is the shortest that it takes.
        vec![Timers::new(300, 3), Timers::new(100, 3), Timers::new(10, 3)]
    }

    fn default_timers(&self) -> Option<Timers> {
        Some(Timers::new(300, 3))
    }

    fn start(&self, routers: &TwoRouters, timers: Timers) -> Result<[Vec<Service>; 2]> {
        let [client, server] = ENDS.map(|(end, role)| {
            let (bfdd, bgpd) = (bfdd_config(timers), bgpd_config(routers, end)?);
            let others = [(FRR_BFDD, bfdd.as_str()), (FRR_BGPD, bgpd.as_str())];
            outside::frr(&routers.lab, routers.daemon(end).namespace(), &format!("frr-{role}"), &others)
        });
        Ok([client?, server?])
    }

    fn heard<'a>(&self, line: &'a str) -> Option<Heard<'a>> {
        let (_, rest) = line.split_once(" state-change: ")?;
        let (session, change) = rest.split_once("] ")?;
        let session = session.split_once(" peer:")?.1.split(' ').next()?;
        let up = change.ends_with("-> up");
        (up || change.starts_with("up -> ")).then_some(Heard { session, up })
    }

    fn flood(&self) -> Option<FloodKind> {
        Some(FloodKind { port: BFD_PORT, spoil: bfd_junk })
    }
}

fn bfdd_config(timers: Timers) -> String {
    let Timers { interval_ms, multiplier } = timers;
    format!(
        "log stdout\ndebug bfd peer\nbfd\n profile bench\n  detect-multiplier {multiplier}\n  \
         receive-interval {interval_ms}\n  transmit-interval {interval_ms}\n !\n!\n"
    )
}

fn bgpd_config(routers: &TwoRouters, end: End) -> Result<String> {
    let (own, other) = if end == End::Client { (65001, 65002) } else { (65002, 65001) };
    let links: Vec<_> = links(routers, end).collect();
    let router_id = links.first().map(|link| link.local.to_string()).unwrap_or_default();
    // Keepalive and hold time are the shortest that there are, so that a mended link is soon used again.
    let mut text = format!(
        "log stdout\nrouter bgp {own}\n bgp router-id {router_id}\n no bgp ebgp-requires-policy\n \
         no bgp default ipv4-unicast\n timers bgp 1 3\n"
    );
    for link in &links {
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            text,
            " neighbor {0} remote-as {other}\n neighbor {0} bfd profile bench\n neighbor {0} timers connect 1\n \
             neighbor {0} advertisement-interval 0\n",
            link.remote
        );
    }
    text.push_str(" address-family ipv4 unicast\n");
    for (number, link) in links.iter().enumerate() {
        let _ = write!(text, "  neighbor {0} activate\n  neighbor {0} weight {1}\n", link.remote, 100 - number);
        if end == End::Server {
            let _ = writeln!(text, "  neighbor {} default-originate", link.remote);
        }
    }
    if end == End::Client {
        // What the server sends here.
        for prefix in routers.beyond(End::Server)? {
            let _ = writeln!(text, "  network {prefix}");
        }
    }
    text.push_str(" exit-address-family\n");
    Ok(text)
}
