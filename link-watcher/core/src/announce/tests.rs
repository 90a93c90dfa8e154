#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fastrand::Rng;
use ipnet::IpNet;

use super::{codec, *};
use crate::event::LinkId;

const MS: u64 = 1_000_000;
const SENDER: u32 = 7;
const RECEIVER: u32 = 9;

/// A list that says by itself which one it is: the first prefix stands for its number.
fn list(number: u32, length: u32) -> Vec<IpNet> {
    let first = format!("10.{}.{}.0/24", number / 256 % 256, number % 256).parse().unwrap();
    let rest =
        (0..length).map(|i| format!("172.{}.{}.{}/32", 16 + i / 65_536, i / 256 % 256, i % 256).parse().unwrap());
    std::iter::once(first).chain(rest).collect()
}

fn number(list: &[IpNet]) -> u32 {
    let std::net::IpAddr::V4(address) = list[0].addr() else { panic!("{:?}", list[0]) };
    u32::from(address) >> 8 & 0xffff
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Announce,
    Ack,
    Notice,
    Keepalive,
}

/// How a link treats packets.
#[derive(Clone, Copy)]
struct Path {
    loss: f64,
    doubled: f64,
    /// Least and most delay, ms.
    delay: (u64, u64),
    /// Longest body that passes.
    mtu: usize,
    /// Control packets pass; keepalives do anyhow.
    control: bool,
}

const GOOD: Path = Path { loss: 0.0, doubled: 0.0, delay: (1, 1), mtu: usize::MAX, control: true };

/// A packet on its way: what it is, its link, its sender's instance, its body.
type Flying = (Kind, usize, u32, Vec<u8>);

struct World {
    now_ns: u64,
    random: Rng,
    paths: Vec<Path>,
    sender: Sender,
    receiver: Receiver,
    flying: BTreeMap<(u64, u64), Flying>,
    count: u64,
    used: Vec<(u64, Vec<IpNet>)>,
    sent: BTreeMap<usize, usize>,
    policy: Vec<IpNet>,
}

impl World {
    fn new(seed: u64, paths: &[Path]) -> Self {
        let mut world = Self {
            now_ns: 1_000 * MS,
            random: Rng::with_seed(seed),
            paths: paths.to_vec(),
            sender: Sender::default(),
            receiver: Receiver::default(),
            flying: BTreeMap::new(),
            count: 0,
            used: Vec::new(),
            sent: BTreeMap::new(),
            policy: vec!["0.0.0.0/0".parse().unwrap()],
        };
        world.sender.peer(world.now_ns, RECEIVER);
        world
    }

    fn fly(&mut self, kind: Kind, link: usize, instance: u32, body: &[u8]) {
        let path = self.paths[link];
        let blocked = kind != Kind::Keepalive && (!path.control || body.len() > path.mtu);
        if blocked || self.random.f64() < path.loss {
            return;
        }
        for _ in 0..1 + u32::from(self.random.f64() < path.doubled) {
            let at_ns = self.now_ns + self.random.u64(path.delay.0..=path.delay.1) * MS;
            self.count += 1;
            self.flying.insert((at_ns, self.count), (kind, link, instance, body.to_vec()));
        }
    }

    fn arrive(&mut self, kind: Kind, link: usize, instance: u32, body: &[u8]) {
        let id = LinkId(link as u32);
        match kind {
            Kind::Announce => {
                if let Some(ack) = self.receiver.take(self.now_ns, instance, body).unwrap() {
                    self.fly(Kind::Ack, link, RECEIVER, &ack);
                }
            }
            Kind::Ack => self.sender.acknowledge(self.now_ns, id, instance, body).unwrap(),
            Kind::Notice => assert!(self.sender.asked(self.now_ns, instance, body)),
            Kind::Keepalive => {
                let generation = u16::from_be_bytes([body[0], body[1]]);
                self.receiver.hear(self.now_ns, Some((instance, generation)));
            }
        }
    }

