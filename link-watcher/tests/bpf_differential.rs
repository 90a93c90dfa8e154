//! The kernel programs at both hooks, and the socket engine, against a slow model over thousands of random and mutated packets.
//! Verdict, counters, state and answer must be the same.
#![allow(missing_docs, clippy::unwrap_used)]

mod bpf;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bpf::{model::*, *};
use link_watcher::{
    bpf::{Hook, LinkLayer},
    probe::receive::{Judge, Verdict, judge},
};
use link_watcher_common::{
    maps::{Counters, Intent, LinkState, View},
    verify::{Outcome, Refusal},
    wire::{Header, PACKET_LEN, flags},
};
use sha2::{Digest as _, Sha256};

/// Cases of one run, unless `LINK_WATCHER_CASES` says otherwise.
const CASES: u64 = 200_000;

/// A frame that claims by its first 14 bytes to hold an IP header, and does not.
fn too_short(frame: &[u8]) -> bool {
    let header_len = match be16(frame, 12) {
        Some(0x0800) => 20,
        Some(0x86dd) => 40,
        _ => 0,
    };
    frame.len() < 14 + header_len
}

/// A verdict at tc as XDP has it.
fn as_xdp(hook: Hook, verdict: u32) -> u32 {
    match (hook, verdict.cast_signed()) {
        (Hook::Xdp, _) => verdict,
        // TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT.
        (Hook::Tc, -1) => PASS,
        (Hook::Tc, 2) => DROP,
        (Hook::Tc, 7) => TX,
        (Hook::Tc, other) => panic!("the tc program never says {other}"),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_program_and_the_model_agree() {
    agree(Hook::Xdp);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_program_at_tc_and_the_model_agree() {
    agree(Hook::Tc);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeded() -> Random {
    let seed = number("LINK_WATCHER_SEED").unwrap_or(1);
    println!("LINK_WATCHER_SEED={seed}");
    Random(seed)
}

fn cases() -> u64 {
    number("LINK_WATCHER_CASES").unwrap_or(CASES)
}

/// The key that signs, which is now and then another link's.
fn key_of(random: &mut Random, header: &Header) -> &'static [u8] {
    let own: &[u8] = if header.key_id == KEY_ID { KEY } else { b"the next key" };
    if random.below(25) == 0 { b"another link's key" } else { own }
}

fn agree(hook: Hook) {
    let mut bench = Bench::new(v4());
    bench.add_link(v6(), 0);
    bench.add_link(v4(), 42);
    bench.add_link(v6(), 7 << 16 | 42);
    let copy = |word: &AtomicU64| AtomicU64::new(word.load(Relaxed));
    let intent = bench.intent();
    let mut model = Model {
        intent: Intent {
            me: copy(&intent.me),
            view: copy(&intent.view),
            generation: copy(&intent.generation),
            sent_sequence: copy(&intent.sent_sequence),
            detection_ns: copy(&intent.detection_ns),
            max_age_ns: copy(&intent.max_age_ns),
            max_lag: copy(&intent.max_lag),
            renewed_ns: copy(&intent.renewed_ns),
            lease_ns: copy(&intent.lease_ns),
            mac: copy(&intent.mac),
            min_hops: copy(&intent.min_hops),
            reserved: Default::default(),
        },
        state: LinkState::default(),
        keys: keys(),
        counters: Counters::default(),
        links: BTreeMap::from([
            ((0, v4().local), v4().remote),
            ((0, v6().local), v6().remote),
            ((42, v4().local), v4().remote),
            ((7 << 16 | 42, v6().local), v6().remote),
        ]),
    };
    let mut random = seeded();
    let mut highest = 0;
    let mut seen = BTreeMap::<String, u32>::new();
    for case in 0..cases() {
        // The clock is the one input that cannot be the same on both sides, so it never decides.
        if random.below(50) == 0 {
            let detection_ns = if random.below(2) == 0 { 0 } else { u64::MAX };
            model.intent.detection_ns.store(detection_ns, Relaxed);
            intent.detection_ns.store(detection_ns, Relaxed);
            // Alive, or silent for longer than can be said.
            let lease_ns = if random.below(5) == 0 { 0 } else { u64::MAX };
            bench.renew(0, lease_ns);
            model.intent.renewed_ns.store(0, Relaxed);
            model.intent.lease_ns.store(lease_ns, Relaxed);
            let view = View { epoch: random.next() as u32, rank: 3, silence_seconds: 0, flags: flags::ACTIVE };
            model.intent.view.store(view.pack(), Relaxed);
            intent.view.store(view.pack(), Relaxed);
        }
        let header = header(&mut random, highest);
        let key = key_of(&mut random, &header);
        let mut payload = signed_with(&header, key).to_vec();
        if random.below(25) == 0 {
            payload[3] = [1, 3][random.below(2)];
        }
        if header.kind.is_control() && random.below(2) == 0 {
            payload.resize(PACKET_LEN + random.below(300), 0x5a);
        }
        let mut ends = if random.below(2) == 0 { v4() } else { v6() };
        if random.below(15) == 0 {
            ends.remote = if ends.local.is_ipv4() { "203.0.113.7" } else { "2001:db8::7" }.parse().unwrap();
        }
        let vlans: &[(u16, u16)] =
            [&[][..], &[], &[(0x8100, 42)], &[(0x88a8, 7), (0x8100, 42)], &[(0x8100, 0)]][random.below(5)];
        let options: &[u8] = if random.below(4) == 0 { &[1, 1, 1, 0] } else { &[] };
        let ttl = mostly(&mut random, 255, 150);
        let udp = Udp { vlans, options, ttl, ..Udp::new(ends, &payload) };
        let layer = if random.below(4) == 0 { LinkLayer::None } else { LinkLayer::Ethernet };
        let mut frame = if layer == LinkLayer::None { udp.packet() } else { udp.frame() };
        if layer == LinkLayer::Ethernet && random.below(30) == 0 {
            frame[5] ^= 1; // to another Ethernet address
        }
        if random.below(2) == 0 {
            for _ in 0..=random.below(3) {
                mutate(&mut random, &mut frame);
            }
        }

        // `bpf_prog_test_run_skb` (net/bpf/test_run.c) makes no `sk_buff` of what is shorter than the header that it claims.
        let run = match bench.kernel().run(hook, layer, LO, &frame, 1) {
            Err(_) if hook == Hook::Tc && too_short(&frame) => {
                *seen.entry("too short for tc".to_owned()).or_default() += 1;
                continue;
            }
            run => run.unwrap(),
        };
        let (verdict, echo) = model.judge(layer, &frame, now_ns());
        let context = || format!("case {case}: {layer:?} {header:?} {frame:02x?}");
        assert_eq!(as_xdp(hook, run.verdict), verdict, "{}", context());
        assert_eq!(timeless(bench.state()), timeless(&model.state), "{}", context());
        match echo {
            None => assert_eq!(run.packet, frame, "{}", context()),
            Some(echo) => {
                assert_eq!(run.packet.len(), frame.len());
                let answer = parse(layer, &run.packet).unwrap();
                let question = parse(layer, &frame).unwrap();
                assert_eq!((answer.source, answer.destination), (question.destination, question.source));
                assert_eq!(answer.rest[..PACKET_LEN], echo, "{}", context());
                highest = highest.max(header.sequence);
            }
        }
        if verdict != PASS {
            highest = highest.max(model.state.echo_window.load(Relaxed) >> 24);
        }
        let counters = bench.counters();
        assert_eq!(counters, model.counters, "{}", context());
        // The times are the kernel's.
        for (to, from) in [
            (&model.state.last_echo_ns, &bench.state().last_echo_ns),
            (&model.state.last_probe_ns, &bench.state().last_probe_ns),
        ] {
            to.store(from.load(Relaxed), Relaxed);
        }
        *seen.entry(format!("verdict {verdict}")).or_default() += 1;
    }
    println!("{seen:?} {:?}", model.counters);
    // Every outcome was among them, often.
    let Counters { probes, echoes, control, malformed, unknown, replayed, reflected, forged, late, distant, version } =
        model.counters;
    for count in [probes, echoes, control, malformed, unknown, replayed, reflected, forged, late, distant, version] {
        assert!(count >= 100, "{:?}", model.counters);
    }
}

/// A datagram as it comes to a socket has no headers any more, and a body that is looked at.
#[test]
fn the_socket_engine_and_the_model_agree() {
    let model = Model {
        intent: Intent::default(),
        state: LinkState::default(),
        keys: keys(),
        counters: Counters::default(),
        links: BTreeMap::new(),
    };
    let (intent, state, keys) = (Intent::default(), LinkState::<AtomicU64>::default(), keys());
    [&model.intent, &intent].into_iter().for_each(want);
    let mut random = seeded();
    let mut highest = 0;
    let mut seen = BTreeMap::<String, u32>::new();
    for case in 0..cases() {
        let now_ns = now_ns();
        if random.below(50) == 0 {
            let detection_ns = if random.below(2) == 0 { 0 } else { u64::MAX };
            let view = View { epoch: random.next() as u32, rank: 3, silence_seconds: 0, flags: flags::ACTIVE };
            for intent in [&intent, &model.intent] {
                intent.detection_ns.store(detection_ns, Relaxed);
                intent.view.store(view.pack(), Relaxed);
            }
        }
        let mut header = header(&mut random, highest);
        let mut body = Vec::new();
        if header.kind.has_body() {
            body.resize(random.below(300), 0x5a);
            let digest = Sha256::digest(&body);
            header.set_body_digest(*digest.first_chunk().unwrap());
        }
        let mut payload = signed_with(&header, key_of(&mut random, &header)).to_vec();
        payload.extend_from_slice(&body);
        match random.below(8) {
            0 => mutate(&mut random, &mut payload),
            1 => payload[3] = [1, 3][random.below(2)],
            2 if !body.is_empty() => *payload.last_mut().unwrap() ^= 1,
            _ => {}
        }
        let hops = mostly(&mut random, 255, 150);
        let len = payload.len() + 8;
        let datagram = Datagram {
            vlan: 0,
            source: v4().remote,
            destination: v4().local,
            port: PORT,
            hops,
            lens: (len, len),
            rest: &payload,
        };
        let digest_is_right = payload.split_first_chunk::<PACKET_LEN>().is_none_or(|(packet, body)| {
            Header::parse(packet)
                .is_ok_and(|header| !header.kind.has_body() || Sha256::digest(body)[..16] == header.body_digest())
        });
        let found = judge(&payload, &Judge { intent: &intent, state: &state, keys: &keys, hops, now_ns });
        let found = found.map(|verdict| match verdict {
            Verdict::Alive { changed } => (Outcome::Alive { changed }, None),
            Verdict::Answer { echo, changed, newest } => (Outcome::Answer { changed, newest }, Some(echo.to_vec())),
            Verdict::Deliver { .. } => (Outcome::Deliver, None),
        });
        let context = || format!("case {case}: {hops} hops, {payload:02x?}");
        if digest_is_right || found != Err(Refusal::Forged) {
            assert_eq!(found, model.verify(&datagram, true, now_ns), "{}", context());
        }
        assert_eq!(timeless(&state), timeless(&model.state), "{}", context());
        if let Ok((outcome, _)) = &found {
            highest = highest.max(header.sequence).max(state.echo_window.load(Relaxed) >> 24);
            assert!(digest_is_right || *outcome != Outcome::Deliver, "a body that nobody signed: {}", context());
        }
        let what = found.map(|(outcome, _)| format!("{outcome:?}")).unwrap_or_else(|refusal| format!("{refusal:?}"));
        *seen.entry(what.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    println!("{seen:?}");
    for class in
        ["Alive", "Answer", "Deliver", "Malformed", "Replayed", "Reflected", "Forged", "Late", "Distant", "Version"]
    {
        assert!(seen.get(class).is_some_and(|count| *count >= 100), "{class}: {seen:?}");
    }
}
