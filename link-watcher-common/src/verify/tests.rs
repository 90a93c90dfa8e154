//! Both ends of a link in one process, on a clock that the test turns.
#![allow(clippy::unwrap_used)]
use std::sync::atomic::AtomicU64;

use super::*;
use crate::{
    hmac,
    maps::KeyState,
    wire::{PACKET_LEN, Packet},
};

const MS: u64 = 1_000_000;
const START: u64 = 1000 * MS;
const DETECTION_NS: u64 = 300 * MS;

/// The daemon's word. `AtomicU64` itself has methods of the same names with other arguments.
#[derive(Debug, Default)]
struct Shared(AtomicU64);

impl Shared {
    fn of(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
}

impl Word for Shared {
    fn load(&self) -> u64 {
        Word::load(&self.0)
    }
    fn store(&self, value: u64) {
        Word::store(&self.0, value);
    }
    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        Word::compare_exchange(&self.0, current, new)
    }
}

/// One end of a link, as a verifier holds it.
struct End {
    intent: Intent<Shared>,
    state: LinkState<Shared>,
    keys: KeySet,
    sequence: u64,
}

/// So far a packet may come in these tests.
const HOPS_LEFT: u8 = 255;
/// The daemon that a session is of, in these tests: every one has one of its own.
const fn instance(session: u32) -> u32 {
    session << 8
}

/// How far an acknowledgement may lag behind in these tests.
const MAX_LAG: u64 = 5;

fn party(session: u32) -> u64 {
    Party { instance: instance(session), session }.pack()
}

fn keys(names: &[&[u8]]) -> KeySet {
    let mut keys = KeySet { count: names.len() as u32, ..KeySet::default() };
    for (i, name) in names.iter().enumerate() {
        keys.ids[i] = name[0];
        keys.states[i] = hmac::key_state(name);
    }
    keys
}

impl End {
    fn new(session: u32, is_client: bool) -> Self {
        let end = Self {
            intent: Intent::default(),
            state: LinkState::default(),
            keys: keys(&[b"key one", b"spare"]),
            sequence: 0,
        };
        end.intent.me.store(party(session));
        end.intent.detection_ns.store(DETECTION_NS);
        end.intent.max_age_ns.store(DETECTION_NS);
        end.intent.max_lag.store(MAX_LAG);
        end.intent.lease_ns.store(u64::MAX);
        end.say(View { flags: if is_client { flags::CLIENT } else { 0 }, ..View::default() });
        end
    }

    fn client() -> Self {
        Self::new(0xc1, true)
    }

    fn server() -> Self {
        Self::new(0x5e, false)
    }

    fn say(&self, view: View) {
        let flags = view.flags | (View::unpack(self.intent.view.load()).flags & flags::CLIENT);
        self.intent.view.store(View { flags, ..view }.pack());
    }

    fn header(&mut self, kind: Kind, now_ns: u64) -> Header {
        self.sequence += 1;
        self.intent.sent_sequence.store(self.sequence);
        let view = View::unpack(self.intent.view.load());
        let me = Party::unpack(self.intent.me.load());
        Header {
            kind,
            flags: view.flags,
            key_id: self.keys.ids[0],
            silence_seconds: 0,
            sender_session: me.session,
            receiver_session: Party::unpack(self.state.peer.load()).session,
            rank: view.rank,
            generation: self.intent.generation.load() as u16,
            epoch: view.epoch,
            sequence: self.sequence,
            sent_ns: now_ns,
            received: window::highest(self.state.probe_window.load()),
            instance: me.instance,
        }
    }

    fn sign(&self, header: &Header) -> Packet {
        hmac::signed(header, &self.keys.states[0])
    }

    fn probe(&mut self, now_ns: u64) -> Packet {
        let header = self.header(Kind::Probe, now_ns);
        self.sign(&header)
    }

    /// All three steps, and the echo of a good probe.
    fn take(&self, packet: &Packet, now_ns: u64) -> Result<(Outcome, Option<Packet>), Refusal> {
        let header = Header::parse(packet).map_err(|_| Refusal::Malformed)?;
        let candidate = screen(&header, HOPS_LEFT, &self.intent, &self.state, || now_ns)?;
        authentic(header.key_id, &self.keys, |key| hmac::verify(packet, key))?;
        let outcome = commit(&header, candidate, &self.intent, &self.state, now_ns)?;
        let reply = matches!(outcome, Outcome::Answer { .. })
            .then(|| self.sign(&echo(&header, &self.intent, &self.state, &self.keys, now_ns)));
        Ok((outcome, reply))
    }

