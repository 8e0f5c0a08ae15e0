//! Invocations of AWS Lambda functions by name.

use std::time::SystemTime;

use anyhow::Context;
use bytes::Bytes;
use data_encoding::BASE64;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::address::check_url;
use super::answer::{Answer, REPLY_BYTES_MAX, Reply};
use super::aws::{self, AwsAccess, Signer};
use super::courier::{Outcome, Parcel};
use super::exchange::{prepare, read_bytes, read_whole, retry_after, root_cause};
use super::reach::Reach;
use super::request::body;
use crate::ably::{ContentType, RequestShape};

/// Bytes of an answer that are read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Header of an answer that says that the function itself has failed.
const FUNCTION_ERROR: &str = "x-amz-function-error";

/// A function, and how it is invoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LambdaTarget {
    /// Which.
    pub function: FunctionName,
    /// A version or an alias of it.
    pub qualifier: Option<Box<str>>,
    /// Whether its end is waited for.
    pub invocation: Invocation,
    /// Who invokes it.
    pub aws: AwsAccess,
    /// Where functions are invoked, if not at AWS.
    pub endpoint: Option<String>,
}

/// Whether an invocation waits for the function's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// AWS queues the event and answers at once.
    Event,
    /// An event is delivered when the function has ended well.
    RequestResponse,
}

impl Invocation {
    /// Each with its name in configuration.
    pub const NAMES: [(&str, Invocation); 2] =
        [("event", Invocation::Event), ("request-response", Invocation::RequestResponse)];
}

/// Invokes the function of one rule.
pub struct LambdaClient {
    http: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    signer: Signer,
}

impl LambdaClient {
    /// A client with connections of its own.
    ///
    /// # Errors
    /// The endpoint is one that the rule must not reach, or certificates cannot be read.
    pub fn new(reach: &Reach, lambda: &LambdaTarget) -> anyhow::Result<LambdaClient> {
        let base = match &lambda.endpoint {
            Some(url) => url.clone(),
            None => aws::service_url("lambda", &lambda.aws.region),
        };
        let base = check_url(&base, reach.allow_private).map_err(anyhow::Error::msg)?;
        let url = invocation_url(base, lambda).context("the endpoint is no base of a URL")?;
        let invocation = match lambda.invocation {
            Invocation::Event => "Event",
            Invocation::RequestResponse => "RequestResponse",
        };
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (
                HeaderName::from_static("x-amz-invocation-type"),
                HeaderValue::from_static(invocation),
            ),
        ]);
        let http = prepare(reach)?;
        let signer = Signer::new(&lambda.aws, http.clone());
        Ok(LambdaClient { http, url, headers, signer })
    }

    /// Sends one parcel.
    pub async fn send(&self, parcel: &Parcel) -> Answer {
        let (content_type, body) = body(parcel);
        let response = match self.invoke(event(content_type, body)).await {
            Ok(response) => response,
            Err(why) => return Answer::failed(why),
        };
        let (status, headers) = (response.status().as_u16(), response.headers());
        let answer = judge(status, headers, parcel.shape(), SystemTime::now());
        read_bytes(response, ANSWER_BYTES_MAX).await;
        answer
    }

    /// Asks one question. A function answers with status and body, as one behind a URL does (15.9).
    ///
    /// # Errors
    /// Why nothing came back; for the log.
    pub async fn ask(&self, question: Bytes) -> Result<Reply, String> {
        let response = self.invoke(question).await?;
        let (status, headers) = (response.status().as_u16(), response.headers());
        if headers.contains_key(FUNCTION_ERROR) {
            return Err("the function has failed".into());
        }
        let is_of_function = response.status().is_success();
        let body = read_whole(response, REPLY_BYTES_MAX).await?;
        match is_of_function {
            true => read_reply(&body).ok_or_else(|| "the function's answer is no reply".into()),
            false => Ok(Reply { status, body: Bytes::new() }),
        }
    }

    async fn invoke(&self, event: Bytes) -> Result<reqwest::Response, String> {
        let request = self.http.post(self.url.clone()).headers(self.headers.clone());
        let mut request = request.body(event).build().map_err(root_cause)?;
        self.signer.sign(&mut request).await?;
        let response = self.http.execute(request).await.map_err(root_cause)?;
        if response.status().as_u16() == 403 {
            self.signer.distrust().await;
        }
        Ok(response)
    }
}

/// What a function returns where it stands for an HTTP endpoint.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Returned {
    status_code: u16,
    body: Option<String>,
}

