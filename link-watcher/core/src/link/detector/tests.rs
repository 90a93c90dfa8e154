use super::*;

const I: u64 = 10_000_000;
const RTT: u64 = 50_000;

fn echoed(sent_ns: u64, at_ns: u64, highest: u64, count: u64) -> Echoes {
    let rtt_ns = at_ns - sent_ns;
    Echoes { last_ns: at_ns, highest, newest_sent_ns: sent_ns, rtt_ns, count, ..Echoes::default() }
}

/// Probes every interval from 0; echoes for sequences where `answered`; stalls of the prober in between. Gives every
/// edge with its time.
fn run(multiplier: u32, until: u64, answered: impl Fn(u64) -> bool, stalled: impl Fn(u64) -> bool) -> Vec<(u64, Edge)> {
    run_over(RTT, multiplier, until, answered, stalled)
}

/// The same with another round trip.
fn run_over(
    rtt: u64,
    multiplier: u32,
    until: u64,
    answered: impl Fn(u64) -> bool,
    stalled: impl Fn(u64) -> bool,
) -> Vec<(u64, Edge)> {
    let (mut detector, mut edges) = (Detector::new(I, multiplier, Limits::default(), 1), Vec::new());
    let (mut echoes, mut in_flight, mut sequence, mut next_send) = (Echoes::default(), Vec::new(), 0, 1);
    let step = I / 40;
    for now in (1..until).step_by(step as usize) {
        in_flight.retain(|&(at, sequence): &(u64, u64)| {
            if at <= now {
                echoes = echoed(at - rtt, at, sequence, echoes.count + 1);
            }
            at > now
        });
        if stalled(now) {
            continue;
        }
        if now >= next_send {
            next_send += ((now - next_send) / I + 1) * I;
            sequence += 1;
            detector.on_sent(now, sequence);
            if answered(now) {
                in_flight.push((now + rtt, sequence));
            }
        }
        if let Some(edge) = detector.poll(now, echoes) {
            edges.push((now, edge));
        }
    }
    edges
}

#[test]
fn a_good_link_is_alive_once() {
    let edges = run(3, 100 * I, |_| true, |_| false);
    assert_eq!(edges.len(), 1);
    assert_eq!(edges[0].1, Edge::Alive);
}

#[test]
fn a_link_dead_from_the_start_is_silent_once_the_echo_of_the_longest_way_would_have_come() {
    let edges = run(3, 300 * I, |_| false, |_| false);
    assert_eq!(edges.len(), 1);
    assert!(matches!(edges[0].1, Edge::Silent { last_good_ns: 0, .. }), "{edges:?}");
    let due = LONGEST_RTT_NS + I;
    assert!((due..=due + I / 10).contains(&edges[0].0), "{edges:?}");
}

#[test]
fn a_cut_is_noticed_between_two_and_three_intervals_later() {
    for multiplier in [2, 3, 5] {
        for phase in 0..40 {
            let cut = 50 * I + phase * I / 40;
            let edges = run(multiplier, 100 * I, |now| now < cut, |_| false);
            let (at, Edge::Silent { last_good_ns, due_ns }) = edges[1] else { panic!("{edges:?}") };
            let m = u64::from(multiplier);
            assert!(due_ns <= at && at - due_ns <= I / 40, "noticed at the next look: {edges:?}");
            assert!(due_ns >= last_good_ns + m * I, "{edges:?}");
            assert!(at - cut >= (m - 1) * I && at - cut <= m * I + I / 10, "x{multiplier} phase {phase}: {}", at - cut);
        }
    }
}

#[test]
fn loss_below_the_multiplier_never_alarms() {
    for lost in 1..=2_u64 {
        let edges = run(3, 500 * I, |now| (now / I).is_multiple_of(lost + 1), |_| false);
        assert_eq!(edges.len(), 1, "{lost} lost in a row: {edges:?}");
    }
}

#[test]
fn no_stall_of_its_own_ever_alarms() {
    for length in 1..=200 {
        for phase in (0..40).step_by(7) {
            let from = 50 * I + phase * I / 40;
            let edges = run(3, 100 * I, |_| true, |now| (from..from + length * I / 10).contains(&now));
            assert_eq!(edges.len(), 1, "stall of {length}/10 at {phase}/40: {edges:?}");
        }
    }
}

