//! `[[notify]]`: what is understood, and every mistake in it.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use link_watcher::config::{Means, NotifyConfig, SmtpTls, Template};
use support::{Desk, peer};

/// A good configuration with this section, the header of which is line 12.
fn with(section: &str) -> String {
    peer("") + "[[notify]]\n" + section
}

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write_key("password", 0o600, "secret\n");
    desk.write_key("page", 0o755, "#!/bin/sh\n");
    desk
}

fn notifier(section: &str) -> NotifyConfig {
    desk().parse(&with(section)).unwrap().config.notifiers.remove(0)
}

fn finding(section: &str) -> String {
    desk().findings(&with(section)).join("\n")
}

fn email(lines: &str) -> String {
    let text = "kind = \"email\"\nname = \"a\"\nfrom = \"r@example.com\"\nto = [\"n@example.com\"]\n";
    text.to_owned() + lines
}

#[test]
fn what_is_not_said_is_the_usual() {
    let notifier = notifier(&email("smtp = \"smtp://mail.example.com\""));
    let important = ["link-down", "link-up", "link-degraded", "link-dampened", "active-changed", "no-usable-link"];
    assert_eq!((notifier.on.as_slice(), notifier.min_interval), (&important[..], Duration::from_secs(60)));
    let Means::Email(email) = notifier.means else { panic!() };
    assert_eq!((email.server.port, email.server.tls, email.login), (587, SmtpTls::StartTls, None));
}

#[test]
fn a_mail_server_is_a_url() {
    let server = |lines: &str| match notifier(&email(lines)).means {
        Means::Email(email) => (email.server.host, email.server.port, email.server.tls, email.login.map(|l| l.0)),
        other => panic!("{other:?}"),
    };
    let host = || "mail.example.com".to_owned();
    let password = "\npassword-file = \"password\"";
    assert_eq!(
        server(&format!("smtp = \"smtps://user%40example.com@mail.example.com\"{password}")),
        (host(), 465, SmtpTls::Implicit, Some("user@example.com".to_owned()))
    );
    assert_eq!(
        server(&format!("smtp = \"smtp://u@mail.example.com:2525\"{password}")),
        (host(), 2525, SmtpTls::StartTls, Some("u".to_owned()))
    );
    assert_eq!(server("smtp = \"smtp://mail.example.com\"\ntls = \"none\""), (host(), 25, SmtpTls::None, None));
    assert_eq!(server("smtp = \"smtp://localhost\""), ("localhost".to_owned(), 25, SmtpTls::None, None));
    assert_eq!(server("smtp = \"smtp://[::1]\""), ("::1".to_owned(), 25, SmtpTls::None, None));
    assert_eq!(
        server("smtp = \"smtp://127.0.0.1\"\ntls = \"required\""),
        ("127.0.0.1".to_owned(), 587, SmtpTls::StartTls, None)
    );
}

#[test]
fn a_mail_server_that_is_none() {
    let smtp = |url: &str| finding(&email(&format!("smtp = \"{url}\"")));
    assert_eq!(
        smtp("mail.example.com"),
        "error 17:8: `smtp` is not the URL of a mail server | write smtp = \"smtps://user@mail.example.com\"; smtp:// \
         is for STARTTLS"
    );
    let said = smtp("smtp://u:hunter2@mail.example.com");
    assert_eq!(
        said,
        "error 17:8: `smtp` has a password in it | write it to a file, and name that with `password-file`"
    );
    assert_eq!(
        smtp("smtp://u@mail.example.com"),
        "error 12:1: [[notify]] lacks `password-file` | add a line such as password-file = \
         \"/etc/link-watcher/smtp.password\""
    );
    assert!(smtp("smtp://").starts_with("error 17:8: `smtp` names no server"), "{}", smtp("smtp://"));
    assert!(smtp("smtp://mail.example.com/box").contains("has something behind the server"));
    assert_eq!(
        finding(&email("smtp = \"smtp://u@mail.example.com\"\npassword-file = \"password\"\ntls = \"none\"")),
        "error 17:8: the password would go over the network for all to read | leave out tls = \"none\""
    );
    assert!(finding(&email("smtp = \"smtps://mail.example.com\"\ntls = \"none\"")).contains("is none | write smtp://"));
    assert!(finding(&email("smtp = \"smtp://m.example.com\"\npassword-file = \"password\"")).contains("names no user"));
}

#[test]
fn mail_addresses() {
    let section = "kind = \"email\"\nname = \"a\"\nfrom = \"nobody\"\nto = []\nsmtp = \"smtp://localhost\"";
    assert_eq!(
        finding(section),
        "error 15:8: `from` has \"nobody\", which is no mail address | write \
         \"noc@example.com\", or \"NOC <noc@example.com>\"\n\
         error 16:6: `to` has 0 recipients | name 1 to 32; more are reached through a list of the mail server's"
    );
}

#[test]
fn a_webhook() {
    let section = "kind = \"webhook\"\nname = \"chat\"\nurl = \"https://chat.example.com/hook\"\n";
    let webhook = |lines: &str| match notifier(&(section.to_owned() + lines)).means {
        Means::Webhook(webhook) => webhook,
        other => panic!("{other:?}"),
    };
    assert_eq!((webhook("").template, webhook("").secret.is_none()), (Template::Json, true));
    let secret = webhook("template = \"ntfy\"\nsecret-file = \"password\"").secret.unwrap();
    assert!(secret.read().is_err(), "its desk is gone: it is read when it is needed");
    let said = finding(&section.replace("https://", "ftp://secret@"));
    assert_eq!(said, "error 15:7: `url` is not one of HTTP | write url = \"https://chat.example.com/hook\"");
    let said = finding(&section.replace("https://", "https://user:secret@"));
    assert_eq!(said, "error 15:7: `url` has a user in it, which is not sent | leave out what stands before the @");
    assert_eq!(
        finding(&(section.to_owned() + "template = \"slak\"")),
        "error 16:12: `template` cannot be \"slak\" | did you mean \"slack\"? It is one of json, slack, ntfy or alertmanager"
    );
}

