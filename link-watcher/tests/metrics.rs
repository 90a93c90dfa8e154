//! Metrics: the exact text, the rules of its format, and the listener as a scraper meets it.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use link_watcher::{
    control::History,
    metrics::{self, Counters, Faces, Listener, Request, Scrape, To},
    notify::Results,
    statistics::{Failovers, Period, Statistics},
    status::{GroupSnapshot, LinkSnapshot, Snapshot, StatisticsSnapshot},
};
use sha2::Digest as _;
use support::{
    daemon::{event, snapshot},
    repository_file,
};
use tokio::sync::{mpsc, watch};

fn scrape() -> Scrape {
    let mut counters = Counters::default();
    counters.transition("hq".to_owned(), "optic".to_owned(), To::Up);
    counters.transition("hq".to_owned(), "optic".to_owned(), To::Down);
    counters.transition("hq".to_owned(), "optic".to_owned(), To::Up);
    counters.failover("hq".to_owned(), 30_600_000);
    counters.failover("hq".to_owned(), 12_000_000_000);
    Scrape { snapshot: snapshot(), counters, ..Scrape::default() }
}

/// With a link that was watched for two days.
fn watched() -> Scrape {
    let mut scrape = scrape();
    let mut run = Period {
        up_ms: 86_340_000,
        degraded_ms: 30_000,
        down_ms: 30_000,
        outages: 2,
        longest_outage_ms: 20_000,
        sent: 864_000,
        received: 863_568,
        failovers: Failovers { count: 2, worst_ns: 301_500_000 },
        ..Period::default()
    };
    (0..99).for_each(|_| run.rtt.add(412_000));
    run.rtt.add(90_000_000);
    let last_24h = run.figures();
    scrape.snapshot.groups[0].links[0].statistics = Some(StatisticsSnapshot { today: last_24h.clone(), last_24h });
    run.merge(&run.clone());
    scrape.runs.insert(("hq".to_owned(), "optic".to_owned()), run);
    scrape
}

/// The text where nobody is notified.
fn render(scrape: &Scrape) -> String {
    metrics::render(scrape, &BTreeMap::new())
}

#[test]
fn the_text_is_as_documented() {
    let expected = repository_file("tests/support/metrics.txt");
    let notifications = BTreeMap::from([("admin".to_owned(), Results { sent: 3, failed: 2, given_up: 1 })]);
    let text = metrics::render(&watched(), &notifications);
    for (line, (got, wanted)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(got, wanted, "line {} of tests/support/metrics.txt", line + 1);
    }
    assert_eq!(text, expected);
}

#[test]
fn what_is_gone_is_not_written_and_forgotten_at_a_reload() {
    let mut scrape = scrape();
    scrape.counters.transition("hq".to_owned(), "gone".to_owned(), To::Down);
    scrape.counters.failover("gone".to_owned(), 1);
    assert!(!render(&scrape).contains("gone"));
    scrape.counters.retain(&BTreeSet::from([("gone".to_owned(), "gone".to_owned())]));
    let text = render(&scrape);
    assert!(text.contains("link_watcher_failover_seconds_count{group=\"hq\"} 0"));
    assert!(text.contains("interface=\"eth1\",to=\"up\"} 0"));
}

/// One sample of the text format: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

fn is_name(text: &str, also: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || also.contains(c);
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// Reads a sample by the grammar of the text format, and nothing more lenient.
fn parse_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, ":"), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label, ""), "{line}");
            let (mut value, mut chars) = (String::new(), after.char_indices());
            let end = loop {
                match chars.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c} in {line}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice in {line}");
            rest = &after[end + 1..];
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => break rest = more,
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap();
    (name.to_owned(), labels, value.replace("+Inf", "inf").parse().unwrap())
}

/// Checks the whole text; gives its samples.
fn parse(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'));
    let (mut samples, mut types, mut metric) = (Vec::<Sample>::new(), BTreeMap::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(header) = line.strip_prefix("# HELP ") {
            header.split_once(' ').unwrap().0.clone_into(&mut metric);
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {metric} ")).unwrap();
            assert!(types.insert(metric.clone(), kind).is_none(), "{metric} begins twice");
            assert_eq!(metric.ends_with("_total"), kind == "counter", "{metric}");
            continue;
        }
        let sample = parse_sample(line);
        let suffixes: &[&str] = if types[&metric] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.iter().any(|suffix| sample.0 == format!("{metric}{suffix}")), "{line} is below {metric}");
        assert!(!samples.iter().any(|known| (&known.0, &known.1) == (&sample.0, &sample.1)), "twice: {line}");
        samples.push(sample);
    }
    samples
}

