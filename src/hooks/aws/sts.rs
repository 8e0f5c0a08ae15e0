//! Keys for roles, from AWS's Security Token Service. Its answers are XML; of them four texts matter, which
//! hold no markup.

use std::time::{Duration, SystemTime};

use super::access::{AccessKey, AssumedRole};
use super::lease::{Lease, read_time};
use super::signature::sign_with;
use crate::hooks::exchange::{read_bytes, root_cause};
use crate::hooks::secret::Secret;

/// The version of the service's interface.
const VERSION: &str = "2011-06-15";

/// What sessions are called in AWS's records, unless the environment names them.
pub const SESSION_NAME: &str = "ringcast";

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Time for one request: those that wait for the keys are events, which can wait.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The service as one rule reaches it.
pub struct Sts {
    /// Makes the requests.
    pub http: reqwest::Client,
    /// Where it is.
    pub url: reqwest::Url,
    /// Part of what is signed.
    pub region: Box<str>,
}

impl Sts {
    /// Assumes `role` with `key`.
    ///
    /// # Errors
    /// Why there are no keys.
    pub async fn assume_role(
        &self,
        now: SystemTime,
        key: &AccessKey,
        role: &AssumedRole,
    ) -> Result<Lease, String> {
        let mut form = vec![
            ("Action", "AssumeRole"),
            ("Version", VERSION),
            ("RoleArn", &role.arn),
            ("RoleSessionName", SESSION_NAME),
        ];
        if let Some(external_id) = &role.external_id {
            form.push(("ExternalId", external_id));
        }
        self.ask(now, Some(key), &form).await
    }

    /// Assumes the role `arn` with the token of a web identity.
    ///
    /// # Errors
    /// Why there are no keys.
    pub async fn assume_role_with_web_identity(
        &self,
        now: SystemTime,
        arn: &str,
        session_name: &str,
        token: &str,
    ) -> Result<Lease, String> {
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", VERSION),
            ("RoleArn", arn),
            ("RoleSessionName", session_name),
            ("WebIdentityToken", token),
        ];
        self.ask(now, None, &form).await
    }

    async fn ask(
        &self,
        now: SystemTime,
        key: Option<&AccessKey>,
        form: &[(&str, &str)],
    ) -> Result<Lease, String> {
        let mut encoded = self.url.clone();
        let body = encoded.query_pairs_mut().clear().extend_pairs(form).finish().query();
        let body = body.unwrap_or_default().to_owned();
        let request = self.http.post(self.url.clone()).timeout(TIMEOUT);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("accept", "text/xml").body(body).build();
        let mut request = request.map_err(|error| error.without_url().to_string())?;
        if let Some(key) = key {
            sign_with(key, &self.region, "sts", now, &mut request)?;
        }
        let answer = self.http.execute(request).await;
        let answer = answer.map_err(|error| format!("STS: {}", root_cause(error)))?;
        let status = answer.status();
        let text = read_bytes(answer, ANSWER_BYTES_MAX).await;
        let text = String::from_utf8_lossy(&text);
        if !status.is_success() {
            let code = element(&text, "Code").filter(|code| code.len() <= 64).unwrap_or_default();
            return Err(format!("STS: status {} {code}", status.as_u16()));
        }
        read_lease(&text).ok_or_else(|| "STS: the answer has no keys".into())
    }
}

fn read_lease(text: &str) -> Option<Lease> {
    let credentials = element(text, "Credentials")?;
    let part = |name| element(credentials, name);
    let key = AccessKey {
        id: part("AccessKeyId")?.into(),
        secret: Secret::new(part("SecretAccessKey")?),
        session_token: Some(Secret::new(part("SessionToken")?)),
    };
    Some(Lease { key, expires: Some(read_time(part("Expiration")?)?) })
}

/// What the first element called `name` holds.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    Some(content.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_the_answer_as_documented() {
        let text = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n\
            <AssumeRoleResult><AssumedRoleUser><Arn>a</Arn></AssumedRoleUser>\n<Credentials>\n\
            <AccessKeyId>ASIAEXAMPLE</AccessKeyId>\n<SecretAccessKey>wJal/rXU+tn</SecretAccessKey>\n\
            <SessionToken>\nAQoDYXdzEPT//wEXAMPLE==\n</SessionToken>\n\
            <Expiration>2019-11-09T13:34:41Z</Expiration>\n</Credentials></AssumeRoleResult></AssumeRoleResponse>";
        let lease = read_lease(text).expect("keys");
        assert_eq!(&*lease.key.id, "ASIAEXAMPLE");
        assert_eq!(lease.key.secret.reveal(), "wJal/rXU+tn");
        let token = lease.key.session_token.expect("a token");
        assert_eq!(token.reveal(), "AQoDYXdzEPT//wEXAMPLE==");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_573_306_481);
        assert_eq!(lease.expires, Some(at));
        for end in 0..text.len() - "</Credentials></AssumeRoleResult></AssumeRoleResponse>".len() {
            assert!(read_lease(&text[..end]).is_none(), "{end}");
        }
    }
}
