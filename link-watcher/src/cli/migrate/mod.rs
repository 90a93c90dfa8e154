//! `generate config --from`: converts the configuration of another program.

mod yaml;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use saphyr::{LoadableYamlNode, MarkedYaml};

use self::yaml::{Map, Source};
use super::{Exit, Failure};
use crate::config::{self, Diagnostic, Findings, Host, Refused, Severity};

/// Longest file that is converted, bytes.
const MAX_FILE_LEN: u64 = 1 << 20;
/// How long its ping waits for an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Where `fwmark` begins by default: a mark is the uplink's number from this bit on.
const MARK_SHIFT: u32 = 8;
/// Our rules end here at the latest: those of the main table follow.
const MAX_RULE_PRIORITY: u32 = 31_766;
/// Longest name, bytes.
const MAX_NAME_LEN: usize = 48;

/// A converted configuration.
pub(super) struct Converted {
    pub(super) toml: String,
    /// What could not be converted.
    pub(super) warnings: Vec<Diagnostic>,
    /// Why it cannot be run as it is, if so.
    pub(super) refused: Option<Refused>,
}

/// Converts the YAML file of Fault Tolerant Router.
pub(super) fn fault_tolerant_router(path: &Path) -> Result<Converted, Failure> {
    let failed = |why: String| Failure::new(Exit::Failed, format!("link-watcher: {}: {why}", path.display()));
    let length = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > MAX_FILE_LEN {
        return Err(failed(format!("it is longer than {MAX_FILE_LEN} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    convert(path, &text).map_err(|refused| (&refused).into())
}

fn convert(path: &Path, text: &str) -> Result<Converted, Refused> {
    let source = Source::new(Findings::new(path, text), text);
    let toml = match MarkedYaml::load_from_str(text) {
        Ok(documents) => match documents.first() {
            Some(document) => configuration(path, &source, &Map::new(&source, "", document)),
            None => {
                source.findings.error(&(0..0), "the file is empty", "name the configuration of Fault Tolerant Router");
                String::new()
            }
        },
        Err(error) => {
            let offset = source.offset(error.marker().index());
            source.findings.error(&(offset..offset), format!("this is not YAML: {}", error.info()), "");
            String::new()
        }
    };
    let (diagnostics, omitted) = source.findings.into_sorted();
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(Refused { file: path.to_owned(), diagnostics, omitted });
    }
    // Whatever was written there, our own reader has the last word. What this machine has is the business of `check`.
    let refused = config::parse(Path::new("(converted)"), &toml, &Host::default(), Severity::Warning).err();
    Ok(Converted { toml, warnings: diagnostics, refused })
}

fn configuration(path: &Path, source: &Source<'_>, root: &Map<'_, '_, '_>) -> String {
    let mut out = format!(
        "# Converted from {} by `link-watcher generate config --from fault-tolerant-router`.\n\
         # Check it with `link-watcher check`. What has no counterpart here is named in a comment.\n\n",
        comment(&path.display().to_string())
    );
    let uplinks = root.maps("uplinks");
    if uplinks.is_empty() {
        root.missing("uplinks");
    }
    let mut left_over = Vec::new();
    out += "[[uplinks]]\nname = \"wan\"\nroutes = [\"0.0.0.0/0\"]\n";
    if let Some(downlinks) = root.map("downlinks") {
        let lan: Vec<String> = ["lan", "dmz"].into_iter().filter_map(|key| downlinks.text(key)).collect();
        out += &format!("lan = {}  # downlinks\n", list(&lan));
        left_over.extend(downlinks.left_over());
    } else {
        root.missing("downlinks");
    }
    out += "failback = \"0s\"  # an uplink that answers again was used again at once\n";
    out += &bases(root, &uplinks);
    if let Some(tests) = root.map("tests") {
        out += &probe(&tests);
        left_over.extend(tests.left_over());
    } else {
        root.missing("tests");
    }
    out += &links(&uplinks);
    left_over.extend(uplinks.iter().flat_map(Map::left_over));
    if let Some(log) = root.map("log") {
        let named = log.name(&["file", "log_file", "max_size", "old_files"]).join(", ");
        out +=
            &format!("\n# {named}: the log goes to the journal, which rotates by itself: journalctl -u link-watcher\n");
        left_over.extend(log.left_over());
    }
    if let Some(email) = root.map("email") {
        out += &notifier(&email, &mut left_over);
    }
    left_over.extend(root.left_over());
    if !left_over.is_empty() {
        out += "\n# Unknown to Fault Tolerant Router as far as link-watcher knows it, and not converted:\n";
    }
    for (key, span) in left_over {
        out += &format!("# {} (line {})\n", comment(&key), source.findings.line_of(&span));
        source.findings.warning(&span, format!("`{key}` is not known and was not converted"), "");
    }
    out
}

/// Numbers of tables, rules and marks.
fn bases(root: &Map<'_, '_, '_>, uplinks: &[Map<'_, '_, '_>]) -> String {
    let mut out = String::new();
    if let Some(base) = root.number("base_table") {
        out += &format!(
            "table-base = {base}  # base_table: the same tables; the first is the one that spreads, which was the last\n"
        );
    }
    match root.number("base_priority") {
        Some(base) if (1..=MAX_RULE_PRIORITY).contains(&base) => {
            out += &format!("rule-priority = {base}  # base_priority\n");
        }
        Some(base) => {
            out += &format!(
                "# base_priority {base}: the rules stand before the main table's here, from 20000 on; the main table may have \
                 a default route\n"
            );
        }
        None => {}
    }
    let marks = root.number("base_fwmark").map(|base| {
        let number = |i: usize| i as u32;
        let mark = |i: usize| format!("{} is {:#x}", base.saturating_add(number(i)), (number(i) + 1) << MARK_SHIFT);
        let marks: Vec<String> = (0..uplinks.len()).map(mark).collect();
        format!(
            "# base_fwmark {base}: marks share the bits of `fwmark` here, and other bits stay as they are. In iptables rules of \
             your own: {}\n",
            marks.join(", ")
        )
    });
    out + &marks.unwrap_or_default()
}

fn probe(tests: &Map<'_, '_, '_>) -> String {
    let mut out = "\n  [uplinks.probe]  # tests\n  kind = \"icmp\"\n".to_owned();
    out += &format!("  targets = {}\n", list(&tests.texts("ips")));
    if let Some(required) = tests.number("required_successful") {
        out += &format!("  required = {required}\n");
    }
    if let Some(interval) = tests.number("interval") {
        let interval = Duration::from_secs(interval.into());
        let show = humantime::format_duration;
        out += &format!(
            "  interval = \"{}\"  # once a second costs little, and finds a dead uplink sooner\n",
            show(interval)
        );
        out += &format!("  timeout = \"{}\"  # as its ping waited\n", show(PING_TIMEOUT.min(interval)));
    }
    if let Some(tries) = tests.number("ping_retries") {
        out += &format!("  fall = {}  # ping_retries: here a whole round is asked again\n", tries.max(1));
    }
    out + "  rise = 1\n"
}

fn links(uplinks: &[Map<'_, '_, '_>]) -> String {
    let mut out = String::new();
    let mut names = BTreeSet::new();
    let by_priority = uplinks.iter().any(|uplink| !uplink.name(&["priority_group"]).is_empty());
    for (i, uplink) in uplinks.iter().enumerate() {
        let description = uplink.text("description").unwrap_or_default();
        let name = unique_name(&description, i + 1, &mut names);
        out += "\n  [[uplinks.link]]\n";
        out += &format!("  name = {}", quoted(&name));
        out += &if description.is_empty() { "\n".to_owned() } else { format!("  # {}\n", comment(&description)) };
        match uplink.text("interface") {
            Some(interface) => out += &format!("  interface = {}\n", quoted(&interface)),
            None => uplink.missing("interface"),
        }
        let kind = uplink.text("type");
        let (ip, gateway) = (uplink.text("ip"), uplink.text("gateway"));
        match kind.as_deref() {
            Some("ppp") => out += "  # type ppp: address and gateway are learned from the interface, and followed\n",
            Some("static") | None => {
                for (key, ours, value) in [("gateway", "gateway", &gateway), ("ip", "local", &ip)] {
                    match value {
                        Some(value) => out += &format!("  {ours} = {}\n", quoted(value)),
                        None => uplink.missing(key),
                    }
                }
                if let Some(ip) = &ip {
                    out += &format!("  nat = {}  # as its iptables rules did\n", quoted(ip));
                }
            }
            Some(other) => uplink.refuse("type", &format!("`type` cannot be \"{other}\""), "it is static or ppp"),
        }
        let default_route = uplink.boolean("default_route");
        let tier = match (uplink.number("priority_group"), default_route) {
            (_, Some(false)) => 0,
            // Without a group, where others have one, it is kept out of the choice.
            (None, _) if by_priority => 0,
            (group, _) => group.unwrap_or(1),
        };
        let why = match default_route {
            Some(false) => "default_route: false",
            _ if tier == 0 => "no priority_group: never chosen",
            _ => "priority_group",
        };
        if tier != 1 || by_priority {
            out += &format!("  tier = {tier}  # {why}\n");
        }
        if let Some(weight) = uplink.number("weight") {
            out += &format!("  weight = {weight}\n");
        }
    }
    out
}

/// Mail: as a comment, because the password stays where it was, and without it nothing could be sent.
fn notifier(email: &Map<'_, '_, '_>, left_over: &mut Vec<(String, std::ops::Range<usize>)>) -> String {
    let mut out =
        "\n# email: take the # away once the password is in its file; then: link-watcher notify-test\n#\n".to_owned();
    if email.boolean("send") == Some(false) {
        out = "\n# email.send is false, so there is nothing to convert. If it were true:\n#\n".to_owned();
    }
    out += "# [[notify]]\n# kind = \"email\"\n# name = \"admin\"\n";
    if let Some(sender) = email.text("sender") {
        out += &format!("# from = {}\n", quoted(&sender));
    }
    out += &format!("# to = {}\n", list(&email.texts("recipients")));
    if let Some(smtp) = email.map("smtp_parameters") {
        let host = smtp.text("address").unwrap_or_else(|| "localhost".to_owned());
        let port = smtp.number("port");
        let tls = [smtp.boolean("ssl"), smtp.boolean("tls")].contains(&Some(true)) || port == Some(465);
        let user = smtp.text("user_name").map(|user| user.replace('%', "%25").replace('@', "%40") + "@");
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let url = format!("{}://{}{host}{port}", if tls { "smtps" } else { "smtp" }, user.unwrap_or_default());
        out += &format!("# smtp = {}\n", quoted(&url));
        if !smtp.name(&["password"]).is_empty() {
            out += "# password-file = \"/etc/link-watcher/smtp.password\"\n\
                    # email.smtp_parameters.password: write it to that file, mode 0600; it is not copied here\n";
        }
        let named =
            smtp.name(&["domain", "authentication", "enable_starttls_auto", "enable_starttls", "openssl_verify_mode"]);
        if !named.is_empty() {
            out += &format!("# {}: settled with the server by itself\n", named.join(", "));
        }
        left_over.extend(smtp.left_over());
    }
    left_over.extend(email.left_over());
    out + "# on = [\"link-down\", \"link-up\", \"active-changed\"]\n"
}

/// A name for commands and metrics out of a description for people.
fn unique_name(description: &str, number: usize, taken: &mut BTreeSet<String>) -> String {
    let mut name = String::new();
    for c in description.to_lowercase().chars() {
        match c {
            c if c.is_alphanumeric() => name.push(c),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
        if name.len() >= MAX_NAME_LEN {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    let name = if name.is_empty() || name == "auto" { format!("uplink{number}") } else { name.to_owned() };
    // At most one more try for each that is taken.
    let free = (1..=taken.len() + 1)
        .map(|i| if i == 1 { name.clone() } else { format!("{name}-{i}") })
        .find(|name| !taken.contains(name))
        .unwrap_or(name);
    taken.insert(free.clone());
    free
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

/// A text as a comment can have it: on one line.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What is converted is TOML, whatever else may be wrong with it.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(converted) = convert(Path::new("/nowhere/fault_tolerant_router.conf"), text) {
        let read: Result<toml::Table, _> = converted.toml.parse();
        assert!(read.is_ok(), "{read:?} in\n{}", converted.toml);
    }
}

#[cfg(test)]
mod tests;
