//! Access to AWS as it is configured.

use std::path::PathBuf;

use crate::hooks::secret::Secret;

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

#[cfg(test)]
mod tests {
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
}