    /// Lets time pass, a millisecond at a time.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ns += MS;
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
                let (kind, link, instance, body) = entry.remove();
                self.arrive(kind, link, instance, &body);
            }
            let ways: Vec<Way> =
                (0..self.paths.len()).map(|link| Way { link: LinkId(link as u32), rtt_ns: 0 }).collect();
            if self.sender.next_deadline_ns().is_some_and(|due_ns| due_ns <= self.now_ns)
                || self.now_ns.is_multiple_of(10 * MS)
            {
                for (link, body) in self.sender.poll(self.now_ns, &ways) {
                    *self.sent.entry(link.0 as usize).or_default() += 1;
                    self.fly(Kind::Announce, link.0 as usize, SENDER, &body);
                }
            }
            if self.now_ns.is_multiple_of(100 * MS) {
                let generation = self.sender.generation().to_be_bytes();
                for link in 0..self.paths.len() {
                    self.fly(Kind::Keepalive, link, SENDER, &generation);
                }
            }
            let due = self.receiver.poll(self.now_ns);
            if let Some(list) = due.list {
                let judged = Policy::new(&self.policy, &Own::new([], [])).judge(&list);
                self.used.push((self.now_ns, list));
                if let Some(ack) = self.receiver.judged(&judged) {
                    self.fly(Kind::Ack, 0, RECEIVER, &ack);
                }
            }
            if let Some(ask) = due.ask {
                for link in 0..self.paths.len() {
                    self.fly(Kind::Notice, link, RECEIVER, &ask);
                }
            }
        }
    }

    fn last(&self) -> Option<u32> {
        self.used.last().map(|(_, list)| number(list))
    }
}

#[test]
fn lists_of_every_size_arrive_whole_and_are_acknowledged() {
    for length in [0, 1, 168, 169, 4_000] {
        let mut world = World::new(1, &[GOOD]);
        world.sender.set(world.now_ns, list(1, length));
        world.run(300);
        assert_eq!(world.used.last().map(|(_, used)| used.clone()), Some(list(1, length)), "{length}");
        let status = world.sender.status();
        assert!(status.acknowledged && status.sent == length as usize + 1, "{status:?}");
        assert!(world.sent[&0] <= length as usize / 168 + 3, "{length} in {} chunks", world.sent[&0]);
        let sent = world.sent[&0];
        world.run(20_000);
        assert_eq!(world.sent[&0], sent, "what is in use is not sent again");
    }
}

/// Random lives: lists change, packets are lost, doubled, delayed and overtake each other, on several links.
#[test]
fn the_newest_list_wins_and_an_older_one_never_follows() {
    let (mut lists, mut taken, mut held_back) = (0, 0, 0);
    for seed in 0..80 {
        let mut random = Rng::with_seed(seed);
        let paths: Vec<Path> = (0..random.usize(1..4))
            .map(|_| Path {
                loss: random.f64() * 0.5,
                doubled: random.f64() * 0.5,
                delay: (0, random.u64(1..400)),
                ..GOOD
            })
            .collect();
        let mut world = World::new(seed, &paths);
        let mut newest = 0;
        for _ in 0..random.u32(1..12) {
            newest += 1;
            lists += 1;
            let length = random.u32(0..700);
            world.sender.set(world.now_ns, list(newest, length));
            world.run(random.u64(1..1_500));
        }
        world.paths.iter_mut().for_each(|path| *path = GOOD);
        // What was on its way may be so for another 400 ms.
        world.run(1_500);
        assert_eq!(world.last(), Some(newest), "seed {seed}: the newest is in use within a second and a half");
        assert!(world.sender.status().acknowledged, "seed {seed}");
        let numbers: Vec<u32> = world.used.iter().map(|(_, list)| number(list)).collect();
        assert!(numbers.is_sorted(), "seed {seed}: {numbers:?}");
        for pair in world.used.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= CHANGE_GAP_NS, "seed {seed}: two lists a second");
        }
        taken += numbers.len();
        held_back += usize::from(numbers.len() < newest as usize);
    }
    assert!(lists > 300 && taken > 200 && held_back > 10, "{lists} {taken} {held_back}");
}

#[test]
fn every_captured_chunk_replayed_in_every_order_changes_nothing() {
    let mut random = Rng::with_seed(5);
    let mut sender = Sender::default();
    sender.peer(0, RECEIVER);
    let mut captured = Vec::new();
    for number in 1..=40 {
        let now_ns = u64::from(number) * 1_000 * MS;
        sender.set(now_ns, list(number, 300));
        captured.extend(sender.poll(now_ns, &[Way { link: LinkId(0), rtt_ns: 0 }]));
    }
    for _ in 0..50 {
        random.shuffle(&mut captured);
        let (mut receiver, mut newest) = (Receiver::default(), 0);
        for (step, (_, body)) in captured.iter().chain(&captured).enumerate() {
            let now_ns = step as u64 * 600 * MS;
            receiver.take(now_ns, SENDER, body).unwrap();
            if let Some(list) = receiver.poll(now_ns).list {
                assert!(number(&list) > newest, "{} after {newest}", number(&list));
                newest = number(&list);
            }
        }
        assert_eq!(newest, 40);
    }
}

