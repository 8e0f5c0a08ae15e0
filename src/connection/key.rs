//! Names of connections: the public id, and the secret key that resumes one.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;

use crate::base::Entropy;

/// Public, unique for ever: twelve characters of the URL-safe alphabet of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId([u8; 12]);

impl ConnectionId {
    /// Makes the id of a new connection.
    pub fn random(entropy: &mut Entropy) -> ConnectionId {
        let mut id = [0; 12];
        BASE64URL_NOPAD.encode_mut(&entropy.bytes::<9>(), &mut id);
        ConnectionId(id)
    }

    /// The id as it goes on the wire.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64 is ASCII")
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Where the state of a connection is kept: the transport that it had last, and whose shard that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The shard.
    pub shard: u16,
    /// Index of the transport there.
    pub transport: u32,
}

/// The connectionKey: what its holder knows of a connection and nobody else. It changes with every
/// transport, and tells where the connection is to be found (2.9).
#[derive(Clone, Copy)]
pub struct ConnectionKey {
    /// Public id.
    pub id: ConnectionId,
    /// Where to look for it.
    pub place: Place,
    secret: [u8; SECRET_BYTES],
}

const SECRET_BYTES: usize = 12;
const PLACE_BYTES: usize = 6;

/// Between the id and the rest; no id contains it.
const SEPARATOR: char = '!';

impl ConnectionKey {
    /// A key for the connection `id` at `place` that nobody can guess.
    pub fn random(id: ConnectionId, place: Place, entropy: &mut Entropy) -> ConnectionKey {
        ConnectionKey { id, place, secret: entropy.bytes() }
    }

    /// Whether both are one; the time this takes says nothing about where they differ.
    pub fn is(&self, other: &ConnectionKey) -> bool {
        self.id == other.id && bool::from(self.secret.ct_eq(&other.secret))
    }
}

/// Shows no secret.
impl fmt::Debug for ConnectionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{SEPARATOR}...", self.id)
    }
}

impl fmt::Display for ConnectionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; PLACE_BYTES + SECRET_BYTES];
        bytes[..2].copy_from_slice(&self.place.shard.to_be_bytes());
        bytes[2..PLACE_BYTES].copy_from_slice(&self.place.transport.to_be_bytes());
        bytes[PLACE_BYTES..].copy_from_slice(&self.secret);
        write!(formatter, "{}{SEPARATOR}{}", self.id, BASE64URL_NOPAD.encode_display(&bytes))
    }
}

/// The text is no connectionKey of this daemon's making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyError;

impl FromStr for ConnectionKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<ConnectionKey, KeyError> {
        let (id, rest) = text.split_once(SEPARATOR).ok_or(KeyError)?;
        BASE64URL_NOPAD.decode(id.as_bytes()).map_err(|_| KeyError)?;
        let id = ConnectionId(id.as_bytes().try_into().map_err(|_| KeyError)?);
        let bytes = BASE64URL_NOPAD.decode(rest.as_bytes()).map_err(|_| KeyError)?;
        let (shard, rest) = bytes.split_first_chunk().ok_or(KeyError)?;
        let (transport, secret) = rest.split_first_chunk().ok_or(KeyError)?;
        let place =
            Place { shard: u16::from_be_bytes(*shard), transport: u32::from_be_bytes(*transport) };
        Ok(ConnectionKey { id, place, secret: secret.try_into().map_err(|_| KeyError)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> ConnectionKey {
        let mut next = seed;
        let mut entropy = Entropy::new(move |page| {
            page.fill_with(|| {
                next = next.wrapping_mul(5).wrapping_add(3);
                next
            });
        });
        let place = Place { shard: 7, transport: 70_000 };
        ConnectionKey::random(ConnectionId::random(&mut entropy), place, &mut entropy)
    }

    #[test]
    fn a_key_is_read_back_and_nothing_else_is() {
        let text = key(1).to_string();
        let read: ConnectionKey = text.parse().expect("our own");
        assert!(read.is(&key(1)) && read.place == key(1).place);
        assert!(!read.is(&key(2)));
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-!".contains(&byte)));
        for end in 0..text.len() {
            assert!(text[..end].parse::<ConnectionKey>().is_err(), "{}", &text[..end]);
        }
        for wrong in ["_____!ablyjs_test_fake-key____", "!", "abc!def", &format!("{text}A")] {
            assert!(wrong.parse::<ConnectionKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_not_shown_by_accident() {
        let text = key(1).to_string();
        assert!(!format!("{:?}", key(1)).contains(text.split_once('!').expect("two parts").1));
    }
}
