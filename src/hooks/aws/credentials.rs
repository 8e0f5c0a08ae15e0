//! Keys from wherever they are: configuration, environment, files, roles, the machine's own services. Those
//! that expire are replaced before they do.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::access::{AccessKey, AssumedRole, AwsAccess, CredentialSource, service_url};
use super::lease::{Lease, read_time};
use super::sts::{SESSION_NAME, Sts};
use crate::hooks::exchange::{read_bytes, root_cause};
use crate::hooks::secret::Secret;

/// How long before their end keys are replaced.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);

/// From one try that failed to the next, while the old keys are still good.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Name of the file of the service manager's directory of credentials.
const SYSTEMD_CREDENTIAL: &str = "aws-credentials";

/// Where containers and machines are told who they are.
const CONTAINER_URL: &str = "http://169.254.170.2";
const MACHINE_URL: &str = "http://169.254.169.254";

/// Time for a service that is next to us, or not there at all.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a file, or of an answer with keys.
const KEYS_BYTES_MAX: usize = 64 << 10;

/// The keys of one rule. Whoever needs one waits while it is fetched.
pub struct Keys {
    source: CredentialSource,
    role: Option<AssumedRole>,
    sts: Sts,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    lease: Option<Lease>,
    /// Until when no others are asked for.
    retry_at: Option<SystemTime>,
}

impl Keys {
    /// Keys that are fetched when they are needed.
    pub fn new(access: &AwsAccess, http: reqwest::Client) -> Keys {
        let url = match &access.sts_endpoint {
            Some(url) => url.clone(),
            None => service_url("sts", &access.region),
        };
        let url =
            url.parse().expect("endpoints are checked, and regions are of letters and digits");
        Keys {
            source: access.credentials.clone(),
            role: access.role.clone(),
            sts: Sts { http, url, region: access.region.clone() },
            held: Mutex::default(),
        }
    }

    /// A key that is good now.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn get(&self, now: SystemTime) -> Result<AccessKey, String> {
        let mut held = self.held.lock().await;
        let is_early = held.retry_at.is_some_and(|at| now < at);
        if let Some(lease) = &held.lease
            && (lease.is_good(now, REFRESH_BEFORE)
                || (is_early && lease.is_good(now, Duration::ZERO)))
        {
            return Ok(lease.key.clone());
        }
        match self.fetch(now).await {
            Ok(lease) => {
                let key = lease.key.clone();
                // A lease shorter than the margin is not asked for with every request.
                let retry_at = (!lease.is_good(now, REFRESH_BEFORE)).then_some(now + RETRY_AFTER);
                *held = Held { lease: Some(lease), retry_at };
                Ok(key)
            }
            Err(why) => match &held.lease {
                Some(lease) if lease.is_good(now, Duration::ZERO) => {
                    let key = lease.key.clone();
                    held.retry_at = Some(now + RETRY_AFTER);
                    Ok(key)
                }
                _ => Err(why),
            },
        }
    }

    /// Has the next request fetch keys anew.
    pub async fn forget(&self) {
        *self.held.lock().await = Held::default();
    }

    async fn fetch(&self, now: SystemTime) -> Result<Lease, String> {
        let own = match &self.source {
            CredentialSource::Given(key) => Lease::lasting(key.clone()),
            CredentialSource::File { path, profile } => {
                let path = path.clone().or_else(shared_file).ok_or("no HOME to find a file in")?;
                read_profile(&path, profile)?
            }
            CredentialSource::Found => self.find(now).await?,
        };
        match &self.role {
            Some(role) => self.sts.assume_role(now, &own.key, role).await,
            None => Ok(own),
        }
    }

    /// Looks where AWS's SDKs look, in their order.
    async fn find(&self, now: SystemTime) -> Result<Lease, String> {
        if let (Some(id), Some(secret)) = (var("AWS_ACCESS_KEY_ID"), var("AWS_SECRET_ACCESS_KEY")) {
            let session_token = var("AWS_SESSION_TOKEN").map(|token| Secret::new(&token));
            let key = AccessKey { id: id.into(), secret: Secret::new(&secret), session_token };
            return Ok(Lease::lasting(key));
        }
        if let (Some(file), Some(arn)) = (var("AWS_WEB_IDENTITY_TOKEN_FILE"), var("AWS_ROLE_ARN")) {
            let token = read(Path::new(&file))?;
            let name = var("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.into());
            return self.sts.assume_role_with_web_identity(now, &arn, &name, token.trim()).await;
        }
        let profile = var("AWS_PROFILE").unwrap_or_else(|| "default".into());
        let of_service =
            var("CREDENTIALS_DIRECTORY").map(|path| Path::new(&path).join(SYSTEMD_CREDENTIAL));
        let files = [of_service, shared_file()];
        if let Some(file) = files.into_iter().flatten().find(|file| file.exists()) {
            return read_profile(&file, &profile);
        }
        let container = match (
            var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            var("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ) {
            (Some(path), _) => Some(format!("{CONTAINER_URL}{path}")),
            (None, full) => full,
        };
        if let Some(url) = container {
            let token = match var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
                Some(file) => Some(read(Path::new(&file))?.trim().to_owned()),
                None => var("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
            };
            let request = self.sts.http.get(url);
            let request = match token {
                Some(token) => request.header("authorization", token),
                None => request,
            };
            return parse_lease(&fetch("container", request).await?);
        }
        if var("AWS_EC2_METADATA_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true")) {
            return Err("no AWS credentials were found".into());
        }
        self.ask_machine().await.map_err(|why| format!("no AWS credentials were found ({why})"))
    }

    /// Keys of the role that the machine has (IMDSv2).
    async fn ask_machine(&self) -> Result<Lease, String> {
        let base = var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| MACHINE_URL.into());
        let base = base.trim_end_matches('/');
        let http = &self.sts.http;
        let token = http.put(format!("{base}/latest/api/token"));
        let token = token.header("x-aws-ec2-metadata-token-ttl-seconds", "300");
        let token = fetch("machine", token).await?;
        let get = |path: &str| {
            let url = format!("{base}/latest/meta-data/iam/security-credentials/{path}");
            fetch("machine", http.get(url).header("x-aws-ec2-metadata-token", token.trim()))
        };
        let role = get("").await?;
        parse_lease(&get(role.lines().next().unwrap_or_default().trim()).await?)
    }
}

