//! The table of keys is what the reader does, and what docs/configuration.md says.
#![allow(clippy::unwrap_used)]

mod support;

use std::{env, fs, path::Path};

use link_watcher::config::{
    Config,
    reference::{self, Key, SCHEMAS, Schema, Takes},
};
use support::{Desk, repository_file};

/// With this in the environment the page is written anew: `LINK_WATCHER_REWRITE=1 cargo test -p link-watcher --test config_reference`.
const REWRITE: &str = "LINK_WATCHER_REWRITE";
const PAGE: &str = "../docs/configuration.md";

#[test]
fn the_page_says_what_the_reader_does() {
    let page = reference::markdown();
    if env::var_os(REWRITE).is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE), &page).unwrap();
    }
    assert_eq!(repository_file(PAGE), page, "{PAGE} is not up to date: run this with {REWRITE}=1");
}

/// Every section, with nothing that has a default; a line such as `# [daemon]` stands where a key can be added.
const FILE: &str = "\
[daemon]
# [daemon]
[metrics]
listen = \"127.0.0.1:9746\"
# [metrics]
[[peer]]
name = \"hq\"
role = \"client\"
key-files = [\"hq.key\"]
routes = [\"10.8.0.0/16\"]
# [[peer]]
[[peer.link]]
name = \"optic\"
interface = \"eth1\"
local = \"10.248.248.2\"
remote = \"10.248.248.1\"
# [[peer.link]]
[[uplinks]]
name = \"wan\"
lan = [\"eth0\"]
# [[uplinks]]
[uplinks.probe]
targets = [\"192.0.2.53\"]
# [uplinks.probe]
[[uplinks.link]]
name = \"a\"
interface = \"eth2\"
gateway = \"10.248.249.1\"
# [[uplinks.link]]
[[uplinks.force]]
link = \"a\"
protocol = \"icmp\"
# [[uplinks.force]]
[[notify]]
kind = \"webhook\"
name = \"chat\"
url = \"https://chat.example.com/hook\"
# [[notify]]
";

/// The file with a line in a section, and the place of that line. What is for one kind alone needs the section to be of that kind.
fn with(schema: &Schema, key: &Key, line: &str) -> (String, usize) {
    let file = match key.only {
        Some("dns") => FILE.replace("targets = [\"192.0.2.53\"]", "kind = \"dns\"\ntargets = [\"192.0.2.53\"]"),
        Some("tcp") => FILE.replace("targets = [\"192.0.2.53\"]", "kind = \"tcp\"\ntargets = [\"192.0.2.53:443\"]"),
        Some("http") => {
            FILE.replace("targets = [\"192.0.2.53\"]", "kind = \"http\"\ntargets = [\"http://192.0.2.53/\"]")
        }
        Some("email") => FILE.replace("url = \"https://chat.example.com/hook\"\n", "").replace(
            "\"webhook\"",
            "\"email\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\nsmtp = \"smtp://mail.example.com\"",
        ),
        Some("exec") => FILE
            .replace("url = \"https://chat.example.com/hook\"\n", "")
            .replace("\"webhook\"", "\"exec\"\ncommand = [\"/bin/true\"]"),
        _ => FILE.to_owned(),
    };
    let mark = format!("# {}", schema.title);
    let lines: Vec<&str> = file.lines().collect();
    let at = lines.iter().position(|line| *line == mark).unwrap();
    let head = lines[..at].iter().rposition(|line| line.starts_with('[')).unwrap();
    let names = |line: &&&str| line.split(' ').next() == Some(key.name);
    // In place of the line that says the same.
    let place = lines[head..at].iter().position(|line| names(&line)).map_or(at, |place| head + place);
    let mut lines = lines;
    lines[place] = line;
    (lines.join("\n") + "\n", place + 1)
}

fn config(desk: &Desk, text: &str) -> Config {
    desk.parse(text).unwrap_or_else(|refused| panic!("{refused}\n{text}")).config
}

fn told() -> impl Iterator<Item = (&'static Schema, &'static Key)> {
    let own = SCHEMAS.iter().filter(|schema| schema.told_by.is_none());
    own.flat_map(|schema| schema.keys.iter().map(move |key| (*schema, key)))
}

#[test]
fn what_stands_under_left_out_says_the_same_as_nothing() {
    let desk = Desk::new();
    let mut tried = 0;
    for (schema, key) in told() {
        let Some(default) = key.default_value() else { continue };
        let (said, _) = with(schema, key, &format!("{} = {default}", key.name));
        let (silent, _) = with(schema, key, "# nothing");
        assert_eq!(config(&desk, &said), config(&desk, &silent), "{} {}", schema.title, key.name);
        tried += 1;
    }
    assert!(tried > 30, "{tried}");
}

#[test]
fn every_key_is_read() {
    let desk = Desk::new();
    let mut tried = 0;
    for (schema, key) in told().filter(|(_, key)| !matches!(key.takes, Takes::Section(_))) {
        // No key takes a date.
        let (text, line) = with(schema, key, &format!("{} = 1979-05-27", key.name));
        let findings = desk.findings(&text);
        let said = findings.iter().any(|finding| {
            finding.starts_with(&format!("error {line}:"))
                && finding.contains(&format!("`{}`", key.name))
                && !finding.contains("unknown key")
        });
        assert!(said, "{} {}: {findings:#?}", schema.title, key.name);
        tried += 1;
    }
    assert!(tried > 80, "{tried}");
}

#[test]
fn a_number_outside_of_its_range_is_refused_with_the_range() {
    let desk = Desk::new();
    for (schema, key) in told() {
        let Takes::Number(range) = &key.takes else { continue };
        for outside in [i64::from(*range.start()) - 1, i64::from(*range.end()) + 1] {
            let (text, line) = with(schema, key, &format!("{} = {outside}", key.name));
            let findings = desk.findings(&text).join("\n");
            let expected = format!("error {line}:");
            assert!(findings.contains(&expected) && findings.contains("out of range"), "{}: {findings}", key.name);
        }
    }
}

#[test]
fn every_word_of_a_choice_is_understood() {
    let desk = Desk::new();
    for (schema, key) in told() {
        let Takes::Words(words) = &key.takes else { continue };
        for word in *words {
            let (text, _) = with(schema, key, &format!("{} = \"{word}\"", key.name));
            let findings = desk.findings(&text).join("\n");
            assert!(!findings.contains(&format!("`{}` cannot be", key.name)), "{findings}");
        }
    }
}
