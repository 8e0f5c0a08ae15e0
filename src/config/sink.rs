//! What takes the events of a rule, as it is configured: `url`, `lambda` or `nats`, and the keys that go
//! with each.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use crate::config::reader::{ConfigError, Section};
use crate::config::units;
use crate::hooks::{
    AccessKey, AssumedRole, Authorities, AwsAccess, CredentialSource, FunctionName, HttpTarget,
    Invocation, LambdaTarget, NatsLogin, NatsTarget, Secret, Sink, SubjectTemplate, Tls,
    check_server, check_url, is_region, parse_qualifier, region_of_url,
};

/// Reads what takes the events; `None` if nothing is named.
pub(super) fn read(
    section: &mut Section,
    allow_private: bool,
) -> Result<Option<Sink>, ConfigError> {
    let mut url = None;
    section
        .read("url", &mut url, |value| check_url(units::text(value)?, allow_private).map(Some))?;
    let mut headers = Vec::new();
    section.read("headers", &mut headers, read_headers)?;
    let (has_lambda, has_nats) = (section.has("lambda"), section.has("nats"));
    let [lambda, nats, aws] = ["lambda", "nats", "aws"].map(|key| section.section(key));
    let (lambda, nats, aws) = (lambda?, nats?, aws?);
    if has_lambda && url.is_some() || has_nats && (url.is_some() || has_lambda) {
        let key = if has_nats { "nats" } else { "lambda" };
        return Err(section.error(key, "has no place beside another target: keep one of them"));
    }
    if has_lambda && !headers.is_empty() {
        return Err(section.error("headers", "has no place beside `lambda`"));
    }
    let has_aws = section.has("aws");
    if has_lambda {
        return Ok(Some(Sink::Lambda(read_lambda(lambda, aws, allow_private)?)));
    }
    if has_nats {
        if has_aws {
            return Err(section.error("aws", "has no place beside `nats`"));
        }
        return Ok(Some(Sink::Nats(read_nats(nats, headers, allow_private)?)));
    }
    let Some(url) = url else { return Ok(None) };
    let aws = match has_aws {
        true => Some(read_aws(aws, region_of_url(&url), allow_private)?),
        false => None,
    };
    let url = url.to_string();
    Ok(Some(Sink::Http(HttpTarget { url, headers, signing_key: None, aws })))
}

/// Reads whom the target's connections trust, and who they say we are.
pub(super) fn read_tls(section: &mut Section) -> Result<Tls, ConfigError> {
    let (mut ca, directory) = (None, section.directory());
    section.read("ca_file", &mut ca, |value| {
        Authorities::read(&directory.join(units::text(value)?)).map(Some)
    })?;
    let (mut certificate, mut key) = (None, None);
    section.read("client_certificate_file", &mut certificate, |value| {
        units::text(value).map(|path| Some(directory.join(path)))
    })?;
    section.read("client_key_file", &mut key, |value| secret_path(&directory, value))?;
    let identity = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            let identity = Tls::read_identity(&certificate, &key);
            Some(identity.map_err(|why| section.error("client_certificate_file", &why))?)
        }
        (Some(_), None) => return Err(section.error("client_key_file", "is missing")),
        (None, Some(_)) => return Err(section.error("client_certificate_file", "is missing")),
    };
    Ok(Tls { ca, identity })
}

fn read_lambda(
    mut section: Section,
    aws: Section,
    allow_private: bool,
) -> Result<LambdaTarget, ConfigError> {
    let mut function = None;
    section.read("function", &mut function, |value| {
        FunctionName::parse(units::text(value)?).map(Some)
    })?;
    let mut own_qualifier = None;
    section.read("qualifier", &mut own_qualifier, |value| {
        parse_qualifier(units::text(value)?).map(Some)
    })?;
    let mut invocation = Invocation::Event;
    section.read("invocation", &mut invocation, units::one_of(&Invocation::NAMES))?;
    let mut endpoint = None;
    section.read("endpoint", &mut endpoint, |value| endpoint_text(value, allow_private))?;
    section.finish()?;
    let Some((function, qualifier)) = function else {
        return Err(section.error("function", "is missing"));
    };
    if qualifier.is_some() && own_qualifier.is_some() {
        return Err(section.error("qualifier", "is in the function's name already"));
    }
    let aws = read_aws(aws, function.region(), allow_private)?;
    let qualifier = own_qualifier.or(qualifier);
    Ok(LambdaTarget { function, qualifier, invocation, aws, endpoint })
}

