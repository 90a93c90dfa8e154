//! A numbered packet stream in both directions, and how long it was out.
//!
//! An outage is measured in the sender's time: from the sending of the first packet that was lost to the sending of the
//! first that arrived after it. A sender that was late, or a receiver, is thus never taken for an outage. The true outage
//! began up to one sending interval before, and [`Report::precision_ns`] says how long that interval really was.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec};

use super::netns::Namespace;
use super::{Direction, Lab, monotonic_ns};

/// Packets remembered for each direction; a power of two. 131 s at 1,000 a second, 33 s at 4,000.
const REMEMBERED: u64 = 1 << 17;
/// Begins each packet, so that a stray datagram is not counted: "link-wat" in ASCII.
const MAGIC: u64 = 0x6c69_6e6b_2d77_6174;
/// UDP payload, octets: small enough to cost little, large enough for what it carries (magic, direction, number).
const PAYLOAD_LEN: usize = 64;
/// Receive buffer, octets: a receiver that does not run for a second must not lose packets.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
/// How often an idle receiver looks whether it shall end.
const STOP_POLL: Duration = Duration::from_millis(50);
/// A sender that is later than this gives up the packets that it should have sent meanwhile, ns.
const LATENESS_MAX_NS: u64 = 100_000_000;
/// A packet that has not arrived after this is counted as lost even if none after it has arrived, ns.
const FLIGHT_MAX_NS: u64 = 50_000_000;

/// One packet's fate.
#[derive(Default)]
struct Slot {
    /// Number of the packet that the slot now describes, plus one; 0: none yet.
    number_plus_one: AtomicU64,
    sent_ns: AtomicU64,
    /// How often it arrived.
    arrivals: AtomicU32,
}

/// One direction, shared by its sender, its receiver and those who ask.
struct Stream {
    slots: Box<[Slot]>,
    /// Packets sent so far: the number of the next one.
    sent: AtomicU64,
    /// Number of the newest packet that arrived, plus one; 0: none yet.
    newest_plus_one: AtomicU64,
}

/// What became of the packets that were sent within a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Packets of these that arrived, each counted once.
    pub delivered: u64,
    /// Packets that never arrived. Those still on their way (sent after the newest that arrived, and less than 50 ms ago)
    /// are not counted.
    pub lost: u64,
    /// Further copies of packets that had arrived already.
    pub duplicates: u64,
    /// Longest outage: from the sending of the first packet lost to that of the next one that arrived, ns.
    /// 0 if none was lost; up to now if none has arrived since.
    pub outage_ns: u64,
    /// When the first packet of the longest outage was sent, monotonic ns; 0 if none was lost.
    pub outage_from_ns: u64,
    /// How much earlier the longest outage may have begun, since no packet was sent then, ns.
    pub precision_ns: u64,
    /// The longest outage has not ended.
    pub ongoing: bool,
}

