//! What is not TOML: of each line the first complaint, in the words of somebody who knows what was meant.

use std::ops::Range;

use super::{
    diagnostic::Findings,
    group::NEVER,
    reference::{SCHEMAS, Takes},
};

/// What office programs and other languages have for quotation marks.
const CURLY: [char; 9] =
    ['\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}', '\u{2018}', '\u{2019}', '\u{ab}', '\u{bb}', '`'];
/// Of what is a section and a value.
const VALUED: &str = "is a section here, and has a value in line";
/// What looks like a space, or like nothing.
const BLANKS: [char; 6] = ['\u{a0}', '\u{2007}', '\u{2009}', '\u{202f}', '\u{200b}', '\u{feff}'];
/// How comments begin elsewhere.
const COMMENTS: [&str; 4] = ["//", ";", "--", "/*"];
/// What stands before a key elsewhere.
const VERBS: [&str; 5] = ["set", "let", "export", "option", "config"];
/// What stands between a key and its value elsewhere; those that begin with another one come first.
const ASSIGNMENTS: [&str; 5] = ["==", "=>", ":=", ":", "->"];

/// Reports the errors of the parser.
pub(super) fn report(text: &str, errors: &[toml::de::Error], findings: &Findings<'_>) {
    let mut errors: Vec<(usize, &str)> = errors
        .iter()
        .map(|error| (error.span().map_or(0, |span| span.start).min(text.len()), error.message()))
        .collect();
    errors.sort_by_key(|(at, _)| *at);
    // A list that is not closed takes what follows for its entries.
    while let Some(end) = errors.iter().position(|(_, message)| message.starts_with("unclosed array, ")) {
        let first = errors[..=end].iter().position(|(_, message)| message.contains("array")).unwrap_or(end);
        let opening = opening_of_list(text, errors[first].0);
        let key = key_of(line_at(text, opening)).unwrap_or("it");
        let help = format!("`{key}` = [ wants a ] behind its last entry");
        findings.error(&(opening..opening), "this list has no end", help);
        errors.drain(first..=end);
    }
    let mut last_line = None;
    let mut repeated_until = 0;
    let mut valued = String::new();
    for (at, message) in errors {
        let at = floor(text, at);
        let line = text[..at].matches('\n').count();
        // Of a section that stands twice its keys do so as well.
        let again = at < repeated_until && message.starts_with("duplicate");
        if last_line.replace(line) == Some(line) || again {
            continue;
        }
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let whole = line_at(text, start);
        if whole.trim_start().starts_with('[') && message.starts_with("duplicate") {
            let behind = start + whole.len();
            repeated_until = text[behind..].find("\n[").map_or(text.len(), |next| behind + next + 1);
        }
        let (span, message, help) = match advice(whole, message) {
            Some((offset, message, help)) => (start + offset..start + offset, message, help),
            None => twice(text, start, message)
                .unwrap_or_else(|| (at..at, format!("this is not TOML: {message}"), String::new())),
        };
        // Each section of that name collides with the one value.
        if message.contains(VALUED) && std::mem::replace(&mut valued, message.clone()) == message {
            continue;
        }
        findings.error(&span, message, help);
    }
}

/// The closest character boundary at or below an offset.
fn floor(text: &str, offset: usize) -> usize {
    (0..=offset).rev().find(|offset| text.is_char_boundary(*offset)).unwrap_or(0)
}

fn line_at(text: &str, start: usize) -> &str {
    text[start..].lines().next().unwrap_or_default()
}

/// Where the line begins that opens the list around an offset.
fn opening_of_list(text: &str, at: usize) -> usize {
    let before = &text[..floor(text, at)];
    let mut start = before.len();
    let mut best = 0;
    for line in before.split_inclusive('\n').rev() {
        start -= line.len();
        if line.split_once('=').is_some_and(|(_, value)| value.trim_start().starts_with('[')) {
            best = start;
            break;
        }
    }
    best
}

/// The bare key that a line begins with.
fn key_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(line.len());
    Some(&line[..end]).filter(|key| !key.is_empty())
}

