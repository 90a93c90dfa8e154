//! Reads typed values out of a TOML table, and says of each that is wrong where and why. It never gives up at the first.

use std::{net::IpAddr, ops::Range, time::Duration};

use ipnet::IpNet;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Findings, either},
    meant,
    reference::{Schema, Takes},
    unknown,
};

/// One table: `[daemon]`, or one `[[peer]]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    schema: &'static Schema,
    header: (usize, usize),
    table: &'a DeTable<'a>,
    pub(super) findings: &'a Findings<'a>,
}

impl<'a> Section<'a> {
    /// A table; each key that its schema does not have is an error.
    pub(super) fn new(
        schema: &'static Schema,
        header: Range<usize>,
        table: &'a DeTable<'a>,
        findings: &'a Findings<'a>,
    ) -> Self {
        let title = schema.title;
        for (key, _) in table.iter() {
            let name = key.get_ref().as_ref();
            if schema.key(name).is_some() {
                continue;
            }
            let unknown::Meant { key: meant, elsewhere, help } = unknown::meant(name, schema);
            // What is inside of these is looked for from other sections.
            if let Some(meant) = meant.filter(|meant| elsewhere || ["link", "probe", "targets"].contains(meant)) {
                findings.excuse(meant);
            }
            let message = if title.is_empty() {
                format!("unknown section or key `{name}`")
            } else {
                format!("unknown key `{name}` in {title}")
            };
            findings.error(&key.span(), message, help);
        }
        Self { schema, header: (header.start, header.end), table, findings }
    }

