//! A tunnel: a real tun device at each end, and threads that carry the packets from one to the other.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::frame::Frame;
use super::netns::Namespace;
use super::{Direction, End, Moment, lock, monotonic_ns};

/// Largest packet that is carried, octets: more than any MTU in the lab.
const PACKET_LEN_MAX: usize = 9216;
/// Captured packets kept for each direction until somebody takes them.
const CAPTURED_MAX: usize = 4096;
/// How often a thread without packets looks whether it shall end, ns.
const STOP_POLL_NS: i64 = 50_000_000;
/// Delayed packets kept for each direction; what comes while so many wait is lost, as in a router's queue.
const DELAYED_MAX: usize = 16_384;

/// How bad a tunnel is, each direction by itself. The default is a perfect one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Impairment {
    /// Packets lost, percent (0 to 100), at random.
    pub loss_percent: u32,
    /// Time that a packet takes. Packets are never reordered.
    pub delay: Duration,
}

/// A tunnel between two routers. Its interfaces have no link header (device type 65534), as PPP and WireGuard have none.
#[derive(Debug)]
pub struct Tunnel {
    name: String,
    ends: [(Arc<Namespace>, String); 2],
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The devices at the client's and at the server's end.
    devices: [SyncDevice; 2],
    /// For each direction: whether packets vanish.
    cut: [AtomicBool; 2],
    /// For each direction: how bad it is.
    impairment: [Mutex<Impairment>; 2],
    /// For each direction: packets seen while somebody captures.
    captured: [Mutex<Option<VecDeque<Vec<u8>>>>; 2],
    stop: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("cut", &self.cut).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Makes a tun device in each router's namespace and starts to carry packets between them.
    ///
    /// # Errors
    /// Without `/dev/net/tun` (CONFIG_TUN in the kernel), or where an interface's name is taken.
    pub fn dig(
        name: &str,
        (client, client_interface): (&Arc<Namespace>, &str),
        (server, server_interface): (&Arc<Namespace>, &str),
    ) -> Result<Tunnel> {
        let shared = Arc::new(Shared {
            devices: [open(client, client_interface)?, open(server, server_interface)?],
            cut: Default::default(),
            impairment: Default::default(),
            captured: Default::default(),
            stop: AtomicBool::new(false),
        });
        let mut tunnel = Tunnel {
            name: name.to_owned(),
            ends: [
                (Arc::clone(client), client_interface.to_owned()),
                (Arc::clone(server), server_interface.to_owned()),
            ],
            shared,
            threads: Vec::new(),
        };
        for direction in Direction::BOTH {
            let shared = Arc::clone(&tunnel.shared);
            let thread = thread::Builder::new()
                .name(format!("{name}-pump"))
                .spawn(move || {
                    // It stands for a cable, and a cable does not wait for a processor. Without the privilege it does,
                    // and only tests of busy processors notice.
                    let _ = thread_priority::set_thread_priority_and_policy(
                        thread_priority::thread_native_id(),
                        thread_priority::ThreadPriority::Min,
                        thread_priority::ThreadSchedulePolicy::Realtime(
                            thread_priority::RealtimeThreadSchedulePolicy::Fifo,
                        ),
                    );
                    carry(&shared, direction);
                })
                .context("cannot start a tunnel's thread")?;
            tunnel.threads.push(thread);
        }
        Ok(tunnel)
    }

    /// The tunnel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes packets of the given directions vanish.
    pub fn cut(&self, directions: &[Direction]) -> Result<Moment> {
        self.pass(directions, false)
    }

    /// Makes both directions lose or delay packets from now on, until [`Tunnel::mend`].
    pub fn impair(&self, impairment: Impairment) {
        for one in &self.shared.impairment {
            *lock(one) = impairment;
        }
    }

    /// Makes one direction lose or delay packets from now on, until [`Tunnel::mend`].
    pub fn impair_one_way(&self, direction: Direction, impairment: Impairment) {
        *lock(&self.shared.impairment[direction.index()]) = impairment;
    }

