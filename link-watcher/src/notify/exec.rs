//! A program of the administrator's: no shell, a bare environment, a time limit. docs/notify.md has what it is given.

use tokio::task::spawn_blocking;

use super::{
    delivery::{Delivery, DeliveryError, one_line},
    message::Message,
};
use crate::config::ExecConfig;

pub(super) async fn run(
    delivery: &Delivery,
    notifier: &str,
    config: &ExecConfig,
    message: &Message,
) -> Result<String, DeliveryError> {
    // Looked at each time: it may have come, or have been changed, since the configuration was read.
    config.usable().map_err(|(why, help)| DeliveryError::unreached(format!("{why}; {help}")))?;
    let environment = environment(notifier, message);
    let mut arguments = config.arguments.clone();
    arguments.push(about(message));
    let (program, text, limit) = (config.program.clone(), message.text.clone(), delivery.limit);
    let ran =
        spawn_blocking(move || link_watcher_programs::run_configured(&program, &arguments, &environment, &text, limit));
    let shown = config.program.display();
    let output = match ran.await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(DeliveryError::unreached(format!("{shown}: {error}"))),
        Err(error) => return Err(DeliveryError::unreached(format!("{shown}: {error}"))),
    };
    if output.status.success() {
        return Ok(format!("{shown} ended with status 0"));
    }
    let said = one_line(&output.stderr);
    let said = if said.is_empty() { said } else { format!(": {said}") };
    // The next try may be another matter: it is the program's to know what it could not do.
    Err(DeliveryError::unreached(format!("{shown} failed with {}{said}", output.status)))
}

/// The last argument: what the message is about.
fn about(message: &Message) -> String {
    match message.gravest() {
        Some(event) => event.link.clone().unwrap_or_else(|| event.group.clone()),
        None => "test".to_owned(),
    }
}

fn environment(notifier: &str, message: &Message) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("LW_NOTIFIER", notifier.to_owned()),
        ("LW_HOST", message.host.clone()),
        ("LW_SUBJECT", message.subject.clone()),
        ("LW_COUNT", (message.events.len() as u64).saturating_add(message.omitted).to_string()),
    ];
    match message.gravest() {
        None => environment.extend([("LW_EVENT", "test".to_owned()), ("LW_TIME", message.time.clone())]),
        Some(event) => environment.extend([
            ("LW_EVENT", if event.what == "no-usable-link" { "no-link".to_owned() } else { event.what.clone() }),
            ("LW_TIME", event.time.clone()),
            ("LW_GROUP", event.group.clone()),
            ("LW_LINK", event.link.clone().unwrap_or_default()),
            ("LW_WHY", event.why.clone()),
            ("LW_FROM", event.from.join(",")),
            ("LW_TO", event.to.join(",")),
            ("LW_ACTIVE", message.active(&event.group).join(",")),
        ]),
    }
    // No text with a zero in it can be in an environment.
    environment.iter_mut().for_each(|(_, value)| value.retain(|c| c != '\0'));
    environment
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        path::{Path, PathBuf},
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{control::EventRecord, notify::outbox::Batch};

    fn script(desk: &Path, body: &str) -> ExecConfig {
        let program: PathBuf = desk.join("page");
        fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        ExecConfig { program, arguments: vec!["--link".to_owned(), "a b".to_owned()] }
    }

    fn message() -> Message {
        let event = |what: &str, link: Option<&str>| {
            Arc::new(EventRecord {
                time: "T".to_owned(),
                group: "hq".to_owned(),
                link: link.map(str::to_owned),
                what: what.to_owned(),
                why: "no \0 echo".to_owned(),
                to: if link.is_none() { vec!["wifi".to_owned(), "lte".to_owned()] } else { Vec::new() },
                ..EventRecord::default()
            })
        };
        let events = vec![event("link-down", Some("optic")), event("active-changed", None)];
        Message::new(Batch { events, omitted: 3 }, None, "r1")
    }

    #[tokio::test]
    async fn it_has_arguments_an_environment_and_the_text() {
        let desk = tempfile::tempdir().unwrap();
        let out = desk.path().join("out");
        let config = script(
            desk.path(),
            &format!("{{ echo \"$1|$2|$3|$#\"; env | grep ^LW_ | sort; cat; }} > {}", out.display()),
        );
        let answer = run(&Delivery::new(), "pager", &config, &message()).await.unwrap();
        assert!(answer.ends_with("/page ended with status 0"), "{answer}");
        let wrote = fs::read_to_string(out).unwrap();
        let expected = "--link|a b|optic|3\nLW_ACTIVE=wifi,lte\nLW_COUNT=5\nLW_EVENT=link-down\nLW_FROM=\nLW_GROUP=hq\n\
                        LW_HOST=r1\nLW_LINK=optic\nLW_NOTIFIER=pager\nLW_SUBJECT=[link-watcher r1] hq: traffic moved from  to wifi + lte\n\
                        LW_TIME=T\nLW_TO=\nLW_WHY=no  echo\n";
        let expected = expected.replace("moved from  to", "goes by");
        assert!(wrote.starts_with(&expected), "{wrote}");
        assert!(wrote.ends_with(&message().text), "{wrote}");
    }

    #[tokio::test]
    async fn its_failure_is_told_with_its_complaint() {
        let desk = tempfile::tempdir().unwrap();
        let config = script(desk.path(), "echo no modem >&2; exit 7");
        let error = run(&Delivery::new(), "pager", &config, &message()).await.unwrap_err();
        assert!(error.to_string().ends_with("/page failed with exit status: 7: no modem"), "{error}");
        fs::set_permissions(&config.program, fs::Permissions::from_mode(0o777)).unwrap();
        let error = run(&Delivery::new(), "pager", &config, &message()).await.unwrap_err();
        assert!(error.to_string().contains("is not safe to run: others can change it"), "{error}");
        fs::remove_file(&config.program).unwrap();
        let error = run(&Delivery::new(), "pager", &config, &message()).await.unwrap_err();
        assert!(error.to_string().contains("cannot be run: No such file"), "{error}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended() {
        let desk = tempfile::tempdir().unwrap();
        let config = script(desk.path(), "sleep 600 & wait");
        let begin = Instant::now();
        let delivery = Delivery { limit: Duration::from_millis(100), ..Delivery::new() };
        let error = run(&delivery, "pager", &config, &message()).await.unwrap_err();
        assert!(error.to_string().ends_with("it did not finish within 0.1 s, and was ended"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}
