//! The keys that clients may use, by app.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{ApiKey, Capability, ErrorCode, ErrorInfo};

/// One configured key, and what it permits.
#[derive(Debug)]
pub struct Key {
    api_key: ApiKey,
    capability: Capability,
}

impl Key {
    /// The app whose channels it opens.
    pub fn app_id(&self) -> &str {
        self.api_key.app_id()
    }

    /// What its holder may do.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }
}

/// All keys of the daemon; never changed once the shards have it.
#[derive(Debug, Default)]
pub struct KeyRing {
    /// By key name, `appId.keyId`.
    keys: HashMap<String, Arc<Key>>,
    app_ids: HashSet<String>,
}

impl KeyRing {
    /// The ring of these keys; of two with one name the last counts.
    pub fn new(keys: impl IntoIterator<Item = (ApiKey, Capability)>) -> KeyRing {
        let mut ring = KeyRing::default();
        for (api_key, capability) in keys {
            ring.app_ids.insert(api_key.app_id().to_owned());
            ring.keys.insert(api_key.name(), Arc::new(Key { api_key, capability }));
        }
        ring
    }

    /// The key that `presented` is, in constant time as far as the secret goes.
    ///
    /// # Errors
    /// The app or the key is not known (40400), or the secret is wrong (40101).
    pub fn authenticate(&self, presented: &ApiKey) -> Result<Arc<Key>, ErrorInfo> {
        match self.keys.get(&presented.name()) {
            Some(key) if key.api_key.has_secret_of(presented) => Ok(Arc::clone(key)),
            Some(_) => Err(ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, "invalid key secret")),
            // Over REST an unknown key of a known app is 401 with the code of 404 (2.4).
            None if self.app_ids.contains(presented.app_id()) => {
                Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "no such key").with_status(401))
            }
            None => Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "no such app")),
        }
    }
}
