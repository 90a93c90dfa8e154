//! Bodies of webhooks; pure.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::json;

use super::message::Message;
use crate::{config::Template, control::EventRecord};

/// How long an alert stays without word of its end. Alertmanager ends what has no `endsAt` after some minutes.
const STANDING: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an alert stays that has no end: traffic that moved, a test.
const PASSING: Duration = Duration::from_secs(300);

/// A body, and the header that goes with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) text: String,
}

/// The body that a template makes of a message, at this time; nothing where there is nothing to say to such a receiver.
pub(super) fn body(template: Template, message: &Message, now: SystemTime) -> Option<Body> {
    let json = |text: String| Body { content_type: "application/json", headers: Vec::new(), text };
    Some(match template {
        Template::Json => json(encoded(message)),
        Template::Slack => {
            let text = format!("*{}*\n```\n{}```", escaped(&message.subject), escaped(&message.text));
            json(json!({ "text": text }).to_string())
        }
        Template::Ntfy => Body {
            content_type: "text/plain; charset=utf-8",
            headers: vec![
                ("Title", message.subject.clone()),
                ("Priority", priority(message).to_owned()),
                ("Tags", tag(message).to_owned()),
            ],
            text: message.text.clone(),
        },
        Template::Alertmanager => {
            let alerts = alerts(message, now);
            if alerts.is_empty() {
                return None;
            }
            json(encoded(&alerts))
        }
    })
}

/// As JSON. All that is encoded here has texts for keys, so that it cannot fail.
fn encoded(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What Slack takes for markup otherwise.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// ntfy's: 5 is the highest, 3 the usual.
fn priority(message: &Message) -> &'static str {
    match message.gravest().map(|event| event.what.as_str()) {
        Some("no-usable-link") => "5",
        Some("link-down" | "active-changed") => "4",
        _ => "3",
    }
}

/// ntfy shows these words as pictures.
fn tag(message: &Message) -> &'static str {
    match message.gravest().map(|event| event.what.as_str()) {
        Some("no-usable-link") => "rotating_light",
        Some("link-up") => "white_check_mark",
        Some(_) => "warning",
        None => "bell",
    }
}

/// An alert of Alertmanager's API v2.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: Labels,
    annotations: Annotations,
    starts_at: String,
    ends_at: String,
}

/// What makes an alert the same as another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Labels {
    alertname: &'static str,
    severity: &'static str,
    instance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

#[derive(Debug, Serialize)]
struct Annotations {
    summary: String,
    description: String,
}

