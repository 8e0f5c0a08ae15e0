//! Who acts, once the credentials were found true: app, key, what is permitted, who it says to be.

use std::sync::Arc;

use super::capability::matches;
use super::{App, Capability, ErrorCode, ErrorInfo, Identity, Key, Operation};

/// What a token adds to the key that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// When it was issued, in milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// From when on it is worth nothing.
    pub expires_ms: u64,
    /// From when on it is revoked, if it is.
    pub revoked_ms: Option<u64>,
    /// Whether it lets its holder take any clientId.
    pub is_wildcard: bool,
    /// By what it can be revoked, besides its clientId and channels (12.8).
    pub revocation_key: Option<Box<str>>,
    /// What its maker says of its holder, by pattern of channels; longer patterns first.
    pub user_claims: Box<[(Box<str>, Box<str>)]>,
}

impl Token {
    /// When it ends, one way or the other.
    pub fn ends_ms(&self) -> u64 {
        self.revoked_ms.map_or(self.expires_ms, |revoked_ms| revoked_ms.min(self.expires_ms))
    }

    /// Why it is worth nothing at `now_ms`; `None`: it still is.
    pub fn end(&self, now_ms: u64) -> Option<ErrorInfo> {
        let error = |code, text| Some(ErrorInfo::new(code, text));
        match self.revoked_ms {
            Some(revoked_ms) if revoked_ms <= now_ms => {
                error(ErrorCode::TOKEN_REVOKED, "the token was revoked")
            }
            _ if self.expires_ms <= now_ms => {
                error(ErrorCode::TOKEN_EXPIRED, "the token has expired")
            }
            _ => None,
        }
    }
}

/// The holder of a key or a token. Shared: connections that use one key and claim no clientId have one
/// principal together.
#[derive(Clone, Debug)]
pub struct Principal {
    key: Arc<Key>,
    capability: Arc<Capability>,
    identity: Identity,
    token: Option<Box<Token>>,
}

impl Principal {
    /// Whoever holds `key`.
    pub(super) fn of_key(key: Arc<Key>) -> Principal {
        let capability = Arc::clone(key.capability());
        Principal { key, capability, identity: Identity::Wildcard, token: None }
    }

    /// Whoever holds a token made from `key`.
    pub(super) fn of_token(
        key: Arc<Key>,
        capability: Arc<Capability>,
        identity: Identity,
        token: Token,
    ) -> Principal {
        Principal { key, capability, identity, token: Some(Box::new(token)) }
    }

    /// The same with a token that expires at `expires_ms`, unless it does before.
    pub(super) fn expiring_by(mut self, expires_ms: u64) -> Principal {
        if let Some(token) = &mut self.token {
            token.expires_ms = token.expires_ms.min(expires_ms);
        }
        self
    }

    /// The same with a token that is revoked at `revoked_ms`, unless it was to be before.
    pub(super) fn revoked_by(mut self, revoked_ms: u64) -> Principal {
        if let Some(token) = &mut self.token {
            token.revoked_ms = Some(token.revoked_ms.unwrap_or(u64::MAX).min(revoked_ms));
        }
        self
    }

    /// The same credentials in the hands of somebody who claims `client_id` (12.7).
    ///
    /// # Errors
    /// 40012: it is empty or the wildcard itself; 40102: the credentials are somebody else's.
    pub fn claim(
        self: &Arc<Principal>,
        client_id: Option<&str>,
    ) -> Result<Arc<Principal>, ErrorInfo> {
        let identity = self.identity.claim(client_id)?;
        if identity == self.identity {
            return Ok(Arc::clone(self));
        }
        Ok(Arc::new(Principal { identity, ..Principal::clone(self) }))
    }

    /// Its app.
    pub fn app(&self) -> &Arc<App> {
        self.key.app()
    }

    /// Id of its app.
    pub fn app_id(&self) -> &str {
        self.app().id()
    }

