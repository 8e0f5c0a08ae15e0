//! One exchange over HTTP, whoever is at the other end: what makes it, what is read of it, why it failed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use reqwest::header::HeaderMap;

use super::address::PublicResolver;
use super::reach::Reach;

/// Reads what an answer holds, up to a bound; its deadline is that of the whole request. What is read to
/// its end leaves a connection that can be used again.
pub async fn read_bytes(mut response: reqwest::Response, bytes_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < bytes_max
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(bytes_max - bytes.len())]);
    }
    bytes
}

/// Reads the whole of an answer.
///
/// # Errors
/// It breaks off, or is longer than `bytes_max`.
pub async fn read_whole(
    mut response: reqwest::Response,
    bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(root_cause)? {
        if bytes.len() + chunk.len() > bytes_max {
            return Err(format!("the answer is longer than {bytes_max} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What makes requests, with pools of connections that nobody else uses.
///
/// # Errors
/// The system's root certificates cannot be read, or the rule's are malformed.
pub fn prepare(reach: &Reach) -> anyhow::Result<reqwest::Client> {
    let mut http = reqwest::Client::builder()
        .timeout(reach.timeout)
        .connect_timeout(reach.timeout.min(Duration::from_secs(10)))
        .pool_idle_timeout(Duration::from_secs(60))
        // Whoever may say where else the secrets go is not the endpoint.
        .redirect(reqwest::redirect::Policy::none())
        // A proxy from the environment would decide what is reached.
        .no_proxy()
        .user_agent(concat!("ringcast/", env!("CARGO_PKG_VERSION")));
    if !reach.allow_private {
        http = http.dns_resolver(Arc::new(PublicResolver));
    }
    if let Some(ca) = &reach.tls.ca {
        for certificate in reqwest::Certificate::from_pem_bundle(ca.as_pem())? {
            http = http.add_root_certificate(certificate);
        }
    }
    if let Some(identity) = &reach.tls.identity {
        http = http.identity(reqwest::Identity::from_pem(identity.reveal().as_bytes())?);
    }
    http.build().context("cannot prepare HTTP requests")
}

/// What an error comes from, without the URL, which may hold a secret.
pub fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

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