#[test]
fn generations_wrap_past_zero_and_stay_in_order() {
    let mut world = World::new(2, &[GOOD]);
    let mut newest = 0;
    for _ in 0..70_000_u32 {
        newest += 1;
        world.sender.set(world.now_ns, list(newest % 60_000, 0));
        world.now_ns += CHANGE_GAP_NS;
        // By hand and without keepalives: 70,000 lists in little time.
        for (_, body) in world.sender.poll(world.now_ns, &[Way { link: LinkId(0), rtt_ns: 0 }]) {
            world.receiver.take(world.now_ns, SENDER, &body).unwrap();
            let taken = world.receiver.poll(world.now_ns).list.unwrap();
            assert_eq!(number(&taken), newest % 60_000);
            let ack = world.receiver.judged(&Judged::default()).unwrap();
            world.sender.acknowledge(world.now_ns, LinkId(0), RECEIVER, &ack).unwrap();
        }
        assert_ne!(world.sender.generation(), 0);
        assert!(world.sender.status().acknowledged, "{newest}");
    }
}

#[test]
fn a_sender_never_gets_so_far_ahead_that_its_peer_would_be_deceived() {
    let mut world = World::new(2, &[GOOD]);
    world.sender.set(world.now_ns, list(1, 0));
    world.run(100);
    let base = world.sender.generation();
    for number in 2..60_000 {
        world.now_ns += CHANGE_GAP_NS;
        world.sender.set(world.now_ns, list(number, 0));
        let ahead = world.sender.generation().wrapping_sub(base);
        assert!(ahead <= 0x4000, "{ahead}");
    }
    world.run(1_700);
    assert_eq!(world.last(), Some(59_999), "and the newest arrives when the peer answers again");
}

#[test]
fn both_sides_survive_a_restart_of_the_other() {
    let mut world = World::new(3, &[GOOD]);
    world.sender.set(world.now_ns, list(1, 300));
    world.run(300);
    let late = world.sender.poll(world.now_ns + 60_000 * MS, &[Way { link: LinkId(0), rtt_ns: 0 }]).remove(0).1;
    // The receiver restarts: it gets the list again.
    world.receiver = Receiver::default();
    world.sender.peer(world.now_ns, RECEIVER + 1);
    let way = [Way { link: LinkId(0), rtt_ns: 0 }];
    for (_, body) in world.sender.poll(world.now_ns, &way) {
        world.receiver.take(world.now_ns, SENDER, &body).unwrap();
    }
    assert_eq!(number(&world.receiver.poll(world.now_ns).list.unwrap()), 1);
    assert!(
        world.sender.acknowledge(world.now_ns, LinkId(0), RECEIVER, &late).is_err(),
        "a chunk is no acknowledgement"
    );
    // The sender restarts: its generations begin anew, and count all the same. Late packets of its former life do not.
    let mut again = Sender::default();
    again.peer(world.now_ns, RECEIVER + 1);
    again.set(world.now_ns, list(2, 0));
    let body = again.poll(world.now_ns, &way).remove(0).1;
    world.now_ns += 1_000 * MS;
    assert!(world.receiver.take(world.now_ns, SENDER + 1, &body).unwrap().is_some());
    assert_eq!(number(&world.receiver.poll(world.now_ns).list.unwrap()), 2);
    world.now_ns += 1_000 * MS;
    assert_eq!(world.receiver.take(world.now_ns, SENDER, &late), Ok(None), "of a life that is over");
    world.receiver.hear(world.now_ns, Some((SENDER, 1)));
    assert_eq!(world.receiver.poll(world.now_ns + 60_000 * MS), Due::default());
}

#[test]
fn the_keepalives_generation_makes_a_receiver_ask_and_a_sender_send() {
    // The sender believes that all is well; the receiver knows better.
    let mut world = World::new(4, &[GOOD, GOOD]);
    world.sender.set(world.now_ns, list(1, 500));
    world.run(300);
    world.receiver = Receiver::default();
    world.used.clear();
    world.run(1_000);
    assert_eq!(world.last(), Some(1), "healed within a second");
    // An older generation in a keepalive is an older keepalive.
    world.receiver.hear(world.now_ns, Some((SENDER, world.sender.generation() - 1)));
    assert_eq!(world.receiver.poll(world.now_ns + 10_000 * MS).ask, None);
}

