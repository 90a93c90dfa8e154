//! What the kernel program on a peer's link costs the traffic that comes in by it, beside the same link without a program.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use link_watcher_lab::{routers::TwoRouters, setup::Setup};

use crate::{
    rig::Rig,
    sink::{self, BURST, PAYLOAD, PORT},
    table::Table,
};

const PART: &str = "Small packets that come in by a peer's link and are dropped behind it, ns each";
/// Rounds, in each of which every engine has its turn.
const ROUNDS: usize = 7;
/// How long one turn lasts.
const SPAN: Duration = Duration::from_millis(500);
/// A host behind the client.
const HOST: (&str, u16) = ("10.20.20.10", PORT);
/// Packets that may be on their way.
const ON_THEIR_WAY: u64 = 4096;
/// `engine` of the client, and what that is on a link of the lab.
const ENGINES: [(&str, &str); 3] = [("socket", "no program on the link"), ("tc", "tc"), ("xdp", "XDP")];

pub(crate) fn run(rig: &Rig, table: &mut Table) -> Result<()> {
    let mut setup = Setup::cables(1, Duration::from_millis(100), 3);
    // So that a program goes when its daemon does.
    "on-exit = \"remove\"\n".clone_into(&mut setup.daemon_settings);
    let routers = TwoRouters::build_in(rig.lab()?, setup, &rig.daemon)?;
    sink::dig(&routers.client)?;
    routers.server_daemon.start()?;
    let mut taken = ENGINES.map(|_| Vec::new());
    let mut engine = "auto";
    for _ in 0..ROUNDS {
        for ((next, _), taken) in ENGINES.iter().zip(&mut taken) {
            let engines = [engine, next].map(|engine| format!("engine = \"{engine}\""));
            routers.client_daemon.edit_config(|text| text.replace(&engines[0], &engines[1]))?;
            engine = next;
            routers.client_daemon.start()?;
            routers.wait_all_usable(Duration::from_secs(10))?;
            taken.push(packet_ns(&routers)?);
            routers.client_daemon.stop()?;
        }
    }
    let first = taken[0].clone();
    for ((_, name), mut ns) in ENGINES.iter().zip(taken) {
        let mut ratios: Vec<f64> = ns.iter().zip(&first).map(|(ns, first)| ns / first).collect();
        table.add(PART, *name, None, &mut ns);
        table.add(PART, format!("{name}, to the first"), None, &mut ratios);
    }
    Ok(())
}

/// So long takes a packet from a host behind the server to the client's end of the link.
fn packet_ns(routers: &TwoRouters) -> Result<f64> {
    let before = sink::count(&routers.client)?;
    let (sent, begin) = routers.server_hosts.run(|| -> Result<(u64, Instant)> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(HOST)?;
        let (begin, mut sent) = (Instant::now(), 0);
        while begin.elapsed() < SPAN {
            for _ in 0..BURST {
                socket.send(&PAYLOAD)?;
                sent += 1;
            }
        }
        Ok((sent, begin))
    })??;
    // Those that have arrived by now, in the time that they had.
    let (arrived, took) = (sink::count(&routers.client)?.saturating_sub(before), begin.elapsed());
    ensure!(arrived > 0 && arrived <= sent, "{arrived} of {sent} packets came to the client");
    ensure!(sent - arrived < sent / 4 + ON_THEIR_WAY, "{arrived} of {sent} packets came to the client");
    Ok(took.as_nanos() as f64 / arrived as f64)
}
