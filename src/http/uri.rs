//! Percent-encoding (RFC 3986 §2.1) and its dialect for forms and queries, where `+` is a space.

use std::borrow::Cow;
use std::fmt::Write;

/// Decodes `text`. `None`: an escape is malformed, or the result is not UTF-8.
pub(super) fn decode_percent(text: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            bytes.push(hex(digits[0])? << 4 | hex(digits[1])?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The names and values of a query or of a form (`application/x-www-form-urlencoded`), in order and
/// decoded; those that do not decode to UTF-8 are left out.
pub fn form_pairs(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode_form(name)?, decode_form(value)?))
    })
}

/// The first value of `name` among [`form_pairs`]. A connect asks for a dozen names: only what may be the
/// one is decoded.
pub(super) fn form_value<'a>(text: &'a str, name: &str) -> Option<Cow<'a, str>> {
    text.split('&').find_map(|pair| {
        let is_plain = memchr::memchr2(b'%', b'+', pair.as_bytes()).is_none();
        if is_plain && !pair.starts_with(name) {
            return None;
        }
        form_pairs(pair).find(|(found, _)| found == name).map(|(_, value)| value)
    })
}

/// Decodes one name or value of a query or form; `None` as in [`decode_percent`].
fn decode_form(text: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'+', text.as_bytes()).is_none() {
        return decode_percent(text);
    }
    decode_percent(&text.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
}

/// Encodes `text` so that it is one path segment, or one name or value of a query.
pub fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
        out
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let text = "a b+c,d/é%?&=>\r\n~";
        let encoded = percent_encode(text);
        assert_eq!(encoded, "a%20b%2Bc%2Cd%2F%C3%A9%25%3F%26%3D%3E%0D%0A~");
        assert_eq!(decode_percent(&encoded).unwrap(), text);
        assert_eq!(decode_form(&encoded).unwrap(), text);
    }

    #[test]
    fn a_value_is_found_by_its_decoded_name_and_not_by_a_longer_one() {
        let form = "keys=1&=2&k%65y=%zz&key=a+b&%6b+=3&key=4&flag";
        for name in ["keys", "", "key", "k ", "flag", "ke", "none"] {
            let among_pairs = form_pairs(form).find(|(found, _)| found == name);
            assert_eq!(form_value(form, name), among_pairs.map(|(_, value)| value), "{name}");
        }
        assert_eq!(form_value(form, "key").as_deref(), Some("a b"));
    }
}