    fn refuses(&self, packet: &Packet, now_ns: u64) -> Refusal {
        let before = words(&self.state);
        let refusal = self.take(packet, now_ns).unwrap_err();
        assert_eq!(words(&self.state), before, "a refused packet changes nothing");
        refusal
    }
}

fn words(state: &LinkState<Shared>) -> String {
    format!("{state:?}")
}

/// A probe, its echo, and what the prober makes of it.
fn exchange(prober: &mut End, echoer: &End, now_ns: u64) -> (Packet, Packet) {
    let probe = prober.probe(now_ns);
    let (_, echo) = echoer.take(&probe, now_ns + MS).unwrap();
    let echo = echo.unwrap();
    let (outcome, reply) = prober.take(&echo, now_ns + 2 * MS).unwrap();
    assert!(matches!(outcome, Outcome::Alive { .. }));
    assert!(reply.is_none(), "an echo begets no echo");
    (probe, echo)
}

/// Both ends know each other's session.
fn acquainted() -> (End, End) {
    let (mut client, mut server) = (End::client(), End::server());
    exchange(&mut client, &server, START);
    exchange(&mut server, &client, START);
    (client, server)
}

#[test]
fn strangers_become_acquainted_by_their_echoes() {
    let (mut client, mut server) = (End::client(), End::server());
    let probe = client.probe(START);
    let before = words(&server.state);
    let (outcome, echo) = server.take(&probe, START).unwrap();
    assert_eq!(outcome, Outcome::Answer { changed: false, newest: false });
    assert_eq!(words(&server.state), before, "a probe proves nothing");
    assert_eq!(client.take(&echo.unwrap(), START).unwrap().0, Outcome::Alive { changed: true });
    assert_eq!(client.state.peer.load(), party(0x5e));
    assert_eq!(server.state.peer.load(), 0, "only one's own probe's echo teaches a session");
    exchange(&mut server, &client, START);
    assert_eq!(server.state.peer.load(), party(0xc1));
    // Now probes count as hearing the peer, in both roles.
    let probe = client.probe(START + 5 * MS);
    server.take(&probe, START + 6 * MS).unwrap();
    assert_eq!(server.state.last_probe_ns.load(), START + 6 * MS);
    let probe = server.probe(START + 5 * MS);
    client.take(&probe, START + 6 * MS).unwrap();
    assert_eq!(client.state.last_probe_ns.load(), START + 6 * MS);
}

#[test]
fn a_probe_without_my_session_is_answered_and_counts_for_nothing_else() {
    let (mut client, server) = acquainted();
    let mut header = client.header(Kind::Probe, START);
    header.receiver_session = 0;
    header.epoch = 99;
    let view = server.state.peer_view.load();
    let heard_ns = server.state.last_probe_ns.load();
    let (outcome, echo) = server.take(&client.sign(&header), START + 9 * MS).unwrap();
    assert_eq!(outcome, Outcome::Answer { changed: false, newest: false });
    assert!(echo.is_some());
    assert_eq!((server.state.peer_view.load(), server.state.last_probe_ns.load()), (view, heard_ns));
}

/// Behind a NAT no probe of the server arrives until it knows where the client's come from.
#[test]
fn a_stranger_that_hears_my_session_shows_where_it_is_and_nothing_else() {
    let (mut client, server) = (End::client(), End::server());
    for (session, newest) in [(0, false), (Party::unpack(server.intent.me.load()).session, true)] {
        let mut header = client.header(Kind::Probe, START);
        header.receiver_session = session;
        let before = words(&server.state);
        let (outcome, _) = server.take(&client.sign(&header), START).unwrap();
        assert_eq!(outcome, Outcome::Answer { changed: false, newest });
        assert_eq!(words(&server.state), before);
    }
}

