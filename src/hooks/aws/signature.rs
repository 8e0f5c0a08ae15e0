//! Signature Version 4 of a request.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use reqwest::header::{HeaderName, HeaderValue};

use super::access::AccessKey;

/// Signs `request`, whose body is in memory, by Signature Version 4. What is signed: method, URL, body and
/// the headers `host`, `content-type` and those that begin with `x-amz-`; others may change on their way.
pub fn sign_with(
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hooks::secret::Secret;

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
}