/// Reads who signs; `region` is where the target itself says that it is.
fn read_aws(
    mut section: Section,
    region: Option<&str>,
    allow_private: bool,
) -> Result<AwsAccess, ConfigError> {
    let mut own_region = None;
    section.read("region", &mut own_region, |value| match units::text(value)? {
        text if is_region(text) => Ok(Some(text.into())),
        text => Err(format!("`{text}` is no region, such as \"eu-west-1\"")),
    })?;
    let text = |value: &DeValue| units::text(value).map(|text| Some(text.into()));
    let secret = |value: &DeValue| units::text(value).map(|text| Some(Secret::new(text)));
    let (mut id, mut own_secret, mut session_token) = (None, None, None);
    section.read("access_key_id", &mut id, text)?;
    section.read("secret_access_key", &mut own_secret, secret)?;
    section.read("session_token", &mut session_token, secret)?;
    let (mut file, mut profile) = (None, None);
    let directory = section.directory();
    section.read("credentials_file", &mut file, |value| secret_path(&directory, value))?;
    section.read("profile", &mut profile, text)?;
    let (mut arn, mut external_id) = (None, None);
    section.read("role_arn", &mut arn, |value| match units::text(value)? {
        text if text.starts_with("arn:") && text.contains(":role/") => Ok(Some(text.into())),
        _ => Err("wants the ARN of a role".into()),
    })?;
    section.read("external_id", &mut external_id, text)?;
    let mut sts_endpoint = None;
    section.read("sts_endpoint", &mut sts_endpoint, |value| endpoint_text(value, allow_private))?;
    section.finish()?;
    let Some(region) = own_region.or(region.map(Into::into)) else {
        return Err(section.error("region", "is missing"));
    };
    let credentials = match (id, own_secret) {
        (None, None) if file.is_none() && profile.is_none() => CredentialSource::Found,
        (None, None) => {
            let profile = profile.unwrap_or_else(|| "default".into());
            CredentialSource::File { path: file, profile }
        }
        (Some(_), None) => return Err(section.error("secret_access_key", "is missing")),
        (None, Some(_)) => return Err(section.error("access_key_id", "is missing")),
        (Some(_), Some(_)) if file.is_some() || profile.is_some() => {
            return Err(section.error("access_key_id", "has no place beside a file of credentials"));
        }
        (Some(id), Some(secret)) => {
            CredentialSource::Given(AccessKey { id, secret, session_token })
        }
    };
    let role = match arn {
        Some(arn) => Some(AssumedRole { arn, external_id }),
        None if external_id.is_some() => return Err(section.error("role_arn", "is missing")),
        None => None,
    };
    Ok(AwsAccess { region, credentials, role, sts_endpoint })
}

fn read_nats(
    mut section: Section,
    headers: Vec<(String, String)>,
    allow_private: bool,
) -> Result<NatsTarget, ConfigError> {
    let mut servers = Vec::new();
    section.read("servers", &mut servers, |value| {
        let wanted = || "wants a list of URLs, such as [\"nats://127.0.0.1:4222\"]".to_owned();
        let server =
            |value: &DeValue| check_server(value.as_str().ok_or_else(wanted)?, allow_private);
        match value.as_array() {
            Some(list) if (1..=16).contains(&list.len()) => {
                list.iter().map(|value| server(value.get_ref())).collect()
            }
            _ => Err(wanted()),
        }
    })?;
    let mut subject = None;
    section.read("subject", &mut subject, |value| {
        SubjectTemplate::parse(units::text(value)?).map(Some)
    })?;
    let mut jetstream = false;
    section.read("jetstream", &mut jetstream, units::boolean)?;
    let (mut user, mut password, mut token) = (None, None, None);
    let secret = |value: &DeValue| units::text(value).map(|text| Some(Secret::new(text)));
    section.read("user", &mut user, |value| units::text(value).map(|text| Some(text.into())))?;
    section.read("password", &mut password, secret)?;
    section.read("token", &mut token, secret)?;
    let mut credentials = None;
    let directory = section.directory();
    section.read("credentials_file", &mut credentials, |value| {
        let path = units::secret_path(&directory, units::text(value)?)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok(Some(Secret::new(&text)))
    })?;
    section.finish()?;
    if servers.is_empty() {
        return Err(section.error("servers", "is missing"));
    }
    let Some(subject) = subject else { return Err(section.error("subject", "is missing")) };
    let login = match (user, password, token, credentials) {
        (None, None, None, None) => NatsLogin::None,
        (Some(user), Some(password), None, None) => NatsLogin::Password { user, password },
        (None, None, Some(token), None) => NatsLogin::Token(token),
        (None, None, None, Some(credentials)) => NatsLogin::Credentials(credentials),
        _ => {
            let why = "is one of `user` with `password`, `token`, `credentials_file`";
            return Err(section.error("user", why));
        }
    };
    Ok(NatsTarget { servers, subject, jetstream, headers, login })
}

/// A URL that stands for the one of AWS.
fn endpoint_text(value: &DeValue, allow_private: bool) -> Result<Option<String>, String> {
    check_url(units::text(value)?, allow_private).map(|url| Some(url.to_string()))
}

/// Reads `{ "name" = "value", .. }`.
fn read_headers(value: &DeValue) -> Result<Vec<(String, String)>, String> {
    let wanted = || r#"wants headers, such as { "x-name" = "value" }"#.to_owned();
    let mut headers = Vec::new();
    for (name, value) in value.as_table().ok_or_else(wanted)? {
        let (name, value) = (name.get_ref(), value.get_ref().as_str().ok_or_else(wanted)?);
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("`{name}` is no name of a header"));
        }
        if !value.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~')) {
            return Err(format!("the value of `{name}` is not printable ASCII"));
        }
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    Ok(headers)
}

/// Where a secret is.
fn secret_path(directory: &Path, value: &DeValue) -> Result<Option<PathBuf>, String> {
    units::secret_path(directory, units::text(value)?).map(Some)
}
