//! Who somebody is, and what may be said of that (12.7).

use super::error::refuse;
use super::value::Field;
use super::{Capability, ErrorCode, ErrorInfo};

/// Who a client is (12.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular; may not say otherwise.
    Anonymous,
    /// This client, always.
    Client(Box<str>),
    /// Whoever it says to be, message by message.
    Wildcard,
}

impl Identity {
    /// Who somebody is whose credentials permit this identity and who claims `client_id` (12.7).
    ///
    /// # Errors
    /// 40012: it is empty or the wildcard itself; 40102: the credentials are not for that clientId.
    pub fn claim(&self, client_id: Option<&str>) -> Result<Identity, ErrorInfo> {
        match (self, client_id) {
            (_, None) => Ok(self.clone()),
            (_, Some("" | "*")) => {
                refuse(ErrorCode::INVALID_CLIENT_ID, "the clientId cannot be empty or *")
            }
            (Identity::Wildcard, Some(claimed)) => Ok(Identity::Client(claimed.into())),
            (Identity::Client(own), Some(claimed)) if **own == *claimed => Ok(self.clone()),
            (Identity::Client(_), Some(_)) => {
                refuse(ErrorCode::INCOMPATIBLE_CREDENTIALS, "the token is for another clientId")
            }
            (Identity::Anonymous, Some(_)) => {
                refuse(ErrorCode::INCOMPATIBLE_CREDENTIALS, "the token is for no clientId")
            }
        }
    }

    /// The clientId that an identified one asserts of what it sends, if it may (12.7).
    ///
    /// # Errors
    /// 40012.
    pub(super) fn client_id(&self, claimed: Option<Field>) -> Result<Option<Box<str>>, ErrorInfo> {
        let code = ErrorCode::INVALID_CLIENT_ID;
        let claimed = match claimed {
            None => None,
            Some(Field::Text(text)) if !matches!(&*text, "" | "*") => Some(text),
            Some(_) => return refuse(code, "a clientId is a string, and neither empty nor *"),
        };
        match (claimed, self) {
            (None, _) => Ok(None),
            (Some(claimed), Identity::Wildcard) => Ok(Some(claimed)),
            (Some(claimed), Identity::Client(own)) if claimed == *own => Ok(Some(claimed)),
            (Some(_), Identity::Client(_) | Identity::Anonymous) => {
                refuse(code, "the credentials do not permit this clientId")
            }
        }
    }
}

/// Who publishes, and how its messages are named if it does not name them.
#[derive(Clone, Debug)]
pub struct Publisher<'a> {
    /// Id of the publication: what default message ids begin with.
    pub id: String,
    /// The publishing connection; none over REST.
    pub connection_id: Option<&'a str>,
    /// Who it is.
    pub identity: &'a Identity,
    /// What it may do.
    pub capability: &'a Capability,
    /// Whether messages of the channel can be changed and annotated (6.8).
    pub has_mutable_messages: bool,
}
