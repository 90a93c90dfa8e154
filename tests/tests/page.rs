//! The status page in a real browser, through a real failover and a restart.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use link_watcher_lab::Lab;
use link_watcher_lab::browser::{Browser, DESK, PHONE};
use link_watcher_lab::daemon::binary;
use link_watcher_lab::metrics;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::{PATIENCE, Trial};
use serde_json::Value;

/// Where the pictures of the documentation go, if they are wanted.
const PICTURES: &str = "LINK_WATCHER_PICTURES";
/// Keys with their numbers.
const TAB: (&str, u32) = ("Tab", 9);
const ENTER: (&str, u32) = ("Enter", 13);

fn trial() -> Trial {
    let setup = Setup {
        interval: Duration::from_millis(50),
        daemon_settings: metrics::SETTINGS.to_owned(),
        ..Setup::default()
    };
    Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap()
}

fn browser(trial: &Trial) -> Browser {
    let daemon = &trial.routers.client_daemon;
    let mut browser =
        Browser::start(trial.routers.lab.directory(), |command| daemon.namespace().spawn(command)).unwrap();
    open(&mut browser);
    browser
}

fn open(browser: &mut Browser) {
    browser.open(&format!("http://{}/", metrics::address()), DESK).unwrap();
}

/// An expression: what a link's columns of the last day show, by their class.
fn columns(link: &str, class: &str) -> String {
    format!("document.querySelectorAll('.past[data-link={link}] .states rect.{class}').length")
}

fn says(selector: &str, text: &str) -> String {
    format!("document.querySelector('{selector}').textContent.includes('{text}')")
}

/// Pictures of the page as it is, if somebody wants them; and nothing is wider than its window.
fn photograph(browser: &mut Browser) {
    let directory = std::env::var_os(PICTURES).map(PathBuf::from);
    for (device, window) in [("desk", DESK), ("phone", PHONE)] {
        browser.resize(window).unwrap();
        for scheme in ["light", "dark"] {
            browser.prefer(scheme).unwrap();
            let paper = browser.evaluate("getComputedStyle(document.body).backgroundColor").unwrap();
            let white = paper == "rgb(255, 255, 255)";
            assert_eq!(white, scheme == "light", "{scheme}: {paper}");
            if let Some(directory) = &directory {
                browser.photograph(&directory.join(format!("page-{device}-{scheme}.png"))).unwrap();
            }
        }
        let wide = format!("document.documentElement.scrollWidth > {}", window.width);
        let wide = browser.evaluate(&wide).unwrap();
        assert_eq!(wide, false, "{device}: the page is wider than its window");
    }
    browser.resize(DESK).unwrap();
    browser.prefer("light").unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_failover_and_the_past_are_on_the_page() {
    if !Browser::is_installed() {
        eprintln!(
            "SKIPPED: the status page is not tried: there is no Chromium here (Debian's package chromium-headless-shell)"
        );
        return;
    }
    let trial = trial();
    let daemon = &trial.routers.client_daemon;
    let mut browser = browser(&trial);
    browser.wait_for("the traffic's way", &says(".now", "Traffic goes by optic")).unwrap();
    browser.wait_for("a column of the last day", &format!("{} >= 1", columns("optic", "good"))).unwrap();
    assert_eq!(browser.evaluate("document.querySelectorAll('#incidents li').length").unwrap(), 0);

    trial.cut_first().unwrap();
    browser.wait_for("the new way", &says(".now", "Traffic goes by wifi")).unwrap();
    browser.wait_for("the link's state", &says(".now tbody tr", "down")).unwrap();
    browser.wait_for("the outage", &format!("{} >= 1", columns("optic", "bad"))).unwrap();
    browser.wait_for("its words", &says(".past[data-link=optic] p", "1 outage, ")).unwrap();
    for told in
        ["hq optic: link down", "and it goes on", "no echo for", "silence and verdict", "traffic went on by wifi"]
    {
        browser.wait_for(told, &says("#incidents li", told)).unwrap();
    }
    assert_eq!(browser.evaluate(&columns("wifi", "bad")).unwrap(), 0);
    photograph(&mut browser);
    // The other end may notice first, and the traffic leave the link before we call it down.
    for (moved, belongs) in [("10.095", true), ("10.089", false)] {
        let events = format!(
            r#"found([{{"time": "2026-01-01T00:00:{moved}Z", "group": "g", "link": null, "what": "active-changed",
                       "from": ["a"], "to": ["b"], "trace": {{"last_good_ns": 5, "decided_ns": 7, "routed_ns": 8}}}},
                      {{"time": "2026-01-01T00:00:10.100Z", "group": "g", "link": "a", "what": "link-down",
                       "detect_ms": 10.5}}])[0].moved !== null"#
        );
        assert_eq!(browser.evaluate(&events).unwrap(), belongs, "{moved}");
    }

    // Who does not see it is told the same.
    let told = browser.accessible().unwrap();
    let has = |role: &str, part: &str| told.iter().any(|(known, name)| known == role && name.contains(part));
    assert!(has("image", "1 outage, ") && has("image", "round trip: up to "), "{told:?}");
    assert!(has("heading", "Incidents") && has("table", "Links of hq") && has("columnheader", "RTT"), "{told:?}");
    let nameless = told.iter().filter(|(role, name)| role == "image" && name.is_empty());
    assert_eq!(nameless.count(), 0, "{told:?}");
    // The keyboard opens the first link's hours, and they stay open while the page looks again.
    browser.press(TAB.0, TAB.1).unwrap();
    browser.press(ENTER.0, ENTER.1).unwrap();
    let hours = "document.querySelectorAll('details[open] tbody tr').length > 0 && document.activeElement.tagName === 'SUMMARY'";
    browser.wait_for("the hours", hours).unwrap();
    let looked = "new Promise((done) => { const before = document.querySelector('.now').firstChild; \
                  setTimeout(() => done(document.querySelector('.now').firstChild !== before), 3000); })";
    assert_eq!(browser.evaluate(looked).unwrap(), true, "the page looks every 2 s");
    browser.wait_for("the hours still", hours).unwrap();

    // A restart: the page says that nobody answers, and then goes on with the past that was kept.
    trial.repair().unwrap();
    browser
        .wait_for("its end", "!document.querySelector('#incidents li').textContent.includes('and it goes on')")
        .unwrap();
    assert!(daemon.stop().unwrap().success());
    browser.wait_for("the alarm", &says("#alarm", "The daemon does not answer")).unwrap();
    report_from_files(&trial);
    daemon.start().unwrap();
    trial.routers.wait_all_usable(PATIENCE).unwrap();
    open(&mut browser);
    browser.wait_for("the outage of the run before", &format!("{} >= 1", columns("optic", "bad"))).unwrap();
    browser.wait_for("its words", &says(".past[data-link=optic] p", "1 outage, ")).unwrap();
    browser.wait_for("its incident", &says("#incidents", "hq optic: link down")).unwrap();
    assert_eq!(browser.complaints(), [] as [String; 0]);
    report_and_status(&trial);
}