#[test]
fn a_stall_with_a_lost_probe_does_not_alarm_either() {
    for phase in 0..40 {
        let from = 50 * I + phase * I / 40;
        let edges = run(3, 100 * I, |now| !(49 * I..=51 * I).contains(&now), |now| (from..from + 6 * I).contains(&now));
        assert_eq!(edges.len(), 1, "{phase}: {edges:?}");
    }
}

/// The probes that left before the stall were lost to a cut that ended in it: the first one after it decides.
#[test]
fn a_stall_over_a_cut_leaves_a_long_way_its_time() {
    for rtt in [RTT, I / 2, I, 2 * I] {
        for phase in 0..40 {
            let cut = 50 * I + phase * I / 40;
            let stall = cut + 2 * I;
            let lost = |now: u64| (cut..cut + 4 * I).contains(&now);
            let edges = run_over(rtt, 3, 100 * I, |now| !lost(now), |now| (stall..stall + 20 * I).contains(&now));
            assert_eq!(edges.len(), 1, "{rtt} ns, {phase}: {edges:?}");
        }
    }
}

#[test]
fn a_cut_during_a_stall_is_noticed_soon_after_it() {
    for phase in 0..40 {
        let from = 50 * I + phase * I / 40;
        let until = from + 8 * I;
        let edges = run(3, 100 * I, |now| now < from, |now| (from..until).contains(&now));
        assert_eq!(edges.len(), 2, "{edges:?}");
        assert!(edges[1].0 - until <= 4 * I, "{phase}: {}", edges[1].0 - until);
        let Edge::Silent { due_ns, .. } = edges[1].1 else { panic!("{edges:?}") };
        assert!(due_ns >= until, "probes that were not sent prove nothing: {due_ns}");
    }
}

#[test]
fn a_link_that_is_about_to_turn_silent_joins_and_no_other() {
    let mut detector = Detector::new(I, 3, Limits::default(), 1);
    let at = |sequence: u64| 1 + (sequence - 1) * I;
    let last = u64::from(RTTS_KNOWN) + 4;
    for sequence in 1..=last {
        detector.on_sent(at(sequence), sequence);
        detector.poll(at(sequence) + RTT, echoed(at(sequence), at(sequence) + RTT, sequence, sequence));
    }
    for sequence in last + 1..=last + 2 {
        detector.on_sent(at(sequence), sequence);
        assert_eq!(detector.join(at(sequence)), None, "too early");
    }
    assert_eq!(detector.join(at(last + 2) + I / 2), None, "the second has not had its time");
    detector.on_sent(at(last + 3), last + 3);
    assert_eq!(detector.join(at(last + 3)), Some(Edge::Silent { last_good_ns: at(last) + RTT, due_ns: at(last + 3) }));
    assert_eq!(detector.join(at(last + 3)), None, "once");
}

#[test]
fn an_answer_after_silence_is_alive_again() {
    let edges = run(3, 100 * I, |now| !(20 * I..40 * I).contains(&now), |_| false);
    assert_eq!(edges.len(), 3);
    assert_eq!(edges[2].1, Edge::Alive);
    assert!(edges[2].0 - 40 * I <= I + I / 10);
}

/// Two ends over a way whose delay is `delay(now)` for a packet that leaves now; nothing: it is cut. The verifier's side of
/// lateness is played as `verify::commit` has it.
fn history(interval: u64, until: u64, delay: impl Fn(u64) -> Option<u64>) -> Vec<(u64, Edge)> {
    let (mut detector, mut edges) = (Detector::new(interval, 3, Limits::default(), 1), Vec::new());
    let (mut echoes, mut in_flight, mut sequence) = (Echoes::default(), Vec::new(), 0);
    for now in (1..until).step_by((interval / 20) as usize) {
        if now > sequence * interval {
            sequence += 1;
            detector.on_sent(now, sequence);
            in_flight.extend(delay(now).map(|delay| (now + delay, now, sequence)));
        }
        in_flight.sort_unstable();
        while in_flight.first().is_some_and(|(at, ..)| *at <= now) {
            let (at, sent, sequence) = in_flight.remove(0);
            if at - sent > detector.max_age_ns() {
                (echoes.late, echoes.last_late_ns, echoes.late_rtt_ns) = (echoes.late + 1, at, at - sent);
                continue;
            }
            (echoes.last_ns, echoes.rtt_ns, echoes.count) = (at, at - sent, echoes.count + 1);
            if sequence > echoes.highest {
                (echoes.highest, echoes.newest_sent_ns) = (sequence, sent);
            }
        }
        edges.extend(detector.poll(now, echoes).map(|edge| (now, edge)));
    }
    edges
}