#[test]
fn a_program_is_what_only_root_can_change() {
    let desk = desk();
    let page = desk.path("page");
    let section = format!("kind = \"exec\"\nname = \"pager\"\ncommand = [\"{}\", \"--link\"]\n", page.display());
    let Means::Exec(exec) = desk.parse(&with(&section)).unwrap().config.notifiers.remove(0).means else { panic!() };
    assert_eq!((exec.program, exec.arguments), (page.clone(), vec!["--link".to_owned()]));
    let mode = |mode| fs::set_permissions(&page, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    assert_eq!(
        desk.findings(&with(&section)),
        ["error 15:12: the program DIR/page is not safe to run: others can change it: file DIR/page has mode 0777 | \
          chmod go-w DIR/page"]
    );
    mode(0o644);
    assert_eq!(
        desk.findings(&with(&section)),
        ["error 15:12: the program DIR/page is not executable | chmod 755 DIR/page"]
    );
    let relative = finding("kind = \"exec\"\nname = \"pager\"\ncommand = [\"page --link\"]\n");
    assert!(relative.contains("cannot begin with \"page --link\" | write the whole path"), "{relative}");
}

#[test]
fn a_daemon_starts_without_what_may_come_later() {
    let desk = desk();
    let text = with(&email("smtp = \"smtp://u@localhost\"\npassword-file = \"later\""));
    let host = support::host();
    let later = link_watcher::config::Severity::Warning;
    let loaded = link_watcher::config::parse(&desk.path("c.toml"), &text, &host, later).unwrap();
    assert!(loaded.warnings[1].message.ends_with("/later does not exist"), "{:?}", loaded.warnings);
    desk.write_key("later", 0o644, "secret\n");
    let said = desk.findings(&text).join("\n");
    assert_eq!(
        said,
        "error 18:17: secret file DIR/later has mode 0644: others than its owner can use it, or it can be executed | \
         chmod 600 DIR/later"
    );
    desk.write_key("later", 0o600, "two\nlines\n");
    assert!(desk.findings(&text).join("\n").contains("has more than one line | name a file"));
}

#[test]
fn a_credential_is_the_services() {
    let lines = |name: &str| email(&format!("smtp = \"smtp://u@localhost\"\npassword-file = \"credential:{name}\""));
    let Means::Email(email) = notifier(&lines("smtp")).means else { panic!() };
    let missing = email.login.unwrap().1.read().unwrap_err();
    assert_eq!(missing.to_string(), "there is no credential smtp: this process has no credentials from systemd");
    assert_eq!(missing.remedy(), "the unit of the service wants LoadCredential=smtp:PATH");
    assert!(finding(&lines("")).contains("has no name of a credential"));
}

#[test]
fn keys_and_names() {
    assert_eq!(
        finding(&email("smtp = \"smtp://localhost\"\nurl = \"https://example.com\"")),
        "error 18:7: `url` is not for kind = \"email\" | its keys are kind, name, on, min-interval, from, to, smtp, \
         password-file, tls"
    );
    assert_eq!(
        finding("kind = \"mail\"\nname = \"a\""),
        "error 13:8: `kind` cannot be \"mail\" | did you mean \"email\"? It is one of email, webhook or exec"
    );
    assert!(finding("name = \"a\"").contains("[[notify]] lacks `kind`"));
    let one = email("smtp = \"smtp://localhost\"\n");
    assert_eq!(
        finding(&format!("{one}[[notify]]\n{one}")),
        "error 20:8: there is another notifier called a | give each [[notify]] a name of its own"
    );
    assert!(
        finding(&one.replace("smtp =", "smpt =")).contains("unknown key `smpt` in [[notify]] | did you mean `smtp`?")
    );
    let on = finding(&email("smtp = \"smtp://localhost\"\non = [\"link-dwon\"]"));
    assert!(on.starts_with("error 18:7: `on` cannot have \"link-dwon\" | did you mean \"link-down\"?"), "{on}");
    let on = finding(&email("smtp = \"smtp://localhost\"\non = []"));
    assert!(on.starts_with("error 18:6: `on` is empty: nothing would be told"), "{on}");
    assert!(finding(&email("smtp = \"smtp://localhost\"\nmin-interval = \"2d\"")).contains("out of range: 2d"));
}

#[test]
fn what_the_examples_show_is_right_and_has_the_defaults() {
    let desk = desk();
    for file in ["examples/link-watcher.toml", "examples/uplinks.toml"] {
        let text = support::repository_file(file);
        let shown = &text[text.find("# [[notify]]").unwrap()..];
        let section: String = shown.lines().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
        let section = section.replace("/etc/link-watcher/smtp.password", "password");
        let shown = desk.parse(&(peer("") + &section)).unwrap().config.notifiers;
        let fewer: String = section
            .lines()
            .filter(|line| !line.starts_with("on =") && !line.starts_with("min-"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(fewer.len() < section.len());
        assert_eq!(shown, desk.parse(&(peer("") + &fewer)).unwrap().config.notifiers, "{file}");
    }
}
