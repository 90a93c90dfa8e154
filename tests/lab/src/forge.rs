//! An attacker on the wire: captures packets, and sends what it likes to either end.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, socket,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::cable::Cable;
use super::frame::Frame;
use super::tunnel::Tunnel;
use super::wire::Wire;
use super::{Direction, End, monotonic_ns};

/// Largest frame that is captured, octets.
const FRAME_LEN_MAX: usize = 9216;
/// `sll_pkttype` of a frame that leaves through the interface (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;
/// A flood is sent in bursts this far apart: a thread cannot be woken for each of 100,000 packets a second.
const BURST_INTERVAL: Duration = Duration::from_millis(1);

/// Captures from a wire and injects into it. What is injected reaches the end even where the wire is cut.
#[derive(Debug)]
pub struct Forge<'a> {
    tap: Tap<'a>,
}

#[derive(Debug)]
enum Tap<'a> {
    /// With a sending socket towards the client and one towards the server.
    Cable(&'a Cable, [OwnedFd; 2]),
    Tunnel(&'a Tunnel),
}

impl<'a> Forge<'a> {
    /// Taps a wire.
    ///
    /// # Errors
    /// Where packet sockets are not permitted (CAP_NET_RAW).
    pub fn on(wire: &'a Wire) -> Result<Forge<'a>> {
        let tap = match wire {
            Wire::Cable(cable) => Tap::Cable(
                cable,
                [
                    // Protocol 0: a socket that only sends, and costs those who receive nothing.
                    packet_socket(cable, End::Client, None)?,
                    packet_socket(cable, End::Server, None)?,
                ],
            ),
            Wire::Tunnel(tunnel) => Tap::Tunnel(tunnel),
        };
        Ok(Forge { tap })
    }

    /// Captures up to `count` frames of one direction for which `keep` holds, for at most `limit`. UDP packets come with
    /// their checksums computed, as if they had been on a real wire.
    ///
    /// # Errors
    /// The kernel's. Fewer frames than asked for are no error.
    pub fn capture(
        &self,
        direction: Direction,
        count: usize,
        limit: Duration,
        keep: impl Fn(&Frame) -> bool,
    ) -> Result<Vec<Frame>> {
        let deadline_ns = monotonic_ns() + limit.as_nanos() as u64;
        let mut frames = Vec::new();
        let mut take = |frame: Frame| {
            let frame = frame.clone().with_lengths_and_checksums().unwrap_or(frame);
            if frames.len() < count && keep(&frame) {
                frames.push(frame);
            }
            frames.len() == count
        };
        match &self.tap {
            Tap::Cable(cable, _) => {
                // Where the direction's packets enter the middle.
                let origin = match direction {
                    Direction::ToServer => End::Client,
                    Direction::ToClient => End::Server,
                };
                let socket = packet_socket(cable, origin, Some(SockProtocol::EthAll))?;
                let index = cable.middle().index(cable.port(origin))? as usize;
                let mut buffer = vec![0; FRAME_LEN_MAX];
                while let Some(timeout) = remaining(deadline_ns) {
                    let ready = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout))
                        .context("cannot wait for frames")?;
                    if ready == 0 {
                        break;
                    }
                    let (len, from) =
                        recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer).context("cannot capture from a cable")?;
                    // Between its creation and its binding the socket may have heard another interface.
                    let wanted = from.is_some_and(|from| from.ifindex() == index && from.pkttype() != PACKET_OUTGOING);
                    if wanted && take(Frame::ethernet(buffer[..len].to_vec())) {
                        break;
                    }
                }
            }
            Tap::Tunnel(tunnel) => {
                tunnel.start_capture(direction);
                let mut done = false;
                while !done && remaining(deadline_ns).is_some() {
                    thread::sleep(BURST_INTERVAL);
                    for frame in tunnel.take_captured(direction, true) {
                        done = done || take(frame);
                    }
                }
                tunnel.take_captured(direction, false);
            }
        }
        Ok(frames)
    }

    /// Sends a frame to the direction's destination.
    ///
    /// # Errors
    /// The kernel's.
    pub fn inject(&self, direction: Direction, frame: &Frame) -> Result<()> {
        match &self.tap {
            Tap::Cable(_, sockets) => {
                let socket = &sockets[direction.destination().index()];
                send(socket.as_raw_fd(), frame.bytes(), MsgFlags::empty()).context("cannot inject into a cable")?;
                Ok(())
            }
            Tap::Tunnel(tunnel) => tunnel.inject(direction, frame.bytes()),
        }
    }

    /// Sends `frames` in turn to the direction's destination, `rate_per_s` a second for `duration`. Returns how many were
    /// sent (fewer than asked for where the machine is too slow).
    ///
    /// # Errors
    /// The kernel's.
    pub fn flood(&self, direction: Direction, frames: &[Frame], rate_per_s: u64, duration: Duration) -> Result<u64> {
        let start_ns = monotonic_ns();
        let duration_ns = duration.as_nanos() as u64;
        let mut sent = 0;
        let mut turn = frames.iter().cycle();
        loop {
            let elapsed_ns = monotonic_ns() - start_ns;
            if elapsed_ns >= duration_ns {
                return Ok(sent);
            }
            let due = (elapsed_ns as u128 * u128::from(rate_per_s) / 1_000_000_000) as u64;
            // What a slow machine did not manage in a burst's time is not made up for: that would become an endless burst.
            let burst = (due - sent).min(rate_per_s * BURST_INTERVAL.as_nanos() as u64 / 1_000_000_000 * 4 + 1);
            for frame in turn.by_ref().take(burst as usize) {
                self.inject(direction, frame)?;
            }
            sent += burst;
            thread::sleep(BURST_INTERVAL);
        }
    }
}

/// The time until a deadline, or `None` when it has passed.
fn remaining(deadline_ns: u64) -> Option<Timespec> {
    let left_ns = deadline_ns.checked_sub(monotonic_ns())?;
    Some(Timespec { tv_sec: (left_ns / 1_000_000_000) as i64, tv_nsec: (left_ns % 1_000_000_000) as i64 })
}

/// A packet socket on the middle's interface towards `end`.
fn packet_socket(cable: &Cable, end: End, protocol: Option<SockProtocol>) -> Result<OwnedFd> {
    let port = cable.port(end);
    cable.middle().run(|| -> Result<OwnedFd> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .context("cannot open a packet socket (CAP_NET_RAW?)")?;
        // The interface list holds ready-made link-layer addresses. Their protocol is 0, which keeps the socket's own.
        let address = getifaddrs()
            .context("cannot list interfaces")?
            .filter(|entry| entry.interface_name == port)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {port} in the cable's middle"))?;
        bind(socket.as_raw_fd(), &address).with_context(|| format!("cannot bind a packet socket to {port}"))?;
        Ok(socket)
    })?
}
