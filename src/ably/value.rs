//! One value of a validated payload, in either format, walked in place: no tree is built, an array or
//! object stays encoded until it is asked for its elements.

use std::borrow::Cow;

/// Deepest nesting of arrays and objects that a payload may have.
pub const DEPTH_MAX: usize = 64;

/// Why a payload is no protocol message; the transport is closed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not one complete value of the format.
    Malformed,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A value, but not an object.
    NotAnObject,
    /// `msgSerial` is not an integer from 0 to 2^53, so that nothing could be acknowledged.
    InvalidMsgSerial,
}

/// What a value is; arrays and objects are asked for their elements separately.
#[derive(Debug, PartialEq)]
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    Number,
    Str(Cow<'a, str>),
    /// MessagePack only.
    Bin(&'a [u8]),
    Array,
    Map,
    /// A MessagePack extension type; nothing of the protocol uses one.
    Ext,
}

/// One complete, validated value.
pub(super) trait Value<'a>: Copy {
    fn node(self) -> Node<'a>;

    /// The value as an integer from 0; floats with an integral value count too.
    fn uint(self) -> Option<u64>;

    /// Elements of an array; none for any other value.
    fn items(self) -> impl Iterator<Item = Self>;

    /// Entries of an object, in their order; none for any other value.
    fn entries(self) -> impl Iterator<Item = (Cow<'a, str>, Self)>;

    /// Appends the value as JSON text; JSON comes out as it went in.
    fn write_json(self, out: &mut Vec<u8>);

    /// The value as JSON text.
    fn to_json(self) -> Box<str> {
        let mut out = Vec::new();
        self.write_json(&mut out);
        String::from_utf8(out).expect("JSON text is written from strings").into()
    }

    /// The value of a string, otherwise `None`.
    fn str(self) -> Option<Cow<'a, str>> {
        match self.node() {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// A field that should be a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// It was one.
    Text(Box<str>),
    /// It was something else.
    NotText,
}

impl Field {
    pub(super) fn read<'a>(value: impl Value<'a>) -> Option<Field> {
        match value.node() {
            Node::Null => None,
            Node::Str(text) => Some(Field::Text(text.into())),
            _ => Some(Field::NotText),
        }
    }
}

/// `number` as an integer, if it is one that a float holds exactly.
pub(super) fn integral(number: f64) -> Option<u64> {
    const EXACT_MAX: f64 = (1u64 << 53) as f64;
    (number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number)).then_some(number as u64)
}
