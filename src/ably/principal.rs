//! Who acts, once the credentials were found true: app, key, what is permitted, who it says to be.

use std::sync::Arc;

use super::{App, Capability, ErrorCode, ErrorInfo, Identity, Key, Operation};

/// What a token adds to the key that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// When it was issued, in milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// From when on it is worth nothing.
    pub expires_ms: u64,
    /// By what it can be revoked, besides its clientId and channels (12.8).
    pub revocation_key: Option<Box<str>>,
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
