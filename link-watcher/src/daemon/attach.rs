//! Which engine verifies each link's packets: the best that works there, and why no better one.

use std::{collections::BTreeMap, net::IpAddr};

use tracing::{info, warn};

use super::links::{Link, Running};
use crate::{
    bpf::{self, Kernel, Mode},
    config::EngineChoice,
    probe::Verifier,
    system::Interfaces,
};

/// Attaches kernel programs where they can be, and falls back to sockets where not.
pub(super) struct Attacher {
    choice: EngineChoice,
    /// The kernel's side; or why there is none.
    kernel: Result<Kernel, String>,
    /// What is attached, by interface index.
    attached: BTreeMap<u32, Result<Mode, String>>,
}

impl Attacher {
    pub(super) fn new(choice: EngineChoice, kernel: Result<Kernel, String>) -> Self {
        Self { choice, kernel, attached: BTreeMap::new() }
    }

    pub(super) fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref().ok()
    }

    /// Makes the best engine serve a link.
    pub(super) fn start(&mut self, link: &Link, ifindex: u32, local: IpAddr, interfaces: &Interfaces) -> Running {
        let socket = |reason| Running { ifindex, local, verifier: Verifier::Socket, engine: "socket", engine_reason: reason };
        if self.choice == EngineChoice::Socket {
            return socket(None);
        }
        match self.attach(link, ifindex, local, interfaces) {
            Ok(mode) => {
                let engine = match mode {
                    Mode::XdpNative => "xdp-native",
                    Mode::XdpGeneric => "xdp-generic",
                };
                info!("{} on {}: verified by {engine}", link.config.name, link.config.interface);
                Running { ifindex, local, verifier: Verifier::Kernel, engine, engine_reason: None }
            }
            Err(reason) => {
                warn!("{} on {}: verified by a socket: {reason}", link.config.name, link.config.interface);
                socket(Some(reason))
            }
        }
    }
}
