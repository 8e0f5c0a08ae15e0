//! Values with units: each function reads one TOML value, or says what it wants instead.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use crate::base::Networks;
use crate::config::advice::advise;

/// 1024 bytes.
pub(super) const KIB: usize = 1024;
/// 1024 KiB.
pub(super) const MIB: usize = 1024 * KIB;

const BYTE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// In milliseconds. `ms` first: it ends like `s`.
const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// An integer in `range`.
pub(super) fn count<T>(range: RangeInclusive<usize>) -> impl FnOnce(&DeValue) -> Result<T, String>
where
    T: TryFrom<usize>,
{
    move |value| {
        let number = integer(value).ok_or("wants an integer")?;
        if !range.contains(&number) {
            return Err(format!("{number} is not from {} to {}", range.start(), range.end()));
        }
        Ok(narrow(number))
    }
}

/// A power of two in `range`.
pub(super) fn power_of_two<T>(
    range: RangeInclusive<usize>,
) -> impl FnOnce(&DeValue) -> Result<T, String>
where
    T: TryFrom<usize>,
{
    move |value| {
        let number = integer(value).ok_or("wants an integer")?;
        if !range.contains(&number) || !number.is_power_of_two() {
            let (start, end) = range.into_inner();
            return Err(format!("{number} is not a power of two from {start} to {end}"));
        }
        Ok(narrow(number))
    }
}

/// Bytes in `range`: an integer, or a string with a unit.
pub(super) fn bytes<T>(range: RangeInclusive<usize>) -> impl FnOnce(&DeValue) -> Result<T, String>
where
    T: TryFrom<usize>,
{
    move |value| {
        let bytes = match value {
            DeValue::String(text) => {
                scaled(text, &BYTE_UNITS).and_then(|bytes| usize::try_from(bytes).ok())
            }
            _ => integer(value),
        };
        let bytes = bytes.ok_or(r#"wants bytes, such as 4096 or "64KiB""#)?;
        if !range.contains(&bytes) {
            let (start, end) = (show_bytes(*range.start()), show_bytes(*range.end()));
            return Err(format!("{} is not from {start} to {end}", show_bytes(bytes)));
        }
        Ok(narrow(bytes))
    }
}

/// A duration between two that are written as they would be in the file.
pub(super) fn duration(
    range: RangeInclusive<&'static str>,
) -> impl FnOnce(&DeValue) -> Result<Duration, String> {
    move |value| {
        let text = value.as_str().unwrap_or_default();
        let wanted = r#"wants a duration, such as "500ms" or "15s""#;
        let millis = scaled(text, &TIME_UNITS).ok_or(wanted)?;
        let (start, end) = range.into_inner();
        let bound = |text| scaled(text, &TIME_UNITS).expect("bounds are written with their unit");
        if !(bound(start)..=bound(end)).contains(&millis) {
            return Err(format!("{text} is not from {start} to {end}"));
        }
        Ok(Duration::from_millis(millis))
    }
}

/// An address and a port.
pub(super) fn address(value: &DeValue) -> Result<SocketAddr, String> {
    let wanted = r#"wants ADDRESS:PORT, such as "127.0.0.1:8080""#;
    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| wanted.into())
}

/// An address and a port, or `"off"`.
pub(super) fn address_or_off(value: &DeValue) -> Result<Option<SocketAddr>, String> {
    if value.as_str() == Some("off") {
        return Ok(None);
    }
    let wanted = r#"wants "off" or an address and port, such as "127.0.0.1:8080""#;
    address(value).map(Some).map_err(|_| wanted.into())
}

