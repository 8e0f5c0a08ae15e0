//! Events as messages on subjects of a NATS server.

use std::fmt;

use super::address::check_url;
use super::target::Secret;

/// A subject, and the server that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsTarget {
    /// `nats://` or `tls://`; several are of one cluster.
    pub servers: Vec<String>,
    /// What each message is published on.
    pub subject: SubjectTemplate,
    /// Whether a stream has to confirm each message.
    pub jetstream: bool,
    /// Sent with every message.
    pub headers: Vec<(String, String)>,
    /// Who connects.
    pub login: NatsLogin,
}

/// How a NATS server knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsLogin {
    /// It does not, or by our certificate.
    None,
    /// By a word.
    Token(Secret),
    /// By name and password.
    Password {
        /// The name.
        user: Box<str>,
        /// What goes with it.
        password: Secret,
    },
    /// By the text of a `.creds` file.
    Credentials(Secret),
}

/// A subject in which `{app}`, `{channel}` and `{rule}` stand for what an event has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectTemplate(Box<[Part]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    App,
    Channel,
    Rule,
}

/// As it was given.
impl fmt::Display for SubjectTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::App => f.write_str("{app}"),
            Part::Channel => f.write_str("{channel}"),
            Part::Rule => f.write_str("{rule}"),
        })
    }
}

/// What subjects of events are made from.
#[derive(Clone, Copy, Debug)]
pub struct SubjectParts<'a> {
    /// The app's id.
    pub app: &'a str,
    /// The channel's name.
    pub channel: &'a str,
    /// The rule's id.
    pub rule: &'a str,
}

/// Reads the URL of a server. A name in it is looked at when it is resolved.
///
/// # Errors
/// Why it is none, or none that may be reached.
pub fn check_server(text: &str, allow_private: bool) -> Result<String, String> {
    let as_http = match text.split_once("://") {
        Some(("nats" | "tls", rest)) => format!("http://{rest}"),
        _ => return Err(format!("`{text}`: wants nats:// or tls://")),
    };
    // Read as browsers read hosts, so that no spelling of an address passes for a name.
    let url = check_url(&as_http, allow_private)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{text}`: wants a host and a port alone"));
    }
    Ok(text.to_owned())
}

/// Bytes of a template.
const SUBJECT_BYTES_MAX: usize = 256;

impl SubjectTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// It is no subject, or has a word in braces that means nothing.
    pub fn parse(text: &str) -> Result<SubjectTemplate, String> {
        if text.len() > SUBJECT_BYTES_MAX {
            return Err(format!("is longer than {SUBJECT_BYTES_MAX} bytes"));
        }
        let is_of_subject = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b'>');
        if text.split('.').any(str::is_empty) || !text.bytes().all(is_of_subject) {
            return Err(r#"wants a subject, such as "chat.{channel}""#.into());
        }
        if text.starts_with('$') {
            return Err("begins with `$`, which is for the server itself".into());
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let Some((word, after)) = after.split_once('}') else {
                return Err("has a `{` without a `}`".into());
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(match word {
                "app" => Part::App,
                "channel" => Part::Channel,
                "rule" => Part::Rule,
                _ => {
                    return Err(format!(
                        "`{{{word}}}` is not one of {{app}}, {{channel}}, {{rule}}"
                    ));
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(SubjectTemplate(parts.into()))
    }

    /// Whether events of several channels have one subject.
    pub fn is_without_channel(&self) -> bool {
        !self.0.contains(&Part::Channel)
    }

    /// The subject of one event.
    pub fn fill(&self, event: SubjectParts<'_>) -> String {
        let mut subject = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => subject.push_str(text),
                Part::App => push_token(&mut subject, event.app),
                Part::Channel => push_token(&mut subject, event.channel),
                Part::Rule => push_token(&mut subject, event.rule),
            }
        }
        subject
    }
}

/// Adds `text` as one token: what would end a token, is a wildcard or cannot be printed is
/// percent-encoded, and so is `%`, so that names which differ have tokens which do.
fn push_token(subject: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'.' | b'*' | b'>' | b'%' => subject.push_str(&format!("%{byte:02X}")),
            b'!'..=b'~' => subject.push(byte.into()),
            _ => subject.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_one_token_of_a_subject() {
        let template = SubjectTemplate::parse("ringcast.{app}.{rule}-x.{channel}").expect("valid");
        assert_eq!(template.to_string(), "ringcast.{app}.{rule}-x.{channel}");
        let fill = |channel| template.fill(SubjectParts { app: "a", rule: "r", channel });
        for (channel, subject) in [
            ("chat:room", "ringcast.a.r-x.chat:room"),
            ("v1.2 *>%", "ringcast.a.r-x.v1%2E2%20%2A%3E%25"),
            ("é\r\n", "ringcast.a.r-x.%C3%A9%0D%0A"),
        ] {
            assert_eq!(fill(channel), subject);
        }
    }

    #[test]
    fn a_template_that_is_no_subject_is_refused() {
        for wrong in
            ["", "a..b", ".a", "a.", "a b", "a.*", "a.>", "a.{chanel}", "a.{app", "$SYS.x", "é"]
        {
            assert!(SubjectTemplate::parse(wrong).is_err(), "{wrong}");
        }
    }
}
