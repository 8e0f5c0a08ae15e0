//! Requests to AWS: who signs them, with what, and what refusals mean.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | what signs the requests of a rule; what refusals are called |
//! | `access.rs` | access as it is configured |
//! | `signature.rs` | one signature |
//! | `credentials.rs` | keys from wherever they are, and new ones before they expire |
//! | `lease.rs` | one of those |
//! | `sts.rs` | keys for roles, from the Security Token Service |

mod access;
mod credentials;
mod lease;
mod signature;
mod sts;

use std::time::SystemTime;

use reqwest::header::HeaderMap;

pub use self::access::{
    AccessKey, AssumedRole, AwsAccess, CredentialSource, is_region, region_of_url, service_url,
};
use self::credentials::Keys;
use self::signature::sign_with;

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

/// What AWS calls the reason of a refusal; answers of functions themselves have none.
pub fn error_type(headers: &HeaderMap) -> Option<&str> {
    // `Name:http://..` in some answers.
    let name = headers.get("x-amzn-errortype")?.to_str().ok()?.split(':').next()?;
    let is_name = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

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
