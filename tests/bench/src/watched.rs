//! What the kernel program on a peer's link costs the traffic that comes in by it, beside the same link without a program.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use link_watcher_lab::{
    End,
    routers::{TwoRouters, link_address},
    setup::{Family, Setup},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    rig::Rig,
    sink::{self, PORT},
    table::Table,
};

const PART: &str = "Small packets that come in by a peer's link and are dropped behind it, ns each";
/// Rounds, in each of which every way has its turn.
const ROUNDS: usize = 11;
/// How long one turn lasts.
const SPAN: Duration = Duration::from_millis(500);
/// A host behind the client.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 20, 20, 10);
/// The client's end of the link.
const INTERFACE: &str = "wan1";

/// How the client watches the link.
#[derive(Clone, Copy)]
enum Way {
    /// `engine = "socket"`: with no program on it.
    Socket,
    /// `engine = "tc"`.
    Tc,
    /// `engine = "xdp"`: on a virtual device that is the generic mode.
    Generic,
    /// The same program in veth's own mode, where the daemon would not put it: what comes by it is copied into a new page.
    Native,
}

impl Way {
    const ALL: [Self; 4] = [Self::Socket, Self::Tc, Self::Generic, Self::Native];

    const fn engine(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Tc => "tc",
            Self::Generic | Self::Native => "xdp",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Socket => "no program on the link",
            Self::Tc => "tc",
            Self::Generic => "XDP, generic",
            Self::Native => "XDP, native of veth",
        }
    }
}

pub(crate) fn run(rig: &Rig, table: &mut Table) -> Result<()> {
    let mut setup = Setup::cables(1, Duration::from_millis(100), 3);
    // So that a program goes when its daemon does.
    "on-exit = \"remove\"\n".clone_into(&mut setup.daemon_settings);
    let routers = TwoRouters::build_in(rig.lab()?, setup, &rig.daemon)?;
    sink::dig(&routers.client)?;
    routers.server_daemon.start()?;
    // The way to the host is there whether or not the server has heard of the client's prefixes yet.
    routers.server.ip(&format!("route add {HOST}/32 via {}", link_address(0, Family::V4, End::Client)))?;
    let mut taken = Way::ALL.map(|_| Vec::new());
    let mut engine = "auto";
    for _ in 0..ROUNDS {
        for (way, taken) in Way::ALL.into_iter().zip(&mut taken) {
            if engine != way.engine() {
                let engines = [engine, way.engine()].map(|engine| format!("engine = \"{engine}\""));
                routers.client_daemon.edit_config(|text| text.replace(&engines[0], &engines[1]))?;
                engine = way.engine();
            }
            routers.client_daemon.start()?;
            routers.wait_all_usable(Duration::from_secs(10))?;
            if let Way::Native = way {
                taken.push(natively(&routers)?);
            } else {
                taken.push(packet_ns(&routers)?);
                routers.client_daemon.stop()?;
            }
        }
    }
    let first = taken[0].clone();
    for (way, mut ns) in Way::ALL.into_iter().zip(taken) {
        let mut ratios: Vec<f64> = ns.iter().zip(&first).map(|(ns, first)| ns / first).collect();
        table.add(PART, way.name(), None, &mut ns);
        table.add(PART, format!("{}, to the first", way.name()), None, &mut ratios);
    }
    Ok(())
}

/// As [`packet_ns`], with the daemon's program moved to the driver's hook. The daemon stands still, so that it does not put it
/// back, and ends.
fn natively(routers: &TwoRouters) -> Result<f64> {
    routers.client_daemon.signal(Signal::SIGSTOP)?;
    let bpftool = |arguments: &[&str]| {
        let text = routers.client.command(&[&["bpftool", "--json"], arguments].concat(), "")?;
        if text.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).context("bpftool's answer") }
    };
    let net = bpftool(&["net", "show", "dev", INTERFACE])?;
    let program = net[0]["xdp"][0]["id"].as_u64().with_context(|| format!("no program on {INTERFACE}: {net}"))?;
    let links = bpftool(&["link", "show"])?;
    let link = links.as_array().and_then(|links| links.iter().find(|link| link["prog_id"] == program));
    let link_id = link.with_context(|| format!("program {program} is not attached: {links}"))?["id"].to_string();
    bpftool(&["link", "detach", "id", &link_id])?;
    bpftool(&["net", "attach", "xdpdrv", "id", &program.to_string(), "dev", INTERFACE])?;
    let ns = packet_ns(routers)?;
    bpftool(&["net", "detach", "xdpdrv", "dev", INTERFACE])?;
    routers.client_daemon.kill();
    Ok(ns)
}

/// So long takes a packet from a host behind the server to the client's end of the link.
fn packet_ns(routers: &TwoRouters) -> Result<f64> {
    let send = |span: Duration| {
        routers.server_hosts.run(|| -> Result<(u64, Duration)> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((HOST, PORT))?;
            sink::send(&[socket], span)
        })?
    };
    // Neighbours are asked for.
    send(Duration::ZERO)?;
    let before = sink::count(&routers.client)?;
    let (sent, took) = send(SPAN)?;
    let arrived = sink::count(&routers.client)?.saturating_sub(before);
    ensure!(arrived * 100 >= sent * 99, "{arrived} of {sent} packets came to the client");
    Ok(took.as_nanos() as f64 / arrived as f64)
}