#[test]
fn demands_are_few() {
    let mut receiver = Receiver::default();
    let mut demands = 0;
    for ms in 0..10_000 {
        receiver.hear(ms * MS, Some((SENDER, 5)));
        demands += usize::from(receiver.poll(ms * MS).ask.is_some());
    }
    assert!((9..=13).contains(&demands), "{demands} in 10 s");
    // And a sender that is asked again and again answers five times a second at most.
    let mut world = World::new(4, &[GOOD]);
    world.sender.set(world.now_ns, list(1, 0));
    world.run(300);
    let ask = codec::encode_ask(world.sender.generation());
    let mut sent = 0;
    for ms in 0..1_000 {
        world.sender.asked(world.now_ns + ms * MS, RECEIVER, &ask);
        sent += world.sender.poll(world.now_ns + ms * MS, &[Way { link: LinkId(0), rtt_ns: 0 }]).len();
    }
    assert!(sent <= 6, "{sent} in a second");
}

#[test]
fn a_narrow_link_is_left_for_another_or_gets_smaller_chunks() {
    // Case W14: 300 prefixes, link 0 is too narrow for full chunks.
    let narrow = Path { mtu: 600, ..GOOD };
    let mut world = World::new(6, &[narrow, GOOD]);
    world.sender.set(world.now_ns, list(1, 300));
    world.run(600);
    assert_eq!(world.last(), Some(1), "over the other link");
    assert_eq!(world.sender.generation(), 1);
    let mut world = World::new(6, &[narrow]);
    world.sender.set(world.now_ns, list(1, 300));
    world.run(1_200);
    assert_eq!(world.last(), Some(1), "in smaller chunks");
    assert!(world.sender.generation() > 1, "under a new generation");
    let mut world = World::new(6, &[Path { mtu: 300, ..GOOD }, Path { mtu: 300, ..GOOD }]);
    world.sender.set(world.now_ns, list(1, 300));
    world.run(3_000);
    assert_eq!(world.last(), Some(1), "in still smaller ones");
}

#[test]
fn loss_alone_cuts_nothing_smaller_for_long_lists() {
    let mut world = World::new(8, &[Path { loss: 0.2, ..GOOD }]);
    world.sender.set(world.now_ns, list(1, 4_000));
    world.run(4_000);
    assert_eq!(world.last(), Some(1));
    assert_eq!(world.sender.generation(), 1, "some full chunk was acknowledged: no path is too narrow");
}

#[test]
fn silence_of_five_seconds_is_said_at_both_ends_and_ends_with_the_path() {
    // Case W13: keepalives are answered, announcements are not.
    let mut world = World::new(9, &[Path { control: false, ..GOOD }]);
    world.sender.set(world.now_ns, list(1, 2));
    world.run(4_900);
    assert!(!world.sender.status().unanswered && !world.receiver.status().missing);
    world.run(500);
    assert!(world.sender.status().unanswered && world.receiver.status().missing);
    assert!(!world.sender.status().acknowledged);
    let before: usize = world.sent.values().sum();
    world.run(10_000);
    let after: usize = world.sent.values().sum();
    assert!(after - before <= 25, "{} in 10 s", after - before);
    world.paths[0].control = true;
    world.run(1_000);
    assert_eq!(world.last(), Some(1), "healed within a second");
    assert!(world.sender.status().acknowledged);
    assert!(!world.sender.status().unanswered && !world.receiver.status().missing);
}

#[test]
fn with_no_link_nobody_is_accused() {
    let mut sender = Sender::default();
    sender.set(0, list(1, 2));
    sender.peer(0, RECEIVER);
    for s in 0..20 {
        assert!(sender.poll(s * 1_000 * MS, &[]).is_empty());
    }
    assert!(!sender.status().unanswered);
    let mut receiver = Receiver::default();
    receiver.hear(0, Some((SENDER, 3)));
    receiver.hear(MS, None);
    receiver.poll(20_000 * MS);
    assert!(!receiver.status().missing);
}

#[test]
fn a_list_that_is_too_long_is_refused_whole_before_memory_is_spent() {
    let mut world = World::new(10, &[GOOD]);
    world.receiver.set_max_prefixes(100);
    world.sender.set(world.now_ns, list(1, 10));
    world.run(300);
    world.sender.set(world.now_ns, list(2, 60_000));
    for _ in 0..1_000 {
        world.run(1);
        assert_eq!(world.receiver.held(), 0);
    }
    assert_eq!(world.last(), Some(1), "the former list stays");
    assert_eq!(world.sender.status().too_long, Some(100), "and the sender knows why");
    assert_eq!(world.receiver.status().too_long, Some(60_001));
    assert!(!world.sender.status().acknowledged);
    let sent: usize = world.sent.values().sum();
    world.run(5_000);
    assert!(world.sent.values().sum::<usize>() - sent <= 1, "nothing is sent in vain");
    // Allowed now, it comes within a second.
    world.receiver.set_max_prefixes(MAX_PREFIXES);
    world.run(2_000);
    assert_eq!(world.last(), Some(2));
}