/// A list of origins of web pages, as browsers write them (RFC 6454 §6.2).
pub(super) fn origins(value: &DeValue) -> Result<Vec<Box<str>>, String> {
    let wanted = r#"wants a list of origins, such as ["https://example.com"]"#;
    let origin = |text: &str| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        match host {
            Some(host) if !host.is_empty() && host.chars().all(is_host) => Ok(text.into()),
            _ => Err(format!("`{text}` is no origin; one has a scheme, a host and no path")),
        }
    };
    let list = value.as_array().ok_or(wanted)?;
    list.iter().map(|item| origin(item.get_ref().as_str().ok_or(wanted)?)).collect()
}

/// A list of networks and addresses.
pub(super) fn networks(value: &DeValue) -> Result<Networks, String> {
    let wanted = r#"wants a list of networks, such as ["10.0.0.0/8"]"#;
    let mut networks = Networks::default();
    for item in value.as_array().ok_or(wanted)? {
        networks.add(item.get_ref().as_str().ok_or(wanted)?)?;
    }
    Ok(networks)
}

/// One of some words, each of which stands for a value.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(&DeValue) -> Result<T, String> {
    move |value| {
        let text = text(value)?;
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.ok_or_else(|| format!("`{text}` is not known; {}", advise(text, &known)))
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "wants true or false".into())
}

/// A string.
pub(super) fn text<'v>(value: &'v DeValue) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| "wants a string".into())
}

/// Where a secret is: a path, from `directory` on, or `credential:NAME`, which is a file that the service
/// manager has laid into a directory of its own (systemd.exec(5), `LoadCredential=`).
pub(super) fn secret_path(directory: &Path, text: &str) -> Result<PathBuf, String> {
    secret_path_in(std::env::var_os("CREDENTIALS_DIRECTORY"), directory, text)
}

pub(super) fn secret_path_in(
    credentials: Option<OsString>,
    directory: &Path,
    text: &str,
) -> Result<PathBuf, String> {
    let Some(name) = text.strip_prefix("credential:") else { return Ok(directory.join(text)) };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(format!("`{name}` is no name of a credential"));
    }
    let credentials = credentials.filter(|directory| !directory.is_empty()).ok_or_else(|| {
        format!("there is no credential `{name}`: CREDENTIALS_DIRECTORY is not set, as systemd does for LoadCredential={name}:FILE")
    })?;
    Ok(PathBuf::from(credentials).join(name))
}

/// A whole number that is not negative.
pub(super) fn integer(value: &DeValue) -> Option<usize> {
    let integer = value.as_integer()?;
    usize::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A number directly followed by one of `units`.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

pub(super) fn show_bytes(bytes: usize) -> String {
    let exact =
        BYTE_UNITS.iter().find(|(_, scale)| bytes > 0 && (bytes as u64).is_multiple_of(*scale));
    match exact {
        Some((unit, scale)) if *scale > 1 => format!("{}{unit}", bytes as u64 / scale),
        _ => bytes.to_string(),
    }
}

/// A duration as it would be written in the file.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis() as u64;
    let exact =
        TIME_UNITS.iter().rev().find(|(_, scale)| millis > 0 && millis.is_multiple_of(*scale));
    match exact {
        Some((unit, scale)) => format!("{}{unit}", millis / scale),
        None => "0s".into(),
    }
}

fn narrow<T: TryFrom<usize>>(number: usize) -> T {
    T::try_from(number).ok().expect("the range fits the type of the field")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_wants_digits_and_a_known_unit() {
        for (text, millis) in [
            ("500ms", Some(500)),
            ("15s", Some(15_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("15", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(scaled(text, &TIME_UNITS), millis, "{text}");
        }
    }

    #[test]
    fn durations_are_shown_in_the_largest_unit_that_is_exact() {
        for (millis, shown) in [(0, "0s"), (1500, "1500ms"), (120_000, "2m"), (90_000, "90s")] {
            assert_eq!(show_duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit_that_is_exact() {
        for (bytes, shown) in [(0, "0"), (1000, "1000"), (1024, "1KiB"), (3 << 20, "3MiB")] {
            assert_eq!(show_bytes(bytes), shown);
        }
    }
}