    /// What the schema says of a key that this program asks for.
    fn takes(&self, key: &str) -> Option<&'static Takes> {
        let takes = self.schema.key(key).map(|key| &key.takes);
        debug_assert!(takes.is_some(), "{} has no key {key} in its schema", self.schema.title);
        takes
    }

    /// The keys of another `kind` of this section that are here, with that kind.
    pub(super) fn of_other_kinds(&self, kind: &str) -> Vec<(&'static str, &'static str, Range<usize>)> {
        let others = self.schema.keys.iter().filter_map(|key| Some((key.name, key.only.filter(|of| *of != kind)?)));
        others.filter_map(|(key, of)| Some((key, of, self.get(key)?.span()))).collect()
    }

    /// Keys of this `kind`, and of all.
    pub(super) fn keys_of_kind(&self, kind: &str) -> Vec<&'static str> {
        let keys = self.schema.keys.iter().filter(|key| key.only.is_none_or(|of| of == kind));
        keys.map(|key| key.name).collect()
    }

    /// Where its header is.
    pub(super) fn span(&self) -> Range<usize> {
        self.header.0..self.header.1
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        lookup(self.table, key)
    }

    /// Whether a list is empty or missing.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        match self.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(array)) => array.iter().next().is_none(),
            Some(_) => false,
            None => !self.excused(key),
        }
    }

    /// Whether a key is there under another name or in another place, which was reported then: one mistake is one error.
    pub(super) fn excused(&self, key: &str) -> bool {
        let names = self.table.iter().map(|(key, _)| key.get_ref().as_ref());
        let mut unknown = names.filter(|key| self.schema.key(key).is_none());
        self.findings.excused(key) || unknown.any(|unknown| unknown::meant(unknown, self.schema).key == Some(key))
    }

    /// Says that a key is missing.
    pub(super) fn missing(&self, key: &str, example: &str) {
        if self.excused(key) {
            return;
        }
        self.findings.error(
            &self.span(),
            format!("{} lacks `{key}`", self.schema.title),
            format!("add a line such as {key} = {example}"),
        );
    }

    pub(super) fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str, example: &str) {
        let found = value.get_ref().type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.findings.error(
            &value.span(),
            format!("`{key}` must be {wanted}, not {article} {found}"),
            format!("write {key} = {example}"),
        );
    }

    /// A section inside this one: `[daemon]`, `[uplinks.probe]`.
    pub(super) fn section(&self, key: &str, schema: &'static Schema) -> Option<Section<'a>> {
        let value = self.get(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            self.findings.error(
                &value.span(),
                format!("`{key}` must be a section"),
                format!("begin it with a line {}", schema.title),
            );
            return None;
        };
        Some(Section::new(schema, value.span(), table, self.findings))
    }

    /// Repeated sections: every `[[peer]]`.
    pub(super) fn sections(&self, key: &str, schema: &'static Schema) -> Vec<Section<'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let wrong = |span: &Range<usize>| {
            // What is below a section whose head has another name makes a wrong one of this name.
            if self.excused(key) {
                return;
            }
            self.findings.error(
                span,
                format!("`{key}` must be a repeated section"),
                format!("begin it with a line {}, in double brackets", schema.title),
            );
        };
        let DeValue::Array(array) = value.get_ref() else {
            wrong(&value.span());
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in array.iter() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(schema, item.span(), table, self.findings));
                }
                _ => wrong(&item.span()),
            }
        }
        sections
    }

    pub(super) fn string(&self, key: &str, example: &str) -> Option<Spanned<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.clone().into_owned())),
            _ => {
                self.wrong_type(key, value, "a text in quotes", example);
                None
            }
        }
    }

    pub(super) fn strings(&self, key: &str, example: &str) -> Vec<Spanned<String>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            let meant = meant::list(value.get_ref());
            self.wrong_type(key, value, "a list", meant.as_deref().unwrap_or(example));
            return Vec::new();
        };
        let mut strings = Vec::new();
        for item in array.iter() {
            match item.get_ref() {
                DeValue::String(text) => strings.push(Spanned::new(item.span(), text.clone().into_owned())),
                _ => self.wrong_type(key, item, "a list of texts in quotes", example),
            }
        }
        strings
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            let meant = meant::boolean(value.get_ref()).unwrap_or(true);
            self.wrong_type(key, value, "true or false", &meant.to_string());
        }
        boolean
    }

    /// A number within the range that the schema gives it.
    pub(super) fn integer(&self, key: &str) -> Option<Spanned<u32>> {
        let Some(Takes::Number(range)) = self.takes(key) else { return None };
        let value = self.get(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            let example = match meant::number(key, value.get_ref(), range) {
                Some(number) => number.to_string(),
                None => format!("a number from {} to {}, without quotes", range.start(), range.end()),
            };
            self.wrong_type(key, value, "a number", &example);
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            self.findings.error(
                &value.span(),
                format!("`{key}` is out of range: {integer}"),
                format!("it goes from {} to {}", range.start(), range.end()),
            );
        }
        number.map(|number| Spanned::new(value.span(), number))
    }

    /// A time within the range that the schema gives it.
    pub(super) fn duration(&self, key: &str, example: &str) -> Option<Duration> {
        let Some(Takes::Duration(range) | Takes::DurationOr(range, _)) = self.takes(key) else { return None };
        let value = self.get(key)?;
        let quoted = format!("\"{example}\"");
        let DeValue::String(text) = value.get_ref() else {
            let meant = match value.get_ref() {
                DeValue::Integer(integer) => meant::durations(integer.as_str(), range),
                _ => None,
            };
            self.wrong_type(key, value, "a duration in quotes", meant.as_deref().unwrap_or(&quoted));
            return None;
        };
        let Ok(duration) = humantime::parse_duration(text) else {
            self.findings.error(
                &value.span(),
                format!("`{key}` is not a duration: \"{text}\""),
                match meant::duration(text, range) {
                    Some(meant) => format!("write {key} = {meant}"),
                    None => "write a number and its unit, such as \"10ms\", \"1s\" or \"2m\"".to_owned(),
                },
            );
            return None;
        };
        if !range.contains(&duration) {
            self.findings.error(
                &value.span(),
                format!("`{key}` is out of range: {text}"),
                format!(
                    "it goes from {} to {}",
                    humantime::format_duration(*range.start()),
                    humantime::format_duration(*range.end())
                ),
            );
            return None;
        }
        Some(duration)
    }

    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.string(key, &format!("\"{}\"", words.first().copied().unwrap_or_default()))?;
        let found = choices.iter().find(|(word, _)| word == text.get_ref()).map(|(_, choice)| *choice);
        if found.is_none() {
            let help = match meant::choice(text.get_ref(), &words) {
                Some(word) => format!("did you mean \"{word}\"? It is one of {}", either(&words)),
                None => format!("write {}", either(&words)),
            };
            self.findings.error(&text.span(), format!("`{key}` cannot be \"{}\"", text.get_ref()), help);
        }
        found
    }

    pub(super) fn address(&self, key: &str, example: &str) -> Option<Spanned<IpAddr>> {
        let text = self.string(key, &format!("\"{example}\""))?;
        self.checked_address(key, text, example)
    }

    /// One address in quotes, or a list of them.
    pub(super) fn addresses(&self, key: &str, example: &str) -> Vec<Spanned<IpAddr>> {
        let texts = match self.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.strings(key, &format!("[\"{example}\"]")),
            _ => self.string(key, &format!("\"{example}\"")).into_iter().collect(),
        };
        texts.into_iter().filter_map(|text| self.checked_address(key, text, example)).collect()
    }

    /// An address that a host can have.
    pub(super) fn checked_address(&self, key: &str, text: Spanned<String>, example: &str) -> Option<Spanned<IpAddr>> {
        let span = text.span();
        let Ok(address) = text.get_ref().parse::<IpAddr>() else {
            let help = meant::address(key, text.get_ref(), example);
            self.findings.error(&span, format!("`{key}` is not an address: \"{}\"", text.get_ref()), help);
            return None;
        };
        let wrong = if address.is_unspecified() {
            "the unspecified address"
        } else if address.is_multicast() {
            "a multicast address"
        } else if address == IpAddr::from([255, 255, 255, 255]) {
            "the broadcast address"
        } else if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            "an IPv4-mapped address"
        } else {
            return Some(Spanned::new(span, address));
        };
        let help = match address.to_canonical() {
            IpAddr::V4(v4) if address.is_ipv6() => format!("write it as IPv4: {key} = \"{v4}\""),
            _ => format!("write the address of one router, such as {key} = \"{example}\""),
        };
        self.findings.error(&span, format!("`{key}` is {wrong}: {address}"), help);
        None
    }

    /// A list of prefixes without bits behind their length.
    pub(super) fn prefixes(&self, key: &str) -> Vec<Spanned<IpNet>> {
        let texts = self.strings(key, "[\"10.20.20.0/22\"]");
        texts.into_iter().filter_map(|text| self.checked_prefix(key, text)).collect()
    }

    /// One prefix, likewise.
    pub(super) fn prefix(&self, key: &str) -> Option<Spanned<IpNet>> {
        let text = self.string(key, "\"10.20.20.0/22\"")?;
        self.checked_prefix(key, text)
    }

    fn checked_prefix(&self, key: &str, text: Spanned<String>) -> Option<Spanned<IpNet>> {
        let span = text.span();
        let text = text.into_inner();
        match text.parse::<IpNet>() {
            Ok(prefix) if prefix == prefix.trunc() => return Some(Spanned::new(span, prefix)),
            Ok(prefix) => self.findings.error(
                &span,
                format!("{text} has bits set behind its length of {}", prefix.prefix_len()),
                format!("write \"{}\", or \"{}\" for this one address", prefix.trunc(), IpNet::from(prefix.addr())),
            ),
            Err(_) => {
                let help = meant::prefix(key, &text);
                self.findings.error(&span, format!("`{key}` has an entry that is not a prefix: \"{text}\""), help);
            }
        }
        None
    }

    /// Whether an interface can have this name; if not, that is reported: `dev_valid_name` in the kernel's `net/core/dev.c`.
    pub(super) fn is_interface(&self, name: &Spanned<String>) -> bool {
        let text = name.get_ref();
        let wrong = if text.is_empty() || text.len() > 15 {
            "it has 1 to 15 bytes"
        } else if text == "." || text == ".." || text.contains(['/', ':']) || text.contains(char::is_whitespace) {
            "it has no space, no slash and no colon"
        } else {
            return true;
        };
        self.findings.error(
            &name.span(),
            format!("\"{text}\" cannot be the name of an interface: {wrong}"),
            meant::interface(text),
        );
        false
    }
}

/// The value of a key.
pub(super) fn lookup<'t>(table: &'t DeTable<'t>, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
    table.iter().find(|(known, _)| known.get_ref().as_ref() == key).map(|(_, value)| value)
}
