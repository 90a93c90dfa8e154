//! keepalived: for each link a BFD instance and a VRRP instance that tracks it; the VRRP instance brings the link's routes, at
//! a metric of their own. The VRRP instances stand alone on the side of the hosts: nobody contends with them.

use std::fmt::Write as _;

use anyhow::Result;
use link_watcher_lab::{End, outside, routers::TwoRouters, service::Service};
use link_watcher_programs::KEEPALIVED;

use super::{BFD_PORT, ENDS, FloodKind, Heard, Package, Program, Timers, bfd_junk, links};

pub(crate) struct Keepalived;

impl Program for Keepalived {
    fn part(&self) -> &'static str {
        "Beside others: keepalived, VRRP routes that follow its BFD"
    }

    fn package(&self) -> Option<Package> {
        Some(Package::new(KEEPALIVED, "--version"))
    }

    fn timers(&self) -> Vec<Timers> {
        vec![Timers::new(100, 3), Timers::new(10, 5), Timers::new(10, 3)]
    }

    fn default_timers(&self) -> Option<Timers> {
        Some(Timers::new(10, 5))
    }

    fn start(&self, routers: &TwoRouters, timers: Timers) -> Result<[Vec<Service>; 2]> {
        let [client, server] = ENDS.map(|(end, role)| {
            let namespace = routers.daemon(end).namespace();
            outside::keepalived(&routers.lab, namespace, &format!("keepalived-{role}"), &config(routers, end, timers)?)
        });
        Ok([vec![client?], vec![server?]])
    }

    fn heard<'a>(&self, line: &'a str) -> Option<Heard<'a>> {
        let (_, rest) = line.split_once(" Tracked BFD instance ")?;
        let (session, state) = rest.split_once(" is ")?;
        Some(Heard { session, up: state == "UP" })
    }

    fn flood(&self) -> Option<FloodKind> {
        Some(FloodKind { port: BFD_PORT, spoil: bfd_junk })
    }
}

fn config(routers: &TwoRouters, end: End, timers: Timers) -> Result<String> {
    let Timers { interval_ms, multiplier } = timers;
    let mut text = String::from("global_defs {\n vrrp_version 3\n router_id bench\n}\n");
    let prefixes = routers.beyond(end)?;
    for (number, link) in links(routers, end).enumerate() {
        let number = number + 1;
        // Writing to a string cannot fail, here and below. No VRRP instance goes without an address.
        let _ = write!(
            text,
            "bfd_instance {0} {{\n neighbor_ip {1}\n source_ip {2}\n min_rx {interval_ms}\n min_tx {interval_ms}\n \
             multiplier {multiplier}\n}}\n\
             vrrp_instance {0} {{\n state MASTER\n interface eth0\n virtual_router_id {number}\n priority 200\n \
             advert_int 0.1\n track_bfd {{\n {0}\n }}\n virtual_ipaddress {{\n 198.51.100.{number}/32 dev eth0\n }}\n \
             virtual_routes {{\n",
            link.name, link.remote, link.local,
        );
        for prefix in &prefixes {
            let _ = writeln!(text, "  {prefix} via {} dev {} metric {number}", link.remote, link.interface);
        }
        text.push_str(" }\n}\n");
    }
    Ok(text)
}
