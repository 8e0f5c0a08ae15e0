//! The fuzz targets on stable: over their corpora, and over what becomes of those when a seed changes them.
//! `RINGCAST_FUZZ_ROUNDS` says how many changes each target gets; cargo-fuzz, which looks where the code
//! branches, finds more (`docs/reliability.md`).

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use ringcast::sim::Random;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}

/// Another input: some bytes are others, missing, doubled, or those of a second input.
fn change(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut changed = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(changed.len() + 1);
        match random.below(6) {
            0 if at < changed.len() => changed[at] ^= 1 << random.below(8),
            1 if at < changed.len() => {
                changed[at] = *random.one_of(b"\0\x01\x7f\x80\xff{}[]\":,\\*%&=/?\r\n 0-9.ae");
            }
            2 => {
                let end = (at + random.below(8)).min(changed.len());
                changed.drain(at..end);
            }
            3 => {
                let end = (at + random.below(32)).min(changed.len());
                let copy = changed[at..end].to_vec();
                changed.splice(at..at, copy);
            }
            4 => changed.truncate(at),
            _ if !other.is_empty() => {
                let from = random.below(other.len());
                let end = (from + random.below(32)).min(other.len());
                changed.splice(at..at, other[from..end].iter().copied());
            }
            _ => {}
        }
    }
    changed
}

#[test]
fn targets_hold_for_their_corpora_and_what_becomes_of_them() {
    let rounds = std::env::var("RINGCAST_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(300);
    let seed = std::env::var("RINGCAST_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let only = std::env::var("RINGCAST_FUZZ_TARGET").ok();
    for (name, target) in targets::TARGETS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        let mut random = Random::new(seed.unwrap_or(1));
        let run = |input: &[u8], what: &str| {
            let outcome = std::panic::catch_unwind(|| target(input));
            if outcome.is_err() {
                panic!("{name}, {what}: {}", String::from_utf8_lossy(input).escape_debug());
            }
        };
        for (path, input) in &corpus {
            run(input, &path.display().to_string());
        }
        for round in 0..rounds {
            let (_, input) = random.one_of(&corpus).clone();
            let (_, other) = random.one_of(&corpus).clone();
            run(&change(&mut random, &input, &other), &format!("round {round}"));
        }
        println!("{name}: {} inputs, {rounds} changes", corpus.len());
    }
}