fn var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where everybody's credentials are.
fn shared_file() -> Option<PathBuf> {
    match var("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) => Some(path.into()),
        None => Some(Path::new(&var("HOME")?).join(".aws/credentials")),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if text.len() > KEYS_BYTES_MAX {
        return Err(format!("{} is larger than a file of keys", path.display()));
    }
    Ok(text)
}

fn read_profile(path: &Path, profile: &str) -> Result<Lease, String> {
    let text = read(path)?;
    let key = parse_profile(&text, profile)
        .ok_or_else(|| format!("{} has no key for the profile `{profile}`", path.display()))?;
    Ok(Lease::lasting(key))
}

/// The key of `[profile]` in a shared credentials file.
fn parse_profile(text: &str, profile: &str) -> Option<AccessKey> {
    let (mut is_inside, mut id, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_inside = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| is_inside) {
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => id = Some(value.into()),
                "aws_secret_access_key" => secret = Some(Secret::new(value)),
                "aws_session_token" => token = Some(Secret::new(value)),
                _ => {}
            }
        }
    }
    Some(AccessKey { id: id?, secret: secret?, session_token: token })
}

/// What containers and machines are told.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: Option<String>,
}

fn parse_lease(text: &str) -> Result<Lease, String> {
    let unreadable = || "the answer has no keys".to_owned();
    let found: Document = serde_json::from_str(text).map_err(|_| unreadable())?;
    let expires = match &found.expiration {
        Some(text) => Some(read_time(text).ok_or_else(unreadable)?),
        None => None,
    };
    let key = AccessKey {
        id: found.access_key_id.into(),
        secret: Secret::new(&found.secret_access_key),
        session_token: Some(Secret::new(&found.token)),
    };
    Ok(Lease { key, expires })
}

async fn fetch(whose: &str, request: reqwest::RequestBuilder) -> Result<String, String> {
    let answer = request.timeout(LOCAL_TIMEOUT).send().await;
    let answer = answer.map_err(|error| format!("{whose}: {}", root_cause(error)))?;
    if !answer.status().is_success() {
        return Err(format!("{whose}: status {}", answer.status().as_u16()));
    }
    let bytes = read_bytes(answer, KEYS_BYTES_MAX).await;
    String::from_utf8(bytes).map_err(|_| format!("{whose}: the answer is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_a_section_of_the_file() {
        let text = "# mine\n[default]\naws_access_key_id = A1\naws_secret_access_key=s/1+=\n\n\
                    [ other ]\nregion = eu-west-1\naws_access_key_id=A2\naws_secret_access_key = s2\n\
                    AWS_SESSION_TOKEN = t2\n[empty]\n";
        let default = parse_profile(text, "default").expect("is there");
        assert_eq!((&*default.id, default.secret.reveal()), ("A1", "s/1+="));
        assert_eq!(default.session_token, None);
        let other = parse_profile(text, "other").expect("is there");
        assert_eq!(other.session_token.expect("has one").reveal(), "t2");
        assert_eq!(parse_profile(text, "empty"), None);
        assert_eq!(parse_profile(text, "missing"), None);
    }

    #[test]
    fn what_a_machine_is_told_expires() {
        let text = r#"{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"A","SecretAccessKey":"s",
            "Token":"t","Expiration":"2026-01-31T12:00:00Z"}"#;
        let lease = parse_lease(text).expect("keys");
        let expires = lease.expires.expect("a time");
        assert!(lease.is_good(expires - Duration::from_secs(301), REFRESH_BEFORE));
        assert!(!lease.is_good(expires - Duration::from_secs(300), REFRESH_BEFORE));
        assert!(!lease.is_good(expires, Duration::ZERO));
        assert!(parse_lease(r#"{"Code":"Failed"}"#).is_err());
        assert!(!format!("{:?}", lease.key).contains("\"s\""));
    }
}
