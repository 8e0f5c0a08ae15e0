//! One writer for both formats: maps are counted ahead in MessagePack and commas set in JSON, and
//! callers see neither.

use data_encoding::BASE64;

use super::json::JsonValue;
use super::{Format, primitives};

/// First byte of a MessagePack map, its count in the low four bits.
const FIX_MAP: u8 = 0x80;
const FIX_MAP_COUNT_MAX: u16 = 15;
/// First byte of one whose count is in the next two bytes.
const MAP_16: u8 = 0xde;

/// Writes the entries of one map; closed by [`MapWriter::end`].
pub(super) struct MapWriter<'a> {
    format: Format,
    out: &'a mut Vec<u8>,
    /// MessagePack: where the count of entries goes.
    head: usize,
    count: u16,
}

impl<'a> MapWriter<'a> {
    pub fn begin(format: Format, out: &'a mut Vec<u8>) -> MapWriter<'a> {
        let head = out.len();
        match format {
            Format::Json => out.push(b'{'),
            // A short map, whose count is filled in at the end.
            Format::MsgPack => out.push(FIX_MAP),
        }
        MapWriter { format, out, head, count: 0 }
    }

    pub fn end(self) {
        match self.format {
            Format::Json => self.out.push(b'}'),
            Format::MsgPack => {
                if self.count <= FIX_MAP_COUNT_MAX {
                    self.out[self.head] = FIX_MAP | self.count as u8;
                } else {
                    let [high, low] = self.count.to_be_bytes();
                    self.out.splice(self.head..=self.head, [MAP_16, high, low]);
                }
            }
        }
    }

    pub fn str(&mut self, key: &str, value: &str) {
        self.key(key);
        write_str(self.format, self.out, value);
    }

    pub fn opt_str(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.str(key, value);
        }
    }

    pub fn uint(&mut self, key: &str, value: u64) {
        self.key(key);
        match self.format {
            Format::Json => {
                self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            }
            Format::MsgPack => primitives::write_uint(self.out, value),
        }
    }

    /// Bytes: base64 in JSON.
    pub fn bin(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        match self.format {
            Format::Json => {
                self.out.push(b'"');
                let at = self.out.len();
                self.out.resize(at + BASE64.encode_len(value.len()), 0);
                BASE64.encode_mut(value, &mut self.out[at..]);
                self.out.push(b'"');
            }
            Format::MsgPack => primitives::write_bin(self.out, value),
        }
    }

    /// A value that is kept as JSON text.
    pub fn json(&mut self, key: &str, text: &str) {
        self.key(key);
        match self.format {
            Format::Json => self.out.extend_from_slice(text.as_bytes()),
            Format::MsgPack => JsonValue::of_validated(text).write_msgpack(self.out),
        }
    }

    pub fn map(&mut self, key: &str, fill: impl FnOnce(&mut MapWriter<'_>)) {
        self.key(key);
        write_map(self.format, self.out, fill);
    }

    /// One value that `write` appends.
    pub fn append(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.key(key);
        write(self.out);
    }

    /// An array of what `write` appends for each item.
    pub fn array<Item>(
        &mut self,
        key: &str,
        items: impl ExactSizeIterator<Item = Item>,
        write: impl FnMut(Item, &mut Vec<u8>),
    ) {
        self.key(key);
        write_array(self.format, self.out, items, write);
    }

    fn key(&mut self, key: &str) {
        if self.format == Format::Json && self.count > 0 {
            self.out.push(b',');
        }
        self.count += 1;
        write_str(self.format, self.out, key);
        if self.format == Format::Json {
            self.out.push(b':');
        }
    }
}

/// Appends one map.
pub(super) fn write_map(format: Format, out: &mut Vec<u8>, fill: impl FnOnce(&mut MapWriter<'_>)) {
    let mut map = MapWriter::begin(format, out);
    fill(&mut map);
    map.end();
}

/// Appends an array of what `write` appends for each item.
pub(super) fn write_array<Item>(
    format: Format,
    out: &mut Vec<u8>,
    items: impl ExactSizeIterator<Item = Item>,
    mut write: impl FnMut(Item, &mut Vec<u8>),
) {
    match format {
        Format::Json => {
            out.push(b'[');
            for (index, item) in items.enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Format::MsgPack => {
            primitives::write_array_len(out, items.len());
            items.for_each(|item| write(item, out));
        }
    }
}

/// Appends a string.
pub(super) fn write_str(format: Format, out: &mut Vec<u8>, text: &str) {
    match format {
        Format::Json => primitives::write_json_str(out, text),
        Format::MsgPack => primitives::write_str(out, text),
    }
}

/// Appends null.
pub(super) fn write_null(format: Format, out: &mut Vec<u8>) {
    match format {
        Format::Json => out.extend_from_slice(b"null"),
        Format::MsgPack => primitives::write_nil(out),
    }
}