const MS: u64 = 1_000_000;

#[test]
fn a_link_that_answers_beneath_the_stack_only_is_impaired_until_it_answers_through_it() {
    let mut detector = Detector::new(100 * MS, 3, Limits::default(), 1);
    let mut edges = Vec::new();
    for sequence in 1..200 {
        let now = sequence * 100 * MS;
        detector.on_sent(now, sequence);
        if detector.stack.is_due(now) {
            detector.stack.on_sent(now);
            if sequence > 100 {
                detector.stack.on_answer(now + MS, now);
            }
        }
        edges.extend(detector.poll(now + MS, echoed(now, now + MS, sequence, sequence)).map(|edge| (sequence, edge)));
    }
    let [(_, Edge::Alive), (from, Edge::Impaired(Impairment::Beneath { .. })), (until, Edge::Alive)] = edges[..] else {
        panic!("{edges:?}")
    };
    assert!((40..=42).contains(&from) && (101..=111).contains(&until), "{edges:?}");
}

#[test]
fn a_satellite_is_up_and_stays_up() {
    let edges = history(100 * MS, 120_000 * MS, |_| Some(600 * MS));
    assert!(matches!(edges[..], [(_, Edge::Alive)]), "{edges:?}");
}

#[test]
fn echoes_held_back_do_not_keep_a_cut_link_up() {
    // Held for twelve seconds, then played one each interval, in their order.
    let edges = history(100 * MS, 60_000 * MS, |now| match now / MS {
        0..20_000 => Some(MS),
        20_000..32_000 => Some(12_000 * MS),
        _ => None,
    });
    let (at, last) = edges[edges.len() - 1];
    assert!(matches!(last, Edge::Silent { .. }), "{edges:?}");
    assert!(!edges[1..].iter().any(|(_, edge)| *edge == Edge::Alive), "{edges:?}");
    let (first_at, _) = edges[1];
    assert!(first_at <= 20_420 * MS, "{edges:?}");
    assert!(at <= 44_500 * MS, "and when they end it is over: {edges:?}");
}

#[test]
fn a_delay_that_is_not_usual_is_late_and_a_cut_behind_it_is_noticed_in_time() {
    let edges = history(100 * MS, 40_000 * MS, |now| match now / MS {
        0..20_000 => Some(MS),
        20_000..30_000 => Some(1_500 * MS),
        _ => None,
    });
    assert!(matches!(edges[1].1, Edge::Silent { .. } | Edge::Impaired(_)), "{edges:?}");
    assert!(
        edges.iter().any(|(_, edge)| matches!(edge, Edge::Impaired(Impairment::Late { usual_ns: MS, .. }))),
        "{edges:?}"
    );
    assert!(!edges[1..].iter().any(|(_, edge)| *edge == Edge::Alive), "{edges:?}");
}

#[test]
fn a_way_that_has_become_longer_is_taken_as_it_is_after_a_while() {
    let edges = history(100 * MS, 120_000 * MS, |now| Some(if now < 20_000 * MS { MS } else { 700 * MS }));
    let (at, last) = edges[edges.len() - 1];
    assert_eq!(last, Edge::Alive, "{edges:?}");
    assert!(at <= 20_000 * MS + 2 * crate::link::usual::USUAL_WINDOW_NS + 1_000 * MS, "{at}");
}

#[test]
fn after_any_history_of_delays_a_cut_is_noticed_within_the_detection_time_and_a_usual_round_trip() {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut cuts, mut longest) = (0, 0);
    for _ in 0..300 {
        let interval = [10 * MS, 100 * MS][random.usize(..2)];
        let base = random.u64(MS / 10..=50 * MS);
        let cut = interval * random.u64(50..300);
        // Spells of other delays, of up to three seconds, each for up to a hundred intervals.
        let spells: Vec<(u64, u64, u64)> = (0..random.usize(..6))
            .map(|_| (random.u64(..cut), interval * random.u64(1..100), random.u64(..3_000 * MS)))
            .collect();
        let edges = history(interval, cut + 40 * interval + 3_000 * MS, |now| {
            let spell = spells.iter().find(|(from, length, _)| (*from..from + length).contains(&now));
            (now < cut).then(|| spell.map_or(base, |(.., delay)| base + delay))
        });
        let bound = 3 * interval + base + interval / 2 + interval;
        let alive_after = edges.iter().filter(|(at, edge)| *at > cut + bound && *edge == Edge::Alive).count();
        assert_eq!(alive_after, 0, "cut at {cut}, usual {base}: {edges:?}");
        let last_verdict = edges.iter().rfind(|(at, _)| *at <= cut + bound).map(|(_, edge)| *edge);
        assert_ne!(last_verdict, Some(Edge::Alive), "cut at {cut}, usual {base}, {spells:?}: {edges:?}");
        cuts += usize::from(edges.iter().any(|(_, edge)| *edge == Edge::Alive));
        longest = longest.max(edges.len());
    }
    assert!(cuts > 250 && longest > 4, "{cuts} links were alive, at most {longest} changes");
}

