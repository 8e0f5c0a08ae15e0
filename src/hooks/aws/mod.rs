//! Requests to AWS: who signs them, with what, and what refusals mean.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | access as it is configured; signatures |
//! | `credentials.rs` | keys from wherever they are, and new ones before they expire |
//! | `sts.rs` | keys for roles, from the Security Token Service |

mod credentials;
mod sts;

use std::path::PathBuf;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use self::credentials::Keys;
use super::target::Secret;

/// How requests to AWS are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsAccess {
    /// Where the function is; part of what is signed.
    pub region: Box<str>,
    /// Whose signature it is, or whose is used to assume a role.
    pub credentials: CredentialSource,
    /// The role that is assumed, if one is.
    pub role: Option<AssumedRole>,
    /// Where roles are assumed, if not at AWS.
    pub sts_endpoint: Option<String>,
}

/// Where credentials are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// Where AWS's own SDKs find them: the environment, a web identity, the shared file, a container, the
    /// machine; and the service manager's directory.
    Found,
    /// The configuration.
    Given(AccessKey),
    /// A shared credentials file, and the profile in it.
    File {
        /// The file; without one the usual place.
        path: Option<PathBuf>,
        /// The section of it.
        profile: Box<str>,
    },
}

/// An access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// Is sent, and no secret.
    pub id: Box<str>,
    /// Signs.
    pub secret: Secret,
    /// Goes with keys that are for some hours only.
    pub session_token: Option<Secret>,
}

/// A role, and how it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssumedRole {
    /// `arn:aws:iam::account:role/name`.
    pub arn: Box<str>,
    /// What its trust policy may ask for.
    pub external_id: Option<Box<str>>,
}

/// Whether `text` can be the name of a region, such as `eu-west-1`.
pub fn is_region(text: &str) -> bool {
    let is_of_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(is_of_name)
}

/// The region of the function that has this URL, if it is one of AWS's.
pub fn region_of_url(url: &reqwest::Url) -> Option<&str> {
    let host = url.host_str()?.strip_suffix(".on.aws")?;
    let (_, region) = host.split_once(".lambda-url.")?;
    is_region(region).then_some(region)
}

/// Where a service of a region is.
pub fn service_url(service: &str, region: &str) -> String {
    let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://{service}.{region}.amazonaws.com{suffix}/")
}

/// Signs the requests of one rule.
pub struct Signer {
    region: Box<str>,
    keys: Keys,
}

impl Signer {
    /// A signer that asks for keys over `http` when it needs some.
    pub fn new(access: &AwsAccess, http: reqwest::Client) -> Signer {
        Signer { region: access.region.clone(), keys: Keys::new(access, http) }
    }

    /// Signs a request to AWS Lambda, whose body is in memory.
    ///
    /// # Errors
    /// There are no keys, and why.
    pub async fn sign(&self, request: &mut reqwest::Request) -> Result<(), String> {
        let now = SystemTime::now();
        let key = self.keys.get(now).await?;
        sign_with(&key, &self.region, "lambda", now, request)
    }

    /// Has the keys looked up again: AWS did not take what they have signed.
    pub async fn distrust(&self) {
        self.keys.forget().await;
    }
}

/// Signs `request`, whose body is in memory, by Signature Version 4. What is signed: method, URL, body and
/// the headers `host`, `content-type` and those that begin with `x-amz-`; others may change on their way.
fn sign_with(
    key: &AccessKey,
    region: &str,
    service: &str,
    now: SystemTime,
    request: &mut reqwest::Request,
) -> Result<(), String> {
    let secret = key.secret.reveal();
    let token = key.session_token.as_ref().map(|token| token.reveal().to_owned());
    let identity = Credentials::new(&*key.id, secret, token, None, "ringcast").into();
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(now)
        .settings(settings)
        .build()
        .expect("every parameter is given")
        .into();
    let is_signed = |name: &str| name == "content-type" || name.starts_with("x-amz-");
    let headers = request.headers().iter().filter(|(name, _)| is_signed(name.as_str()));
    let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
    let (method, url) = (request.method().as_str(), request.url().as_str());
    let signed = SignableRequest::new(method, url, headers, SignableBody::Bytes(body))
        .and_then(|signable| sign(signable, &params))
        .map_err(|error| format!("cannot be signed: {error}"))?;
    for (name, value) in signed.output().headers() {
        let name = HeaderName::try_from(name).expect("signatures are in headers that have names");
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| "cannot be signed: a key has characters that no header has".to_owned())?;
        value.set_sensitive(true);
        request.headers_mut().insert(name, value);
    }
    Ok(())
}

/// What AWS calls the reason of a refusal; answers of functions themselves have none.
pub fn error_type(headers: &HeaderMap) -> Option<&str> {
    // `Name:http://..` in some answers.
    let name = headers.get("x-amzn-errortype")?.to_str().ok()?.split(':').next()?;
    let is_name = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_url_of_a_function_names_its_region() {
        for (url, region) in [
            ("https://abc.lambda-url.eu-west-1.on.aws/", Some("eu-west-1")),
            ("https://abc.lambda-url.eu-west-1.on.aws.example.com/", None),
            ("https://lambda-url.eu-west-1.on.aws/", None),
            ("http://127.0.0.1/", None),
        ] {
            let url = url.parse().expect("a URL");
            assert_eq!(region_of_url(&url), region, "{url}");
        }
    }

    /// The key, the place and the time of AWS's test suite for Signature Version 4.
    const SUITE_SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn sign_as_in_the_suite(session_token: Option<&str>, request: &mut reqwest::Request) -> String {
        let key = AccessKey {
            id: "AKIDEXAMPLE".into(),
            secret: Secret::new(SUITE_SECRET),
            session_token: session_token.map(Secret::new),
        };
        // 20150830T123600Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        sign_with(&key, "us-east-1", "service", now, request).expect("can be signed");
        let value = request.headers().get("authorization").expect("is signed");
        value.to_str().expect("is ASCII").to_owned()
    }

    #[test]
    fn what_is_signed_is_what_a_second_computation_signs() {
        // The suite's requests have no header with the hash of their body. This one is by botocore 1.44,
        // SigV4Auth over the same request at the same time.
        let mut request = reqwest::Request::new(
            reqwest::Method::POST,
            "https://example.amazonaws.com/".parse().expect("a URL"),
        );
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        request.headers_mut().insert("x-ably-version", HeaderValue::from_static("1.2"));
        *request.body_mut() = Some(r#"{"a":1}"#.into());
        let signature = sign_as_in_the_suite(Some("token"), &mut request);
        assert_eq!(
            signature,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-security-token, \
             Signature=d72d43cd444f2e5e526a21f536b646c00ac50b08d2151e27222a2fd1ddd1273e"
        );
        assert!(!format!("{request:?}").contains("AKIDEXAMPLE"), "is not shown");
    }

    #[test]
    fn a_refusal_of_aws_has_a_name() {
        let read = |value: &'static str| {
            let name = HeaderName::from_static("x-amzn-errortype");
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            error_type(&headers).map(str::to_owned)
        };
        assert_eq!(read("AccessDeniedException").as_deref(), Some("AccessDeniedException"));
        assert_eq!(
            read("ResourceNotFoundException:http://internal.amazon.com/").as_deref(),
            Some("ResourceNotFoundException")
        );
        assert_eq!(read("two words"), None);
        assert_eq!(error_type(&HeaderMap::new()), None);
    }
}
