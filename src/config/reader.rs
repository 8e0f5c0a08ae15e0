//! Walks a TOML document and keeps the place of everything in it, so that each refusal can say where.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::advice::advise;
use crate::config::layers::Sources;

/// What is wrong with a configuration, and where.
#[derive(Debug)]
pub struct ConfigError {
    /// A file with line and column, a variable or a flag; empty where nothing was said at all.
    pub(super) place: String,
    pub(super) message: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.place.as_str() {
            "" => f.write_str(&self.message),
            place => write!(f, "{place}: {}", self.message),
        }
    }
}

/// One table. Each read names a key that is known here; [`Section::finish`] refuses all others.
pub(super) struct Section<'d> {
    sources: &'d Sources,
    /// Empty for the root.
    name: String,
    span: Range<usize>,
    /// `None`: the file does not have it, and every key keeps its default.
    table: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
}

/// Where a section stands.
pub(super) struct Place<'d> {
    sources: &'d Sources,
    name: String,
    span: Range<usize>,
}

impl Place<'_> {
    pub(super) fn error(self, why: String) -> ConfigError {
        self.sources.error(self.span, format!("`{}`: {why}", self.name))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.sources.place(self.span.clone()))
    }
}

impl<'d> Section<'d> {
    /// The table around all others.
    pub(super) fn root(sources: &'d Sources, table: &'d DeTable<'d>) -> Section<'d> {
        Section { sources, name: String::new(), span: 0..0, table: Some(table), known: vec![] }
    }

    /// Sets `target` to what `parse` makes of the value of `key`, if the file has it.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Result<(), ConfigError> {
        if let Some(value) = self.get(key) {
            *target = parse(value.get_ref()).map_err(|why| self.error(key, &why))?;
        }
        Ok(())
    }

    /// Whether the file has `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The table `[key]`.
    pub(super) fn section(&mut self, key: &'static str) -> Result<Section<'d>, ConfigError> {
        let (table, span) = match self.get(key) {
            None => (None, self.span.clone()),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => (Some(table), value.span()),
                _ => return Err(self.error(key, "wants a table")),
            },
        };
        Ok(Section { sources: self.sources, name: self.path(key), span, table, known: vec![] })
    }

    /// The tables `[[key]]`, in the order of the file.
    pub(super) fn sections(&mut self, key: &'static str) -> Result<Vec<Section<'d>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(vec![]) };
        let DeValue::Array(tables) = value.get_ref() else {
            let why = format!("wants tables: [[{}]], once for each", self.path(key));
            return Err(self.error(key, &why));
        };
        let section = |value: &'d Spanned<DeValue<'d>>| match value.get_ref() {
            DeValue::Table(table) => Ok(Section {
                sources: self.sources,
                name: self.path(key),
                span: value.span(),
                table: Some(table),
                known: vec![],
            }),
            _ => {
                let why = format!("wants tables: [[{}]], once for each", self.path(key));
                Err(self.error(key, &why))
            }
        };
        tables.iter().map(section).collect()
    }

    /// Refuses keys that nobody has asked for.
    pub(super) fn finish(&self) -> Result<(), ConfigError> {
        let keys = self.table.into_iter().flat_map(|table| table.keys());
        let unknown = keys.filter(|key| !self.known.contains(&key.get_ref().as_ref()));
        // The first in the file, whatever the order of the map.
        match unknown.min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => {
                let advice = advise(key.get_ref(), &self.known);
                let message = format!("unknown key `{}`; {advice}", self.path(key.get_ref()));
                Err(self.sources.error(key.span(), message))
            }
        }
    }

    /// A refusal of the value of `key`, or of the whole section when the file does not have it.
    pub(super) fn error(&self, key: &str, why: &str) -> ConfigError {
        let value = self.table.and_then(|table| table.get(key));
        let span = value.map_or(self.span.clone(), |value| value.span());
        self.sources.error(span, format!("`{}`: {why}", self.path(key)))
    }

    pub(super) fn place(&self) -> Place<'d> {
        Place { sources: self.sources, name: self.name.clone(), span: self.span.clone() }
    }

    /// What relative paths start from: where the configuration file is, for every layer.
    pub(super) fn directory(&self) -> PathBuf {
        self.sources.directory()
    }

    fn get(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.push(key);
        self.table.and_then(|table| table.get(key))
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.into() } else { format!("{}.{key}", self.name) }
    }
}
