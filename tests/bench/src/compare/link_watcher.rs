//! This program itself, by the same rules as the others.

use anyhow::Result;
use link_watcher_common::{
    window,
    wire::{DEFAULT_PORT, HEADER_LEN, Header, Kind, Packet},
};
use link_watcher_lab::{frame::Frame, routers::TwoRouters, service::Service};
use link_watcher_programs::own;

use super::{ENDS, FloodKind, Heard, Package, Program, Timers};

pub(crate) struct LinkWatcher;

impl Program for LinkWatcher {
    fn part(&self) -> &'static str {
        "Beside others: link-watcher"
    }

    fn package(&self) -> Option<Package> {
        None
    }

    fn timers(&self) -> Vec<Timers> {
        vec![Timers::new(100, 3), Timers::new(10, 3), Timers::new(1, 3)]
    }

    fn default_timers(&self) -> Option<Timers> {
        Some(Timers::new(100, 3))
    }

    fn start(&self, routers: &TwoRouters, _: Timers) -> Result<[Vec<Service>; 2]> {
        // The lab has written the configurations, timers and all.
        let [client, server] = ENDS.map(|(end, role)| {
            let daemon = routers.daemon(end);
            let mut command = own(daemon.binary());
            command.arg("run").arg("--config").arg(daemon.config_path());
            Service::start(&routers.lab, daemon.namespace(), &format!("link-watcher-{role}"), &mut command)
        });
        Ok([vec![client?], vec![server?]])
    }

    fn heard<'a>(&self, line: &'a str) -> Option<Heard<'a>> {
        let (before, up) = match line.split_once(" is up: ") {
            Some((before, _)) => (before, true),
            None => (line.split_once(" is down: ")?.0, false),
        };
        Some(Heard { session: before.split_whitespace().last()?, up })
    }

    fn flood(&self) -> Option<FloodKind> {
        Some(FloodKind { port: DEFAULT_PORT, spoil: forged })
    }
}

/// A probe that passes every check but that of its signature: of this link, this session, and newer than all before it.
fn forged(genuine: &Frame) -> Option<Frame> {
    let mut payload = genuine.payload()?.to_vec();
    let packet: &mut Packet = payload.first_chunk_mut()?;
    let header = Header::parse(packet).ok()?;
    // An echo of that sequence would answer nothing, and be dropped before its signature is looked at.
    Header { kind: Kind::Probe, sequence: window::MAX_SEQUENCE, ..header }.emit(packet);
    packet[HEADER_LEN] ^= 1;
    genuine.with_payload(&payload)
}
