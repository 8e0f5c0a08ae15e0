//! Invocations of AWS Lambda functions by name.

use super::aws::{self, AwsAccess};

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