#[test]
fn whatever_names_there_are_the_format_is_kept() {
    let link = |name: &str| LinkSnapshot {
        name: name.to_owned(),
        interface: "we\\ird\"0".to_owned(),
        rtt_ms: Some(0.1 + 0.2),
        loss: 1.0 / 3.0,
        sent: u64::MAX,
        ..LinkSnapshot::default()
    };
    let group = |name: &str, kind: &str| GroupSnapshot {
        name: name.to_owned(),
        kind: kind.to_owned(),
        links: vec![link("a"), link("b\n\"c\"\\")],
        ..GroupSnapshot::default()
    };
    let groups = vec![group("hq", "peer"), group("wän}{,\"", "uplinks")];
    let mut counters = Counters::default();
    for ns in (0..12_000_000_000).step_by(700_000_001) {
        counters.failover("wän}{,\"".to_owned(), ns);
    }
    let samples =
        parse(&render(&Scrape { snapshot: Snapshot { groups, ..snapshot() }, counters, ..Scrape::default() }));
    let of = |name: &str, group: &str| -> Vec<f64> {
        let mine = samples.iter().filter(|sample| sample.0 == format!("link_watcher_{name}"));
        mine.filter(|sample| sample.1["group"] == group).map(|sample| sample.2).collect()
    };
    assert!(samples.iter().any(|sample| sample.1.get("link").is_some_and(|link| link == "b\n\"c\"\\")));
    assert_eq!((of("dropped_total", "hq").len(), of("dropped_total", "wän}{,\"").len()), (18, 0));
    for group in ["hq", "wän}{,\""] {
        let buckets = of("failover_seconds_bucket", group);
        assert!(buckets.is_sorted(), "cumulative");
        assert_eq!(buckets.last(), of("failover_seconds_count", group).first(), "+Inf holds all");
    }
    assert_eq!(of("failover_seconds_count", "wän}{,\""), [18.0]);
}

/// A core that answers every request, and a listener that was asked to be where `at` says.
fn with_listener(act: impl FnOnce(SocketAddr, watch::Sender<Option<SocketAddr>>) + Send + 'static) {
    serving(scrape(), act);
}

/// As [`with_listener`], with a core that answers this.
fn serving(scrape: Scrape, act: impl FnOnce(SocketAddr, watch::Sender<Option<SocketAddr>>) + Send + 'static) {
    recording(scrape, Arc::default(), act);
}

/// As [`serving`], with what happens noted there.
fn recording(
    scrape: Scrape,
    history: Arc<History>,
    act: impl FnOnce(SocketAddr, watch::Sender<Option<SocketAddr>>) + Send + 'static,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let (requests_in, mut requests) = mpsc::channel::<Request>(4);
        let (at, watched) = watch::channel(Some(address));
        (0..3).for_each(|n| history.push(event(n)));
        let kept = tempfile::tempdir().unwrap();
        let statistics = Arc::new(Statistics::load(kept.path()));
        let faces = Faces { requests: requests_in, history, tally: Arc::default(), statistics };
        let serving = tokio::spawn(Listener::run(Some(listener), watched, faces));
        let core = tokio::spawn(async move {
            while let Some(Request(answer)) = requests.recv().await {
                drop(answer.send(scrape.clone()));
            }
        });
        tokio::task::spawn_blocking(move || act(address, at)).await.unwrap();
        // Nobody can change the address any more: both end by themselves.
        serving.await.unwrap().unwrap();
        core.await.unwrap();
    });
}

/// Between two looks. Without it thousands of connections a second to a port that nobody has make one of them meet itself, and the
/// port is taken for a minute.
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // It may be refused before all of it was read.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn a_scraper_gets_the_metrics_and_others_a_reason() {
    with_listener(|address, _at| {
        let got = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = got.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(body, render(&scrape()));
        let got = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(got.contains(&format!("content-length: {}\r\n", body.len())) && got.ends_with("\r\n\r\n"), "{got}");
        let got = ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 405 ") && got.contains("allow: GET, HEAD"), "{got}");
        let got = ask(address, "GET /metric HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 404 ") && got.contains("the metrics are at /metrics"), "{got}");
        assert!(ask(address, "no request\r\n\r\n").starts_with("HTTP/1.1 400 "));
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
        assert!(!ask(address, &long).starts_with("HTTP/1.1 200 "), "headers are bounded");
    });
}

/// Head and body of what `GET path` answers.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let got = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn status_and_events_are_those_of_the_commands() {
    with_listener(|address, _at| {
        let (head, body) = get(address, "/status.json");
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        assert!(head.contains("cache-control: no-store\r\n"), "{head}");
        assert_eq!(body, serde_json::to_string_pretty(&snapshot()).unwrap() + "\n");
        let (_, body) = get(address, "/events.json");
        let events: Vec<link_watcher::control::EventRecord> = serde_json::from_str(&body).unwrap();
        assert_eq!(events, [event(0), event(1), event(2)]);
        let history: serde_json::Value = serde_json::from_str(&get(address, "/history.json").1).unwrap();
        assert_eq!((&history["step_s"], &history["fields"][0]), (&600.into(), &"begins_s".into()), "{history}");
    });
}

