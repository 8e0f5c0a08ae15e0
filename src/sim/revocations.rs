//! Tokens that were revoked, as whoever had it done was told, and what may not happen to them afterwards.

/// What is known of a token to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub text: String,
    /// What it permits.
    pub grant: usize,
    /// For whom it is.
    pub client_id: Option<&'static str>,
    /// Its claims of that name, in milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
}

/// Which tokens of the key that all are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those for this client.
    ClientId(&'static str),
    /// Those that have a channel in their capability, written so.
    Channel(&'static str),
    /// Those of a grant, by a claim of their own.
    Grant(usize),
}

impl Target {
    /// As a request names it.
    pub fn text(self) -> String {
        match self {
            Target::ClientId(id) => format!("clientId:{id}"),
            Target::Channel(name) => format!("channel:{name}"),
            Target::Grant(grant) => format!("revocationKey:{}", revocation_key(grant)),
        }
    }

    fn is_of(self, token: &Token) -> bool {
        match self {
            Target::ClientId(id) => token.client_id == Some(id),
            Target::Channel(name) => super::credentials::names(token.grant, name),
            Target::Grant(grant) => token.grant == grant,
        }
    }
}

/// The claim by which tokens of a grant are revoked.
pub fn revocation_key(grant: usize) -> String {
    format!("g{grant}")
}

/// One request.
#[derive(Debug)]
struct Revocation {
    target: Target,
    /// It is for tokens from before.
    issued_before_ms: u64,
    /// From when on they are good for nothing, if it is known; at the soonest, while it is not.
    applies_ms: u64,
    /// How many publishes there had been when it was known to be done; `None`: it is not known.
    done_at: Option<usize>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Revocations(Vec<Revocation>);

impl Revocations {
    /// Somebody asks for it; returns its number.
    pub fn begin(&mut self, target: Target, now_ms: u64) -> usize {
        let (issued_before_ms, applies_ms) = (u64::MAX, now_ms);
        self.0.push(Revocation { target, issued_before_ms, applies_ms, done_at: None });
        self.0.len() - 1
    }

    /// It is done, as its answer says; `publishes`: how many publishes have begun before that.
    pub fn done(&mut self, number: usize, times_ms: (u64, u64), publishes: usize) {
        let revocation = &mut self.0[number];
        (revocation.issued_before_ms, revocation.applies_ms) = times_ms;
        revocation.done_at = Some(publishes);
    }

    fn of<'a>(&'a self, token: &'a Token, now_ms: u64) -> impl Iterator<Item = &'a Revocation> {
        self.0.iter().filter(move |revocation| {
            revocation.target.is_of(token)
                && token.issued_ms < revocation.issued_before_ms
                && revocation.applies_ms <= now_ms
        })
    }

    /// Whether somebody may have had `token` revoked.
    pub fn may_concern(&self, token: &Token, now_ms: u64) -> bool {
        self.of(token, now_ms).next().is_some()
    }

    /// Since how many publishes `token` is known to be good for nothing.
    pub fn since(&self, token: &Token, now_ms: u64) -> Option<usize> {
        self.of(token, now_ms).filter_map(|revocation| revocation.done_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_older_tokens_of_its_target_from_its_time_on() {
        let token = |issued_ms| Token {
            text: String::new(),
            grant: 1,
            client_id: Some("ann"),
            issued_ms,
            expires_ms: 0,
        };
        let mut revocations = Revocations::default();
        let number = revocations.begin(Target::ClientId("ann"), 50);
        assert!(revocations.may_concern(&token(100), 50));
        assert!(!revocations.may_concern(&token(100), 49));
        assert_eq!(revocations.since(&token(100), 200), None);
        revocations.done(number, (101, 150), 7);
        assert_eq!(revocations.since(&token(100), 149), None);
        assert_eq!(revocations.since(&token(100), 150), Some(7));
        assert_eq!(revocations.since(&token(101), 150), None);
        for (target, concerns) in [
            (Target::ClientId("bob"), false),
            (Target::Channel("a"), true),
            (Target::Channel("*"), false),
            (Target::Grant(1), true),
            (Target::Grant(0), false),
        ] {
            let mut revocations = Revocations::default();
            revocations.begin(target, 0);
            assert_eq!(revocations.may_concern(&token(100), 0), concerns, "{target:?}");
        }
    }
}
