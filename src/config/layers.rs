//! What a configuration is made of: a file, the files of the directory beside it, the environment and
//! flags, each of which wins over those before it. They are merged into one table whose keys remember
//! where they are from, so that a refusal of any of them can say it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::advice::{advise, edits};
use crate::config::reader::{ConfigError, Section};
use crate::config::reference::{self, Kind, VARIABLE_PREFIX, variable};

/// Variables that are no key of the file: keys, as `--key`, and the one that clients are shown.
pub(super) const KEYS_VARIABLE: &str = "RINGCAST_KEYS";
const CLIENT_VARIABLE: &str = "RINGCAST_KEY";

/// The texts of all layers. They count as one behind the other: an offset into that says both which text
/// is meant and where in it, so the spans of parsed TOML need nothing beside them.
#[derive(Debug, Default)]
pub(super) struct Sources {
    directory: PathBuf,
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    /// What refusals call it.
    name: String,
    text: String,
    /// `None`: a whole file. Otherwise the text is the value of this one key.
    key: Option<Key>,
    /// Bytes before it.
    base: usize,
}

#[derive(Debug)]
struct Key {
    section: String,
    key: String,
    kind: Option<Kind>,
}

/// Where each value is from.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// By `section.key`.
    pub(super) values: BTreeMap<String, String>,
    /// Of each API key, in the order in which they are read.
    pub(super) keys: Vec<String>,
    /// Of each further certificate.
    pub(super) certificates: Vec<String>,
    /// Of each app.
    pub(super) apps: Vec<String>,
    /// Of each rule, likewise.
    pub(super) rules: Vec<String>,
}

impl Sources {
    /// One file, as it is.
    pub(super) fn of_file(name: &str, text: &str) -> Sources {
        let directory = Path::new(name).parent().map(Path::to_path_buf).unwrap_or_default();
        let mut sources = Sources { directory, sources: Vec::new() };
        sources.push(name.into(), text.into(), None);
        sources
    }

    /// All layers: the file at `path` with its directory, then variables, then `settings` of the form
    /// `section.key=value`.
    ///
    /// # Errors
    /// A file cannot be read, a variable is none of ours or not UTF-8, a setting has no `=`.
    pub(super) fn gather(
        path: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
        settings: &[String],
    ) -> anyhow::Result<Sources> {
        let mut sources = Sources::default();
        if let Some(path) = path {
            sources.directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
            sources.read_file(path)?;
            for path in files_beside(path)? {
                sources.read_file(&path)?;
            }
        }
        sources.read_variables(variables)?;
        for setting in settings {
            let parts = setting
                .split_once('=')
                .and_then(|(name, value)| Some((name, name.split_once('.')?, value)));
            let Some((name, (section, key), value)) = parts else {
                anyhow::bail!("--set {setting}: wants section.key=value");
            };
            let kind = reference::keys().into_iter().find(|doc| doc.name() == name);
            let kind = kind.map(|doc| doc.kind());
            let key = Key { section: section.into(), key: key.into(), kind };
            sources.push(format!("--set {name}"), value.into(), Some(key));
        }
        Ok(sources)
    }