#[test]
fn what_happens_is_told_as_it_happens_to_a_bounded_number() {
    let history = Arc::new(History::default());
    let happening = Arc::clone(&history);
    recording(scrape(), history, move |address, _at| {
        let listen = || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        };
        let until = |stream: &mut TcpStream, word: &str| {
            let (mut got, mut byte) = (String::new(), [0]);
            while !got.ends_with(word) {
                stream.read_exact(&mut byte).unwrap();
                got.push(char::from(byte[0]));
            }
            got
        };
        let mut told: Vec<_> = (0..8).map(|_| listen()).collect();
        for stream in &mut told {
            let head = until(stream, "retry: 1000\n\n");
            assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        }
        assert!(until(&mut listen(), "\r\n").starts_with("HTTP/1.1 503 "));
        assert!(ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
        happening.push(event(3));
        told.iter_mut().for_each(|stream| drop(until(stream, "data: changed\n\n")));
        // Whoever goes leaves a place.
        told.clear();
        let begin = Instant::now();
        while !until(&mut listen(), "\r\n").starts_with("HTTP/1.1 200 ") {
            assert!(begin.elapsed() < Duration::from_secs(10));
            pause();
        }
    });
}

#[test]
fn the_page_stands_alone_and_may_do_nothing_else() {
    with_listener(|address, _at| {
        let (head, body) = get(address, "/");
        assert!(head.contains("content-type: text/html; charset=utf-8\r\n"), "{head}");
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"),
            "{policy}"
        );
        // What a browser would refuse: another script or style, an address elsewhere, a handler in an attribute.
        let inside = |from: &str, to: &str| body.split_once(from).unwrap().1.split_once(to).unwrap().0;
        for (what, text) in [("script", inside("<script>", "</script>")), ("style", inside("<style>", "</style>"))] {
            let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, sha2::Sha256::digest(text));
            assert!(policy.contains(&format!("{what}-src 'sha256-{hash}'")), "{what}: {policy}");
            assert_eq!(body.matches(&format!("<{what}")).count(), 1);
        }
        // The one address is the name space of SVG, which nobody asks.
        assert_eq!(body.matches("://").count(), body.matches("http://www.w3.org/2000/svg").count());
        assert!(!body.contains(" style=") && !body.contains(" onclick=") && !body.contains("innerHTML"));
    });
}

#[test]
fn a_group_without_a_usable_link_is_not_healthy() {
    with_listener(|address, _at| {
        let (head, body) = get(address, "/-/healthy");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "healthy\n", "{head}\n{body}");
    });
    let mut cut = scrape();
    cut.snapshot.groups[0].links.iter_mut().for_each(|link| link.usable = false);
    serving(cut, |address, _at| {
        let (head, body) = get(address, "/-/healthy");
        assert!(head.starts_with("HTTP/1.1 503 ") && body == "hq has no usable link\n", "{head}\n{body}");
    });
}

#[test]
fn clients_that_say_nothing_do_not_hold_up_others() {
    with_listener(|address, _at| {
        let begin = Instant::now();
        let mut silent: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
        // A silent one is closed after 5 s by itself.
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        // The oldest was closed for it, the newest is still served.
        silent[0].set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        assert!(matches!(silent[0].read(&mut [0]), Ok(0) | Err(_)));
        let newest = silent.last_mut().unwrap();
        newest.write_all(b"GET /-/healthy HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        newest.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    });
}

#[test]
fn an_address_that_cannot_be_had_is_tried_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let taken = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.address().unwrap();
        let (requests, _core) = mpsc::channel::<Request>(4);
        let (_at, watched) = watch::channel(Some(address));
        let kept = tempfile::tempdir().unwrap();
        let statistics = Arc::new(Statistics::load(kept.path()));
        let faces = Faces { requests, history: Arc::default(), tally: Arc::default(), statistics };
        let serving = tokio::spawn(Listener::run(None, watched, faces));
        // It has met the busy port by the time that this one is given up.
        tokio::task::yield_now().await;
        drop(taken);
        let answered = tokio::task::spawn_blocking(move || {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(20) {
                if TcpStream::connect(address).is_ok() {
                    return get(address, "/events.json").1;
                }
                pause();
            }
            panic!("nobody listens at {address}")
        });
        assert_eq!(answered.await.unwrap(), "[]\n");
        serving.abort();
    });
}

#[test]
fn a_reload_moves_the_listener() {
    with_listener(|before, at| {
        let free = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let after = free.address().unwrap();
        // It is busy at first: that is tried again.
        at.send(Some(after)).unwrap();
        drop(free);
        let answered = (0..1_000).any(|_| {
            pause();
            let stream = TcpStream::connect(after);
            stream.is_ok_and(|mut stream| {
                let mut answer = [0; 12];
                stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").is_ok()
                    && stream.read_exact(&mut answer).is_ok()
                    && answer == *b"HTTP/1.0 200"
            })
        });
        assert!(answered);
        assert!(TcpStream::connect(before).is_err(), "the old one is closed");
        at.send(None).unwrap();
        assert!(
            (0..1_000).any(|_| {
                pause();
                TcpStream::connect(after).is_err()
            }),
            "and so is the new one"
        );
    });
}

#[test]
fn a_busy_port_is_said_with_a_remedy() {
    let taken = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.address().unwrap();
    assert_eq!(
        Listener::bind(address).unwrap_err().to_string(),
        format!(
            "cannot serve metrics on {address}: Address already in use (os error 98); `ss -ltnp` says who listens there, \
             `listen` in [metrics] chooses another port"
        )
    );
}
