//! Every verdict of the kernel program, by running it on packets (`BPF_PROG_TEST_RUN`).
#![allow(missing_docs, clippy::unwrap_used)]

mod bpf;

use std::{net::IpAddr, sync::atomic::Ordering::Relaxed};

use bpf::*;
use link_watcher::bpf::{Hook, Kernel, LinkLayer};
use link_watcher_common::{
    maps::{Counters, View},
    wire::{Header, Kind, MAX_BODY_LEN, PACKET_LEN, flags},
};

/// What a good probe's frame has to become.
fn assert_answered(sent: &Udp<'_>, header_len: usize, answer: &[u8], question: &[u8], echo: &Header) {
    assert_eq!(answer.len(), question.len());
    let packet = &answer[header_len..];
    if header_len > 0 {
        assert_eq!(answer[..6], ETHERNET_SOURCE);
        assert_eq!(answer[6..12], ETHERNET_DESTINATION);
        assert_eq!(answer[12..header_len], question[12..header_len], "tags and ethertype stay");
    }
    let udp = match sent.ends.local {
        IpAddr::V4(_) => {
            let ip_len = 20 + sent.options.len();
            assert_eq!(internet_checksum(&packet[..ip_len]), 0, "IPv4 header checksum");
            assert_eq!(packet[8], 255, "TTL");
            assert_eq!(packet[12..16], question[header_len + 16..header_len + 20]);
            assert_eq!(packet[16..20], question[header_len + 12..header_len + 16]);
            assert_eq!(packet[20..ip_len], *sent.options);
            &packet[ip_len..]
        }
        IpAddr::V6(_) => {
            assert_eq!(packet[..7], question[header_len..header_len + 7]);
            assert_eq!(packet[7], 255, "hop limit");
            assert_eq!(packet[8..24], question[header_len + 24..header_len + 40]);
            assert_eq!(packet[24..40], question[header_len + 8..header_len + 24]);
            &packet[40..]
        }
    };
    let udp = &udp[..8 + PACKET_LEN];
    assert_eq!(udp[..2], sent.port.to_be_bytes());
    assert_eq!(udp[2..4], sent.source_port.to_be_bytes());
    assert_eq!(udp[4..6], 88_u16.to_be_bytes());
    assert_eq!(udp_checksum(sent.ends.local, sent.ends.remote, udp), 0xffff, "UDP checksum");
    assert_eq!(udp[8..], signed(echo), "by the hmac crate");
}

