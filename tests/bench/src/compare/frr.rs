//! FRR: a BGP session over each link, with BFD to end it; routes of the heavier session win. Debian's FRR 8.4 has no static
//! routes that follow BFD.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use link_watcher_lab::{End, routers::TwoRouters, service::Service};
use link_watcher_programs::{FRR_BFDD, FRR_BGPD, FRR_ZEBRA, Program as Listed, UNSHARE};

use super::{BFD_PORT, ENDS, FloodKind, Heard, Package, Program, Timers, bfd_junk, directory, links, write};

pub(crate) struct Frr;

/// The user that they become.
const USER: &str = "frr";
/// Through which the daemons talk to zebra, in a directory of their end.
const ZEBRA_SOCKET: &str = "zserv";
/// How long zebra may take to make it.
const START_LIMIT: Duration = Duration::from_secs(10);

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
        let lab = routers.lab.directory();
        // The daemons are no longer root when they read what is theirs in it; everything else there has its own mode.
        fs::set_permissions(lab, fs::Permissions::from_mode(0o711))
            .with_context(|| format!("cannot open {} to FRR", lab.display()))?;
        let [client, server]: [Result<Vec<Service>>; 2] = ENDS.map(|(end, role)| {
            let directory = directory(routers, &format!("frr-{role}"))?;
            for (name, text) in [
                ("zebra.conf", String::from("log stdout\n")),
                ("bfdd.conf", bfdd_config(timers)),
                ("bgpd.conf", bgpd_config(routers, end)?),
            ] {
                write(&directory, name, &text)?;
            }
            let path = directory.to_str().context("a temporary directory whose name is no text")?;
            let namespace = routers.daemon(end).namespace();
            namespace.command(&["chown", "--recursive", &format!("{USER}:{USER}"), path], "")?;
            let start = |name: &str, daemon: Listed| {
                let mut command = command(name, daemon, &directory);
                Service::start(&routers.lab, namespace, &format!("frr-{role}-{name}"), &mut command)
            };
            let zebra = start("zebra", FRR_ZEBRA)?;
            // Those that do not find it there ask again only ten seconds later.
            let socket = directory.join(ZEBRA_SOCKET);
            routers.lab.wait_until("zebra's socket", START_LIMIT, || {
                zebra.check()?;
                Ok(socket.exists().then_some(()))
            })?;
            Ok(vec![zebra, start("bfdd", FRR_BFDD)?, start("bgpd", FRR_BGPD)?])
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

fn command(name: &str, daemon: Listed, directory: &Path) -> Command {
    // Whatever they are told, the daemons make directories in /run, and in /var/tmp for notes in case they crash: what they see
    // there is the lab's.
    let script = "mount -t tmpfs tmpfs /run && mount --bind \"$1\" /var/tmp && shift && exec \"$@\"";
    let mut command = UNSHARE.command();
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(directory);
    command.arg(daemon.name()).args(["-u", USER, "-g", USER, "-A", "127.0.0.1", "-P", "0"]);
    command.arg("-f").arg(directory.join(format!("{name}.conf")));
    command.arg("-i").arg(directory.join(format!("{name}.pid")));
    command.arg("-z").arg(directory.join(ZEBRA_SOCKET)).arg("--vty_socket").arg(directory);
    if daemon == FRR_BFDD {
        command.arg("--bfdctl").arg(directory.join("bfdd.sock"));
    }
    command
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
