//! POSTs to the HTTP endpoint of one rule.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use super::address::{PublicResolver, check_url};
use super::aws::{self, AwsAccess, Signer};
use super::client::{Answer, VERSION, body};
use super::courier::{Outcome, Parcel};
use super::gate::{self, Reply};
use super::target::{SigningKey, Target};
use crate::ably::{ContentType, RequestShape};

/// Bytes of an answer that are read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// An endpoint that takes POSTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// `http://` or `https://`; may hold secrets.
    pub url: String,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// Signs every request, as Ably does.
    pub signing_key: Option<SigningKey>,
    /// Signs every request, as AWS wants it.
    pub aws: Option<AwsAccess>,
}

/// Sends the parcels of one rule.
pub struct HttpClient {
    http: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    signing_key: Option<SigningKey>,
    signer: Option<Signer>,
}

impl HttpClient {
    /// A client with connections of its own.
    ///
    /// # Errors
    /// The URL or a header is malformed, the address is one that the rule must not reach, or the system's
    /// root certificates cannot be read.
    pub fn new(target: &Target, endpoint: &HttpTarget) -> anyhow::Result<HttpClient> {
        let url = check_url(&endpoint.url, target.allow_private).map_err(anyhow::Error::msg)?;
        let mut headers = HeaderMap::new();
        headers.insert("x-ably-version", HeaderValue::from_static(VERSION));
        for (name, value) in &endpoint.headers {
            let name = HeaderName::try_from(name).context("a header's name is malformed")?;
            let value = HeaderValue::try_from(value).context("a header's value is malformed")?;
            headers.insert(name, value);
        }
        let http = prepare(target)?;
        let signing_key = endpoint.signing_key.clone();
        let signer = endpoint.aws.as_ref().map(|access| Signer::new(access, http.clone()));
        Ok(HttpClient { http, url, headers, signing_key, signer })
    }

    /// Sends one parcel.
    pub async fn send(&self, parcel: &Parcel) -> Answer {
        let (content_type, body) = body(parcel);
        let request = self.post(content_type, &parcel.entries[0].event.headers, body);
        let response = match self.execute(request).await {
            Ok(response) => response,
            Err(why) => return Answer::failed(why),
        };
        let answer = match (&self.signer, aws::error_type(response.headers())) {
            // AWS does not let us in; what the function would have said is not known.
            (Some(signer), Some(name)) if response.status().as_u16() == 403 => {
                signer.distrust().await;
                Answer::failed(format!("status 403 {name}"))
            }
            _ => judge(response.status().as_u16(), parcel.shape(), || {
                retry_after(response.headers(), SystemTime::now())
            }),
        };
        read_bytes(response, ANSWER_BYTES_MAX).await;
        answer
    }

    /// Asks one question.
    ///
    /// # Errors
    /// Why nothing came back; for the log.
    pub async fn ask(&self, question: Bytes) -> Result<Reply, String> {
        let request = self.post(ContentType::Json, &[], question);
        let response = self.execute(request).await?;
        let status = response.status().as_u16();
        let body = read_whole(response, gate::ANSWER_BYTES_MAX).await?;
        Ok(Reply { status, body: body.into() })
    }

    /// Signs a request for AWS if it wants that, and makes it.
    async fn execute(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, String> {
        let mut request = request.build().map_err(root_cause)?;
        if let Some(signer) = &self.signer {
            signer.sign(&mut request).await?;
        }
        self.http.execute(request).await.map_err(root_cause)
    }

    /// A request with this body, signed.
    fn post(
        &self,
        content_type: ContentType,
        more: &[(Box<str>, Box<str>)],
        body: Bytes,
    ) -> reqwest::RequestBuilder {
        let mut headers = self.headers.clone();
        // Unless the rule knows better.
        let content_type = HeaderValue::from_static(content_type.name());
        headers.entry(reqwest::header::CONTENT_TYPE).or_insert(content_type);
        let mut request = self.http.post(self.url.clone()).headers(headers);
        for (name, value) in more {
            request = request.header(&**name, &**value);
        }
        if let Some(key) = &self.signing_key {
            request = request.header("x-ably-key", &*key.name);
            request = request.header("x-ably-signature", key.sign(&body));
        }
        request.body(body)
    }
}

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
/// The system's root certificates cannot be read, or the target's are malformed.
pub fn prepare(target: &Target) -> anyhow::Result<reqwest::Client> {
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
    if let Some(ca) = &target.tls.ca {
        for certificate in reqwest::Certificate::from_pem_bundle(ca.as_pem())? {
            http = http.add_root_certificate(certificate);
        }
    }
    if let Some(identity) = &target.tls.identity {
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
    Answer { outcome, note: format!("status {status}"), status: Some(status) }
}

/// `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

impl SigningKey {
    /// What `X-Ably-Signature` says of a body (15.6).
    fn sign(&self, body: &[u8]) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(self.secret.reveal().as_bytes());
        let mac = mac.expect("HMAC takes keys of any length").chain_update(body);
        BASE64.encode(&mac.finalize().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::target::Secret;

    #[test]
    fn a_signature_is_what_others_compute() {
        // From openssl: printf '{"items":[]}' | openssl dgst -sha256 -hmac secret -binary | base64
        let key = SigningKey { name: "app.key".into(), secret: Secret::new("secret") };
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
