//! HTTP requests to the endpoint of one rule. What comes back is an outcome; bodies are not kept.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use super::courier::{Outcome, Parcel};
use super::{SigningKey, Target};
use crate::ably::{RequestShape, batch_body};

/// The version that requests name (15.3).
const VERSION: &str = "1.2";

/// Bytes of an answer that are read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Sends the parcels of one rule.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    signing_key: Option<SigningKey>,
    shape: RequestShape,
}

/// What is said of a request that did not go well.
pub struct Answer {
    /// What it means.
    pub outcome: Outcome,
    /// For the log: a status, or what has failed.
    pub note: String,
}

impl Client {
    /// A client with connections of its own.
    ///
    /// # Errors
    /// The URL or a header is malformed, the address is one that the rule must not reach, or the system's
    /// root certificates cannot be read.
    pub fn new(target: &Target, shape: RequestShape) -> anyhow::Result<Client> {
        let url = check_url(&target.url, target.allow_private).map_err(anyhow::Error::msg)?;
        let mut headers = HeaderMap::new();
        headers.insert("x-ably-version", HeaderValue::from_static(VERSION));
        for (name, value) in &target.headers {
            let name = HeaderName::try_from(name).context("a header's name is malformed")?;
            let value = HeaderValue::try_from(value).context("a header's value is malformed")?;
            headers.insert(name, value);
        }
        let mut http = reqwest::Client::builder()
            .timeout(target.timeout)
            .connect_timeout(target.timeout.min(Duration::from_secs(10)))
            .pool_idle_timeout(Duration::from_secs(60))
            // Whoever may say where else the secrets go is not the endpoint.
            .redirect(reqwest::redirect::Policy::none())
            // A proxy from the environment would decide what is reached.
            .no_proxy()
            .user_agent(concat!("ringcast/", env!("CARGO_PKG_VERSION")));
        if !target.allow_private {
            http = http.dns_resolver(Arc::new(PublicResolver));
        }
        let http = http.build().context("cannot prepare HTTP requests")?;
        let signing_key = target.signing_key.clone();
        Ok(Client { http, url, headers, signing_key, shape })
    }

    /// Sends one parcel.
    pub async fn send(self, parcel: &Parcel) -> Answer {
        let first = &parcel.entries[0].event;
        let (content_type, body) = match self.shape {
            RequestShape::Batch => {
                let items = parcel.entries.iter().map(|entry| &entry.event.body[..]);
                batch_body(first.rule().format, items)
            }
            RequestShape::Enveloped | RequestShape::Bare => {
                (first.content_type, first.body.clone())
            }
        };
        let mut headers = self.headers;
        // Unless the rule knows better.
        let content_type = HeaderValue::from_static(content_type.name());
        headers.entry(reqwest::header::CONTENT_TYPE).or_insert(content_type);
        let mut request = self.http.post(self.url).headers(headers);
        for (name, value) in &first.headers {
            request = request.header(&**name, &**value);
        }
        if let Some(key) = &self.signing_key {
            request = request.header("x-ably-key", &*key.name);
            request = request.header("x-ably-signature", key.sign(&body));
        }
        match request.body(body).send().await {
            Ok(response) => {
                let answer = judge(response.status().as_u16(), self.shape, || {
                    retry_after(response.headers(), SystemTime::now())
                });
                let mut response = response;
                let mut bytes = 0;
                // Its deadline is that of the whole request.
                while bytes < ANSWER_BYTES_MAX
                    && let Ok(Some(chunk)) = response.chunk().await
                {
                    bytes += chunk.len();
                }
                answer
            }
            Err(error) => {
                // Without the URL, which may hold a secret.
                let note = root_cause(&error.without_url());
                Answer { outcome: Outcome::Failed { retry_after: None }, note }
            }
        }
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// What a status means (15.7).
fn judge(
    status: u16,
    shape: RequestShape,
    retry_after: impl FnOnce() -> Option<Duration>,
) -> Answer {
    let outcome = match status {
        200..=299 => Outcome::Delivered,
        408 | 425 | 429 | 500..=599 => Outcome::Failed { retry_after: retry_after() },
        // In a batch one event that is not liked must not take the others with it.
        _ if shape == RequestShape::Batch => Outcome::Failed { retry_after: None },
        _ => Outcome::Refused,
    };
    Answer { outcome, note: format!("status {status}") }
}

/// `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

impl SigningKey {
    /// What `X-Ably-Signature` says of a body (15.6).
    fn sign(&self, body: &[u8]) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes());
        let mac = mac.expect("HMAC takes keys of any length").chain_update(body);
        BASE64.encode(&mac.finalize().into_bytes())
    }
}