    fn read_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        self.push(path.display().to_string(), text, None);
        Ok(())
    }

    fn read_variables(
        &mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> anyhow::Result<()> {
        let docs: Vec<_> = reference::keys().into_iter().filter(|doc| doc.is_scalar()).collect();
        let known: Vec<String> = docs.iter().map(|doc| variable(&doc.name())).collect();
        let sections: Vec<String> = docs.iter().map(|doc| variable(&doc.section) + "_").collect();
        let mut ours: Vec<(String, OsString)> = variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
            .collect();
        ours.sort();
        for (name, value) in ours {
            if [KEYS_VARIABLE, CLIENT_VARIABLE].contains(&name.as_str()) {
                continue;
            }
            let Some(index) = known.iter().position(|known| *known == name) else {
                // Whoever misspells a name is told. Others may have variables that begin like ours:
                // Kubernetes makes RINGCAST_PORT and RINGCAST_SERVICE_HOST for a service of our name.
                let is_meant = sections.iter().any(|section| name.starts_with(section))
                    || known.iter().any(|known| edits(known, &name) <= 2);
                if is_meant {
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    let nearest = known.iter().min_by_key(|known| edits(known, &name));
                    let advice = advise(&name, nearest.map_or(&[], std::slice::from_ref));
                    anyhow::bail!("{name}: there is no such variable; {advice}");
                }
                continue;
            };
            let Ok(value) = value.into_string() else { anyhow::bail!("{name}: is not UTF-8") };
            let doc = &docs[index];
            let (section, key) = (doc.section.clone(), doc.key.clone());
            self.push(name, value, Some(Key { section, key, kind: Some(doc.kind()) }));
        }
        Ok(())
    }

    fn push(&mut self, name: String, text: String, key: Option<Key>) {
        // One more than its length, so that the end of a text is no place in the next.
        let base = self.sources.last().map_or(0, |last| last.base + last.text.len() + 1);
        self.sources.push(Source { name, text, key, base });
    }

    /// What relative paths start from.
    pub(super) fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    /// All layers as one table, whose spans are offsets into all texts.
    pub(super) fn parse(&self) -> Result<DeTable<'_>, ConfigError> {
        let mut merged = DeTable::new();
        for source in &self.sources {
            let table = match &source.key {
                Some(key) => source.value_of(key),
                None => match DeTable::parse(&source.text) {
                    Ok(table) => rebase_table(table.into_inner(), source.base),
                    Err(error) => {
                        let span = shift(error.span().unwrap_or(0..0), source.base);
                        return Err(self.error(span, error.message().into()));
                    }
                },
            };
            merge(&mut merged, table);
        }
        Ok(merged)
    }

    /// The table around all others of what [`parse`](Self::parse) has returned.
    pub(super) fn root<'d>(&'d self, table: &'d DeTable<'d>) -> Section<'d> {
        Section::root(self, table)
    }

    /// A refusal of what stands at `span`.
    pub(super) fn error(&self, span: Range<usize>, message: String) -> ConfigError {
        let place = self.at(span.start).map_or_else(String::new, |(source, offset)| {
            let (line, column) = source.line_and_column(offset);
            match source.key {
                Some(_) => source.name.clone(),
                None => format!("{}:{line}:{column}", source.name),
            }
        });
        ConfigError { place, message }
    }

    /// The file and line, the variable or the flag that `span` is in.
    pub(super) fn place(&self, span: Range<usize>) -> String {
        let Some((source, offset)) = self.at(span.start) else { return String::new() };
        match source.key {
            Some(_) => source.name.clone(),
            None => format!("{}:{}", source.name, source.line_and_column(offset).0),
        }
    }

    /// Where the values of `table` are from, which [`parse`](Self::parse) has returned.
    pub(super) fn origins(&self, table: &DeTable) -> Origins {
        let mut origins = Origins::default();
        for (section, value) in table {
            let section: &str = section.get_ref();
            match value.get_ref() {
                DeValue::Table(table) => {
                    for key in table.keys() {
                        let name = format!("{section}.{}", key.get_ref());
                        origins.values.insert(name, self.place(key.span()));
                    }
                }
                DeValue::Array(tables) if section == "keys" => {
                    origins.keys = tables.iter().map(|table| self.place(table.span())).collect();
                }
                _ => {}
            }
        }
        let certificates = table.get("tls").and_then(|tls| tls.get_ref().get("certificates"));
        let certificates = certificates.and_then(|list| list.get_ref().as_array());
        let places = certificates.into_iter().flatten().map(|pair| self.place(pair.span()));
        origins.certificates = places.collect();
        let apps = table.get("apps").and_then(|apps| apps.get_ref().as_array());
        for app in apps.into_iter().flatten() {
            origins.apps.push(self.place(app.span()));
            for (name, places) in [("keys", &mut origins.keys), ("rules", &mut origins.rules)] {
                let tables = app.get_ref().get(name).and_then(|list| list.get_ref().as_array());
                places.extend(tables.into_iter().flatten().map(|table| self.place(table.span())));
            }
        }
        let rules = table.get("rules").and_then(|rules| rules.get_ref().as_array());
        origins.rules.extend(rules.into_iter().flatten().map(|rule| self.place(rule.span())));
        origins
    }

    /// Directories of the files that were read, and of those that a value names: every key that ends in
    /// `_file` is a path. A file is often replaced by another of its name, so the directory counts.
    pub(super) fn file_directories(&self) -> Result<Vec<PathBuf>, ConfigError> {
        let mut directories = Vec::new();
        for source in self.sources.iter().filter(|source| source.key.is_none()) {
            add_directories(Path::new(&source.name), &mut directories);
        }
        self.collect_directories(&self.parse()?, &mut directories);
        for directory in &mut directories {
            if directory.as_os_str().is_empty() {
                directory.push(".");
            }
        }
        directories.sort();
        directories.dedup();
        Ok(directories)
    }

    fn collect_directories(&self, table: &DeTable, directories: &mut Vec<PathBuf>) {
        for (key, value) in table {
            match value.get_ref() {
                DeValue::String(path) if key.get_ref().ends_with("_file") => {
                    add_directories(&self.directory.join(path.as_ref()), directories);
                }
                DeValue::Table(table) => self.collect_directories(table, directories),
                DeValue::Array(tables) => {
                    for table in tables.iter().filter_map(|value| value.get_ref().as_table()) {
                        self.collect_directories(table, directories);
                    }
                }
                _ => {}
            }
        }
    }

    fn at(&self, offset: usize) -> Option<(&Source, usize)> {
        let source = self.sources.iter().rev().find(|source| source.base <= offset)?;
        Some((source, offset - source.base))
    }
}