/// A prober that is late by `lateness(n)` for its nth probe, on a link that is cut at `cut`. Between its probes it wakes when
/// the detector wants it. Gives the time of the verdict on the cut, and whether there was one before.
fn late_prober(multiplier: u32, cut: u64, lateness: impl Fn(u64) -> u64) -> (u64, bool) {
    let (mut detector, mut echoes) = (Detector::new(I, multiplier, Limits::default(), 1), Echoes::default());
    let (mut due, mut number, mut in_flight, mut early) = (I, 0, Vec::new(), false);
    let mut now = 1;
    loop {
        let send = due + lateness(number);
        let echo = in_flight.first().map_or(u64::MAX, |(at, _)| *at);
        now = send.min(echo).min(detector.deadline_ns().max(now + 1));
        if now == echo {
            let (at, sequence) = in_flight.remove(0);
            echoes = echoed(at - RTT, at, sequence, echoes.count + 1);
        }
        if now == send {
            number += 1;
            detector.on_sent(now, number);
            if now < cut {
                in_flight.push((now + RTT, number));
            }
            // Missed instants are not made up for.
            due = now / I * I + I;
        }
        if let Some(Edge::Silent { .. }) = detector.poll(now, echoes) {
            if now >= cut {
                return (now, early);
            }
            early = true;
        }
        assert!(now < cut + 1_000 * I, "it is never noticed");
    }
}

#[test]
fn lateness_costs_its_own_length_and_no_multiple() {
    let mut random = fastrand::Rng::with_seed(13);
    for round in 0..2_000 {
        let multiplier = random.u32(1..=6);
        let worst = random.u64(1..I);
        let seed = random.u64(..);
        let lateness = |number: u64| match round % 3 {
            0 => worst * (number % 2),
            1 => fastrand::Rng::with_seed(seed ^ number).u64(0..=worst),
            _ => {
                if fastrand::Rng::with_seed(seed ^ number).u8(..5) == 0 {
                    worst
                } else {
                    0
                }
            }
        };
        let cut = 60 * I + random.u64(..20 * I);
        let (noticed, early) = late_prober(multiplier, cut, lateness);
        assert!(!early, "false alarm: x{multiplier}, late by up to {worst}, round {round}");
        let bound = u64::from(multiplier + 1) * I + worst;
        assert!(noticed - cut <= bound, "x{multiplier} late by up to {worst}, round {round}: {}", noticed - cut);
    }
    // What was seen: 5.0, 7.4 and 11.5 intervals.
    for (tenths, most) in [(2, 40), (6, 46), (17, 80)] {
        let (noticed, early) = late_prober(3, 60 * I + I / 10, |number| tenths * I / 10 * (number % 2));
        assert!(!early && noticed - 60 * I <= most * I / 10, "late by {tenths}/10: {}", noticed - 60 * I);
    }
}

#[test]
fn a_link_beyond_its_threshold_is_impaired_until_it_is_well_within() {
    let limits = Limits { loss: Some(crate::health::Share(200_000)), ..Limits::default() };
    let (mut detector, mut echoes, mut edges) = (Detector::new(I, 3, limits, 1), Echoes::default(), Vec::new());
    for sequence in 1..1_500_u64 {
        let now = sequence * I;
        detector.on_sent(now, sequence);
        let lost = (500..1_000).contains(&sequence) && sequence % 3 == 0;
        if !lost {
            echoes = echoed(now, now + RTT, sequence, echoes.count + 1);
        }
        edges.extend(detector.poll(now + RTT, echoes).map(|edge| (sequence, edge)));
    }
    let [(_, Edge::Alive), (from, Edge::Impaired(Impairment::Beyond(_))), (until, Edge::Alive)] = edges[..] else {
        panic!("{edges:?}")
    };
    assert!((540..=620).contains(&from) && (1_000..=1_110).contains(&until), "{edges:?}");
}