/// Where in the line it is wrong, what is, and what would be right.
fn advice(line: &str, message: &str) -> Option<(usize, String, String)> {
    let indent = line.len() - line.trim_start().len();
    let body = line.trim();
    if ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|mark| body.starts_with(mark)) {
        return Some((
            indent,
            "a merge conflict is left in this file".to_owned(),
            "keep one of its two sides".to_owned(),
        ));
    }
    if let Some(offset) = line.find(BLANKS) {
        let code = line[offset..].chars().next().map_or(0, u32::from);
        let message = format!("here is a character that only looks like a space, or like nothing: U+{code:04X}");
        return Some((offset, message, "write an ordinary space in its place".to_owned()));
    }
    if let Some(comment) = COMMENTS.iter().find(|comment| body.starts_with(*comment)) {
        let help = format!("write # {}", body.trim_start_matches(['/', ';', '-', '*']).trim());
        return Some((indent, format!("{comment} begins no comment"), help));
    }
    let code = without_comment(body);
    if let Some(offset) = line.find(CURLY).filter(|_| code.contains(CURLY)) {
        let help = format!("write {}", code.replace(CURLY, "\""));
        return Some((offset, "this is another quotation mark than TOML's".to_owned(), help));
    }
    if body.starts_with('[') {
        let brackets = if body.starts_with("[[") || code.ends_with("]]") { ("[[", "]]") } else { ("[", "]") };
        let name = code.trim_matches(['[', ']', ' ']);
        let good = format!("{}{name}{}", brackets.0, brackets.1);
        return (good != code && !message.starts_with("duplicate"))
            .then(|| (indent, "this is not the head of a section".to_owned(), format!("write {good}")));
    }
    if let Some(item) = body.strip_prefix("- ") {
        let item = item.replacen(':', " =", 1);
        let help = format!("this file is TOML: write [[name]] for each entry of a list, and then {item}");
        return Some((indent, "- begins no entry of a list".to_owned(), help));
    }
    if ["}", "};", "},", "]", ");"].contains(&code) {
        let help = "leave it out: a section ends where the next one begins".to_owned();
        return Some((indent, format!("{code} ends no section"), help));
    }
    // As JSON has keys.
    let bare = body.strip_prefix(['"', '\'']).and_then(|rest| {
        let (key, rest) = rest.split_once(['"', '\''])?;
        Some((key, rest.trim_start().strip_prefix(':')?.trim()))
    });
    if let Some((key, value)) = bare {
        let help = format!("write {key} = {}", written(key, value));
        return Some((indent, "a key and its value are joined by =, not by :".to_owned(), help));
    }
    let key = key_of(body)?;
    let rest = code[key.len().min(code.len())..].trim_start();
    if VERBS.contains(&key)
        && let Some(real) = key_of(rest).filter(|real| SCHEMAS.iter().any(|schema| schema.key(real).is_some()))
    {
        let value = rest[real.len()..].trim_start().trim_start_matches([':', '=']).trim();
        let value = if value.is_empty() { "...".to_owned() } else { written(real, value) };
        return Some((indent, format!("`{key}` sets nothing"), format!("write {real} = {value}")));
    }
    if let Some(assignment) = ASSIGNMENTS.iter().find(|assignment| rest.starts_with(*assignment)) {
        let value = rest[assignment.len()..].trim();
        if value.is_empty() {
            let help = format!("a section begins with [{key}] or [[{key}]], a value is written {key} = \"...\"");
            return Some((indent, format!("`{key}{assignment}` is neither a section nor a value"), help));
        }
        let help = format!("write {key} = {}", written(key, value));
        return Some((indent, format!("a key and its value are joined by =, not by {assignment}"), help));
    }
    if rest.starts_with('{') {
        let help = format!("a section begins with [{key}] or [[{key}]], and ends where the next begins");
        return Some((indent, format!("`{key} {{` begins no section"), help));
    }
    let Some(value) = rest.strip_prefix('=').map(str::trim) else {
        let help = if rest.is_empty() {
            format!("write {key} = ...")
        } else {
            format!("write {key} = {}", written(key, rest))
        };
        return Some((indent, format!("there is no = behind `{key}`"), help));
    };
    let place = line
        .find('=')
        .map_or(indent, |equals| equals + 1 + line[equals + 1..].len() - line[equals + 1..].trim_start().len());
    of_value(key, value, message).map(|(message, help)| (place, message, help))
}

/// What is wrong with a value that stands in one line.
fn of_value(key: &str, value: &str, message: &str) -> Option<(String, String)> {
    if message.starts_with("duplicate") {
        return None;
    }
    if value.is_empty() {
        return Some((format!("`{key}` has no value"), format!("write {key} = ..., or begin the line with #")));
    }
    if value.starts_with(['"', '\'']) {
        let quote = &value[..1];
        return Some(match value[1..].split_once(quote) {
            None => (format!("this text has no {quote} at its end"), format!("write {key} = {value}{quote}")),
            Some((text, rest)) => {
                let rest = rest.trim();
                if is_list(key) && rest.starts_with(',') {
                    let help = format!("write {key} = {}", written_list(value));
                    return Some((format!("several values of `{key}` are a list"), help));
                }
                let comment = COMMENTS.iter().find_map(|comment| rest.strip_prefix(comment)).map(str::trim);
                let comment = comment.filter(|comment| !comment.is_empty());
                let more = comment.is_none() && !matches!(rest, ";" | "," | "\"");
                let comment = comment.map_or_else(String::new, |comment| format!(" # {comment}"));
                let more = if more { ", and what else there is into a line of its own" } else { "" };
                (
                    format!("something stands behind the value of `{key}`: {rest}"),
                    format!("write {key} = {quote}{text}{quote}{comment}{more}"),
                )
            }
        });
    }
    if value.starts_with(['[', '(', '{']) {
        let list = written_list(value);
        return Some((format!("this is no list: {value}"), format!("write {key} = {list}")));
    }
    let good = written(key, value);
    Some(if good.starts_with(['"', '[']) {
        (format!("this text has no quotes: {value}"), format!("write {key} = {good}"))
    } else {
        (format!("this is not how a value is written: {value}"), format!("write {key} = {good}"))
    })
}