impl Source {
    /// The text as the value of `key`: as the reference has it, and where that does not say, as TOML if it
    /// is some.
    fn value_of(&self, key: &Key) -> DeTable<'_> {
        let text = || DeValue::String(self.text.as_str().into());
        let value = match key.kind {
            Some(Kind::Text | Kind::Duration) => text(),
            _ => match DeValue::parse(&self.text).map(Spanned::into_inner) {
                Ok(DeValue::Datetime(_)) | Err(_) => text(),
                Ok(value) => value,
            },
        };
        let span = self.base..self.base + self.text.len();
        let inner: DeTable = std::iter::once((
            Spanned::new(span.clone(), key.key.clone().into()),
            Spanned::new(span.clone(), value),
        ))
        .collect();
        let section = Spanned::new(span.clone(), key.section.clone().into());
        std::iter::once((section, Spanned::new(span, DeValue::Table(inner)))).collect()
    }

    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// For `ringcast.toml`: `ringcast.d/*.toml`, in the order of their names. No directory is as good as an
/// empty one.
fn files_beside(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let directory = path.with_extension("d");
    if directory == path || !directory.is_dir() {
        return Ok(vec![]);
    }
    let entries = std::fs::read_dir(&directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>());
    let mut files =
        entries.with_context(|| format!("cannot read the directory {}", directory.display()))?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().as_encoded_bytes();
        name.ends_with(b".toml") && !name.starts_with(b".")
    });
    files.sort();
    Ok(files)
}

/// The directory of the file at `path`, and where it leads if it is a link, as certificates often are.
fn add_directories(path: &Path, directories: &mut Vec<PathBuf>) {
    directories.extend(path.parent().map(Path::to_path_buf));
    let target = std::fs::canonicalize(path).ok();
    directories.extend(target.and_then(|target| target.parent().map(Path::to_path_buf)));
}

/// Takes `from` into `into`: tables key by key, lists of tables one behind the other; any other value takes
/// the place of the one before.
fn merge<'i>(into: &mut DeTable<'i>, from: DeTable<'i>) {
    for (key, value) in from {
        let name: &str = key.get_ref();
        let value = match (into.get_mut(name).map(Spanned::get_mut), value.into_parts()) {
            (Some(DeValue::Table(into)), (_, DeValue::Table(from))) => {
                merge(into, from);
                continue;
            }
            (Some(DeValue::Array(into)), (_, DeValue::Array(from)))
                if is_tables(into) && is_tables(&from) =>
            {
                from.into_iter().for_each(|table| into.push(table));
                continue;
            }
            (_, (span, value)) => Spanned::new(span, value),
        };
        // The old key would stay otherwise, and with it the place that it is from.
        into.remove(name);
        into.insert(key, value);
    }
}

fn is_tables(array: &[Spanned<DeValue>]) -> bool {
    array.iter().all(|value| value.get_ref().is_table())
}