#[test]
fn what_is_refused_is_told_to_the_sender() {
    let mut world = World::new(11, &[GOOD]);
    world.policy = vec!["10.0.0.0/8".parse().unwrap()];
    world.sender.set(world.now_ns, list(1, 500));
    world.run(300);
    let status = world.sender.status();
    assert_eq!((status.acknowledged, status.refused, status.refusals.len()), (true, 500, MAX_REFUSALS_TOLD));
    assert_eq!(status.refusals[0], ("172.16.0.0/32".parse().unwrap(), Reason::NotAccepted));
}

#[test]
fn chunks_beyond_the_rate_are_not_looked_at() {
    let mut receiver = Receiver::default();
    let bodies = codec::encode_list(1, &list(1, 20_000), 256);
    let looked = (0..100_000).filter(|i| receiver.take(0, SENDER, &bodies[i % 400]).unwrap().is_some()).count();
    assert_eq!(looked, 2_000);
}

#[test]
fn every_cut_and_every_defect_is_refused() {
    let prefixes: Vec<IpNet> = ["10.20.20.0/22", "2001:db8::/32"].iter().map(|text| text.parse().unwrap()).collect();
    let good = codec::encode_list(1, &prefixes, 1024).remove(0);
    let take = |body: &[u8]| Receiver::default().take(0, SENDER, body);
    assert!(take(&good).is_ok());
    for length in 0..good.len() {
        assert!(take(&good[..length]).is_err(), "cut to {length}");
    }
    assert!(take(&[&good[..], &[0]].concat()).is_err());
    // Generation 0, chunk behind the last, no chunks, count, total, family, length, host bits.
    for (at, value) in [(1, 0), (3, 1), (5, 0), (5, 2), (7, 1), (7, 3), (11, 1), (11, 9), (12, 5), (13, 33), (17, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(take(&bad).is_err() || at == 5 && value == 2, "byte {at} = {value}");
    }
    let ack = codec::encode_ack(&codec::Ack {
        generation: 1,
        index: 0,
        state: codec::AckState::InUse { refused: 2, examples: vec![(prefixes[0], Reason::Loopback); 2] },
    });
    assert!(codec::decode_ack(&ack).is_ok());
    for length in 0..ack.len() {
        assert!(codec::decode_ack(&ack[..length]).is_err(), "cut to {length}");
    }
    for (at, value) in [(4, 4), (4, 0), (5, 9), (5, 1), (11, 7), (12, 33)] {
        let mut bad = ack.clone();
        bad[at] = value;
        assert!(codec::decode_ack(&bad).is_err(), "byte {at} = {value}");
    }
}

/// Any bytes: no panic, and what is held is bounded. Half of them are good ones with a few bytes changed.
#[test]
fn no_bytes_make_it_panic_or_grow() {
    let mut random = Rng::with_seed(12);
    let mut receiver = Receiver::default();
    let mut sender = Sender::default();
    sender.set(0, list(1, 300));
    sender.peer(0, RECEIVER);
    let (mut good, mut bad) = (0, 0);
    for round in 0..12_000_u64 {
        let now_ns = round * MS;
        let mut body = if random.bool() {
            (0..random.usize(..1025)).map(|_| random.u8(..)).collect()
        } else {
            let length = random.u32(..600);
            let bodies =
                codec::encode_list(random.u16(1..), &list(random.u32(..60_000), length), random.usize(256..=1024));
            bodies[random.usize(..bodies.len())].clone()
        };
        for _ in 0..random.usize(..3) {
            if !body.is_empty() {
                let at = random.usize(..body.len());
                body[at] = random.u8(..);
            }
        }
        match receiver.take(now_ns, random.u32(1..4), &body) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
        receiver.hear(now_ns, random.bool().then(|| (random.u32(1..4), random.u16(..))));
        receiver.poll(now_ns);
        assert!(receiver.held() <= DEFAULT_MAX_PREFIXES);
        let _ = sender.acknowledge(now_ns, LinkId(0), RECEIVER, &body);
        sender.asked(now_ns, RECEIVER, &body);
        assert!(sender.poll(now_ns, &[Way { link: LinkId(0), rtt_ns: random.u64(..1 << 40) }]).len() <= 8);
    }
    assert!(good > 2_000 && bad > 2_000, "{good} {bad}");
}