#[test]
fn an_echo_counts_once_and_only_for_what_was_sent() {
    let (mut client, server) = acquainted();
    let (_, first) = exchange(&mut client, &server, START);
    assert_eq!(client.refuses(&first, START), Refusal::Replayed);
    let mut header = Header::parse(&first).unwrap();
    header.sequence = client.sequence + 1;
    assert_eq!(client.refuses(&server.sign(&header), START), Refusal::Replayed, "never sent");
    client.sequence += 1;
    client.intent.sent_sequence.store(client.sequence);
    client.take(&server.sign(&header), START).unwrap();
}

#[test]
fn echoes_may_overtake_each_other_but_not_by_more_than_the_window() {
    let (mut client, server) = acquainted();
    let answer = |probe: Packet| server.take(&probe, START).unwrap().1.unwrap();
    let mut echoes: Vec<_> = (0..window::WINDOW + 2).map(|_| answer(client.probe(START))).collect();
    let newest = echoes.pop().unwrap();
    client.take(&newest, START).unwrap();
    assert_eq!(client.refuses(&echoes.remove(0), START), Refusal::Replayed, "too old to know");
    for echo in echoes.iter().rev() {
        client.take(echo, START).unwrap();
        assert_eq!(client.refuses(echo, START), Refusal::Replayed);
    }
}

#[test]
fn a_replayed_probe_is_not_answered_twice() {
    let (mut client, server) = acquainted();
    let probe = client.probe(START);
    server.take(&probe, START).unwrap();
    assert_eq!(server.refuses(&probe, START), Refusal::Replayed);
    assert_eq!(server.refuses(&probe, START + 100 * DETECTION_NS), Refusal::Replayed, "nor after a silence");
}

#[test]
fn my_own_packets_are_recognised_in_a_mirror() {
    let (mut client, mut server) = acquainted();
    let (probe, echo) = exchange(&mut client, &server, START);
    assert_eq!(client.refuses(&probe, START), Refusal::Reflected);
    assert_eq!(server.refuses(&echo, START), Refusal::Reflected);
    let (probe, echo) = exchange(&mut server, &client, START);
    assert_eq!(server.refuses(&probe, START), Refusal::Reflected);
    assert_eq!(client.refuses(&echo, START), Refusal::Reflected);
    let notice = client.header(Kind::Notice, START);
    assert_eq!(client.refuses(&client.sign(&notice), START), Refusal::Reflected);
    // Two ends with the same role never get on.
    let mut twin = End::new(0x77, true);
    assert_eq!(client.refuses(&twin.probe(START), START), Refusal::Reflected);
}

#[test]
fn what_was_captured_before_a_restart_is_worthless() {
    let (mut client, mut server) = acquainted();
    let mut captured = Vec::new();
    for _ in 0..5 {
        let (probe, _) = exchange(&mut client, &server, START);
        let (_, echo) = exchange(&mut server, &client, START);
        let notice = client.header(Kind::Notice, START);
        captured.extend([probe, echo, client.sign(&notice)]);
    }
    // The server restarts: a new session, nothing known.
    let mut restarted = End::new(0x60, false);
    for packet in &captured {
        match Header::parse(packet).unwrap().kind {
            // A stranger's probe is answered, but teaches nothing.
            Kind::Probe => {
                let before = words(&restarted.state);
                let stranger = Outcome::Answer { changed: false, newest: false };
                assert_eq!(restarted.take(packet, START).unwrap().0, stranger);
                assert_eq!(words(&restarted.state), before);
            }
            _ => assert_eq!(restarted.refuses(packet, START), Refusal::Replayed),
        }
    }
    // Once the real peer is known, they get not even an answer.
    exchange(&mut restarted, &client, START + 2 * DETECTION_NS);
    for packet in &captured {
        let refusal = restarted.take(packet, START + 2 * DETECTION_NS);
        let is_known_probe = Header::parse(packet).unwrap().kind == Kind::Probe;
        // The client's session is the same as then, so its probes count as its own, but not as hearing me.
        match refusal {
            Ok((outcome, _)) => {
                assert!(is_known_probe);
                assert_eq!(outcome, Outcome::Answer { changed: false, newest: false });
                assert_eq!(restarted.state.last_probe_ns.load(), 0);
            }
            Err(refusal) => assert_eq!(refusal, Refusal::Replayed),
        }
    }
}

