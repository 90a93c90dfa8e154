//! A ping monitor as administrators write it: a shell that pings over each link every second, and replaces the routes when
//! three pings in a row have gone unanswered.

use std::fmt::Write as _;

use anyhow::Result;
use link_watcher_lab::{End, outside, routers::TwoRouters, service::Service};
use link_watcher_programs::{PING, SH};

use super::{ENDS, FloodKind, Heard, Package, Program, Timers, links};

pub(crate) struct Ping;

impl Program for Ping {
    fn part(&self) -> &'static str {
        "Beside others: ping and ip in a shell loop"
    }

    fn package(&self) -> Option<Package> {
        Some(Package::new(PING, "-V"))
    }

    fn timers(&self) -> Vec<Timers> {
        vec![Timers::new(1000, 3)]
    }

    fn default_timers(&self) -> Option<Timers> {
        None
    }

    fn start(&self, routers: &TwoRouters, timers: Timers) -> Result<[Vec<Service>; 2]> {
        let [client, server] = ENDS.map(|(end, role)| {
            let directory = outside::directory(&routers.lab, &format!("ping-{role}"))?;
            let path = outside::write(&directory, "monitor.sh", &script(routers, end, timers)?)?;
            let mut command = SH.command();
            command.arg(path);
            Service::start(&routers.lab, routers.daemon(end).namespace(), &format!("ping-{role}"), &mut command)
        });
        Ok([vec![client?], vec![server?]])
    }

    fn heard<'a>(&self, line: &'a str) -> Option<Heard<'a>> {
        match line.split_once(" is ")? {
            (session, "up") => Some(Heard { session, up: true }),
            (session, "down") => Some(Heard { session, up: false }),
            _ => None,
        }
    }

    fn flood(&self) -> Option<FloodKind> {
        None
    }
}

fn script(routers: &TwoRouters, end: End, timers: Timers) -> Result<String> {
    let multiplier = timers.multiplier;
    let seconds = timers.interval_ms.div_ceil(1000);
    let mut text = String::from("current=none\nwhile :; do\n  best=none\n");
    let prefixes = routers.beyond(end)?;
    for link in links(routers, end) {
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            text,
            "  if ping -q -n -c1 -W{seconds} -I {interface} {remote} >/dev/null 2>&1; then\n    \
             [ \"${{missed_{name}:-{multiplier}}}\" -lt {multiplier} ] || echo {name} is up\n    missed_{name}=0\n  else\n    \
             missed_{name}=$((${{missed_{name}:-{multiplier}}} + 1))\n    \
             [ \"$missed_{name}\" -ne {multiplier} ] || echo {name} is down\n  fi\n  \
             [ \"$best\" != none ] || [ \"$missed_{name}\" -ge {multiplier} ] || best='via {remote} dev {interface}'\n",
            name = link.name,
            interface = link.interface,
            remote = link.remote,
        );
    }
    text.push_str("  if [ \"$best\" != none ] && [ \"$best\" != \"$current\" ]; then\n");
    for prefix in &prefixes {
        let _ = writeln!(text, "    ip route replace {prefix} $best");
    }
    let _ = write!(text, "    current=$best\n  fi\n  sleep {seconds}\ndone\n");
    Ok(text)
}