/// Reads what a function has returned: `{"statusCode", "body"}`, or the body itself.
fn read_reply(returned: &[u8]) -> Option<Reply> {
    if let Ok(Returned { status_code, body }) = serde_json::from_slice(returned) {
        return Some(Reply { status: status_code, body: body.unwrap_or_default().into() });
    }
    let value: Value = serde_json::from_slice(returned).ok()?;
    value.is_object().then(|| Reply { status: 200, body: Bytes::copy_from_slice(returned) })
}

/// What the Invoke API has answered (AWS Lambda API reference, Invoke).
fn judge(status: u16, headers: &HeaderMap, shape: RequestShape, now: SystemTime) -> Answer {
    let failed = Outcome::Failed { retry_after: retry_after(headers, now) };
    let outcome = match status {
        200..=299 if headers.contains_key(FUNCTION_ERROR) => {
            return Answer {
                outcome: failed,
                note: "the function has failed".into(),
                status: Some(status),
            };
        }
        200..=299 => Outcome::Delivered,
        // It is about the event, not about the function or us. In a batch one event that is not liked must
        // not take the others with it.
        400 | 413 | 415 if shape != RequestShape::Batch => Outcome::Refused,
        _ => failed,
    };
    let name = aws::error_type(headers).map(|name| format!(" {name}")).unwrap_or_default();
    Answer { outcome, note: format!("status {status}{name}"), status: Some(status) }
}

/// Functions take JSON: what is none becomes a string, bytes as base64.
fn event(content_type: ContentType, body: Bytes) -> Bytes {
    let is_json = || serde_json::from_slice::<IgnoredAny>(&body).is_ok();
    let text = match content_type {
        ContentType::Json if is_json() => return body,
        ContentType::Json | ContentType::Text => String::from_utf8_lossy(&body).into_owned(),
        ContentType::MsgPack | ContentType::Bytes => BASE64.encode(&body),
    };
    Value::from(text).to_string().into()
}

/// The resource of the function below `base`; `None` if that has no path.
fn invocation_url(mut base: reqwest::Url, lambda: &LambdaTarget) -> Option<reqwest::Url> {
    // As AWS's SDKs write an ARN in a path.
    let function = lambda.function.as_str().replace(':', "%3A");
    base.set_path(&format!("/2015-03-31/functions/{function}/invocations"));
    base.set_query(None);
    base.host()?;
    if let Some(qualifier) = &lambda.qualifier {
        base.query_pairs_mut().append_pair("Qualifier", qualifier);
    }
    Some(base)
}

/// The name of a function, or its ARN; without a qualifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionName(Box<str>);