#[test]
fn a_living_peer_is_not_displaced_and_a_silent_one_is() {
    let (_, mut server) = acquainted();
    let heard_ns = START + 2 * MS;
    let mut successor = End::new(0xc2, true);
    let probe = successor.probe(START);
    assert_eq!(server.refuses(&probe, heard_ns + DETECTION_NS - 1), Refusal::Replayed);
    let (_, echo) = server.take(&probe, heard_ns + DETECTION_NS).unwrap();
    successor.take(&echo.unwrap(), START).unwrap();
    exchange(&mut server, &successor, heard_ns + 2 * DETECTION_NS);
    assert_eq!(server.state.peer.load(), party(0xc2));
    assert_eq!((server.state.probes.load(), server.state.probe_window.load()), (0, window::EMPTY), "it starts anew");
}

#[test]
fn a_silent_daemon_is_answered_for_and_it_is_said_since_when() {
    let (mut client, server) = acquainted();
    server.intent.renewed_ns.store(START);
    server.intent.lease_ns.store(1_500 * MS);
    for (since_ms, said) in [(0, 0), (1_500, 0), (1_501, 1), (2_999, 2), (5_000, 5), (254_900, 254), (10_000_000, 255)]
    {
        let now_ns = START + since_ms * MS;
        let probe = client.probe(now_ns);
        let (_, echo) = server.take(&probe, now_ns).unwrap();
        let echo = echo.unwrap();
        assert_eq!(Header::parse(&echo).unwrap().silence_seconds, said, "after {since_ms} ms");
        client.take(&echo, now_ns).unwrap();
        assert_eq!(View::unpack(client.state.peer_view.load()).silence_seconds, said);
    }
}

#[test]
fn an_echo_that_was_held_back_is_late_and_no_sign_of_life() {
    let (mut client, server) = acquainted();
    let probe = client.probe(START);
    let (_, echo) = server.take(&probe, START).unwrap();
    let echo = echo.unwrap();
    let before = (client.state.last_echo_ns.load(), client.state.newest_sent_ns.load(), client.state.echoes.load());
    assert_eq!(client.take(&echo, START + DETECTION_NS + 1), Err(Refusal::Late));
    let after = (client.state.last_echo_ns.load(), client.state.newest_sent_ns.load(), client.state.echoes.load());
    assert_eq!(before, after);
    assert_eq!(client.state.late_echoes.load(), 1);
    assert_eq!(client.state.late_rtt_ns.load(), DETECTION_NS + 1);
    assert_eq!(client.take(&echo, START + DETECTION_NS + 2), Err(Refusal::Replayed), "and counts once");
    exchange(&mut client, &server, START + 2 * DETECTION_NS);
}

#[test]
fn only_the_newest_sequence_speaks() {
    let (mut client, server) = acquainted();
    client.say(View { epoch: 5, flags: flags::DRAINED, ..View::default() });
    let old = client.probe(START);
    client.say(View { epoch: 5, ..View::default() });
    let new = client.probe(START);
    server.take(&new, START).unwrap();
    let said = server.state.peer_view.load();
    assert_eq!(
        server.take(&old, START).unwrap().0,
        Outcome::Answer { changed: false, newest: false },
        "still answered"
    );
    assert_eq!(server.state.peer_view.load(), said, "the same epoch, but an older sequence");
    // The same of echoes.
    let (first, second) = (client.probe(START), client.probe(START));
    server.say(View { epoch: 1, flags: flags::DRAINED, ..View::default() });
    let old = server.take(&first, START).unwrap().1.unwrap();
    server.say(View { epoch: 1, ..View::default() });
    let new = server.take(&second, START).unwrap().1.unwrap();
    client.take(&new, START).unwrap();
    let said = client.state.peer_view.load();
    assert_eq!(client.take(&old, START).unwrap().0, Outcome::Alive { changed: false });
    assert_eq!(client.state.peer_view.load(), said);
}

