//! MessagePack values in place: one pass decides whether a payload is one whole value, after that it
//! is walked without checks that can fail.

use std::borrow::Cow;

use rmp::Marker;

use super::primitives::{VEC_TAKES_ALL, write_json_str};
use super::value::{DEPTH_MAX, DecodeError, Node, Value, integral};

/// The bytes of one MessagePack value.
#[derive(Clone, Copy, Debug)]
pub(super) struct MsgPackValue<'a>(&'a [u8]);

/// What a value's first bytes say: its kind, where its content begins, and how much there is.
enum Head {
    Nil,
    Bool(bool),
    /// An integer or float of this many bytes, the marker not counted.
    Number(usize),
    Str(usize, usize),
    Bin(usize, usize),
    Ext(usize, usize),
    Array(usize, usize),
    Map(usize, usize),
}

impl Head {
    /// `None`: incomplete, or a marker that is never used.
    fn read(bytes: &[u8]) -> Option<Head> {
        let (&first, rest) = bytes.split_first()?;
        let len = |width: usize| -> Option<usize> {
            let digits = rest.get(..width)?;
            Some(digits.iter().fold(0usize, |len, &digit| len << 8 | usize::from(digit)))
        };
        Some(match Marker::from_u8(first) {
            Marker::Null => Head::Nil,
            Marker::True => Head::Bool(true),
            Marker::False => Head::Bool(false),
            Marker::FixPos(_) | Marker::FixNeg(_) => Head::Number(0),
            Marker::U8 | Marker::I8 => Head::Number(1),
            Marker::U16 | Marker::I16 => Head::Number(2),
            Marker::U32 | Marker::I32 | Marker::F32 => Head::Number(4),
            Marker::U64 | Marker::I64 | Marker::F64 => Head::Number(8),
            Marker::FixStr(bytes) => Head::Str(1, bytes.into()),
            Marker::Str8 => Head::Str(2, len(1)?),
            Marker::Str16 => Head::Str(3, len(2)?),
            Marker::Str32 => Head::Str(5, len(4)?),
            Marker::Bin8 => Head::Bin(2, len(1)?),
            Marker::Bin16 => Head::Bin(3, len(2)?),
            Marker::Bin32 => Head::Bin(5, len(4)?),
            Marker::FixArray(count) => Head::Array(1, count.into()),
            Marker::Array16 => Head::Array(3, len(2)?),
            Marker::Array32 => Head::Array(5, len(4)?),
            Marker::FixMap(count) => Head::Map(1, count.into()),
            Marker::Map16 => Head::Map(3, len(2)?),
            Marker::Map32 => Head::Map(5, len(4)?),
            // The type byte counts as content.
            Marker::FixExt1 => Head::Ext(1, 2),
            Marker::FixExt2 => Head::Ext(1, 3),
            Marker::FixExt4 => Head::Ext(1, 5),
            Marker::FixExt8 => Head::Ext(1, 9),
            Marker::FixExt16 => Head::Ext(1, 17),
            Marker::Ext8 => Head::Ext(2, len(1)? + 1),
            Marker::Ext16 => Head::Ext(3, len(2)? + 1),
            Marker::Ext32 => Head::Ext(5, len(4)? + 1),
            Marker::Reserved => return None,
        })
    }
}

/// Length in bytes of the value that `bytes` starts with.
fn extent(bytes: &[u8], depth: usize) -> Result<usize, DecodeError> {
    let whole = |len: usize| if len <= bytes.len() { Ok(len) } else { Err(DecodeError::Malformed) };
    match Head::read(bytes).ok_or(DecodeError::Malformed)? {
        Head::Nil | Head::Bool(_) => Ok(1),
        Head::Number(width) => whole(1 + width),
        Head::Str(start, len) => {
            let end = whole(start + len)?;
            std::str::from_utf8(&bytes[start..end]).map_err(|_| DecodeError::Malformed)?;
            Ok(end)
        }
        Head::Bin(start, len) | Head::Ext(start, len) => whole(start + len),
        Head::Array(start, count) => elements_extent(bytes, start, count, depth, |_| true),
        Head::Map(start, count) => {
            elements_extent(bytes, start, count * 2, depth, |index| index % 2 == 1)
        }
    }
}

/// A count may claim anything: each element takes a byte at least, so the loop ends with the bytes.
///
/// Only elements at which `nests` may be arrays or maps. A key is neither: as text, which is what keys
/// are, it would be escaped once for each key around it, and so double with every level.
fn elements_extent(
    bytes: &[u8],
    start: usize,
    count: usize,
    depth: usize,
    nests: impl Fn(usize) -> bool,
) -> Result<usize, DecodeError> {
    if depth == DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    let mut at = start;
    for index in 0..count {
        let element = &bytes[at..];
        if !nests(index) && matches!(Head::read(element), Some(Head::Array(..) | Head::Map(..))) {
            return Err(DecodeError::Malformed);
        }
        at += extent(element, depth + 1)?;
    }
    Ok(at)
}

