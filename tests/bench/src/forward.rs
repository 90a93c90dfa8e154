//! What the table of an uplinks group costs the traffic that it sends on its way, beside no more than a translation of sources, and
//! beside marks that are saved and restored as scripts do it.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use link_watcher_lab::uplinks::{
    Site,
    address::{SERVER, gateway4},
    setup::SiteSetup,
};

use crate::{
    rig::Rig,
    sink::{self, BURST, PAYLOAD, PORT},
    table::Table,
};

const PART: &str = "Small packets from a host in the LAN through a router with three uplinks, ns each";
/// Rounds, in each of which every table has its turn.
const ROUNDS: usize = 41;
/// How long one turn lasts.
const SPAN: Duration = Duration::from_millis(250);
/// Connections at once.
const FLOWS: usize = 64;
/// Time beside a table that does nothing but translate: 95 % of its throughput.
const MOST: f64 = 1.0 / 0.95;
const TRANSLATION: &str = "chain after { type nat hook postrouting priority srcnat;\noifname { \"eth1\", \"eth2\", \"eth3\" } masquerade\n}\n";
/// As scripts for several uplinks have it: marks of connections go to packets, and of first packets to connections.
const RESTORED: &str = "chain before { type filter hook prerouting priority mangle;\nmeta mark set ct mark\nmeta mark != 0 accept\n\
                        iifname \"eth0\" ct state new jump choose\n}\n\
                        chain choose {\nmeta mark set numgen inc mod 10 map { 0-4 : 0x100, 5-7 : 0x200, 8-9 : 0x300 }\n\
                        ct mark set meta mark\n}\n";

/// One way to fill the router's tables.
struct Way {
    name: &'static str,
    text: String,
    udp_ns: Vec<f64>,
    tcp_ns: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, text: String) -> Self {
        Self { name, text, udp_ns: Vec::new(), tcp_ns: Vec::new() }
    }
}

pub(crate) fn run(rig: &Rig, table: &mut Table) -> Result<()> {
    let site = Site::start(rig.lab()?, SiteSetup::default(), &rig.daemon)?;
    let router = site.router.namespace();
    // The name of an instance is part of the table's.
    let tables = router.command(&["nft", "list", "tables", "inet"], "")?;
    let table_name = tables.split_whitespace().find(|word| word.starts_with("link_watcher"));
    let name = table_name.context("the daemon has loaded no table of nftables")?;
    let ours = router.command(&["nft", "list", "table", "inet", name], "")?;
    // Routes and rules stay, and nobody repairs the table.
    site.daemon.kill();
    for provider in &site.providers {
        sink::dig(provider.namespace())?;
    }
    let mut ways = [
        Way::new("sources are translated, nothing else", format!("table inet bench {{\n{TRANSLATION}}}\n")),
        Way::new("link-watcher's table", ours),
        Way::new("marks saved and restored", format!("table inet bench {{\n{RESTORED}{TRANSLATION}}}\n")),
    ];
    for _ in 0..ROUNDS {
        for way in &mut ways {
            router.command(&["nft", "-f", "-"], &format!("flush ruleset\n{}", way.text))?;
            way.udp_ns.push(udp_ns(&site)?);
            way.tcp_ns.push(tcp_ns(&site)?);
        }
    }
    let [bare, ..] = &ways;
    let (bare_udp, bare_tcp) = (bare.udp_ns.clone(), bare.tcp_ns.clone());
    for way in &ways {
        for (what, ns, bare) in [("UDP", &way.udp_ns, &bare_udp), ("TCP", &way.tcp_ns, &bare_tcp)] {
            let (part, name) = (PART, way.name);
            table.add(part, format!("{what}: {name}"), None, &mut ns.clone());
            let mut ratios: Vec<f64> = ns.iter().zip(bare).map(|(ns, bare)| ns / bare).collect();
            let target = (name == "link-watcher's table").then_some(MOST);
            table.add(part, format!("{what}: {name}, to the first"), target, &mut ratios);
        }
    }
    Ok(())
}

/// Many small datagrams, all of whose way is on the sender's processor.
fn udp_ns(site: &Site) -> Result<f64> {
    let seen = || site.providers.iter().map(|provider| sink::count(provider.namespace())).sum::<Result<u64>>();
    let before = seen()?;
    let (sent, ns) = site.lan.namespace().run(|| -> Result<(u64, f64)> {
        let sockets: Vec<UdpSocket> = (0..FLOWS)
            .map(|_| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect((SERVER, PORT))?;
                socket.send(&PAYLOAD)?;
                Ok(socket)
            })
            .collect::<std::io::Result<_>>()?;
        let (sent, took) = sink::send(&sockets, SPAN)?;
        Ok((sent, took.as_nanos() as f64 / sent as f64))
    })??;
    let arrived = seen()?.saturating_sub(before);
    ensure!(arrived * 100 >= sent * 99, "{arrived} of {sent} datagrams came to the providers");
    Ok(ns)
}

/// Small writes of one connection to the first provider's own address, each a packet.
fn tcp_ns(site: &Site) -> Result<f64> {
    let provider = site.providers.first().context("there is no provider")?;
    let address = (gateway4(provider.number()), PORT);
    let listener = provider.namespace().run(|| TcpListener::bind(address))??;
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = [0; 65_536];
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        });
        let ns = site.lan.namespace().run(|| -> Result<f64> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            let (begin, mut written) = (Instant::now(), 0);
            while begin.elapsed() < SPAN {
                for _ in 0..BURST {
                    stream.write_all(&PAYLOAD)?;
                    written += 1;
                }
            }
            Ok(begin.elapsed().as_nanos() as f64 / f64::from(written))
        })?;
        match reader.join() {
            Ok(read) => read.context("the provider's end of the connection")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        ns
    })
}