#[test]
fn a_probe_that_was_held_up_does_not_speak() {
    let (mut client, mut server) = acquainted();
    client.say(View { epoch: 5, flags: flags::DRAINED, ..View::default() });
    let held = client.probe(START);
    client.say(View { epoch: 5, ..View::default() });
    for _ in 0..=MAX_LAG {
        exchange(&mut server, &client, START);
    }
    let said = server.state.peer_view.load();
    assert_eq!(server.take(&held, START).unwrap().0, Outcome::Answer { changed: false, newest: true });
    assert_eq!(server.state.peer_view.load(), said, "its acknowledgement shows its age");
    client.say(View { epoch: 6, ..View::default() });
    let prompt = client.probe(START);
    assert_eq!(server.take(&prompt, START).unwrap().0, Outcome::Answer { changed: true, newest: true });
}

#[test]
fn a_former_life_of_the_peer_is_not_brought_back_by_what_was_held_of_it() {
    let (mut client, server) = acquainted();
    let held = [client.probe(START), client.probe(START)].map(|probe| server.take(&probe, START).unwrap().1.unwrap());
    let restarted = End::new(0x60, false);
    exchange(&mut client, &restarted, START + DETECTION_NS / 2);
    for echo in held {
        assert_eq!(client.refuses(&echo, START + DETECTION_NS / 2), Refusal::Replayed);
    }
    assert_eq!(client.state.peer.load(), party(0x60));
}

#[test]
fn who_sent_from_further_away_than_allowed_is_refused_unsigned() {
    let (mut client, server) = acquainted();
    let probe = client.probe(START);
    let header = Header::parse(&probe).unwrap();
    let screened = |hops| screen(&header, hops, &server.intent, &server.state, || START);
    server.intent.min_hops.store(255);
    assert_eq!(screened(254), Err(Refusal::Distant));
    assert_eq!(screened(255), Ok(Candidate::Probe { heard: true }));
    server.intent.min_hops.store(0);
    assert_eq!(screened(0), Ok(Candidate::Probe { heard: true }));
}

#[test]
fn epochs_wrap() {
    let (mut client, server) = acquainted();
    for epoch in [u32::MAX - 1, u32::MAX, 0, 1] {
        client.say(View { epoch, ..View::default() });
        let probe = client.probe(START);
        server.take(&probe, START).unwrap();
        // From the first one on, which may lie anywhere: a server that has heard nothing holds 0.
        if epoch != u32::MAX - 1 {
            assert_eq!(View::unpack(server.state.peer_view.load()).epoch, epoch);
        } else {
            server.state.peer_view.store(View { epoch, ..View::default() }.pack());
        }
    }
}

#[test]
fn control_packets_need_both_sessions_and_a_new_sequence() {
    let (mut client, server) = acquainted();
    let header = client.header(Kind::Announce, START);
    let packet = client.sign(&header);
    assert_eq!(server.take(&packet, START).unwrap(), (Outcome::Deliver, None));
    assert_eq!(server.refuses(&packet, START), Refusal::Replayed);
    for wrong in [
        Header { sender_session: 1, sequence: 100, ..header },
        Header { receiver_session: 0, sequence: 100, ..header },
        Header { receiver_session: 1, sequence: 100, ..header },
    ] {
        assert_eq!(server.refuses(&client.sign(&wrong), START), Refusal::Replayed);
    }
    // Their sequences are their own: they do not take any away from probes.
    server.take(&client.sign(&Header { kind: Kind::Probe, ..header }), START).unwrap();
}

#[test]
fn signatures_are_checked_with_the_key_that_the_packet_names() {
    let (mut client, server) = acquainted();
    client.keys = keys(&[b"spare"]);
    let probe = client.probe(START);
    server.take(&probe, START).unwrap();
    client.keys = keys(&[b"unknown"]);
    assert_eq!(server.refuses(&client.probe(START), START), Refusal::Forged);
    client.keys = keys(&[b"key one"]);
    client.keys.ids[0] = b's';
    assert_eq!(server.refuses(&client.probe(START), START), Refusal::Forged, "signed by one, naming another");
    // An id in an unused place of the set is not a key.
    client.keys = KeySet { count: 1, ids: [0; MAX_KEYS], states: [KeyState::default(); MAX_KEYS] };
    assert_eq!(server.refuses(&client.probe(START), START), Refusal::Forged);
}

#[test]
fn no_single_wrong_bit_is_accepted() {
    let (mut client, server) = acquainted();
    let probe = client.probe(START);
    for bit in 0..PACKET_LEN * 8 {
        let mut changed = probe;
        changed[bit / 8] ^= 1 << (bit % 8);
        server.refuses(&changed, START);
    }
    server.take(&probe, START).unwrap();
}

