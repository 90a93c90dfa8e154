//! BIRD: a static route through each link, withdrawn while the neighbour's BFD session is down; the most preferred of those
//! that are left is exported to the kernel.

use std::fmt::Write as _;

use anyhow::Result;
use link_watcher_lab::{End, outside, routers::TwoRouters, service::Service};
use link_watcher_programs::BIRD;

use super::{BFD_PORT, ENDS, FloodKind, Heard, Package, Program, Timers, bfd_junk, links};

pub(crate) struct Bird;

impl Program for Bird {
    fn part(&self) -> &'static str {
        "Beside others: BIRD, static routes that follow its BFD"
    }

    fn package(&self) -> Option<Package> {
        Some(Package::new(BIRD, "--version"))
    }

    fn timers(&self) -> Vec<Timers> {
        vec![Timers::new(100, 5), Timers::new(100, 3), Timers::new(10, 3), Timers::new(1, 3)]
    }

    fn default_timers(&self) -> Option<Timers> {
        Some(Timers::new(100, 5))
    }

    fn start(&self, routers: &TwoRouters, timers: Timers) -> Result<[Vec<Service>; 2]> {
        let [client, server] = ENDS.map(|(end, role)| {
            let namespace = routers.daemon(end).namespace();
            outside::bird(&routers.lab, namespace, &format!("bird-{role}"), &config(routers, end, timers)?)
        });
        Ok([vec![client?], vec![server?]])
    }

    fn heard<'a>(&self, line: &'a str) -> Option<Heard<'a>> {
        let (_, rest) = line.split_once(": Session to ")?;
        let (session, change) = rest.split_once(" changed state from ")?;
        let up = change.ends_with(" to Up");
        // Between the two there is Init.
        (up || change.starts_with("Up to ")).then_some(Heard { session, up })
    }

    fn flood(&self) -> Option<FloodKind> {
        Some(FloodKind { port: BFD_PORT, spoil: bfd_junk })
    }
}

fn config(routers: &TwoRouters, end: End, timers: Timers) -> Result<String> {
    let Timers { interval_ms, multiplier } = timers;
    let mut links = links(routers, end).peekable();
    let router_id = links.peek().map(|link| link.local.to_string()).unwrap_or_default();
    let mut text = format!(
        "log stderr all;\nrouter id {router_id};\nprotocol device {{ }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_STATIC; }}; }}\n\
         protocol bfd {{ debug {{ events }}; accept ipv4 direct;\n\
         interface \"wan*\" {{ interval {interval_ms} ms; multiplier {multiplier}; }}; }}\n"
    );
    let prefixes = routers.beyond(end)?;
    for (number, link) in links.enumerate() {
        // 200 is what a static route has by itself. Writing to a string cannot fail, here and below.
        let _ = write!(text, "protocol static {} {{ ipv4 {{ preference {}; }};", link.name, 210 - number);
        for prefix in &prefixes {
            let _ = write!(text, " route {prefix} via {} bfd;", link.remote);
        }
        text.push_str(" }\n");
    }
    Ok(text)
}