fn expected_echo(probe: &Header, received: u64) -> Header {
    Header {
        kind: link_watcher_common::wire::Kind::Echo,
        flags: flags::HEARS,
        key_id: KEY_ID,
        silence_seconds: 0,
        sender_session: MINE,
        receiver_session: probe.sender_session,
        rank: 4,
        generation: 12,
        epoch: 9,
        sequence: probe.sequence,
        sent_ns: probe.sent_ns,
        received,
        instance: MY_INSTANCE,
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_probe_is_answered_whatever_it_is_wrapped_in() {
    const VLAN: u16 = 0x8100;
    const SERVICE: u16 = 0x88a8;
    let mut bench = Bench::new(v4());
    bench.add_link(v6(), 0);
    for vlan in [42, 7 << 16 | 42] {
        bench.add_link(v4(), vlan);
        bench.add_link(v6(), vlan);
    }
    bench.meet();
    let cases: [&'static [(u16, u16)]; 5] =
        [&[], &[(VLAN, 42)], &[(VLAN, 0xe000 | 42)], &[(VLAN, 0)], &[(SERVICE, 7), (VLAN, 42)]];
    let mut sequence = 0;
    for ends in [v4(), v6()] {
        for vlans in cases {
            for padding in [0, 6] {
                sequence += 1;
                let header = probe(sequence);
                let sent = Udp { vlans, ..Udp::new(ends, &signed(&header)) };
                let mut frame = sent.frame();
                frame.resize(frame.len() + padding, 0xee);
                let run = bench.run(&frame);
                assert_eq!(run.verdict, TX, "{vlans:?}");
                assert_answered(&sent, 14 + 4 * vlans.len(), &run.packet, &frame, &expected_echo(&header, sequence));
            }
        }
        sequence += 1;
        let header = probe(sequence);
        let sent = Udp::new(ends, &signed(&header));
        let run = bench.run_as(Hook::Xdp, LinkLayer::None, &sent.packet());
        assert_eq!(run.verdict, TX, "without a link header");
        assert_answered(&sent, 0, &run.packet, &sent.packet(), &expected_echo(&header, sequence));
    }
    assert_eq!(bench.counters(), Counters { probes: sequence, echoes: 1, ..Counters::default() });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn checksums_hold_for_thousands_of_answers() {
    let mut bench = Bench::new(v4());
    bench.add_link(v6(), 0);
    bench.meet();
    let mut random = Random(7);
    for sequence in 1..4000 {
        let header = Header { sent_ns: random.next() << 32 | random.next(), ..probe(sequence) };
        let ends = if random.below(2) == 0 { v4() } else { v6() };
        let ttl = 200 + random.below(56) as u8;
        let sent = Udp { source_port: random.next() as u16, ttl, ..Udp::new(ends, &signed(&header)) };
        let run = bench.run(&sent.frame());
        assert_eq!(run.verdict, TX);
        assert_answered(&sent, 14, &run.packet, &sent.frame(), &expected_echo(&header, sequence));
    }
}

/// Zero would mean "no checksum" (RFC 768), which IPv6 forbids: such a sum is sent as 0xffff.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_checksum_of_zero_is_never_sent() {
    let mut bench = Bench::new(v4());
    bench.add_link(v6(), 0);
    bench.meet();
    for (sequence, ends) in [(1, v4()), (2, v6())] {
        let header = probe(sequence);
        // The peer's port is free to choose: this one makes the sum what it has to be.
        let back = Ends { local: ends.remote, remote: ends.local };
        let echo = signed(&expected_echo(&header, sequence));
        let mut udp = Udp { source_port: PORT, port: 0, ..Udp::new(back, &echo) }.datagram();
        udp[6..8].fill(0);
        let source_port = udp_checksum(back.remote, back.local, &udp);
        let run = bench.run(&Udp { source_port, ..Udp::new(ends, &signed(&header)) }.frame());
        assert_eq!(run.verdict, TX);
        let at = run.packet.len() - PACKET_LEN - 2;
        assert_eq!(run.packet[at..at + 2], [0xff, 0xff]);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_not_ours_passes_untouched_and_uncounted() {
    let mut bench = Bench::new(v4());
    bench.add_link(v6(), 0);
    bench.meet();
    let before = bench.counters();
    let good = Udp::new(v4(), &signed(&probe(1)));
    let good_v6 = Udp::new(v6(), &signed(&probe(1)));
    let changed = |udp: &Udp<'_>, changes: &[(usize, u8)]| {
        let mut frame = udp.frame();
        changes.iter().for_each(|(at, value)| frame[*at] = *value);
        frame
    };
    let extension = |kind: u8| {
        let mut frame = good_v6.frame();
        frame[20] = kind;
        frame[19] += 8;
        frame.splice(54..54, [17, 0, 0, 0, 0, 0, 0, 0]);
        frame
    };
    let cases = [
        ("ARP", changed(&good, &[(12, 0x08), (13, 0x06)])),
        ("LLDP", changed(&good, &[(12, 0x88), (13, 0xcc)])),
        ("802.3 length", changed(&good, &[(12, 0), (13, 100)])),
        ("three tags", Udp { vlans: &[(0x8100, 1), (0x8100, 2), (0x8100, 3)], ..good.clone() }.frame()),
        ("another VLAN", Udp { vlans: &[(0x8100, 43)], ..good.clone() }.frame()),
        ("IPv4 options", Udp { options: &[0x94, 4, 0, 0, 1, 1, 1, 0], ..good.clone() }.frame()),
        ("to another Ethernet address", changed(&good, &[(5, 9)])),
        ("to all Ethernet addresses", changed(&good, &[(0, 255), (1, 255), (2, 255), (3, 255), (4, 255), (5, 255)])),
        ("TCP", changed(&good, &[(23, 6)])),
        ("another port", Udp { port: PORT + 1, ..good.clone() }.frame()),
        ("the port from the other side", Udp { port: 50_000, source_port: PORT, ..good.clone() }.frame()),
        ("first fragment", changed(&good, &[(20, 0x20)])),
        ("later fragment", changed(&good, &[(21, 1)])),
        ("last fragment", changed(&good, &[(20, 0x1f), (21, 0xff)])),
        ("version 5", changed(&good, &[(14, 0x55)])),
        ("header of 16 bytes", changed(&good, &[(14, 0x44)])),
        ("to somebody else", Udp::new(ends("198.51.100.9", "198.51.100.2"), &signed(&probe(1))).frame()),
        ("multicast", Udp::new(ends("224.0.0.1", "198.51.100.2"), &signed(&probe(1))).frame()),
        ("broadcast", Udp::new(ends("255.255.255.255", "198.51.100.2"), &signed(&probe(1))).frame()),
        ("IPv6 to somebody else", Udp::new(ends("2001:db8::9", "2001:db8::2"), &signed(&probe(1))).frame()),
        ("IPv6 version 4", changed(&good_v6, &[(14, 0x45)])),
        ("IPv6 TCP", changed(&good_v6, &[(20, 6)])),
        ("hop-by-hop options", extension(0)),
        ("routing header", extension(43)),
        ("fragment header", extension(44)),
        ("destination options", extension(60)),
    ];
    for (name, frame) in cases {
        let run = bench.run(&frame);
        assert_eq!(run.verdict, PASS, "{name}");
        assert_eq!(run.packet, frame, "{name}");
    }
    // Another interface's packets: the same bytes, but no link of ours there.
    let run = bench.run_as(Hook::Xdp, LinkLayer::None, &changed(&good, &[]));
    assert_eq!(run.verdict, PASS, "Ethernet at the program for devices without a link header");
    assert_eq!(bench.counters(), before);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_frame_cut_anywhere_is_never_answered() {
    let mut bench = Bench::new(v4());
    bench.add_link(v6(), 0);
    bench.add_link(v4(), 7 << 16 | 42);
    bench.meet();
    let words = bench.words();
    let mut malformed = 0;
    let payload = signed(&probe(1));
    for (udp, headers) in [
        (Udp::new(v4(), &payload), 14 + 20 + 8),
        (Udp::new(v6(), &payload), 14 + 40 + 8),
        (Udp { vlans: &[(0x88a8, 7), (0x8100, 42)], ..Udp::new(v4(), &payload) }, 22 + 20 + 8),
    ] {
        let frame = udp.frame();
        for len in 14..frame.len() {
            let run = bench.run(&frame[..len]);
            assert_eq!(run.packet, frame[..len]);
            if len < headers {
                assert_eq!(run.verdict, PASS, "{len} bytes");
            } else {
                malformed += 1;
                assert_eq!(run.verdict, DROP, "{len} bytes");
            }
        }
    }
    assert_eq!(bench.counters(), Counters { malformed, echoes: 1, ..Counters::default() });
    assert_eq!(bench.words(), words);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn malformed_packets_are_dropped_and_counted() {
    let mut bench = Bench::new(v4());
    bench.meet();
    let words = bench.words();
    let good = signed(&probe(1));
    let with_len = |len: usize| Udp::new(v4(), &[&good[..], &[0; 2000]].concat()[..len]).frame();
    let changed = |at: usize, value: u8| {
        let mut frame = Udp::new(v4(), &good).frame();
        frame[at] = value;
        frame
    };
    const PAYLOAD: usize = 42;
    let control_with = |body: usize| {
        let mut packet = signed(&control(1)).to_vec();
        packet.resize(PACKET_LEN + body, 0x55);
        Udp::new(v4(), &packet).frame()
    };
    let cases = [
        ("no payload", with_len(0)),
        ("one byte short", with_len(79)),
        ("a probe one byte long", with_len(81)),
        ("a probe with a body", with_len(200)),
        ("magic", changed(PAYLOAD, b'X')),
        ("kind 0", changed(PAYLOAD + 4, 0)),
        ("kind 8", changed(PAYLOAD + 4, 8)),
        ("flags", changed(PAYLOAD + 5, 0x80)),
        ("UDP length 0", changed(39, 0)),
        ("UDP length longer than the packet", changed(39, 89)),
        ("UDP length shorter than the packet's", changed(39, 87)),
        ("IP length shorter than its header", changed(17, 19)),
        ("IP length longer than the packet", changed(17, 117)),
        ("too long a body", control_with(MAX_BODY_LEN + 1)),
    ];
    let mut malformed = 0;
    for (name, frame) in cases {
        let run = bench.run(&frame);
        assert_eq!(run.verdict, DROP, "{name}");
        malformed += 1;
        assert_eq!(bench.counters(), Counters { malformed, echoes: 1, ..Counters::default() }, "{name}");
    }
    // From a stranger they are malformed too, not unknown.
    let stranger = Udp::new(ends("198.51.100.1", "203.0.113.66"), &good[..79]).frame();
    assert_eq!(bench.run(&stranger).verdict, DROP);
    assert_eq!(bench.counters().malformed, malformed + 1);
    assert_eq!(bench.words(), words);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn unknown_replayed_reflected_and_forged_change_nothing() {
    let mut bench = Bench::new(v4());
    bench.meet();
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&probe(10))).frame()).verdict, TX);
    let words = bench.words();
    let mut expected = Counters { echoes: 1, probes: 1, ..Counters::default() };

    let stranger = ends("198.51.100.1", "203.0.113.66");
    assert_eq!(bench.run(&Udp::new(stranger, &signed(&probe(11))).frame()).verdict, DROP);
    expected.unknown += 1;

    let replays = [
        probe(10),
        Header { sender_session: PEERS + 1, ..probe(11) },
        echo(1),
        Header { receiver_session: MINE + 1, ..echo(2) },
        Header { receiver_session: 0, ..echo(2) },
        echo(1_000_001), // never sent
        Header { sender_session: PEERS + 1, ..control(1) },
        Header { receiver_session: MINE + 1, ..control(1) },
    ];
    for header in replays {
        assert_eq!(bench.run(&Udp::new(v4(), &signed(&header)).frame()).verdict, DROP, "{header:?}");
        expected.replayed += 1;
        assert_eq!(bench.counters(), expected, "{header:?}");
    }
    for header in [probe(11), echo(2), control(1)] {
        let header = Header { flags: header.flags & !flags::CLIENT, ..header };
        assert_eq!(bench.run(&Udp::new(v4(), &signed(&header)).frame()).verdict, DROP);
        expected.reflected += 1;
    }
    let wrong_key = signed_with(&probe(11), b"not the key");
    let second_key_named = signed(&Header { key_id: 200, ..probe(11) });
    let unknown_key = signed(&Header { key_id: 1, ..probe(11) });
    let unused_slot = signed_with(&Header { key_id: 0, ..probe(11) }, b"");
    for packet in [wrong_key, second_key_named, unknown_key, unused_slot] {
        assert_eq!(bench.run(&Udp::new(v4(), &packet).frame()).verdict, DROP);
        expected.forged += 1;
    }
    assert_eq!(bench.counters(), expected);
    // Whatever single bit is wrong, it does not count.
    for header in [probe(11), echo(2), control(1)] {
        let packet = signed(&header);
        for bit in 0..PACKET_LEN * 8 {
            let mut packet = packet;
            packet[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(bench.run(&Udp::new(v4(), &packet).frame()).verdict, DROP, "{:?} bit {bit}", header.kind);
        }
    }
    let counters = bench.counters();
    assert_eq!((counters.probes, counters.echoes, counters.control), (1, 1, 0));
    // All but when a packet of another version was seen last: a wrong bit may make it one.
    let without_version = |words: &[u64]| words[..words.len() - 1].to_vec();
    assert_eq!(without_version(&bench.words()), without_version(&words));
    // And the untouched ones do.
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&probe(11))).frame()).verdict, TX);
    assert_eq!(
        bench.run(&Udp::new(v4(), &signed_with(&Header { key_id: 200, ..probe(12) }, b"the next key")).frame()).verdict,
        TX
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_echo_writes_the_state_and_wakes_user_space_for_news_only() {
    let mut bench = Bench::new(v4());
    let mut events = bench.kernel().events().unwrap();
    let mut slots = Vec::new();
    for sequence in 1..=3 {
        let sent_ns = now_ns() - 5_000_000;
        let header = Header { sent_ns, ..echo(sequence) };
        let before_ns = now_ns();
        assert_eq!(bench.run(&Udp::new(v4(), &signed(&header)).frame()).verdict, DROP);
        let after_ns = now_ns();
        let state = bench.state();
        let arrived_ns = state.last_echo_ns.load(Relaxed);
        assert!((before_ns..=after_ns).contains(&arrived_ns));
        assert_eq!(state.rtt_ns.load(Relaxed), arrived_ns - sent_ns);
        assert_eq!(state.echoes.load(Relaxed), sequence);
        assert_eq!(state.peer_received.load(Relaxed), sequence);
        assert_eq!(state.peer.load(Relaxed), peer(PEERS));
        assert_eq!((state.newest_answered.load(Relaxed), state.newest_sent_ns.load(Relaxed)), (sequence, sent_ns));
        assert_eq!(state.peer_generation.load(Relaxed), 6);
        let view = View { epoch: 3, rank: 1, silence_seconds: 0, flags: flags::CLIENT | flags::HEARS };
        assert_eq!(View::unpack(state.peer_view.load(Relaxed)), view);
        assert_eq!(state.neighbour.load(Relaxed), 0, "an echo comes from where its probe went, which says nothing");
    }
    events.drain(&mut slots);
    assert_eq!(slots, [SLOT], "a new session, then nothing new");
    let news = Header { epoch: 4, ..probe(1) };
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&news)).frame()).verdict, TX);
    events.drain(&mut slots);
    assert_eq!(slots, [SLOT, SLOT], "another epoch");
    assert_ne!(bench.state().last_probe_ns.load(Relaxed), 0);
    assert_eq!(bench.state().neighbour.load(Relaxed), origin_word(ETHERNET_SOURCE, 50_000));
    // A probe that was overtaken, or of nobody who hears us, does not say where the peer is.
    let mut moved = Udp::new(v4(), &signed(&probe(9))).frame();
    moved[11] = 7;
    assert_eq!(bench.run(&moved).verdict, TX);
    let mut elsewhere = ETHERNET_SOURCE;
    elsewhere[5] = 7;
    assert_eq!(bench.state().neighbour.load(Relaxed), origin_word(elsewhere, 50_000));
    for header in [probe(8), Header { receiver_session: 0, ..probe(10) }] {
        assert_eq!(bench.run(&Udp::new(v4(), &signed(&header)).frame()).verdict, TX);
        assert_eq!(bench.state().neighbour.load(Relaxed), origin_word(elsewhere, 50_000));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn late_distant_and_other_versions_are_told_apart() {
    let mut bench = Bench::new(v4());
    bench.meet();
    let alive = bench.state().last_echo_ns.load(Relaxed);
    let late = Header { sent_ns: now_ns() - MAX_AGE_NS - 1, ..echo(2) };
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&late)).frame()).verdict, DROP);
    let mut expected = Counters { echoes: 1, late: 1, ..Counters::default() };
    assert_eq!(bench.counters(), expected);
    let state = bench.state();
    assert_eq!((state.last_echo_ns.load(Relaxed), state.newest_answered.load(Relaxed)), (alive, 1));
    assert_eq!(state.late_echoes.load(Relaxed), 1);
    assert!(state.late_rtt_ns.load(Relaxed) > MAX_AGE_NS && state.last_late_ns.load(Relaxed) > alive);

    for (header, ends) in [(probe(1), v4()), (echo(3), v4())] {
        assert_eq!(bench.run(&Udp { ttl: 199, ..Udp::new(ends, &signed(&header)) }.frame()).verdict, DROP);
        expected.distant += 1;
        assert_eq!(bench.counters(), expected);
    }
    let mut old = signed(&probe(1));
    old[3] = 1;
    assert_eq!(bench.run(&Udp::new(v4(), &old).frame()).verdict, DROP);
    expected.version += 1;
    assert_eq!(bench.counters(), expected);
    assert_eq!(bench.state().other_version.load(Relaxed) & 0xff, 1);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_slot_that_is_not_in_use_answers_nobody() {
    let mut bench = Bench::new(v4());
    bench.intent().me.store(0, Relaxed);
    for header in [probe(1), echo(1), control(1)] {
        assert_eq!(bench.run(&Udp::new(v4(), &signed(&header)).frame()).verdict, DROP);
    }
    assert_eq!(bench.counters(), Counters { unknown: 3, ..Counters::default() });
}

