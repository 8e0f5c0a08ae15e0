//! POSTs to the HTTP endpoint of one rule.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::address::check_url;
use super::answer::{Answer, REPLY_BYTES_MAX, Reply};
use super::aws::{self, AwsAccess, Signer};
use super::courier::{Outcome, Parcel};
use super::exchange::{prepare, read_bytes, read_whole, retry_after, root_cause};
use super::reach::Reach;
use super::request::{VERSION, body};
use super::secret::SigningKey;
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
    pub fn new(reach: &Reach, endpoint: &HttpTarget) -> anyhow::Result<HttpClient> {
        let url = check_url(&endpoint.url, reach.allow_private).map_err(anyhow::Error::msg)?;
        let mut headers = HeaderMap::new();
        headers.insert("x-ably-version", HeaderValue::from_static(VERSION));
        for (name, value) in &endpoint.headers {
            let name = HeaderName::try_from(name).context("a header's name is malformed")?;
            let value = HeaderValue::try_from(value).context("a header's value is malformed")?;
            headers.insert(name, value);
        }
        let http = prepare(reach)?;
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
        let body = read_whole(response, REPLY_BYTES_MAX).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