/// Whether the value of a key is a list, in whatever section.
fn is_list(key: &str) -> bool {
    let mut known = SCHEMAS.iter().filter_map(|schema| schema.key(key));
    known.any(|key| matches!(key.takes, Takes::List(_)))
}

/// A value as TOML has it, from how somebody wrote it.
fn written(key: &str, value: &str) -> String {
    let value = value.trim().trim_end_matches([';', ',']).trim();
    if is_list(key) {
        return written_list(value);
    }
    if key == "failback" && NEVER.contains(&value.to_lowercase().as_str()) {
        return "\"manual\"".to_owned();
    }
    let digits: String =
        value.trim_end_matches(['%', '.']).chars().filter(|c| !matches!(c, ',' | '\'' | '_' | ' ')).collect();
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => "true".to_owned(),
        "false" | "no" | "off" => "false".to_owned(),
        _ if value.starts_with(['"', '\'']) => value.to_owned(),
        _ if value.starts_with(['[', '(', '{']) => written_list(value),
        _ if value.ends_with('%') && key == "max-loss" => format!("\"{value}\""),
        _ if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number = digits.trim_start_matches('0');
            if number.is_empty() { "0".to_owned() } else { number.to_owned() }
        }
        _ => format!("\"{}\"", value.trim_matches(['"', '\''])),
    }
}

/// Entries with their quotes and commas.
fn written_list(value: &str) -> String {
    let entries = value.trim_matches(['[', ']', '(', ')', '{', '}', ' ']).split([',', ' ', ';']);
    let entries = entries.map(|entry| entry.trim().trim_matches(['"', '\''])).filter(|entry| !entry.is_empty());
    format!("[{}]", entries.map(|entry| format!("\"{entry}\"")).collect::<Vec<_>>().join(", "))
}

/// A line without its comment; a # in a text is none.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    for (offset, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '#' => return line[..offset].trim_end(),
            _ => {}
        }
    }
    line.trim_end()
}

/// A key or section that is there already.
fn twice(text: &str, start: usize, message: &str) -> Option<(Range<usize>, String, String)> {
    if !message.starts_with("duplicate key") {
        return None;
    }
    let line = line_at(text, start);
    let at = start + line.len() - line.trim_start().len();
    let code = without_comment(line.trim());
    if code.starts_with('[') {
        let name = code.trim_matches(['[', ']', ' ']);
        let first = text[..start].lines().position(|other| section_of(other) == Some(name));
        if let Some(line) = value_named(&text[..start], name) {
            let message = format!("{name} {VALUED} {line} already");
            return Some((at..at, message, format!("leave line {line} out: what it says goes into this section")));
        }
        let help = match first {
            _ if SCHEMAS.iter().any(|schema| schema.is_repeated() && schema.path() == name) => {
                format!("write [[{name}]], in double brackets, each time")
            }
            Some(first) => format!("the first is at line {}: put both together", first + 1),
            None => "give it a name of its own".to_owned(),
        };
        return Some((at..at, format!("there is a section {name} already"), help));
    }
    let key = key_of(line)?;
    let first =
        text[..start].lines().count() - text[..start].lines().rev().position(|other| key_of(other) == Some(key))?;
    let help = format!("the first is at line {first}: leave one of them out; a list has all in one pair of brackets");
    Some((at..at, format!("`{key}` stands twice in this section"), help))
}

/// The line of the section before that gives a value to what shall be a section of this name.
fn value_named(before: &str, name: &str) -> Option<usize> {
    let (parent, key) = name.rsplit_once('.')?;
    let lines: Vec<&str> = before.lines().collect();
    let head = lines.iter().rposition(|line| section_of(line) == Some(parent))?;
    let mut own = lines[head + 1..].iter().take_while(|line| section_of(line).is_none());
    let found = own.position(|line| key_of(line) == Some(key))?;
    Some(head + found + 2)
}

/// The section that a line is the head of.
fn section_of(line: &str) -> Option<&str> {
    let code = without_comment(line.trim());
    code.starts_with('[').then(|| code.trim_matches(['[', ']', ' ']))
}