/// What the report says of the first link today.
fn outages(report: &str) -> Value {
    let report: Value = serde_json::from_str(report).unwrap();
    let link = &report["groups"][0]["links"][0];
    assert_eq!((&report["groups"][0]["name"], &link["name"]), (&"hq".into(), &"optic".into()), "{report}");
    link["total"].clone()
}

fn report_from_files(trial: &Trial) {
    let daemon = &trial.routers.client_daemon;
    let config = daemon.config_path();
    let output = daemon.output(&["report", "hq", "optic", "--json", "--config", config.to_str().unwrap()]).unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && complaint.contains("this is what it has written"), "{complaint}");
    let total = outages(&said);
    assert_eq!((&total["outages"], &total["failovers"]), (&1.into(), &1.into()), "{total}");
}

fn report_and_status(trial: &Trial) {
    let daemon = &trial.routers.client_daemon;
    let total = outages(&daemon.command(&["report", "--json"]).unwrap());
    assert_eq!(total["outages"], 1, "a restart is none: {total}");
    let worst_ms = total["worst_failover_ms"].as_f64().unwrap();
    assert!(worst_ms >= trial.routers.setup.detection().as_secs_f64() * 1e3 && worst_ms < 5_000.0, "{total}");
    assert!(total["availability"].as_f64().unwrap() < 1.0 && total["rtt_median_ms"].as_f64().unwrap() > 0.0, "{total}");
    let status = daemon.status().unwrap();
    let link = &status["groups"][0]["links"][0]["statistics"];
    assert_eq!((&link["today"]["outages"], &link["last_24h"]["outages"]), (&1.into(), &1.into()), "{link}");
    assert_eq!(status["groups"][0]["failovers_today"], 1);
    let text = metrics::scrape(daemon).unwrap();
    let first = &trial.routers.setup.links[0];
    let labels = format!("group=\"hq\",link=\"optic\",interface=\"{}\"", first.client_interface);
    let of = |name: &str| metrics::value(&text, &format!("link_watcher_link_{name}{{{labels}}}")).unwrap();
    assert_eq!((of("last_day_outages"), of("outages_total")), (1.0, 0.0), "the run began after it");
    let table = daemon.command(&["report"]).unwrap();
    assert!(table.contains("hq optic\n") && table.lines().all(|line| line.chars().count() <= 80), "{table}");
}
