//! Keeps the arrows honest: reads the layer table of `src/lib.rs`, then every source file, and
//! holds what it says against the table. Clippy (`clippy.toml`) sees calls through other names too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A word and the modules that may say it; a path into a module stands for that part of it.
const RESERVED: [(&str, &[&str]); 14] = [
    ("glommio", &["server"]),
    ("tokio", &["hooks", "admin"]),
    ("axum", &["admin"]),
    ("hyper", &["admin"]),
    ("reqwest", &["hooks"]),
    ("rustls", &["tls", "hooks"]),
    ("async_nats", &["hooks"]),
    ("aws_sigv4", &["hooks"]),
    ("unsafe", &["sys"]),
    ("allow(unsafe_code)", &["sys"]),
    ("Instant::now", &["server", "hooks", "admin", "bench", "sys"]),
    ("SystemTime::now", &["server", "hooks", "admin", "bench", "sys"]),
    ("thread::spawn", &["server", "hooks", "admin", "bench", "sys"]),
    ("thread::Builder", &["server", "hooks", "admin", "bench", "sys"]),
];

struct Source {
    path: PathBuf,
    /// The top-level module that the file belongs to; empty for `lib.rs` and `main.rs`.
    module: String,
    /// Lines of code with their numbers; comments are gone.
    lines: Vec<(usize, String)>,
}

#[test]
fn modules_name_only_lower_layers() {
    let layers = layers();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.module.is_empty()) {
        let own = layers[&source.module];
        for (number, line) in &source.lines {
            for name in crate_paths(line, source.depth()) {
                let Some(&layer) = layers.get(&name) else { continue };
                // The simulator drives whole shards, and lends its host to their tests.
                if name == "sim" && source.is_test() {
                    continue;
                }
                if name != source.module && layer >= own {
                    let (path, module) = (source.path.display(), &source.module);
                    wrong.push(format!(
                        "{path}:{number}: {module} ({own}) must not name {name} ({layer})"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn reserved_words_stay_in_their_modules() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.module.is_empty()) {
        for (number, line) in &source.lines {
            for (word, modules) in RESERVED {
                if says(line, word) && !modules.contains(&source.module.as_str()) {
                    let path = source.path.display();
                    wrong.push(format!("{path}:{number}: `{word}` belongs to {modules:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let layers = layers();
    for source in sources().iter().filter(|source| !source.module.is_empty()) {
        assert!(layers.contains_key(&source.module), "{} is in no layer", source.path.display());
    }
}

#[test]
fn paths_are_found_in_every_spelling() {
    for (line, depth, expected) in [
        ("use crate::ws::Decoder;", 1, vec!["ws"]),
        ("let x = crate::http::parse(crate::base::Now);", 2, vec!["http", "base"]),
        ("use crate::{ably, base::{Now, Id}, ws as socket};", 1, vec!["ably", "base", "ws"]),
        ("use super::ws;", 1, vec!["ws"]),
        ("use super::ws;", 2, vec![]),
        ("use super::super::ws::Decoder;", 2, vec!["ws"]),
        ("pub(crate) fn f() {}", 1, vec![]),
    ] {
        assert_eq!(crate_paths(line, depth), expected, "{line}");
    }
    assert!(says("unsafe { f() }", "unsafe"));
    assert!(!says("#![deny(unsafe_code)]", "unsafe"));
}

impl Source {
    /// Whether it is compiled for tests alone.
    fn is_test(&self) -> bool {
        let below_src = self.path.strip_prefix(src()).expect("found below src");
        let is_tests = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
        below_src.components().any(|component| is_tests(component.as_os_str()))
    }

    /// How many times `super` leads from this file to the crate's root.
    fn depth(&self) -> usize {
        let below_src = self.path.strip_prefix(src()).expect("found below src");
        let is_mod = self.path.ends_with("mod.rs");
        below_src.components().count() - usize::from(is_mod)
    }
}

/// The table in `src/lib.rs`: `` | 0 | [`sys`] | .. | ``.
fn layers() -> BTreeMap<String, u8> {
    let text = fs::read_to_string(src().join("lib.rs")).expect("the library has a root");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("//! |")?.split('|').map(str::trim);
        let layer = cells.next()?.parse().ok()?;
        let module = cells.next()?.strip_prefix("[`")?.strip_suffix("`]")?;
        Some((module.to_owned(), layer))
    };
    let layers: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    assert!(layers.len() > 8, "the layer table of src/lib.rs cannot be read");
    layers
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut directories = vec![src()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a source directory can be read") {
            let path = entry.expect("a source directory can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(read(path));
            }
        }
    }
    sources
}

fn read(path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).expect("a source file is text");
    let below_src = path.strip_prefix(src()).expect("found below src");
    let first = below_src.components().next().expect("has a file name").as_os_str();
    let module = first.to_string_lossy().trim_end_matches(".rs").to_owned();
    let is_root = ["lib", "main", "bin"].contains(&module.as_str());
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, code(line))).collect();
    Source { path, module: if is_root { String::new() } else { module }, lines }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The names that follow the crate's root in `line`: `crate::` or as many `super::` as lead there.
fn crate_paths(line: &str, depth: usize) -> Vec<String> {
    let mut names = Vec::new();
    for root in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (start, _) in line.match_indices(&root) {
            // Inside a longer chain of `super`, or a longer word.
            if line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &line[start + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => names.extend(heads_of_list(list)),
                None => names.push(head(rest)),
            }
        }
    }
    names.retain(|name| name != "super" && !name.is_empty());
    names
}

/// The first segment of each path in the inside of `{..}`, however deep lists nest in it.
fn heads_of_list(list: &str) -> Vec<String> {
    let mut heads = vec![head(list)];
    let mut level = 0;
    for (i, c) in list.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => heads.push(head(list[i + 1..].trim_start())),
            _ => {}
        }
    }
    heads
}

fn head(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether `line` has `word` as a word of its own.
fn says(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(is_word) && !line[start + word.len()..].starts_with(is_word)
    })
}