impl<'a> MsgPackValue<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<MsgPackValue<'a>, DecodeError> {
        match extent(payload, 0)? {
            len if len == payload.len() => Ok(MsgPackValue(payload)),
            _ => Err(DecodeError::Malformed),
        }
    }

    fn head(self) -> Head {
        Head::read(self.0).expect("validated")
    }

    fn float(self) -> Option<f64> {
        let digits = &self.0[1..];
        match Marker::from_u8(self.0[0]) {
            Marker::F32 => digits.try_into().ok().map(f32::from_be_bytes).map(f64::from),
            Marker::F64 => digits.try_into().ok().map(f64::from_be_bytes),
            _ => None,
        }
    }

    /// An integer, sign-extended from its width.
    fn int(self) -> Option<i128> {
        let digits = &self.0[1..];
        let unsigned = || digits.iter().fold(0i128, |value, &digit| value << 8 | i128::from(digit));
        let signed = || {
            let bits = digits.len() * 8;
            let value = unsigned();
            if value >> (bits - 1) != 0 { value - (1i128 << bits) } else { value }
        };
        match Marker::from_u8(self.0[0]) {
            Marker::FixPos(value) => Some(value.into()),
            Marker::FixNeg(value) => Some(value.into()),
            Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => Some(unsigned()),
            Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => Some(signed()),
            _ => None,
        }
    }

    fn elements(self, start: usize, count: usize) -> impl Iterator<Item = MsgPackValue<'a>> {
        let mut rest = &self.0[start..];
        (0..count).map(move |_| {
            let (value, tail) = rest.split_at(extent(rest, 0).expect("validated"));
            rest = tail;
            MsgPackValue(value)
        })
    }
}

impl<'a> Value<'a> for MsgPackValue<'a> {
    fn node(self) -> Node<'a> {
        match self.head() {
            Head::Nil => Node::Null,
            Head::Bool(value) => Node::Bool(value),
            Head::Number(_) => Node::Number,
            Head::Str(start, _) => {
                let text = std::str::from_utf8(&self.0[start..]).expect("validated");
                Node::Str(Cow::Borrowed(text))
            }
            Head::Bin(start, _) => Node::Bin(&self.0[start..]),
            Head::Ext(..) => Node::Ext,
            Head::Array(..) => Node::Array,
            Head::Map(..) => Node::Map,
        }
    }

    fn uint(self) -> Option<u64> {
        let int = self.int().and_then(|int| u64::try_from(int).ok());
        int.or_else(|| self.float().and_then(integral))
    }

    fn items(self) -> impl Iterator<Item = MsgPackValue<'a>> {
        let (start, count) = match self.head() {
            Head::Array(start, count) => (start, count),
            _ => (self.0.len(), 0),
        };
        self.elements(start, count)
    }

    fn entries(self) -> impl Iterator<Item = (Cow<'a, str>, MsgPackValue<'a>)> {
        let (start, count) = match self.head() {
            Head::Map(start, count) => (start, count * 2),
            _ => (self.0.len(), 0),
        };
        let mut elements = self.elements(start, count);
        std::iter::from_fn(move || {
            let (key, value) = (elements.next()?, elements.next()?);
            // JSON has string keys only: what else may be one here is spelled out.
            Some((key.str().unwrap_or_else(|| String::from(key.to_json()).into()), value))
        })
    }

    fn write_json(self, out: &mut Vec<u8>) {
        match self.node() {
            Node::Null | Node::Ext => out.extend_from_slice(b"null"),
            Node::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            Node::Number => match (self.int(), self.float()) {
                (Some(int), _) => out.extend_from_slice(int.to_string().as_bytes()),
                // JSON has no infinities; serde_json writes null for them.
                (None, float) => serde_json::to_writer(out, &float).expect(VEC_TAKES_ALL),
            },
            Node::Str(text) => write_json_str(out, &text),
            Node::Bin(bytes) => write_json_str(out, &data_encoding::BASE64.encode(bytes)),
            Node::Array => {
                out.push(b'[');
                for (index, item) in self.items().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.push(b']');
            }
            Node::Map => {
                out.push(b'{');
                for (index, (key, value)) in self.entries().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_json_str(out, &key);
                    out.push(b':');
                    value.write_json(out);
                }
                out.push(b'}');
            }
        }
    }
}