/// Packet streams between two hosts; ends when dropped.
#[derive(Debug)]
pub struct Meter {
    streams: [Arc<Stream>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Meter {
    /// Starts to send `rate_per_s` packets a second (1 to 10,000) each way between two hosts' UDP sockets, bound to the
    /// given addresses.
    ///
    /// # Errors
    /// Where a socket cannot be bound to its address.
    pub fn start(
        (client, client_address): (&Arc<Namespace>, SocketAddr),
        (server, server_address): (&Arc<Namespace>, SocketAddr),
        rate_per_s: u32,
    ) -> Result<Meter> {
        ensure!((1..=10_000).contains(&rate_per_s), "a meter sends 1 to 10,000 packets a second, not {rate_per_s}");
        let open = |namespace: &Namespace, address: SocketAddr| -> Result<UdpSocket> {
            let socket = namespace
                .run(|| UdpSocket::bind(address))?
                .with_context(|| format!("cannot bind a meter to {address} in {}", namespace.name()))?;
            socket.set_read_timeout(Some(STOP_POLL))?;
            set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_LEN)
                .context("cannot enlarge a meter's receive buffer")?;
            Ok(socket)
        };
        let client_socket = open(client, client_address)?;
        let server_socket = open(server, server_address)?;
        let mut meter = Meter {
            streams: [Arc::new(Stream::new()), Arc::new(Stream::new())],
            stop: Arc::default(),
            threads: Vec::new(),
        };
        // Both receivers first: nothing is sent to a socket that nobody reads.
        for (direction, socket) in [(Direction::ToServer, &server_socket), (Direction::ToClient, &client_socket)] {
            let socket = socket.try_clone().context("cannot share a meter's socket")?;
            let (stream, stop) = (meter.stream(direction), Arc::clone(&meter.stop));
            meter.spawn("meter-receive", move || {
                receive(&socket, direction, &stream, &stop);
            })?;
        }
        let interval_ns = 1_000_000_000 / u64::from(rate_per_s);
        for (direction, socket, destination) in
            [(Direction::ToServer, client_socket, server_address), (Direction::ToClient, server_socket, client_address)]
        {
            let (stream, stop) = (meter.stream(direction), Arc::clone(&meter.stop));
            meter.spawn("meter-send", move || {
                send(&socket, destination, direction, interval_ns, &stream, &stop);
            })?;
        }
        Ok(meter)
    }

    fn stream(&self, direction: Direction) -> Arc<Stream> {
        Arc::clone(&self.streams[direction.index()])
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread =
            thread::Builder::new().name(name.to_owned()).spawn(work).context("cannot start a meter's thread")?;
        self.threads.push(thread);
        Ok(())
    }

    /// What became of the packets of one direction that were sent at or after `since_ns` (monotonic clock).
    pub fn report(&self, direction: Direction, since_ns: u64) -> Report {
        self.streams[direction.index()].report(since_ns, monotonic_ns())
    }

    /// For how long every packet sent has arrived, ns; 0 while none arrives.
    pub fn steady_ns(&self, direction: Direction) -> u64 {
        self.streams[direction.index()].steady_ns(monotonic_ns())
    }

    /// For how long none of the packets sent has arrived, ns: 0 where the newest that has had time to arrive did.
    pub fn silence_ns(&self, direction: Direction) -> u64 {
        self.streams[direction.index()].silence_ns(monotonic_ns())
    }

    /// Waits until both directions have passed every packet for `steady`, beginning after `since_ns`.
    ///
    /// # Errors
    /// When `limit` has passed before; the message says which direction is out.
    pub fn wait_steady(&self, lab: &Lab, since_ns: u64, steady: Duration, limit: Duration) -> Result<()> {
        let steady_ns = steady.as_nanos() as u64;
        let waited = lab.wait_until("traffic to pass steadily both ways", limit, || {
            let all = Direction::BOTH.iter().all(|direction| self.steady_ns(*direction) >= steady_ns);
            Ok((all && monotonic_ns() >= since_ns + steady_ns).then_some(()))
        });
        waited.with_context(|| {
            let silence = Direction::BOTH.map(|direction| self.silence_ns(direction) / 1_000_000);
            format!(
                "no packet arrives at the server's side for {} ms, at the client's side for {} ms",
                silence[0], silence[1]
            )
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Stream {
    fn new() -> Stream {
        Stream {
            slots: (0..REMEMBERED).map(|_| Slot::default()).collect(),
            sent: AtomicU64::new(0),
            newest_plus_one: AtomicU64::new(0),
        }
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[(number % REMEMBERED) as usize]
    }

    /// Notes that the next packet is about to be sent; returns its number. Called by the one sender only.
    fn note_sent(&self, now_ns: u64) -> u64 {
        let number = self.sent.load(Ordering::Relaxed);
        let slot = self.slot(number);
        slot.number_plus_one.store(0, Ordering::Release);
        slot.arrivals.store(0, Ordering::Relaxed);
        slot.sent_ns.store(now_ns, Ordering::Relaxed);
        slot.number_plus_one.store(number + 1, Ordering::Release);
        self.sent.store(number + 1, Ordering::Release);
        number
    }

    fn note_arrived(&self, number: u64) {
        let slot = self.slot(number);
        if slot.number_plus_one.load(Ordering::Acquire) == number + 1 {
            slot.arrivals.fetch_add(1, Ordering::Release);
            self.newest_plus_one.fetch_max(number + 1, Ordering::AcqRel);
        }
    }

    /// The numbers that are still remembered. The oldest slots are left out: the sender may be overwriting them.
    fn remembered(&self) -> std::ops::Range<u64> {
        let sent = self.sent.load(Ordering::Acquire);
        sent.saturating_sub(REMEMBERED - REMEMBERED / 16)..sent
    }

    /// The number of the first packet sent at or after an instant.
    fn first_since(&self, since_ns: u64) -> u64 {
        let std::ops::Range { start: mut low, end: mut high } = self.remembered();
        while low < high {
            let middle = low + (high - low) / 2;
            if self.slot(middle).sent_ns.load(Ordering::Acquire) < since_ns {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn report(&self, since_ns: u64, now_ns: u64) -> Report {
        let newest_plus_one = self.newest_plus_one.load(Ordering::Acquire);
        let mut report = Report::default();
        // The packet sent before the one looked at, and the first of the hole that it is in.
        let first = self.first_since(since_ns);
        let mut previous_sent_ns =
            (first > self.remembered().start).then(|| self.slot(first - 1).sent_ns.load(Ordering::Acquire));
        let mut hole: Option<(u64, u64)> = None;
        for number in first..self.remembered().end {
            let slot = self.slot(number);
            let sent_ns = slot.sent_ns.load(Ordering::Acquire);
            let arrivals = slot.arrivals.load(Ordering::Acquire);
            report.sent += 1;
            if arrivals > 0 {
                report.delivered += 1;
                report.duplicates += u64::from(arrivals - 1);
                if let Some(hole) = hole.take() {
                    report.note_outage(hole, sent_ns, false);
                }
            } else if number < newest_plus_one || sent_ns + FLIGHT_MAX_NS < now_ns {
                report.lost += 1;
                hole.get_or_insert((sent_ns, sent_ns - previous_sent_ns.unwrap_or(sent_ns)));
            }
            previous_sent_ns = Some(sent_ns);
        }
        if let Some(hole) = hole {
            report.note_outage(hole, now_ns, true);
        }
        report
    }

    fn steady_ns(&self, now_ns: u64) -> u64 {
        if self.silence_ns(now_ns) > 0 {
            return 0;
        }
        let newest_plus_one = self.newest_plus_one.load(Ordering::Acquire);
        let remembered = self.remembered();
        let mut steady_from = newest_plus_one;
        while steady_from > remembered.start && self.slot(steady_from - 1).arrivals.load(Ordering::Acquire) > 0 {
            steady_from -= 1;
        }
        if steady_from >= newest_plus_one {
            return 0;
        }
        let sent_ns = |number| self.slot(number).sent_ns.load(Ordering::Acquire);
        sent_ns(newest_plus_one - 1).saturating_sub(sent_ns(steady_from))
    }

    fn silence_ns(&self, now_ns: u64) -> u64 {
        // The first packet after the newest that arrived has been missing since it was sent.
        let first_missing = self.newest_plus_one.load(Ordering::Acquire);
        if first_missing >= self.sent.load(Ordering::Acquire) {
            return 0;
        }
        let missing_ns = now_ns.saturating_sub(self.slot(first_missing).sent_ns.load(Ordering::Acquire));
        if missing_ns > FLIGHT_MAX_NS { missing_ns } else { 0 }
    }
}

impl Report {
    fn note_outage(&mut self, (from_ns, precision_ns): (u64, u64), until_ns: u64, ongoing: bool) {
        let outage_ns = until_ns.saturating_sub(from_ns);
        if outage_ns >= self.outage_ns {
            self.outage_ns = outage_ns;
            self.outage_from_ns = from_ns;
            self.precision_ns = precision_ns;
            self.ongoing = ongoing;
        }
    }
}

/// Sends numbered packets at a steady rate until told to stop.
fn send(
    socket: &UdpSocket,
    destination: SocketAddr,
    direction: Direction,
    interval_ns: u64,
    stream: &Stream,
    stop: &AtomicBool,
) {
    let mut payload = [0; PAYLOAD_LEN];
    payload[..8].copy_from_slice(&MAGIC.to_be_bytes());
    payload[8] = direction.index() as u8;
    let mut due_ns = monotonic_ns();
    while !stop.load(Ordering::Relaxed) {
        due_ns += interval_ns;
        let now_ns = monotonic_ns();
        if now_ns > due_ns + LATENESS_MAX_NS {
            due_ns = now_ns;
        }
        let due = Timespec { tv_sec: (due_ns / 1_000_000_000) as i64, tv_nsec: (due_ns % 1_000_000_000) as i64 };
        // Interrupted or already due: both mean to send now.
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &due);
        let number = stream.note_sent(monotonic_ns());
        payload[16..24].copy_from_slice(&number.to_be_bytes());
        // A packet that the kernel refuses, for want of a route say, is one that does not arrive.
        let _ = socket.send_to(&payload, destination);
    }
}

/// Notes arrivals until told to stop.
fn receive(socket: &UdpSocket, direction: Direction, stream: &Stream, stop: &AtomicBool) {
    let mut payload = [0; PAYLOAD_LEN + 1];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut payload) {
            Ok(PAYLOAD_LEN) if payload[..8] == MAGIC.to_be_bytes() && payload[8] == direction.index() as u8 => {
                let mut number = [0; 8];
                number.copy_from_slice(&payload[16..24]);
                stream.note_arrived(u64::from_be_bytes(number));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            // An ICMP error that a packet of ours met; the next read may well succeed.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MS: u64 = 1_000_000;

    /// Packets 0, 1, … sent each millisecond from 1 s on; those for which `arrives` holds do.
    fn stream(count: u64, arrives: impl Fn(u64) -> bool) -> Stream {
        let stream = Stream::new();
        for number in 0..count {
            stream.note_sent(1000 * MS + number * MS);
            if arrives(number) {
                stream.note_arrived(number);
            }
        }
        stream
    }

    #[test]
    fn an_outage_lasts_from_the_first_lost_to_the_next_delivered() {
        let stream = stream(1000, |number| !(300..331).contains(&number) && number != 700);
        let report = stream.report(0, 2000 * MS);
        assert_eq!(report.outage_ns, 31 * MS);
        assert_eq!(report.outage_from_ns, 1300 * MS);
        assert_eq!(report.precision_ns, MS);
        assert_eq!((report.sent, report.lost, report.ongoing), (1000, 32, false));
        assert_eq!(stream.report(1400 * MS, 2000 * MS).lost, 1, "only since the given instant");
        assert_eq!(stream.steady_ns(2000 * MS), 298 * MS);
    }

    #[test]
    fn an_outage_that_goes_on_lasts_until_now() {
        let stream = stream(1000, |number| number < 600);
        let report = stream.report(0, 2100 * MS);
        assert!(report.ongoing);
        assert_eq!(report.outage_ns, 500 * MS);
        assert_eq!(stream.silence_ns(2100 * MS), 500 * MS);
        assert_eq!(stream.steady_ns(2100 * MS), 0);
    }

    #[test]
    fn packets_on_their_way_are_not_lost() {
        let stream = stream(1000, |number| number < 990);
        assert_eq!(stream.report(0, 2000 * MS).lost, 0);
        assert_eq!(stream.silence_ns(2000 * MS), 0);
    }

    #[test]
    fn duplicates_and_strangers_are_told_apart() {
        let stream = stream(10, |_| true);
        stream.note_arrived(5);
        stream.note_arrived(5_000);
        let report = stream.report(0, 1100 * MS);
        assert_eq!((report.duplicates, report.lost, report.sent), (2 - 1, 0, 10));
    }

    #[test]
    fn old_packets_are_forgotten_and_the_rest_stays_right() {
        let count = REMEMBERED + 5000;
        let stream = stream(count, |number| number != count - 10);
        let report = stream.report(0, 1000 * MS + count * MS);
        assert_eq!(report.lost, 1);
        assert_eq!(report.sent, REMEMBERED - REMEMBERED / 16);
    }
}
