//! Every test that the documentation names is there.
//!
//! A test is named in code spans: in brackets behind the sentence that it holds, or in the last column of a table that is
//! headed `test`. There a span is a test, `file::test`, a file of tests, or a path. A long name may end in `…`.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const DOCUMENTS: [&str; 4] = ["protocol.md", "reliability.md", "security.md", "uplinks.md"];
const CODE: [&str; 5] = ["link-watcher", "link-watcher-common", "link-watcher-ebpf", "tests", "xtask"];
/// Where a path of a document may begin.
const BASES: [&str; 2] = ["", "link-watcher/core/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// What code has: names of tests, and of files and directories.
#[derive(Default)]
struct Code {
    tests: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Code {
    fn read(&mut self, path: &Path) {
        self.files.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            entries.for_each(|entry| self.read(&entry));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            self.tests.extend(tests_in(&fs::read_to_string(path).unwrap()));
        }
    }

    fn has(&self, name: &str) -> bool {
        let (file, test) = name.split_once("::").unwrap_or(("", name));
        match test.strip_suffix('…') {
            Some("") => self.files.contains(file),
            Some(begin) => self.tests.iter().any(|test| test.starts_with(begin)),
            None => self.tests.contains(test) || (file.is_empty() && self.files.contains(test)),
        }
    }
}

/// Functions with an attribute that makes them tests.
fn tests_in(source: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if let Some(attribute) = line.strip_prefix("#[") {
            is_test |= attribute.contains("test]") || attribute.contains("test(");
        } else if !line.starts_with("//") {
            let declared = line.trim_start_matches("async ").strip_prefix("fn ");
            if let (true, Some(declared)) = (is_test, declared) {
                tests.extend(declared.split(['(', '<']).next().map(str::to_owned));
            }
            is_test = false;
        }
    }
    tests
}

/// Code spans of a text.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What a document names as tests.
fn named(document: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for (at, _) in document.match_indices('[') {
        let inside = document[at + 1..].split(['[', ']']).next().unwrap();
        let behind = document[at + 1 + inside.len()..].chars().nth(1);
        if behind != Some('(') && inside.contains('`') {
            named.extend(spans(inside));
        }
    }
    let mut in_table = None;
    for line in document.lines() {
        let Some(cells) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            in_table = None;
            continue;
        };
        let last = cells.rsplit('|').next().unwrap();
        if *in_table.get_or_insert(last.trim() == "test") {
            named.extend(spans(last));
        }
    }
    named
}

#[test]
fn every_test_that_a_document_names_exists() {
    let root = root();
    let mut code = Code::default();
    CODE.iter().for_each(|directory| code.read(&root.join(directory)));
    assert!(code.tests.len() > 500, "only {} tests were found: is the search broken?", code.tests.len());

    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join("docs").join(document)).unwrap();
        let names = named(&text);
        assert!(names.len() >= 5, "docs/{document} names {} tests: is the search broken?", names.len());
        println!("docs/{document}: {} names", names.len());
        missing.extend(names.into_iter().filter_map(|name| {
            let is_path = name.contains('/');
            let exists = match is_path {
                true => BASES.iter().any(|base| root.join(base).join(name).exists()),
                false => code.has(name),
            };
            (!exists).then(|| format!("docs/{document}: `{name}`"))
        }));
    }
    assert!(missing.is_empty(), "no such test or file; was it renamed?\n{}", missing.join("\n"));
}

#[test]
fn tests_are_found_where_documents_name_them() {
    let document = "A [`file`: `one`;\n`two`] and [a link](`no.md`), `no` and [a `link`](x).\n\n\
                    | what | test |\n|---|---|\n| `no` | `file::three`, `four…` |\n\n| `no` | `no` |\n";
    assert_eq!(named(document), ["file", "one", "two", "file::three", "four…"]);
    let source = "#[test]\n#[ignore = \"x\"]\nfn one() {}\n\nfn no() {}\n#[tokio::test]\nasync fn two() {}\n#[inline]\nfn no() {}";
    assert_eq!(tests_in(source), ["one", "two"]);
    let code = Code { tests: ["four_and_more".to_owned()].into(), files: ["file".to_owned()].into() };
    for (name, exists) in [("four…", true), ("file::four…", true), ("file", true), ("file::…", true), ("five…", false)]
    {
        assert_eq!(code.has(name), exists, "{name}");
    }
}