trait IntoParts<T> {
    fn into_parts(self) -> (Range<usize>, T);
}

impl<T> IntoParts<T> for Spanned<T> {
    fn into_parts(self) -> (Range<usize>, T) {
        (self.span(), self.into_inner())
    }
}

fn shift(span: Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

fn rebase_table(table: DeTable<'_>, base: usize) -> DeTable<'_> {
    table
        .into_iter()
        .map(|(key, value)| {
            let (span, key) = key.into_parts();
            (Spanned::new(shift(span, base), key), rebase(value, base))
        })
        .collect()
}

fn rebase(value: Spanned<DeValue<'_>>, base: usize) -> Spanned<DeValue<'_>> {
    let (span, value) = value.into_parts();
    let value = match value {
        DeValue::Table(table) => DeValue::Table(rebase_table(table, base)),
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|value| rebase(value, base)).collect())
        }
        other => other,
    };
    Spanned::new(shift(span, base), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// The outcome of `files`, the first of which is `ringcast.toml`, and of the other layers.
    fn load(
        files: &[(&str, &str)],
        pairs: &[(&str, &str)],
        settings: &[&str],
    ) -> anyhow::Result<(Config, Origins)> {
        let mut sources = Sources::default();
        for (name, text) in files {
            sources.push((*name).into(), (*text).into(), None);
        }
        sources.read_variables(variables(pairs).into_iter())?;
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).into()).collect();
        let flags = Sources::gather(None, std::iter::empty(), &settings)?;
        for source in flags.sources {
            sources.push(source.name, source.text, source.key);
        }
        Ok(Config::from_sources(&sources)?)
    }

    #[test]
    fn later_layers_win_and_each_value_knows_its_own() {
        let files = [
            (
                "ringcast.toml",
                "[server]\nshards = 2\n[limits]\nhead_timeout = \"9s\"\nmesh_entries = 64\n[[keys]]\nkey = \"a.a:s\"\n",
            ),
            (
                "ringcast.d/10.toml",
                "\n[limits]\nmesh_entries = 128\nhead_timeout = \"8s\"\n[[keys]]\nkey = \"a.b:s\"\n",
            ),
        ];
        let (config, origins) = load(
            &files,
            &[("RINGCAST_LIMITS_HEAD_TIMEOUT", "7s"), ("RINGCAST_SOCKET_BACKLOG", "77")],
            &["socket.backlog=78", "server.listen=127.0.0.1:9"],
        )
        .unwrap();
        assert_eq!(config.shards, Some(2));
        assert_eq!(config.limits.mesh_entries, 128);
        assert_eq!(config.limits.head_timeout.as_secs(), 7);
        assert_eq!(config.listener.backlog, 78);
        assert_eq!(config.listen.expect("is on").port(), 9);
        let names: Vec<_> = config.keys.iter().map(|key| key.name()).collect();
        assert_eq!(names, ["a.a", "a.b"]);
        for (key, origin) in [
            ("server.shards", "ringcast.toml:2"),
            ("limits.mesh_entries", "ringcast.d/10.toml:3"),
            ("limits.head_timeout", "RINGCAST_LIMITS_HEAD_TIMEOUT"),
            ("socket.backlog", "--set socket.backlog"),
        ] {
            assert_eq!(origins.values[key], origin, "{key}");
        }
        assert_eq!(origins.keys, ["ringcast.toml:6", "ringcast.d/10.toml:5"]);
    }

    #[test]
    fn a_refusal_names_the_layer_that_is_wrong() {
        let refusal = |files: &[(&str, &str)], pairs: &[(&str, &str)], settings: &[&str]| {
            load(files, pairs, settings).expect_err("must be refused").to_string()
        };
        let first = ("ringcast.toml", "[server]\nshards = 2\n");
        for (text, expected) in [
            (
                "[server]\nshard = 3\n",
                "b.toml:2:1: unknown key `server.shard`; did you mean `shards`?",
            ),
            ("\n[server]\nshards = 0\n", "b.toml:3:10: `server.shards`: 0 is not from 1 to 256"),
            (
                "[[keys]]\nkey = \"a.b:c\"\n[[keys]]\nkey = \"a.b:c\"",
                "b.toml:3:1: `keys`: the key `a.b` is there twice",
            ),
        ] {
            assert_eq!(refusal(&[first, ("b.toml", text)], &[], &[]), expected);
        }
        let broken = refusal(&[first, ("b.toml", "[server]\nlisten = \n")], &[], &[]);
        assert!(broken.starts_with("b.toml:2:"), "{broken}");
        for (name, value, expected) in [
            (
                "RINGCAST_SERVER_SHARDS",
                "0",
                "RINGCAST_SERVER_SHARDS: `server.shards`: 0 is not from 1 to 256",
            ),
            (
                "RINGCAST_LIMITS_HEAD_TIMEOUT",
                "9",
                "RINGCAST_LIMITS_HEAD_TIMEOUT: `limits.head_timeout`: wants a duration, such as \"500ms\" or \"15s\"",
            ),
            (
                "RINGCAST_SERVER_LISTN",
                "x",
                "RINGCAST_SERVER_LISTN: there is no such variable; did you mean `RINGCAST_SERVER_LISTEN`?",
            ),
            (
                "RINGCAST_SERVR_LISTEN",
                "x",
                "RINGCAST_SERVR_LISTEN: there is no such variable; did you mean `RINGCAST_SERVER_LISTEN`?",
            ),
        ] {
            assert_eq!(refusal(&[first], &[(name, value)], &[]), expected);
        }
        for (setting, expected) in [
            ("shards=3", "--set shards=3: wants section.key=value"),
            ("server.shards=many", "--set server.shards: `server.shards`: wants an integer"),
            (
                "server.shard=3",
                "--set server.shard: unknown key `server.shard`; did you mean `shards`?",
            ),
        ] {
            assert_eq!(refusal(&[first], &[], &[setting]), expected);
        }
    }

    #[test]
    fn variables_of_others_and_of_clients_are_left_alone() {
        let others = [
            ("RINGCAST_KEY", "app.key:hush"),
            ("RINGCAST_PORT", "tcp://10.0.0.1:80"),
            ("RINGCAST_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("RINGCAST_SERVICE_HOST", "10.0.0.1"),
            ("RINGCAST_SERVICE_PORT", "80"),
            ("SERVER_LISTEN", "x"),
        ];
        let (config, origins) = load(&[], &others, &[]).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        assert!(origins.values.is_empty());
    }

    #[test]
    fn every_scalar_key_has_a_variable_that_takes_its_value_as_it_is_written() {
        for doc in reference::keys().into_iter().filter(|doc| doc.is_scalar()) {
            let value = doc.example.trim_matches('"');
            let name = variable(&doc.name());
            let loaded = load(&[], &[(&name, value)], &[]);
            let (_, origins) = loaded.unwrap_or_else(|error| panic!("{name}={value}: {error}"));
            assert_eq!(origins.values[&doc.name()], name);
        }
    }

    #[test]
    fn directories_are_those_of_every_file_that_is_named() {
        let text = "[admin]\ntoken_file = \"/run/t/admin\"\n[[apps]]\nid = \"a\"\n\
                    [[apps.rules]]\naws = { credentials_file = \"aws/login\" }\n\
                    [[keys]]\nkey_file = \"credential:key\"\n";
        let sources = Sources::of_file("/etc/x/r.toml", text);
        let expected = ["/etc/x", "/etc/x/aws", "/run/t"].map(PathBuf::from);
        assert_eq!(sources.file_directories().unwrap(), expected);
        let sources = Sources::of_file("r.toml", "");
        assert_eq!(sources.file_directories().unwrap(), [PathBuf::from(".")]);
    }

    #[test]
    fn files_beside_are_found_in_order() {
        let base = std::env::temp_dir().join(format!("ringcast-beside-{}", std::process::id()));
        let directory = base.join("ringcast.d");
        std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
        for name in ["20.toml", "10.toml", ".hidden.toml", "10.toml.bak"] {
            std::fs::write(directory.join(name), "").expect("as above");
        }
        let found = files_beside(&base.join("ringcast.toml")).unwrap();
        assert_eq!(found, [directory.join("10.toml"), directory.join("20.toml")]);
        assert!(files_beside(&base.join("other.toml")).unwrap().is_empty());
        std::fs::remove_dir_all(base).expect("made above");
    }
}