/// Reads the URL of an endpoint. A name in it is looked at when it is resolved.
///
/// # Errors
/// Why it is none, or none that may be reached.
pub fn check_url(text: &str, allow_private: bool) -> Result<reqwest::Url, String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("wants http:// or https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has no place for a user and password: use a header".into());
    }
    let address: Option<IpAddr> = match url.host_str() {
        Some(host) => host.trim_start_matches('[').trim_end_matches(']').parse().ok(),
        None => return Err("names no host".into()),
    };
    match address {
        Some(address) if !allow_private && !is_public(address) => Err(format!(
            "{address} is not a public address; say `allow_private = true` if it is meant"
        )),
        _ => Ok(url),
    }
}

/// Resolves names to public addresses only, so that a name cannot lead to the host's own network.
struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| is_public(found.ip())).collect();
            if public.is_empty() {
                let text = "the name has no public address, and the rule says no `allow_private`";
                return Err(text.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address belongs to the public internet (IANA's registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            let [.., w, x, y, z] = v6.octets();
            let last = Ipv4Addr::new(w, x, y, z);
            if let Some(mapped) = v6.to_ipv4_mapped() {
                return is_public_v4(mapped);
            }
            match (a, b) {
                // Translated to IPv4: what is at the end counts.
                (0x64, 0xff9b) => is_public_v4(last),
                (0x2002, _) => {
                    let [_, _, w, x, y, z, ..] = v6.octets();
                    is_public_v4(Ipv4Addr::new(w, x, y, z))
                }
                // Global unicast, without documentation, Teredo and benchmarks.
                (0x2001, 0xdb8) | (0x2001, 0..=0x1ff) => false,
                (0x2000..=0x3fff, _) => true,
                _ => false,
            }
        }
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || (a, b & 0xc0) == (100, 64)
        || (a, b, c) == (192, 0, 0)
        || (a, b & 0xfe) == (198, 18)
        || a == 0
        || a >= 224;
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reached_unless_others_are_allowed() {
        for (host, public) in [
            ("8.8.8.8", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.31.0.1", false),
            ("192.168.0.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("[::1]", false),
            ("[::ffff:127.0.0.1]", false),
            ("[fe80::1]", false),
            ("[fd00::1]", false),
            ("[64:ff9b::7f00:1]", false),
            ("[2002:7f00:1::]", false),
            ("[2606:4700::1111]", true),
            // Other spellings of 127.0.0.1, which URLs know.
            ("2130706433", false),
            ("0x7f.1", false),
            ("127.1", false),
        ] {
            let url = format!("http://{host}/path");
            assert_eq!(check_url(&url, false).is_ok(), public, "{host}");
            assert!(check_url(&url, true).is_ok(), "{host}");
        }
        for wrong in ["ftp://example.com/", "example.com", "http://", "http://u:p@example.com/"] {
            assert!(check_url(wrong, true).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_leads_home_is_not_followed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(PublicResolver.resolve("localhost".parse().expect("a name")));
        assert!(found.is_err());
    }

    #[test]
    fn a_signature_is_what_others_compute() {
        // From openssl: printf '{"items":[]}' | openssl dgst -sha256 -hmac secret -binary | base64
        let key = SigningKey { name: "app.key".into(), secret: "secret".into() };
        assert_eq!(key.sign(br#"{"items":[]}"#), "VG7phuhMZ8ubMWF9x6TFoO6EEA8OcgVmAEp85CWHv7E=");
    }

    #[test]
    fn a_status_says_whether_it_is_worth_another_try() {
        let outcome = |status, shape| judge(status, shape, || None).outcome;
        let failed = Outcome::Failed { retry_after: None };
        for (status, single, batch) in [
            (200, Outcome::Delivered, Outcome::Delivered),
            (204, Outcome::Delivered, Outcome::Delivered),
            (301, Outcome::Refused, failed),
            (404, Outcome::Refused, failed),
            (408, failed, failed),
            (429, failed, failed),
            (500, failed, failed),
            (503, failed, failed),
        ] {
            assert_eq!(outcome(status, RequestShape::Bare), single, "{status}");
            assert_eq!(outcome(status, RequestShape::Batch), batch, "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).expect("a value");
            retry_after(
                &HeaderMap::from_iter([(HeaderName::from_static("retry-after"), value)]),
                now,
            )
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(77)));
        assert_eq!(read("Sun, 06 Nov 1993 08:49:37 GMT"), None);
        assert_eq!(read("soon"), None);
    }
}
