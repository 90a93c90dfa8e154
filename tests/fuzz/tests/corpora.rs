//! Every reader of foreign bytes takes what its fuzzer has found so far, and mutations of it.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use fastrand::Rng;
use link_watcher::fuzzing::{TARGETS, Target};

/// Mutations of a corpus; `LINK_WATCHER_MUTATIONS` names another number.
const MUTATIONS: usize = 3_000;
/// Longest input, bytes: more than any datagram of ours.
const MAX_LEN: usize = 16 * 1024;

/// What a target has been given before, in the order of the files' names.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Bits turned, bytes overwritten, taken out and put in, ends cut off, pieces of another input put in.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=bytes.len());
        match random.u8(..6) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            2 if at < bytes.len() => bytes[at] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff, b'0', b'"', b'\n']).unwrap(),
            3 => bytes.truncate(at),
            4 if at < bytes.len() => drop(bytes.drain(at..random.usize(at..=bytes.len()))),
            _ => {
                let from = random.usize(..=other.len());
                let piece = &other[from..random.usize(from..=other.len())];
                drop(bytes.splice(at..at, piece.iter().copied()));
            }
        }
    }
    bytes.truncate(MAX_LEN);
}

#[test]
fn no_bytes_break_a_reader() {
    let mutations =
        std::env::var("LINK_WATCHER_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTATIONS);
    for target in &TARGETS {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        let mut random = Rng::with_seed(1);
        let mutated = (0..mutations).map(|_| {
            let mut bytes = random.choice(&corpus).unwrap().clone();
            let other = random.choice(&corpus).unwrap();
            mutate(&mut bytes, other, &mut random);
            bytes
        });
        for bytes in corpus.iter().cloned().chain(mutated) {
            let done = std::panic::catch_unwind(|| (target.run)(&bytes));
            assert!(done.is_ok(), "{}, {} bytes: {:?}", target.name, bytes.len(), bytes.escape_ascii().to_string());
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(TARGETS.iter().any(|target| name == target.name), "nobody reads {}", name.display());
    }
}
