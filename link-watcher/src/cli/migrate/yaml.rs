//! Reads values out of YAML as Ruby writes it: keys and words may be symbols (`:interface`), and each value that was
//! read is crossed off, so that what is left over can be named.

use std::{cell::Cell, ops::Range};

use saphyr::{MarkedYaml, Scalar, YamlData};

use crate::config::Findings;

/// A file, and where its characters are.
pub(super) struct Source<'f> {
    pub(super) findings: Findings<'f>,
    /// The byte offset of each character, and of the end.
    offsets: Vec<usize>,
}

impl<'f> Source<'f> {
    pub(super) fn new(findings: Findings<'f>, text: &str) -> Self {
        let offsets = text.char_indices().map(|(offset, _)| offset).chain([text.len()]).collect();
        Self { findings, offsets }
    }

    /// The byte offset of a character.
    pub(super) fn offset(&self, character: usize) -> usize {
        self.offsets.get(character).or(self.offsets.last()).copied().unwrap_or_default()
    }

    fn span(&self, node: &MarkedYaml<'_>) -> Range<usize> {
        self.offset(node.span.start.index())..self.offset(node.span.end.index())
    }

    fn wrong_type(&self, node: &MarkedYaml<'_>, path: &str, wanted: &str) {
        self.findings.error(&self.span(node), format!("`{path}` must be {wanted}"), "");
    }
}

/// A mapping.
pub(super) struct Map<'s, 'f, 'd> {
    source: &'s Source<'f>,
    /// What stands before its keys: `tests.`.
    prefix: String,
    span: Range<usize>,
    entries: Vec<Entry<'d>>,
}

struct Entry<'d> {
    key: String,
    span: Range<usize>,
    node: &'d MarkedYaml<'d>,
    used: Cell<bool>,
}

impl<'s, 'f, 'd> Map<'s, 'f, 'd> {
    /// Reads a mapping; of anything else it says that it is none.
    pub(super) fn new(source: &'s Source<'f>, path: &str, node: &'d MarkedYaml<'d>) -> Self {
        let mut map = Self { source, prefix: String::new(), span: source.span(node), entries: Vec::new() };
        if !path.is_empty() {
            map.prefix = format!("{path}.");
        }
        match &untagged(node).data {
            YamlData::Mapping(mapping) => {
                for (key, node) in mapping {
                    let span = source.span(key);
                    match scalar(key) {
                        Some(key) => map.entries.push(Entry { key, span, node, used: Cell::new(false) }),
                        None => source.findings.error(&span, "this key is no word", ""),
                    }
                }
            }
            _ if path.is_empty() => {
                source.findings.error(
                    &map.span,
                    "this is no configuration of Fault Tolerant Router",
                    "it begins with uplinks:",
                );
            }
            _ => source.wrong_type(node, path, "a mapping of keys to values"),
        }
        map
    }

    /// How a key is called in full.
    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Crosses a key off and gives its value, if it has one.
    fn take(&self, key: &str) -> Option<&'d MarkedYaml<'d>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        entry.used.set(true);
        Some(entry.node).filter(|node| !matches!(untagged(node).data, YamlData::Value(Scalar::Null)))
    }

    /// Says what is wrong with a key's value.
    pub(super) fn refuse(&self, key: &str, message: &str, help: &str) {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let span = entry.map_or(self.span.clone(), |entry| self.source.span(entry.node));
        self.source.findings.error(&span, message, help);
    }

    /// Says that a key is missing.
    pub(super) fn missing(&self, key: &str) {
        let first = self.entries.first().map_or(self.span.clone(), |entry| entry.span.clone());
        self.source.findings.error(&first, format!("`{}` is missing", self.path(key)), "");
    }

    pub(super) fn map(&self, key: &str) -> Option<Map<'s, 'f, 'd>> {
        Some(Map::new(self.source, &self.path(key), self.take(key)?))
    }

    pub(super) fn maps(&self, key: &str) -> Vec<Map<'s, 'f, 'd>> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let YamlData::Sequence(items) = &untagged(node).data else {
            self.source.wrong_type(node, &self.path(key), "a list");
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(i, item)| Map::new(self.source, &format!("{}[{i}]", self.path(key)), item))
            .collect()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        let node = self.take(key)?;
        let text = scalar(node);
        if text.is_none() {
            self.source.wrong_type(node, &self.path(key), "a text");
        }
        text
    }

    /// A list of texts, or a single one.
    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let YamlData::Sequence(items) = &untagged(node).data else { return self.text(key).into_iter().collect() };
        let mut texts = Vec::new();
        for item in items {
            match scalar(item) {
                Some(text) => texts.push(text),
                None => self.source.wrong_type(item, &self.path(key), "a list of texts"),
            }
        }
        texts
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let node = self.take(key)?;
        match &untagged(node).data {
            YamlData::Value(Scalar::Boolean(value)) => Some(*value),
            // Words of YAML 1.1, which Ruby reads as well.
            YamlData::Value(Scalar::String(word)) if matches!(&**word, "yes" | "on") => Some(true),
            YamlData::Value(Scalar::String(word)) if matches!(&**word, "no" | "off") => Some(false),
            _ => {
                self.source.wrong_type(node, &self.path(key), "true or false");
                None
            }
        }
    }

    /// A number that is not negative.
    pub(super) fn number(&self, key: &str) -> Option<u32> {
        let node = self.take(key)?;
        let number = match &untagged(node).data {
            YamlData::Value(Scalar::Integer(number)) => u32::try_from(*number).ok(),
            _ => None,
        };
        if number.is_none() {
            self.source.wrong_type(node, &self.path(key), "a whole number, 0 or more");
        }
        number
    }

    /// Crosses keys off that only need to be named, and gives those that are there, in full.
    pub(super) fn name(&self, keys: &[&str]) -> Vec<String> {
        let there = self.entries.iter().filter(|entry| keys.contains(&entry.key.as_str()));
        there
            .map(|entry| {
                entry.used.set(true);
                self.path(&entry.key)
            })
            .collect()
    }

    /// What nobody asked for: each key in full, and where it is.
    pub(super) fn left_over(&self) -> Vec<(String, Range<usize>)> {
        let unused = self.entries.iter().filter(|entry| !entry.used.get());
        unused.map(|entry| (self.path(&entry.key), entry.span.clone())).collect()
    }
}

/// The node itself, without the name of a Ruby class before it.
fn untagged<'d>(node: &'d MarkedYaml<'d>) -> &'d MarkedYaml<'d> {
    match &node.data {
        YamlData::Tagged(_, inner) => untagged(inner),
        _ => node,
    }
}

/// A word, without the colon that makes it a symbol in Ruby.
fn scalar(node: &MarkedYaml<'_>) -> Option<String> {
    match &untagged(node).data {
        YamlData::Value(Scalar::String(text)) => Some(text.strip_prefix(':').unwrap_or(text).to_owned()),
        YamlData::Value(Scalar::Integer(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        _ => None,
    }
}
