//! The journal's own way in: one datagram for a line, with its fields as fields
//! (systemd.io/JOURNAL_NATIVE_PROTOCOL). `journalctl RINGCAST_SHARD=1` and `MESSAGE_ID=` find them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::base::LogLine;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Bytes of one value: a datagram has to fit a socket's buffer.
const VALUE_BYTES_MAX: usize = 8 << 10;

/// A line to the journal.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// The journal at `path`, if standard error is a stream of it: then whoever has started us wants
    /// lines there. `stream` is what `JOURNAL_STREAM` says.
    pub(super) fn connect(path: &Path, stream: Option<&str>) -> Option<Journal> {
        let error_stream = io::stderr().as_fd().try_clone_to_owned().ok()?;
        let metadata = File::from(error_stream).metadata().ok()?;
        if stream? != format!("{}:{}", metadata.dev(), metadata.ino()) {
            return None;
        }
        Journal::open(path).ok()
    }

    fn open(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Journal(socket))
    }

    /// Writes a line.
    ///
    /// # Errors
    /// The journal has gone, or the line is larger than a datagram may be.
    pub(super) fn write(&self, line: &LogLine) -> io::Result<()> {
        self.0.send(&encode(line)).map(drop)
    }
}

/// The same for all lines of one kind, on all hosts and in all versions: made of its text.
pub(super) fn message_id(text: &str) -> String {
    let digest = Sha256::digest(format!("ringcast: {text}"));
    HEXLOWER.encode(&digest[..16])
}

fn encode(line: &LogLine) -> Vec<u8> {
    let mut datagram = Vec::new();
    field(&mut datagram, "SYSLOG_IDENTIFIER", "ringcast");
    field(&mut datagram, "PRIORITY", &line.level().priority().to_string());
    field(&mut datagram, "MESSAGE_ID", &message_id(line.text()));
    field(&mut datagram, "MESSAGE", &line.sentence());
    for (name, value) in line.fields() {
        field(&mut datagram, &format!("RINGCAST_{}", name.to_ascii_uppercase()), value);
    }
    datagram
}

fn field(datagram: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(VALUE_BYTES_MAX)];
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use regex::Regex;

    use super::*;
    use crate::base::Level;

    #[test]
    fn a_line_reaches_the_socket_with_its_fields() {
        let path = std::env::temp_dir().join(format!("ringcast-journal-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("the temporary directory can be written");
        let journal = Journal::open(&path).expect("somebody listens");
        let line = LogLine::new(Level::Warn, "two words").with("shard", 1).with("error", "a\nb=c");
        journal.write(&line).expect("there is room");
        let mut datagram = [0; 4096];
        let len = socket.recv(&mut datagram).expect("was sent");
        let id = message_id("two words");
        let expected = [
            &b"SYSLOG_IDENTIFIER=ringcast\nPRIORITY=4\nMESSAGE_ID="[..],
            id.as_bytes(),
            b"\nMESSAGE=two words shard=1 error=\"a\\nb=c\"\nRINGCAST_SHARD=1\nRINGCAST_ERROR\n",
            &5u64.to_le_bytes(),
            b"a\nb=c\n",
        ];
        assert_eq!(datagram[..len], expected.concat());
        drop(socket);
        assert!(journal.write(&line).is_err(), "whoever writes falls back to standard error");
        std::fs::remove_file(path).expect("made above");
    }

    #[test]
    fn only_a_stream_of_the_journal_is_one() {
        assert!(Journal::connect(Path::new(SOCKET), None).is_none());
        assert!(Journal::connect(Path::new(SOCKET), Some("1:1")).is_none());
        assert!(Journal::connect(Path::new(SOCKET), Some("")).is_none());
    }

    #[test]
    fn the_reference_has_each_kind_of_line_with_its_level_and_id_and_no_other() {
        let reference = include_str!("../../docs/operations.md");
        let (_, table) = reference.split_once("| kind of line |").expect("there is a table");
        let mut documented = BTreeMap::new();
        for row in table.lines().skip(2).take_while(|line| line.starts_with("| ")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            let (text, id) = (cells[0].trim_start_matches("| "), cells[2].trim_end_matches(" |"));
            assert_eq!(id.trim_matches('`'), message_id(text), "{text}");
            documented.insert(text.to_owned(), cells[1].to_owned());
        }
        assert_eq!(documented, kinds());
    }

    /// Each text that a line is made of in the source, with its level.
    fn kinds() -> BTreeMap<String, String> {
        let [direct, named, certificate] = [
            r#"Level::(\w+),\s*"([^"]+)""#,
            r#"let text =\s*"([^"]+)";\s*(?:let \w+ = |self\.log_line\()?LogLine::new\(Level::(\w+), text\)"#,
            r#"certificate_line\(&?\w+, "([^"]+)"\)"#,
        ]
        .map(|pattern| Regex::new(pattern).expect("is one"));
        let mut kinds = BTreeMap::new();
        for source in sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
            let (code, _) = source.split_once("#[cfg(test)]\nmod ").unwrap_or((&source, ""));
            for found in direct.captures_iter(code) {
                kinds.insert(found[2].into(), found[1].to_lowercase());
            }
            for found in named.captures_iter(code) {
                kinds.insert(found[1].into(), found[2].to_lowercase());
            }
            for found in certificate.captures_iter(code) {
                kinds.insert(found[1].into(), "info, or warn".into());
            }
        }
        kinds
    }

    fn sources(directory: PathBuf) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("can be read");
        let paths = entries.map(|entry| entry.expect("can be read").path());
        let read = |path: PathBuf| match path.is_dir() {
            true => sources(path),
            false => vec![std::fs::read_to_string(path).unwrap_or_default()],
        };
        paths.flat_map(read).collect()
    }
}