    /// The key that it holds, or that its token was made from.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// What it may do.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its token; `None`: it has the key itself.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_deref()
    }

    /// What the maker of its token says of it on the channel `name`: of several claims that of the longest
    /// pattern.
    pub fn user_claim(&self, name: &str) -> Option<&str> {
        let mut claims = self.token()?.user_claims.iter();
        claims.find(|(pattern, _)| matches(pattern, name)).map(|(_, claim)| &**claim)
    }

    /// The principal that a connection of this one has once it has sent the token of `next` (RTC8a).
    ///
    /// # Errors
    /// 40102: the token is of another app, or not for the connection's clientId.
    pub fn succeeded_by(&self, next: &Arc<Principal>) -> Result<Arc<Principal>, ErrorInfo> {
        let refused = |text| Err(ErrorInfo::new(ErrorCode::INCOMPATIBLE_CREDENTIALS, text));
        if next.app_id() != self.app_id() {
            return refused("the token is of another app");
        }
        match &self.identity {
            Identity::Client(_) if next.identity == Identity::Anonymous => {
                refused("the token is for no clientId, and the connection has one")
            }
            Identity::Client(own) => next.claim(Some(own)),
            // Who was nobody in particular may become somebody.
            Identity::Anonymous | Identity::Wildcard => Ok(Arc::clone(next)),
        }
    }

    /// Whether it may do anything at all on the channel `name`, which has no `[?params]` (6.8).
    ///
    /// # Errors
    /// 40161: the namespace wants an identified client; 40311: it wants TLS.
    pub fn enter(&self, name: &str) -> Result<(), ErrorInfo> {
        let namespace = self.app().namespace(name);
        if namespace.authenticated && self.identity == Identity::Anonymous {
            let text = "this channel is for identified clients only";
            return Err(ErrorInfo::new(ErrorCode::IDENTIFIED_CLIENT_REQUIRED, text));
        }
        if namespace.tls_only {
            let text = "this channel is for TLS only, and the transport has none";
            return Err(ErrorInfo::new(ErrorCode::TLS_REQUIRED, text));
        }
        Ok(())
    }

    /// Whether it may do `operation` on the channel `name`, which has no `[?params]`.
    ///
    /// # Errors
    /// As [`enter`](Self::enter), or 40160: the capability does not permit it.
    pub fn permit(&self, name: &str, operation: Operation) -> Result<(), ErrorInfo> {
        self.enter(name)?;
        if self.capability.allows(name, operation) {
            return Ok(());
        }
        let text = format!("the capability does not permit {} on this channel", operation.name());
        Err(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, text))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AppSpec, Directory, KeySpec, Namespace};
    use super::*;

    fn principal(identity: Identity, has_token: bool) -> Arc<Principal> {
        let key =
            KeySpec::new("app.key:secret".parse().expect("a key"), r#"{"a":["publish"]}"#, false);
        let namespaces = vec![
            Namespace { id: "members".into(), authenticated: true, ..Namespace::default() },
            Namespace { id: "vault".into(), tls_only: true, ..Namespace::default() },
        ];
        let keys = vec![key.expect("valid")];
        let app = AppSpec { id: "app".into(), keys, namespaces, ..AppSpec::default() };
        let holder = Directory::new([app]).key("app.key").cloned().expect("known");
        let principal = Principal::of_key(holder);
        let token = has_token.then(|| {
            Box::new(Token {
                issued_ms: 0,
                expires_ms: 1,
                revoked_ms: None,
                is_wildcard: identity == Identity::Wildcard,
                revocation_key: None,
                user_claims: Box::default(),
            })
        });
        Arc::new(Principal { identity, token, ..principal })
    }

    #[test]
    fn a_client_id_is_claimed_as_the_credentials_permit() {
        let client = |id: &str| Identity::Client(id.into());
        for (own, claimed, expected) in [
            (Identity::Wildcard, None, Ok(Identity::Wildcard)),
            (Identity::Wildcard, Some("x"), Ok(client("x"))),
            (Identity::Wildcard, Some("*"), Err((40012, 400))),
            (Identity::Wildcard, Some(""), Err((40012, 400))),
            (Identity::Anonymous, None, Ok(Identity::Anonymous)),
            (Identity::Anonymous, Some("x"), Err((40102, 401))),
            (client("x"), None, Ok(client("x"))),
            (client("x"), Some("x"), Ok(client("x"))),
            (client("x"), Some("y"), Err((40102, 401))),
        ] {
            let result = principal(own.clone(), true).claim(claimed);
            let result = result.map(|principal| principal.identity().clone());
            let result = result.map_err(|error| (error.code.0, error.status));
            assert_eq!(result, expected, "{own:?} {claimed:?}");
        }
    }

    #[test]
    fn whoever_claims_nothing_shares_the_principal_of_the_key() {
        let holder = principal(Identity::Wildcard, false);
        assert!(Arc::ptr_eq(&holder, &holder.claim(None).expect("nothing to refuse")));
    }

    #[test]
    fn a_connection_goes_on_with_a_token_for_the_same_client() {
        let client = |id: &str| Identity::Client(id.into());
        for (before, next, expected) in [
            (client("x"), client("x"), Some(client("x"))),
            (client("x"), Identity::Wildcard, Some(client("x"))),
            (client("x"), client("y"), None),
            (client("x"), Identity::Anonymous, None),
            (Identity::Wildcard, Identity::Anonymous, Some(Identity::Anonymous)),
            (Identity::Wildcard, client("x"), Some(client("x"))),
            (Identity::Anonymous, client("x"), Some(client("x"))),
        ] {
            let result =
                principal(before.clone(), true).succeeded_by(&principal(next.clone(), true));
            let result = result.map(|principal| principal.identity().clone());
            let expected = expected.ok_or((40102, 401));
            let result = result.map_err(|error| (error.code.0, error.status));
            assert_eq!(result, expected, "{before:?} {next:?}");
        }
    }

    #[test]
    fn namespaces_and_capability_say_what_may_be_done() {
        let code = |identity: Identity, name: &str| {
            let result = principal(identity, true).permit(name, Operation::Publish);
            result.err().map(|error| (error.code.0, error.status))
        };
        let bob = || Identity::Client("bob".into());
        assert_eq!(code(bob(), "a"), None);
        assert_eq!(code(bob(), "b"), Some((40160, 401)));
        assert_eq!(code(Identity::Anonymous, "members:x"), Some((40161, 401)));
        assert_eq!(code(bob(), "members:x"), Some((40160, 401)));
        assert_eq!(code(bob(), "vault"), Some((40311, 403)));
    }
}
