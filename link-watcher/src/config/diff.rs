//! Pure: what one file says otherwise than another, for whoever reloads. Sections that have a name are told apart by it, so
//! that their order means nothing.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// Most changes that are listed; nobody reads more at once.
const MAX_LINES: usize = 100;

/// What `new` says otherwise than `old`, a line each: `+` for what is new, `-` for what is gone, `~` for what is another.
/// Where a text is no TOML, nothing: whoever asks has validated it.
pub fn diff(old: &str, new: &str) -> Vec<String> {
    let (Ok(old), Ok(new)) = (old.parse::<Table>(), new.parse::<Table>()) else { return Vec::new() };
    let mut lines = Vec::new();
    tables("", &old, &new, &mut lines);
    if lines.len() > MAX_LINES {
        let more = lines.len() - MAX_LINES;
        lines.truncate(MAX_LINES);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn tables(place: &str, old: &Table, new: &Table, lines: &mut Vec<String>) {
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(Value::Table(old)), Some(Value::Table(new))) => tables(&joined(place, key), old, new, lines),
            (old, new) if is_list(old) || is_list(new) => lists(&joined(place, key), old, new, lines),
            (Some(old), Some(new)) => lines.push(format!("~ {place}{key} = {new} (was {old})", place = lead(place))),
            (None, Some(new)) => lines.push(format!("+ {place}{key} = {new}", place = lead(place))),
            (Some(old), None) => lines.push(format!("- {place}{key} (was {old})", place = lead(place))),
            (None, None) => {}
        }
    }
}

/// Whether it is a list of sections.
fn is_list(value: Option<&Value>) -> bool {
    value.and_then(Value::as_array).is_some_and(|list| list.iter().any(Value::is_table))
}

/// Sections of a list by their names, in the order of the file; those without one by their place.
fn lists(place: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    let (old, new) = (sections(old), sections(new));
    for (name, section) in &new {
        match old.iter().find(|(known, _)| known == name) {
            Some((_, known)) => tables(&joined(place, name), known, section, lines),
            None => lines.push(format!("+ {}", joined(place, name))),
        }
    }
    for (name, section) in old.iter().filter(|(name, _)| !new.iter().any(|(known, _)| known == name)) {
        let way = |section: &Table| {
            let text = |key: &str| section.get(key).map(ToString::to_string);
            (text("interface"), text("remote"), text("gateway"))
        };
        let again = new.iter().find(|(other, same)| {
            way(same) == way(section) && way(section).0.is_some() && !old.iter().any(|(known, _)| known == other)
        });
        let renamed =
            again.map(|(other, _)| format!(" ({other} has its place; under another name it is another link)"));
        lines.push(format!("- {}{}", joined(place, name), renamed.unwrap_or_default()));
    }
}

fn sections(list: Option<&Value>) -> Vec<(String, &Table)> {
    let list = list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table);
    let mut unnamed = BTreeMap::new();
    list.map(|section| {
        let name = section.get("name").and_then(Value::as_str).map(str::to_owned);
        let name = name.unwrap_or_else(|| {
            let count: &mut usize = unnamed.entry(()).or_default();
            *count += 1;
            count.to_string()
        });
        (name, section)
    })
    .collect()
}

fn joined(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place} {key}") }
}

fn lead(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("{place}: ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
        [daemon]
        engine = "auto"
        [[peer]]
        name = "hq"
        interval = "100ms"
        routes = ["0.0.0.0/0"]
        [[peer.link]]
        name = "a"
        interface = "eth1"
        remote = "10.248.248.1"
        [[peer.link]]
        name = "b"
        interface = "eth2"
        remote = "10.248.249.1"
    "#;

    #[test]
    fn the_order_of_named_sections_means_nothing() {
        let (head, links) = OLD.split_once("[[peer.link]]").unwrap_or_default();
        let (a, b) = links.split_once("[[peer.link]]").unwrap_or_default();
        let swapped = format!("{head}[[peer.link]]{b}[[peer.link]]{a}");
        assert_ne!(swapped, OLD);
        assert_eq!(diff(OLD, &swapped), [""; 0]);
    }

    #[test]
    fn what_is_new_gone_and_another_is_named_with_its_place() {
        let new = OLD
            .replace("interval = \"100ms\"", "interval = \"50ms\"\nmultiplier = 5")
            .replace("engine = \"auto\"\n", "")
            .replace("name = \"b\"", "name = \"c\"")
            .replace("10.248.248.1", "10.248.248.9");
        assert_eq!(
            diff(OLD, &new),
            [
                "- daemon: engine (was \"auto\")",
                "~ peer hq: interval = \"50ms\" (was \"100ms\")",
                "~ peer hq link a: remote = \"10.248.248.9\" (was \"10.248.248.1\")",
                "+ peer hq link c",
                "- peer hq link b (c has its place; under another name it is another link)",
                "+ peer hq: multiplier = 5",
            ]
        );
    }

    #[test]
    fn the_lines_are_bounded() {
        let many: String = (0..1000).map(|i| format!("[[peer]]\nname = \"p{i}\"\n")).collect();
        let lines = diff("", &many);
        assert_eq!((lines.len(), lines[MAX_LINES].as_str()), (MAX_LINES + 1, "and 900 more"));
    }
}