    /// Takes the carrier away at one end. Both directions are out until [`Tunnel::mend`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut_carrier(&self, end: End) -> Result<Moment> {
        Moment::of(|| {
            for cut in &self.shared.cut {
                cut.store(true, Ordering::SeqCst);
            }
            let (namespace, interface) = &self.ends[end.index()];
            namespace.set_carrier(interface, false)
        })
    }

    /// Mends the tunnel: both directions and the carrier at both ends, without loss or delay.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mend(&self) -> Result<Moment> {
        self.impair(Impairment::default());
        for (namespace, interface) in &self.ends {
            namespace.set_carrier(interface, true)?;
        }
        self.pass(&Direction::BOTH, true)
    }

    /// Hands a packet to the device at the direction's destination, as if it had come through the tunnel.
    ///
    /// # Errors
    /// The kernel's, such as a device that is down.
    pub(crate) fn inject(&self, direction: Direction, packet: &[u8]) -> Result<()> {
        self.shared.devices[direction.destination().index()]
            .send(packet)
            .with_context(|| format!("cannot inject into the tunnel {}", self.name))?;
        Ok(())
    }

    /// Begins to keep copies of a direction's packets, without those that were kept before.
    pub(crate) fn start_capture(&self, direction: Direction) {
        *lock(&self.shared.captured[direction.index()]) = Some(VecDeque::new());
    }

    /// The packets that passed since the last call. Ends the capture unless told to go on.
    pub(crate) fn take_captured(&self, direction: Direction, go_on: bool) -> Vec<Frame> {
        let mut captured = lock(&self.shared.captured[direction.index()]);
        let frames = captured.take().unwrap_or_default();
        if go_on {
            *captured = Some(VecDeque::new());
        }
        frames.into_iter().map(Frame::ip).collect()
    }

    fn pass(&self, directions: &[Direction], pass: bool) -> Result<Moment> {
        Moment::of(|| {
            for direction in directions {
                self.shared.cut[direction.index()].store(!pass, Ordering::SeqCst);
            }
            Ok(())
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Opens a tun device inside a namespace, where the device then belongs.
fn open(namespace: &Namespace, interface: &str) -> Result<SyncDevice> {
    let device = namespace.run(|| DeviceBuilder::new().name(interface).build_sync())?.with_context(|| {
        format!("cannot make the tun device {interface} in {} (is /dev/net/tun there?)", namespace.name())
    })?;
    device.set_nonblocking(true).context("cannot make a tun device non-blocking")?;
    namespace.set_up(interface, true)?;
    Ok(device)
}

/// Carries the packets of one direction until the tunnel is dropped.
fn carry(shared: &Shared, direction: Direction) {
    let to = direction.destination().index();
    let (from, to) = (&shared.devices[1 - to], &shared.devices[to]);
    let mut buffer = vec![0; PACKET_LEN_MAX];
    let mut delayed: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    // Any seed but 0: the same packets are lost each time, as far as the same packets are sent.
    let mut random: u32 = 2_463_534_242;
    while !shared.stop.load(Ordering::Relaxed) {
        let now_ns = monotonic_ns();
        while let Some((due_ns, packet)) = delayed.front()
            && *due_ns <= now_ns
        {
            deliver(shared, direction, to, packet);
            delayed.pop_front();
        }
        match from.recv(&mut buffer) {
            Ok(len) => {
                let impairment = *lock(&shared.impairment[direction.index()]);
                if shared.cut[direction.index()].load(Ordering::SeqCst)
                    || next_random(&mut random) % 100 < impairment.loss_percent
                {
                    continue;
                }
                let packet = &buffer[..len];
                // Behind what still waits, also when the delay has just been taken away.
                if impairment.delay.is_zero() && delayed.is_empty() {
                    deliver(shared, direction, to, packet);
                } else if delayed.len() < DELAYED_MAX {
                    let earliest_ns = delayed.back().map_or(0, |(due_ns, _)| *due_ns);
                    let due_ns = (monotonic_ns() + impairment.delay.as_nanos() as u64).max(earliest_ns);
                    delayed.push_back((due_ns, packet.to_vec()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let due_in_ns = delayed.front().map_or(STOP_POLL_NS, |(due_ns, _)| {
                    (due_ns.saturating_sub(monotonic_ns()) as i64).min(STOP_POLL_NS)
                });
                let timeout = Timespec { tv_sec: 0, tv_nsec: due_in_ns };
                let _ = poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&timeout));
            }
            // An interface that is down cannot be read from (EIO) until it is up again.
            Err(_) => thread::sleep(Duration::from_nanos(STOP_POLL_NS as u64)),
        }
    }
}

/// Hands a packet to the device at the far end, and keeps a copy if somebody captures.
fn deliver(shared: &Shared, direction: Direction, to: &SyncDevice, packet: &[u8]) {
    if let Some(captured) = lock(&shared.captured[direction.index()]).as_mut() {
        if captured.len() == CAPTURED_MAX {
            captured.pop_front();
        }
        captured.push_back(packet.to_vec());
    }
    // A device that is down refuses the packet: a wire would lose it as well.
    let _ = to.send(packet);
}

/// Marsaglia's xorshift with the shifts 13, 17, 5 (Journal of Statistical Software 8(14), 2003).
fn next_random(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_percent_are_thirty_percent() {
        let mut random = 2_463_534_242;
        let lost = (0..100_000).filter(|_| next_random(&mut random) % 100 < 30).count();
        assert!((29_500..30_500).contains(&lost), "{lost}");
    }
}