/// One alert for each thing that is or was wrong: its last state.
fn alerts(message: &Message, now: SystemTime) -> Vec<Alert> {
    let rfc3339 = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
    let labels = |alertname, severity, event: Option<&EventRecord>, link: Option<String>| Labels {
        alertname,
        severity,
        instance: message.host.clone(),
        group: event.map(|event| event.group.clone()),
        link,
    };
    let alert = |labels, summary: String, starts_at: String, ends_at: String| Alert {
        labels,
        annotations: Annotations { summary, description: message.text.clone() },
        starts_at,
        ends_at,
    };
    if message.test {
        let labels = labels("LinkWatcherTest", "info", None, None);
        return vec![alert(labels, message.subject.clone(), rfc3339(now), rfc3339(now + PASSING))];
    }
    let mut alerts: Vec<Alert> = Vec::new();
    for event in &message.events {
        let summary = |what: &str| {
            let place =
                event.link.as_ref().map_or_else(|| event.group.clone(), |link| format!("{} {link}", event.group));
            format!("{place} {what}: {}", event.why)
        };
        let (at, standing) = (event.time.clone(), rfc3339(now + STANDING));
        let down = || labels("LinkWatcherLinkDown", "warning", Some(event), event.link.clone());
        let degraded = || labels("LinkWatcherLinkDegraded", "warning", Some(event), event.link.clone());
        let no_link = || labels("LinkWatcherNoUsableLink", "critical", Some(event), None);
        let over = |labels| alert(labels, summary("is well again"), at.clone(), at.clone());
        let fresh = match event.what.as_str() {
            "link-down" => vec![alert(down(), summary("is down"), at.clone(), standing), over(degraded())],
            "link-dampened" => vec![alert(down(), summary("flaps"), at.clone(), standing), over(degraded())],
            "link-degraded" => vec![alert(degraded(), summary("is degraded"), at.clone(), standing), over(down())],
            "link-up" => vec![over(down()), over(degraded()), over(no_link())],
            "no-usable-link" => vec![alert(no_link(), summary("has no usable link"), at.clone(), standing)],
            "active-changed" => {
                let moved = labels("LinkWatcherTrafficMoved", "info", Some(event), None);
                let to = format!("now sends by {}", event.to.join(" + "));
                let mut fresh = vec![alert(moved, summary(&to), at.clone(), rfc3339(now + PASSING))];
                fresh.extend((!event.to.is_empty()).then(|| over(no_link())));
                fresh
            }
            _ => Vec::new(),
        };
        for alert in fresh {
            alerts.retain(|known| known.labels != alert.labels);
            alerts.push(alert);
        }
    }
    alerts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::notify::outbox::Batch;

    fn event(what: &str, link: Option<&str>) -> Arc<EventRecord> {
        Arc::new(EventRecord {
            time: "2026-11-20T12:00:00.000Z".to_owned(),
            group: "hq".to_owned(),
            link: link.map(str::to_owned),
            what: what.to_owned(),
            to: if what == "active-changed" { vec!["wifi".to_owned()] } else { Vec::new() },
            why: "no echo & <nothing>".to_owned(),
            ..EventRecord::default()
        })
    }

    fn message(events: &[Arc<EventRecord>]) -> Message {
        Message::new(Batch { events: events.to_vec(), omitted: 0 }, None, "r1")
    }

    fn made(template: Template, message: &Message) -> Body {
        body(template, message, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)).unwrap()
    }

    #[test]
    fn json_has_everything() {
        let body = made(Template::Json, &message(&[event("link-down", Some("optic"))]));
        let json: Value = serde_json::from_str(&body.text).unwrap();
        assert_eq!(json["subject"], "[link-watcher r1] hq: optic is down");
        assert_eq!((&json["host"], &json["test"], &json["omitted"]), (&json!("r1"), &json!(false), &json!(0)));
        assert_eq!((&json["events"][0]["what"], &json["events"][0]["link"]), (&json!("link-down"), &json!("optic")));
        assert!(json["text"].is_string() && json["groups"].is_array() && json["time"].is_string());
    }

    #[test]
    fn slack_has_a_text_without_markup_of_others() {
        let body = made(Template::Slack, &message(&[event("link-down", Some("optic"))]));
        let json: Value = serde_json::from_str(&body.text).unwrap();
        let text = json["text"].as_str().unwrap();
        assert!(text.starts_with("*[link-watcher r1] hq: optic is down*\n```\n"), "{text}");
        assert!(text.contains("no echo &amp; &lt;nothing&gt;") && text.ends_with("```"), "{text}");
    }

    #[test]
    fn ntfy_has_its_title_in_the_header() {
        let of = |what| made(Template::Ntfy, &message(&[event(what, None)])).headers;
        let header = |name, value: &str| (name, value.to_owned());
        assert_eq!(
            of("no-usable-link"),
            [
                header("Title", "[link-watcher r1] hq: no usable link"),
                header("Priority", "5"),
                header("Tags", "rotating_light")
            ]
        );
        assert_eq!(of("link-up")[1..], [header("Priority", "3"), header("Tags", "white_check_mark")]);
    }

    #[test]
    fn alerts_begin_and_end_with_the_same_labels() {
        let of = |events: &[Arc<EventRecord>]| {
            let text = made(Template::Alertmanager, &message(events)).text;
            serde_json::from_str::<Vec<Value>>(&text).unwrap()
        };
        let named = |alerts: &[Value], name: &str| {
            alerts.iter().find(|alert| alert["labels"]["alertname"] == name).unwrap().clone()
        };
        let began = named(&of(&[event("link-down", Some("optic"))]), "LinkWatcherLinkDown");
        assert_eq!(
            began["labels"],
            json!({"alertname": "LinkWatcherLinkDown", "severity": "warning", "instance": "r1", "group": "hq", "link": "optic"})
        );
        assert_eq!(
            (&began["startsAt"], &began["endsAt"]),
            (&json!("2026-11-20T12:00:00.000Z"), &json!("2027-02-14T08:00:00.000Z"))
        );
        // Down and up again within one message: it is over.
        let both = of(&[event("link-down", Some("optic")), event("link-up", Some("optic"))]);
        let ended = named(&both, "LinkWatcherLinkDown");
        assert_eq!((&ended["labels"], &ended["endsAt"]), (&began["labels"], &json!("2026-11-20T12:00:00.000Z")));
        let moved = of(&[event("no-usable-link", None), event("active-changed", None)]);
        assert_eq!(named(&moved, "LinkWatcherNoUsableLink")["endsAt"], "2026-11-20T12:00:00.000Z");
        assert_eq!(
            named(&moved, "LinkWatcherTrafficMoved")["annotations"]["summary"],
            "hq now sends by wifi: no echo & <nothing>"
        );
        let test = Message::test("r1", "am", "T".to_owned());
        let text = made(Template::Alertmanager, &test).text;
        assert!(text.contains("LinkWatcherTest") && !text.contains("group"), "{text}");
        assert_eq!(body(Template::Alertmanager, &message(&[event("ordered", None)]), SystemTime::UNIX_EPOCH), None);
    }
}