impl FunctionName {
    /// Reads a name, `account:function:name` or a whole ARN, and the qualifier that may stand behind.
    ///
    /// # Errors
    /// What a name is.
    pub fn parse(text: &str) -> Result<(FunctionName, Option<Box<str>>), String> {
        let wanted = || "wants the name of a function, or its ARN".to_owned();
        let parts: Vec<&str> = text.split(':').collect();
        // What stands before the name itself.
        let before = match parts[..] {
            ["arn", partition, "lambda", region, account, "function", ..]
                if partition.starts_with("aws")
                    && aws::is_region(region)
                    && is_account(account) =>
            {
                6
            }
            [account, "function", ..] if is_account(account) => 2,
            _ => 0,
        };
        let (name, qualifier) = match parts[before..] {
            [name] => (name, None),
            [name, qualifier] => (name, Some(qualifier)),
            _ => return Err(wanted()),
        };
        let is_of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_of_name) {
            return Err(wanted());
        }
        let qualifier = qualifier.map(parse_qualifier).transpose()?;
        Ok((FunctionName(parts[..=before].join(":").into()), qualifier))
    }

    /// The region that an ARN names.
    pub fn region(&self) -> Option<&str> {
        self.0.starts_with("arn:").then(|| self.0.split(':').nth(3)).flatten()
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads a version or an alias.
///
/// # Errors
/// What one is.
pub fn parse_qualifier(text: &str) -> Result<Box<str>, String> {
    let is_of_qualifier = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'$');
    if (1..=128).contains(&text.len()) && text.bytes().all(is_of_qualifier) {
        Ok(text.into())
    } else {
        Err(format!("`{text}` is no version or alias of a function"))
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::CredentialSource;

    #[test]
    fn what_is_no_json_becomes_a_string() {
        let event = |content_type, body: &'static [u8]| {
            let event = event(content_type, Bytes::from_static(body));
            String::from_utf8(event.to_vec()).expect("JSON is text")
        };
        assert_eq!(event(ContentType::Json, br#"{"a":1}"#), r#"{"a":1}"#);
        assert_eq!(event(ContentType::Json, b"{not"), r#""{not""#);
        assert_eq!(event(ContentType::Text, b"say \"hi\""), r#""say \"hi\"""#);
        assert_eq!(event(ContentType::Text, b""), r#""""#);
        assert_eq!(event(ContentType::Bytes, b"\xff"), r#""/w==""#);
    }

    #[test]
    fn an_answer_says_whether_it_is_worth_another_try() {
        let now = SystemTime::UNIX_EPOCH;
        let outcome = |status, names: &[&'static str], shape| {
            let header = |name: &&'static str| {
                (HeaderName::from_static(name), HeaderValue::from_static("Unhandled"))
            };
            let headers = names.iter().map(header).collect();
            judge(status, &headers, shape, now).outcome
        };
        let failed = Outcome::Failed { retry_after: None };
        for (status, names, single, batch) in [
            (200, &[][..], Outcome::Delivered, Outcome::Delivered),
            (202, &[], Outcome::Delivered, Outcome::Delivered),
            (200, &["x-amz-function-error"], failed, failed),
            (400, &[], Outcome::Refused, failed),
            (413, &[], Outcome::Refused, failed),
            (403, &[], failed, failed),
            (404, &[], failed, failed),
            (429, &[], failed, failed),
            (502, &[], failed, failed),
        ] {
            assert_eq!(outcome(status, names, RequestShape::Enveloped), single, "{status}");
            assert_eq!(outcome(status, names, RequestShape::Batch), batch, "{status}");
        }
    }

    #[test]
    fn a_reply_is_status_and_body_or_the_body_alone() {
        let read = |text: &str| read_reply(text.as_bytes()).map(|reply| (reply.status, reply.body));
        let accept = r#"{"action":"accept"}"#;
        let returned = r#"{"statusCode":200,"body":"{\"action\":\"accept\"}"}"#;
        assert_eq!(read(returned), Some((200, accept.into())));
        assert_eq!(read(accept), Some((200, accept.into())));
        assert_eq!(read(r#"{"statusCode":429}"#), Some((429, "".into())));
        assert_eq!(read("null"), None);
        assert_eq!(read("{"), None);
    }

    #[test]
    fn an_invocation_has_the_path_that_the_sdks_use() {
        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:mask:$LATEST";
        let (function, qualifier) = FunctionName::parse(arn).expect("a function");
        let lambda = LambdaTarget {
            function,
            qualifier,
            invocation: Invocation::Event,
            aws: AwsAccess {
                region: "eu-west-1".into(),
                credentials: CredentialSource::Found,
                role: None,
                sts_endpoint: None,
            },
            endpoint: None,
        };
        let base = aws::service_url("lambda", "eu-west-1").parse().expect("a URL");
        let url = invocation_url(base, &lambda).expect("a URL");
        assert_eq!(
            url.as_str(),
            "https://lambda.eu-west-1.amazonaws.com/2015-03-31/functions/\
             arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Amask/invocations?Qualifier=%24LATEST"
        );
    }

    #[test]
    fn a_function_has_a_name_or_an_arn() {
        for (text, name, qualifier, region) in [
            ("mask", "mask", None, None),
            ("mask:live", "mask", Some("live"), None),
            ("123456789012:function:mask", "123456789012:function:mask", None, None),
            (
                "arn:aws:lambda:eu-west-1:123456789012:function:mask:$LATEST",
                "arn:aws:lambda:eu-west-1:123456789012:function:mask",
                Some("$LATEST"),
                Some("eu-west-1"),
            ),
        ] {
            let (function, found) = FunctionName::parse(text).expect("a function");
            assert_eq!((function.as_str(), found.as_deref()), (name, qualifier), "{text}");
            assert_eq!(function.region(), region, "{text}");
        }
        for wrong in [
            "",
            "a b",
            "mask:",
            "mask:live:x",
            "../mask",
            "arn:aws:lambda:eu-west-1:123456789012:function",
            "arn:aws:s3:::bucket",
            "arn:aws:lambda:eu west:123456789012:function:mask",
        ] {
            assert!(FunctionName::parse(wrong).is_err(), "{wrong}");
        }
    }
}
