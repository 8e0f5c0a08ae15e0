//! The reference of all keys, `docs/configuration.md`, read by the program: what `ringcast config doc` and
//! the manual page say, and which variables there are. So there is one text, and tests hold the parser to it.

use std::fmt::Write;

use roff::{Inline, Roff, bold, italic, roman};

const REFERENCE: &str = include_str!("../../docs/configuration.md");

/// What our variables begin with.
pub(super) const VARIABLE_PREFIX: &str = "RINGCAST_";

/// What follows a value of the example that is not the key's default.
const NO_DEFAULT: &str = " # no default";

/// One key, as the reference has it.
#[derive(Clone, Debug)]
pub(super) struct KeyDoc {
    /// The table that it is in, such as `server` or `apps.rules`.
    pub(super) section: String,
    pub(super) key: String,
    /// What it may be.
    pub(super) allowed: String,
    pub(super) means: String,
    /// As TOML; the default, if it has one.
    pub(super) example: String,
    has_default: bool,
    /// In a table that may be there several times.
    is_in_list: bool,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Integer,
    Bytes,
    Duration,
    Text,
    List,
    Table,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "boolean",
            Kind::Integer => "integer",
            Kind::Bytes => "bytes",
            Kind::Duration => "duration",
            Kind::Text => "string",
            Kind::List => "list",
            Kind::Table => "table",
        }
    }
}

impl KeyDoc {
    /// `section.key`.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// Whether a variable can set it.
    pub(super) fn is_scalar(&self) -> bool {
        !self.is_in_list
    }

    /// As the value in the example has it.
    pub(super) fn kind(&self) -> Kind {
        let text = self.example.trim_matches('"');
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_scaled = unit.len() < text.len();
        match self.example.as_bytes() {
            b"true" | b"false" => Kind::Boolean,
            [b'[', ..] => Kind::List,
            [b'{', ..] => Kind::Table,
            _ if self.key.contains("_bytes") => Kind::Bytes,
            [b'0'..=b'9', ..] => Kind::Integer,
            _ if is_scaled && ["ms", "s", "m", "h"].contains(&unit) => Kind::Duration,
            _ => Kind::Text,
        }
    }

    /// The default as TOML, or in words that it has none.
    pub(super) fn default(&self) -> &str {
        if self.has_default { &self.example } else { "none" }
    }
}

/// The variable that sets the key called `name`, such as `server.listen`.
pub(super) fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

/// All keys, in the order of the reference.
pub(super) fn keys() -> Vec<KeyDoc> {
    let examples = examples();
    let mut docs: Vec<KeyDoc> = Vec::new();
    let mut sections: Vec<String> = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            sections = sections_of(heading);
            continue;
        }
        let mut cells = line.strip_prefix("| `").into_iter().flat_map(|row| row.split(" | "));
        let (Some(key), Some(allowed), Some(means)) = (cells.next(), cells.next(), cells.next())
        else {
            continue;
        };
        let key = key.trim_end_matches('`');
        if key.starts_with('[') {
            continue; // says that there are tables, which have a part of their own
        }
        // Where the same rows are for several tables, they are told once.
        let Some(section) = sections.first() else { continue };
        let (section, is_in_list) = match section.strip_prefix('[') {
            Some(section) => (section, true),
            // A table of a table that may be there several times is there as often.
            None => (section.as_str(), section.starts_with("apps.")),
        };
        let found = |section: &str| {
            let mut examples = examples.iter();
            examples.find(|example| example.section == section && example.key == key)
        };
        let example = found(section).or_else(|| found(section.split('.').next_back()?));
        docs.push(KeyDoc {
            section: section.into(),
            key: key.into(),
            allowed: allowed.into(),
            means: means.trim_end_matches(" |").into(),
            example: example.map(|example| example.value.clone()).unwrap_or_default(),
            has_default: example.is_some_and(|example| example.is_default),
            is_in_list,
        });
    }
    docs
}

struct Example {
    section: String,
    key: String,
    value: String,
    is_default: bool,
}

/// The lines of the file that the reference opens with.
fn examples() -> Vec<Example> {
    let file = REFERENCE.split("```toml\n").nth(1).expect("opens with the whole file");
    let file = file.split("```").next().expect("split yields at least one part");
    let mut section = String::new();
    let mut examples = Vec::new();
    for line in file.lines() {
        if line.starts_with('[') || line.starts_with("# [") {
            section = line.trim_matches(['#', ' ', '[', ']']).into();
        } else if let Some((key, value)) = line.split_once(" = ") {
            let is_comment = key.starts_with("# ");
            let value = value.trim();
            let is_default = !is_comment && !value.ends_with(NO_DEFAULT);
            examples.push(Example {
                section: section.clone(),
                key: key.trim_start_matches("# ").into(),
                value: value.trim_end_matches(NO_DEFAULT).into(),
                is_default,
            });
        }
    }
    examples
}

/// `` `[server]` `` and `` `[[apps.rules]]`, `[[rules]]` ``: the names; those of lists keep one bracket.
fn sections_of(heading: &str) -> Vec<String> {
    let parts = heading.split('`').filter(|part| part.starts_with('['));
    parts
        .filter_map(|part| Some(part.strip_prefix('[')?.trim_end_matches(']').to_owned()))
        .collect()
}

