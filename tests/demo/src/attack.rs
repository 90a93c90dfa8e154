//! Somebody on the wire who forges, replays, mirrors and sends rubbish.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use link_watcher_common::wire::{HEADER_LEN, Header, Kind, PACKET_LEN, Packet};
use link_watcher_lab::forge::Forge;
use link_watcher_lab::frame::Frame;
use link_watcher_lab::{Direction, End};

use super::stage::Stage;
use link_watcher_core::status::DroppedSnapshot;

/// Packets of each kind, to each router.
pub(super) const PACKETS: u64 = 1000;
/// Genuine keepalives that are captured in each direction.
const CAPTURED: usize = 10;
/// How far forged sequence numbers are ahead of the captured one: the genuine ones do not overtake them meanwhile.
const AHEAD: u64 = 1_000_000;
/// Packets sent between two pauses.
const BURST: u64 = 50;
/// How long the daemons may take until their status shows what was counted.
const COUNTERS_LIMIT: Duration = Duration::from_secs(5);
/// A pause, so that the kernel's queue of received packets never overflows: every packet is to be looked at.
const PAUSE: Duration = Duration::from_millis(1);

/// What is done to the keepalives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attack {
    /// Newer sequence numbers under signatures that are not right.
    Forged,
    /// Sent again as they were.
    Replayed,
    /// Sent back to the router that they came from.
    Reflected,
    /// Cut short, or junk.
    Malformed,
}

impl Attack {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Forged, Self::Replayed, Self::Reflected, Self::Malformed];

    /// What the packets are called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Reflected => "reflected",
            Self::Malformed => "malformed",
        }
    }

    fn counter(self, dropped: DroppedSnapshot) -> u64 {
        match self {
            Self::Forged => dropped.forged,
            Self::Replayed => dropped.replayed,
            Self::Reflected => dropped.reflected,
            Self::Malformed => dropped.malformed,
        }
    }
}

/// Keepalives captured on a link: those on their way to the server, and those to the client.
pub(super) type Loot = [Vec<Frame>; 2];

/// Captures keepalives on a link.
pub(super) fn capture(stage: &Stage, link: &str) -> Result<Loot> {
    let forge = Forge::on(stage.routers().wire(link)?)?;
    // Probes and echoes pass every interval; twice the time that it takes, and a second for a busy machine.
    let limit = stage.routers().setup.interval * 2 * CAPTURED as u32 + Duration::from_secs(1);
    let capture = |direction| -> Result<Vec<Frame>> {
        let frames = forge.capture(direction, CAPTURED, limit, |frame| keepalive(frame).is_some())?;
        ensure!(
            frames.iter().any(|frame| keepalive(frame).is_some_and(|(header, _)| header.kind == Kind::Probe)),
            "no probe passed on {link} within {limit:?}"
        );
        Ok(frames)
    };
    Ok([capture(Direction::ToServer)?, capture(Direction::ToClient)?])
}

/// The header of a keepalive, and all of its bytes.
fn keepalive(frame: &Frame) -> Option<(Header, Packet)> {
    let packet: Packet = frame.payload()?.try_into().ok()?;
    Some((Header::parse(&packet).ok()?, packet))
}

/// Makes the number-th packet of an attack from what was captured in one direction.
fn craft(attack: Attack, captured: &[Frame], number: u64) -> Option<Frame> {
    let probes: Vec<_> = captured.iter().filter_map(|frame| Some((frame, keepalive(frame)?))).collect();
    match attack {
        Attack::Replayed => captured.get(number as usize % captured.len()).cloned(),
        Attack::Reflected => captured.get(number as usize % captured.len())?.reflected(),
        Attack::Forged => {
            // An old sequence would be refused before anybody looks at the signature.
            let (frame, (mut header, mut packet)) =
                probes.into_iter().rev().find(|(_, (header, _))| header.kind == Kind::Probe)?;
            header.sequence += AHEAD + number;
            header.emit(&mut packet);
            let bit = HEADER_LEN * 8 + number as usize % ((PACKET_LEN - HEADER_LEN) * 8);
            packet[bit / 8] ^= 1 << (bit % 8);
            frame.with_payload(&packet)
        }
        Attack::Malformed => {
            let (frame, (_, packet)) = probes.first()?;
            // In turn: shorter by one byte and more, other letters at its beginning, and longer than any packet of ours may be.
            match number % 3 {
                0 => frame.with_payload(&packet[..number as usize / 3 % PACKET_LEN]),
                1 => frame.with_flipped_bit(number as usize / 3 % 24),
                _ => frame.with_payload(&[*packet, *packet].concat()),
            }
        }
    }
}

/// Sends [`PACKETS`] packets to each router on a link, and waits until the right counters have seen them. Returns what was
/// counted.
pub(super) fn launch(stage: &Stage, link: &str, attack: Attack, loot: &Loot) -> Result<String> {
    let forge = Forge::on(stage.routers().wire(link)?)?;
    let dropped = |end| stage.link(end, link).map(|link| link.dropped);
    let before = [dropped(End::Server)?, dropped(End::Client)?];
    for direction in Direction::BOTH {
        // A mirrored packet goes to where it came from, the others to where they were meant to go.
        let source = match (direction, attack == Attack::Reflected) {
            (Direction::ToServer, false) | (Direction::ToClient, true) => &loot[0],
            (Direction::ToClient, false) | (Direction::ToServer, true) => &loot[1],
        };
        for number in 0..PACKETS {
            let frame = craft(attack, source, number).context("the captured packets are no keepalives")?;
            forge.inject(direction, &frame)?;
            if number % BURST == 0 {
                stage.routers().lab.pause(PAUSE)?;
            }
        }
    }
    let mut after = before;
    let counted = |after: &[DroppedSnapshot; 2]| {
        [0, 1].map(|end| attack.counter(after[end]).saturating_sub(attack.counter(before[end])))
    };
    stage
        .routers()
        .lab
        .wait_until("the counters to show the packets", COUNTERS_LIMIT, || {
            after = [dropped(End::Server)?, dropped(End::Client)?];
            Ok(counted(&after).iter().all(|counted| *counted >= PACKETS).then_some(()))
        })
        .with_context(|| {
            format!(
                "of {PACKETS} {} packets to each router not all were counted as such; server before {:?}, after {:?}; client \
                 before {:?}, after {:?}",
                attack.name(),
                before[0],
                after[0],
                before[1],
                after[1]
            )
        })?;
    let [server, client] = counted(&after);
    Ok(format!("{server} + {client} counted as {}", attack.name()))
}
