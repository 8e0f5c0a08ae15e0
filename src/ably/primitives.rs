//! Single values as they are written: what the two formats' values and the writer of both are made of.

use rmp::encode;

/// Why writing cannot fail.
pub(super) const VEC_TAKES_ALL: &str = "a vector takes whatever is written to it";

/// Appends `text` as a quoted, escaped JSON string.
pub(super) fn write_json_str(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect(VEC_TAKES_ALL);
}

// The rest is MessagePack.

pub(super) fn write_nil(out: &mut Vec<u8>) {
    encode::write_nil(out).expect(VEC_TAKES_ALL);
}

pub(super) fn write_bool(out: &mut Vec<u8>, value: bool) {
    encode::write_bool(out, value).expect(VEC_TAKES_ALL);
}

pub(super) fn write_uint(out: &mut Vec<u8>, value: u64) {
    encode::write_uint(out, value).expect(VEC_TAKES_ALL);
}

pub(super) fn write_int(out: &mut Vec<u8>, value: i64) {
    encode::write_sint(out, value).expect(VEC_TAKES_ALL);
}

pub(super) fn write_float(out: &mut Vec<u8>, value: f64) {
    encode::write_f64(out, value).expect(VEC_TAKES_ALL);
}

pub(super) fn write_str(out: &mut Vec<u8>, text: &str) {
    encode::write_str(out, text).expect(VEC_TAKES_ALL);
}

pub(super) fn write_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    encode::write_bin(out, bytes).expect(VEC_TAKES_ALL);
}

pub(super) fn write_array_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("payloads are bounded far below 2^32 elements");
    encode::write_array_len(out, len).expect(VEC_TAKES_ALL);
}

pub(super) fn write_map_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("payloads are bounded far below 2^32 entries");
    encode::write_map_len(out, len).expect(VEC_TAKES_ALL);
}
