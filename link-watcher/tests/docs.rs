//! What the documentation shows can be run, and what it links to is there.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use link_watcher::config::{self, Host, Severity};
use support::{Desk, repository_file};

/// Where the repository begins, from the crate's directory.
const ROOT: &str = "..";

/// Every page: its path from the repository's root, and its text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(ROOT);
    let in_directory = |directory: &str| {
        let entries = fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| Path::new(directory).join(name)).collect::<Vec<_>>()
    };
    let mut paths: Vec<PathBuf> = [in_directory(""), in_directory("docs")].concat();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    assert!(paths.len() > 15, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(root.join(path)).unwrap())).collect()
}

/// What stands between a line that begins a block of this language and the one that ends it.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let begin = format!("```{language}\n");
    text.split(&begin).skip(1).filter_map(|block| block.split("```").next()).collect()
}

/// A configuration that holds a block: alone where it names a group by itself, else behind the page's first group of its kind.
fn whole(block: &str, blocks: &[&str], desk: &Desk) -> String {
    let head = block.lines().map(str::trim).find(|line| line.starts_with('[')).unwrap_or_default();
    let kind = head.trim_matches(['[', ']']).split('.').next().unwrap_or_default();
    let groups = ["[[peer]]", "[[uplinks]]"];
    let first = |group: &str| blocks.iter().find(|block| block.starts_with(group)).map(|block| (*block).to_owned());
    let text = if groups.iter().any(|group| block.contains(&format!("{group}\n"))) {
        block.to_owned()
    } else if let Some(group) =
        first(&format!("[[{kind}]]")).filter(|_| groups.contains(&format!("[[{kind}]]").as_str()))
    {
        group + block
    } else {
        support::peer("") + block
    };
    // Keys are where they are, and not on this machine.
    text.replace("/etc/link-watcher/hq.key", "hq.key").replace("hq.key", &desk.path("hq.key").display().to_string())
}

#[test]
fn every_configuration_of_the_documentation_is_right() {
    let desk = Desk::new();
    let mut tried = 0;
    for (path, text) in pages() {
        let blocks = blocks(&text, "toml");
        for block in &blocks {
            let whole = whole(block, &blocks, &desk);
            let loaded = config::parse(Path::new("c.toml"), &whole, &Host::default(), Severity::Warning);
            loaded.unwrap_or_else(|refused| panic!("{}\n{whole}\n{refused}", path.display()));
            tried += 1;
        }
    }
    assert!(tried > 10, "{tried}");
}

#[test]
fn every_page_that_is_linked_to_is_there() {
    let mut followed = 0;
    for (path, text) in pages() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(ROOT).join(&linked);
            assert!(there.exists(), "{} links to {target}", path.display());
            if !anchor.is_empty() {
                let page = fs::read_to_string(there).unwrap();
                let headings = page.lines().filter(|line| line.starts_with('#')).map(anchor_of).collect::<Vec<_>>();
                assert!(
                    headings.iter().any(|known| known == anchor),
                    "{} links to {target}: {headings:?}",
                    path.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 40, "{followed}");
}

/// A heading as it is linked to.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_page_is_reached_from_the_first() {
    let readme = repository_file("../README.md");
    for (path, _) in pages().iter().filter(|(path, _)| path.starts_with("docs")) {
        let name = path.display().to_string();
        assert!(readme.contains(&format!("({name}")), "README.md does not lead to {name}");
    }
}