/// The keys whose names begin with `prefix`, for a reader at a terminal; `None`: there are none.
pub(super) fn text(prefix: &str) -> Option<String> {
    let mut text = String::new();
    for doc in keys().iter().filter(|doc| doc.name().starts_with(prefix)) {
        let kind = doc.kind().name();
        let name =
            if doc.is_in_list { format!("[[{}]] {}", doc.section, doc.key) } else { doc.name() };
        let _ = writeln!(text, "{name}\n  type      {kind}: {}", plain(&doc.allowed));
        let _ = writeln!(text, "  default   {}", doc.default());
        if doc.is_scalar() {
            let _ = writeln!(text, "  variable  {}", variable(&doc.name()));
        }
        let _ = writeln!(text, "{}\n", wrapped(&plain(&doc.means), 2, 96));
    }
    (!text.is_empty()).then_some(text)
}

/// `ringcast.toml.5` for man(1).
pub(super) fn manual_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["ringcast.toml", "5", "", concat!("ringcast ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]);
    page.text([roman("ringcast.toml - configuration of the ringcast daemon")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in layers_text().split("\n\n") {
        page.control("PP", []);
        page.text([roman(plain(paragraph.replace('\n', " ").trim()))]);
    }
    let mut section = String::new();
    for doc in keys() {
        if doc.section != section {
            section.clone_from(&doc.section);
            let name =
                if doc.is_in_list { format!("[[{section}]]") } else { format!("[{section}]") };
            page.control("SH", [name.as_str()]);
        }
        page.control("TP", []);
        let (kind, allowed) = (doc.kind().name(), plain(&doc.allowed));
        let mut head: Vec<Inline> =
            vec![bold(doc.key.as_str()), roman(format!(" ({kind}: {allowed}; default: "))];
        head.extend([italic(doc.default()), roman(")")]);
        page.text(head);
        let means = plain(&doc.means);
        page.text([roman(format!("{}.", means.trim_end_matches('.')))]);
        if doc.is_scalar() {
            page.text([roman(format!("Variable: {}.", variable(&doc.name())))]);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("ringcast"),
        roman("(1), "),
        bold("ringcast-check"),
        roman("(1), "),
        bold("ringcast-config"),
        roman("(1)"),
    ]);
    page.to_roff()
}

/// What the reference says of layers, as paragraphs.
fn layers_text() -> String {
    let part = REFERENCE.split("## Layers\n").nth(1).expect("the reference tells of layers");
    let part = part.split("\n## ").next().expect("split yields at least one part");
    // Each item of the list is a paragraph of its own.
    let lines =
        part.trim().lines().map(|line| match line.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!("\n{line}"),
            false => line.trim_start().to_owned(),
        });
    lines.collect::<Vec<_>>().join("\n")
}

/// Without the marks of Markdown.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    // Links are named, not followed.
    while let Some((before, link)) = rest.split_once('[')
        && let Some((name, target)) = link.split_once("](")
        && let Some((_, after)) = target.split_once(')')
        && !name.contains('[')
    {
        plain.push_str(before);
        plain.push_str(name);
        rest = after;
    }
    plain.push_str(rest);
    plain.replace('`', "")
}

fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let mut wrapped = " ".repeat(indent);
    let mut column = indent;
    for word in text.split(' ') {
        if column > indent && column + 1 + word.len() > width {
            wrapped += "\n";
            wrapped += &" ".repeat(indent);
            column = indent;
        } else if column > indent {
            wrapped.push(' ');
            column += 1;
        }
        wrapped += word;
        column += word.len();
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_type_a_range_and_a_meaning() {
        let docs = keys();
        assert!(docs.len() > 60, "{} keys", docs.len());
        for doc in &docs {
            let name = doc.name();
            assert!(!doc.example.is_empty(), "{name} is not in the file at the top");
            assert!(!doc.allowed.is_empty() && !doc.means.is_empty(), "{name}");
        }
        let find = |name: &str| docs.iter().find(|doc| doc.name() == name).expect("is there");
        assert_eq!(find("limits.message_bytes_max").kind(), Kind::Bytes);
        assert_eq!(find("socket.send_buffer_bytes").kind(), Kind::Bytes);
        assert_eq!(find("server.drain_window").kind(), Kind::Duration);
        assert_eq!(find("server.listen").kind(), Kind::Text);
        assert_eq!(find("apps.rules.timeout").default(), "\"10s\"");
        assert_eq!(find("apps.rules.url").default(), "none");
        assert_eq!(find("keys.key").default(), "none");
    }

    #[test]
    fn what_is_printed_is_plain_and_can_be_asked_for_by_name() {
        let text = text("server.listen").expect("is there");
        assert_eq!(
            text,
            "server.listen\n  type      string: \"off\", or an address and port\n  default   \"127.0.0.1:8080\"\n  \
             variable  RINGCAST_SERVER_LISTEN\n  where HTTP and WebSocket are served. Port 0 takes \
             a free one; the listening on line names it.\n  \"off\": nowhere, so that all clients speak \
             TLS; then tls.listen has to be on\n\n"
        );
        assert!(super::text("no.such").is_none());
        let all = super::text("").expect("there are keys");
        assert!(!all.contains('`') && !all.contains("]("), "{all}");
    }
}