/// A packet of one place is worth nothing in another: each difference alone makes it so.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_packet_of_another_place_is_worth_nothing() {
    let mut bench = Bench::new(v4());
    bench.meet();
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&probe(10))).frame()).verdict, TX);
    let words = bench.words();
    type Move = (&'static str, fn(Header) -> Header, &'static [u8]);
    let elsewhere: [Move; 6] = [
        ("another link's or peer's key", |header| header, b"the key of another link"),
        ("another direction or role", |header| Header { flags: header.flags & !flags::CLIENT, ..header }, KEY),
        ("another session of the sender", |header| Header { sender_session: PEERS + 1, ..header }, KEY),
        ("another daemon of the sender", |header| Header { instance: PEERS_INSTANCE + 1, ..header }, KEY),
        ("another session of the receiver", |header| Header { receiver_session: MINE + 1, ..header }, KEY),
        ("another key's name", |header| Header { key_id: KEY_ID + 1, ..header }, KEY),
    ];
    for (place, change, key) in elsewhere {
        for header in [probe(11), echo(1), control(1), Header { kind: Kind::StackProbe, ..probe(2) }] {
            // A probe to another session of mine is still one of the peer's: it is answered, and says nothing.
            if header.kind == Kind::Probe && place == "another session of the receiver" {
                continue;
            }
            let verdict = bench.run(&Udp::new(v4(), &signed_with(&change(header), key)).frame()).verdict;
            assert_eq!(verdict, DROP, "{place}: {:?}", header.kind);
        }
    }
    assert_eq!(bench.words(), words);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn control_packets_are_handed_up_once() {
    let mut bench = Bench::new(v4());
    bench.meet();
    for (sequence, body) in [(1, 0), (2, 1), (3, 500), (4, MAX_BODY_LEN)] {
        let mut packet = signed(&control(sequence)).to_vec();
        packet.resize(PACKET_LEN + body, 0x55);
        let frame = Udp::new(v4(), &packet).frame();
        let run = bench.run(&frame);
        assert_eq!((run.verdict, run.packet), (PASS, frame.clone()), "{body} bytes");
        assert_eq!(bench.run(&frame).verdict, DROP, "again");
        let cut = bench.run(&frame[..frame.len() - 1]);
        assert_eq!(cut.verdict, DROP);
    }
    assert_eq!(bench.counters(), Counters { echoes: 1, control: 4, replayed: 4, malformed: 4, ..Counters::default() });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn probes_of_a_silent_daemon_are_answered_and_the_answer_says_so() {
    let mut bench = Bench::new(v4());
    bench.meet();
    let mut silence = |sequence, silent_ns: u64, lease_ns| {
        bench.renew(now_ns() - silent_ns, lease_ns);
        let run = bench.run(&Udp::new(v4(), &signed(&probe(sequence))).frame());
        assert_eq!(run.verdict, TX);
        run.packet[14 + 20 + 8 + 7]
    };
    const SECOND: u64 = 1_000_000_000;
    assert_eq!(silence(1, SECOND / 2, SECOND), 0);
    assert_eq!(silence(2, SECOND / 2, SECOND / 4), 1, "less than a second, but longer than its lease");
    assert_eq!(silence(3, 5 * SECOND, SECOND), 5);
    assert_eq!(silence(4, 300 * SECOND, SECOND), 255);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_restarted_peer_is_answered_once_the_old_one_is_silent() {
    let mut bench = Bench::new(v4());
    bench.meet();
    let restarted = |sequence| Header { sender_session: PEERS + 1, receiver_session: 0, ..probe(sequence) };
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&restarted(1))).frame()).verdict, DROP, "the old one is alive");
    bench.state().last_echo_ns.store(now_ns() - DETECTION_NS, Relaxed);
    let words = bench.words();
    let run = bench.run(&Udp::new(v4(), &signed(&restarted(1))).frame());
    assert_eq!(run.verdict, TX);
    assert_eq!(bench.words(), words, "a stranger's probe changes nothing");
    // The new peer has learned our session and echoes a probe: now it is the peer.
    let proof = Header { sender_session: PEERS + 1, ..echo(2) };
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&proof)).frame()).verdict, DROP);
    assert_eq!(bench.state().peer.load(Relaxed), peer(PEERS + 1));
    let heard = Header { receiver_session: MINE, ..restarted(2) };
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&heard)).frame()).verdict, TX);
    // What was captured from the old session is worthless.
    assert_eq!(bench.run(&Udp::new(v4(), &signed(&probe(5000))).frame()).verdict, DROP);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn traffic_is_counted_on_tracked_interfaces_only() {
    let mut bench = Bench::new(v4());
    let frame = Udp { port: 53, ..Udp::new(v4(), b"a question") }.frame();
    bench.run(&frame);
    assert_eq!(bench.kernel().traffic(LO).unwrap(), None);
    bench.kernel().track_traffic(LO).unwrap();
    bench.kernel().track_traffic(LO).unwrap();
    for _ in 0..5 {
        bench.run(&frame);
    }
    let traffic = bench.kernel().traffic(LO).unwrap().unwrap();
    assert_eq!((traffic.packets, traffic.bytes), (5, 5 * frame.len() as u64));
    bench.kernel().untrack_traffic(LO).unwrap();
    bench.kernel().untrack_traffic(LO).unwrap();
    assert_eq!(bench.kernel().traffic(LO).unwrap(), None);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_removed_link_or_port_is_nobodys_any_more() {
    let mut bench = Bench::new(v4());
    let good = Udp::new(v4(), &signed(&echo(1))).frame();
    bench.kernel().set_port(PORT, false).unwrap();
    assert_eq!(bench.run(&good).verdict, PASS);
    bench.kernel().set_port(PORT, true).unwrap();
    assert_eq!(bench.run(&good).verdict, DROP);
    bench.kernel().clear_counters(SLOT).unwrap();
    assert_eq!(bench.counters(), Counters::default());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn links_come_and_go_without_hiding_each_other() {
    let mut bench = Bench::with(Kernel::load(&object(), &directory(), 300).unwrap(), v4());
    let ends = |i: u32| {
        let [high, low] = (i as u16).to_be_bytes();
        Ends { local: [10, 248, high, low].into(), remote: [10, 20, high, low].into() }
    };
    let header = echo(2_000_000); // Never sent, so it is refused as replayed, and changes nothing.
    let known = |bench: &mut Bench, i: u32| bench.run(&Udp::new(ends(i), &signed(&header)).frame()).verdict == DROP;
    let mut random = Random(3);
    let mut present = std::collections::BTreeSet::new();
    for round in 0..1500 {
        let i = random.below(300) as u32;
        if present.insert(i) {
            bench.add_link(ends(i), 0);
        } else {
            present.remove(&i);
            bench.remove_link(ends(i), 0);
        }
        for i in [i, random.below(300) as u32, random.below(300) as u32] {
            assert_eq!(known(&mut bench, i), present.contains(&i), "round {round}");
        }
    }
    for i in 0..300 {
        assert_eq!(known(&mut bench, i), present.contains(&i));
    }
}