#[test]
fn what_the_peer_says_is_learned_and_older_epochs_are_not() {
    let (mut client, server) = acquainted();
    client.say(View { epoch: 5, rank: 2, flags: flags::ACTIVE, ..View::default() });
    let early = client.probe(START);
    client.say(View { epoch: 6, rank: 2, flags: flags::ACTIVE | flags::DRAINED, ..View::default() });
    client.intent.generation.store(3);
    let late = client.probe(START);
    assert_eq!(server.take(&late, START).unwrap().0, Outcome::Answer { changed: true, newest: true });
    let said = View::unpack(server.state.peer_view.load());
    assert_eq!((said.epoch, said.rank), (6, 2));
    assert_eq!(said.flags, flags::ACTIVE | flags::DRAINED | flags::CLIENT);
    assert_eq!(server.state.peer_generation.load(), 3);
    assert_eq!(server.take(&early, START).unwrap().0, Outcome::Answer { changed: false, newest: false }, "overtaken");
    assert_eq!(View::unpack(server.state.peer_view.load()), said);
    let again = client.probe(START);
    assert_eq!(server.take(&again, START).unwrap().0, Outcome::Answer { changed: false, newest: true }, "nothing new");
}

#[test]
fn round_trips_are_measured_and_smoothed() {
    let (mut client, server) = acquainted();
    client.state.srtt_ns.store(0);
    let mut round_trip = |rtt_ns| {
        let probe = client.probe(START);
        let echo = server.take(&probe, START).unwrap().1.unwrap();
        client.take(&echo, START + rtt_ns).unwrap();
        let state = &client.state;
        (state.rtt_ns.load(), state.srtt_ns.load(), state.jitter_ns.load())
    };
    assert_eq!(round_trip(8000), (8000, 8000, 0));
    assert_eq!(round_trip(16_000), (16_000, 9000, 500));
    assert_eq!(round_trip(16_000), (16_000, 9875, 469));
    for _ in 0..200 {
        round_trip(4_000);
    }
    let (_, srtt_ns, jitter_ns) = round_trip(4_000);
    assert!((3_900..4_100).contains(&srtt_ns), "{srtt_ns}");
    assert!(jitter_ns < 20, "{jitter_ns}");
    // A clock that runs backwards is no reason to panic.
    let probe = client.probe(START);
    let echo = server.take(&probe, START).unwrap().1.unwrap();
    client.take(&echo, START - 1).unwrap();
    assert_eq!(client.state.rtt_ns.load(), 0);
}

#[test]
fn the_echo_tells_how_many_probes_arrived() {
    let (mut client, server) = acquainted();
    for expected in 1..5 {
        client.probe(START); // One is lost.
        let (_, echo) = exchange(&mut client, &server, START);
        assert_eq!(Header::parse(&echo).unwrap().received, expected);
        assert_eq!(client.state.peer_received.load(), expected);
    }
}

/// A word that another CPU changes just before each exchange, as often as it is told to.
struct Contended {
    word: Shared,
    others: Shared,
}

impl Word for Contended {
    fn load(&self) -> u64 {
        self.word.load()
    }
    fn store(&self, value: u64) {
        self.word.store(value);
    }
    fn compare_exchange(&self, current: u64, new: u64) -> bool {
        let others = self.others.load();
        if others > 0 {
            self.others.store(others - 1);
            let next = window::highest(self.word.load()) + 1;
            self.word.store(window::accept(self.word.load(), next).unwrap());
        }
        Word::compare_exchange(&self.word, current, new)
    }
}

#[test]
fn two_cpus_with_the_same_packet_accept_it_once() {
    let contended = |others| Contended { word: Shared::of(window::EMPTY), others: Shared::of(others) };
    assert_eq!(take(&contended(1), 1), Err(Refusal::Replayed), "the other one had the same");
    let word = contended(3);
    assert_eq!(take(&word, 10), Ok(true), "three others had other ones");
    assert_eq!(window::highest(word.load()), 10);
    assert_eq!(take(&contended(4), 10), Err(Refusal::Replayed), "a bound on tries");
}
