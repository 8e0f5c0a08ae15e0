//! Changes of the directory: shard 0 is the registrar and makes them one after another. Every shard
//! takes over each next directory, ends the connections that it has no place for, and confirms; who
//! asked for the change is answered when all have.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Mail, ReturnAddress, Shard};
use crate::ably::{Answer, Change, Directory, ErrorCode, ErrorInfo, Rules};
use crate::channel::ChannelKey;

/// The shard that makes changes.
pub(super) const REGISTRAR: usize = 0;

/// Changes under way; one more is refused.
const CHANGES_MAX: usize = 64;

/// Transports that one turn looks at after a change, so that it is never held up.
const ENFORCED_PER_TURN: u32 = 4096;

/// The registrar's own state; of use on shard [`REGISTRAR`] alone.
pub(super) struct Registrar {
    /// With every change that was made, whoever has it already.
    latest: Arc<Directory>,
    /// Counts changes.
    version: u64,
    /// Changes that some shard has not confirmed, oldest first.
    pending: VecDeque<Pending>,
    /// What the server has ordered and all shards have confirmed, since it asked.
    installed: Vec<u64>,
}

struct Pending {
    version: u64,
    /// Shards that have not confirmed.
    missing: usize,
    asker: Asker,
}

/// Who wants to know when a change is everywhere.
enum Asker {
    /// A request.
    Request(ReturnAddress),
    /// The server, which has given the change this number.
    Server(u64),
}

impl Registrar {
    pub fn new(directory: Arc<Directory>) -> Registrar {
        Registrar { latest: directory, version: 0, pending: VecDeque::new(), installed: Vec::new() }
    }
}

/// A look at all transports, some each turn, for connections that the directory ends.
#[derive(Default)]
pub(super) struct Enforcement {
    /// The next transport to look at.
    next: u32,
    /// Changes to confirm once all were looked at; none: nothing is under way.
    versions: Vec<u64>,
}

impl Shard {
    /// Somebody asks the registrar for a change.
    pub(super) fn handle_change(&mut self, reply_to: ReturnAddress, change: &Change) {
        debug_assert_eq!(usize::from(self.id), REGISTRAR);
        let changed = if self.registrar.pending.len() >= CHANGES_MAX {
            let text = "too many changes are under way; try again";
            Err(ErrorInfo::new(ErrorCode::BUSY, text))
        } else {
            change.apply(&self.registrar.latest)
        };
        let directory = match changed {
            Ok(directory) => Arc::new(directory),
            Err(error) => return self.reply(reply_to, Err(error)),
        };
        // Before the directory: a shard that confirms it has its part of these too.
        if let Change::CreateApp(new) = change {
            for channel in &new.channels {
                let key = ChannelKey::new(&new.app.id, &channel.name);
                let members = channel.members.clone();
                let home = key.home(self.shards);
                self.post(home, Mail::Fixture { channel: key, members });
            }
        }
        self.distribute(directory, change.is_enforced(), Asker::Request(reply_to));
    }

    /// Has the apps and rules of `configured` take the place of those that were configured before; for the
    /// registrar alone. [`take_installed`](Self::take_installed) returns `number` once all shards have them.
    pub fn reload(&mut self, number: u64, configured: &Directory) {
        debug_assert_eq!(usize::from(self.id), REGISTRAR);
        let directory = Arc::new(self.registrar.latest.reconfigured(configured));
        self.distribute(directory, true, Asker::Server(number));
    }

    /// The same of rules alone.
    pub fn replace_rules(&mut self, number: u64, rules: Rules) {
        debug_assert_eq!(usize::from(self.id), REGISTRAR);
        let directory = Arc::new(self.registrar.latest.with_rules(rules));
        self.distribute(directory, false, Asker::Server(number));
    }

    /// The numbers of what has reached all shards since the last call.
    pub fn take_installed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.registrar.installed)
    }

    fn distribute(&mut self, directory: Arc<Directory>, enforce: bool, asker: Asker) {
        let registrar = &mut self.registrar;
        registrar.version += 1;
        registrar.latest = Arc::clone(&directory);
        let version = registrar.version;
        registrar.pending.push_back(Pending { version, missing: self.shards, asker });
        for shard in 0..self.shards {
            let directory = Arc::clone(&directory);
            self.post(shard, Mail::Directory { version, directory, enforce });
        }
    }

    /// The registrar has made a change.
    pub(super) fn handle_directory(
        &mut self,
        version: u64,
        directory: Arc<Directory>,
        enforce: bool,
    ) {
        self.homes.set_directory(Arc::clone(&directory));
        let before = std::mem::replace(&mut self.directory, directory);
        self.forget_gone_gates();
        self.stats.retain(|app_id| self.directory.app(app_id).is_some());
        if enforce {
            let gone = before.app_ids().filter(|id| self.directory.app(id).is_none());
            gone.for_each(|id| self.homes.forget_app(id));
            // Those that were looked at already may have no place in this one.
            self.enforcement.next = 0;
            self.enforcement.versions.push(version);
        } else {
            self.post(REGISTRAR, Mail::DirectoryTaken { version });
        }
    }

    /// Some shard has a change and has done what it asks for.
    pub(super) fn handle_directory_taken(&mut self, version: u64) {
        let pending = &mut self.registrar.pending;
        let at = pending.binary_search_by_key(&version, |change| change.version);
        let at = at.expect("shards confirm what they were sent, once");
        pending[at].missing -= 1;
        if pending[at].missing == 0 {
            let done = pending.remove(at).expect("found above");
            match done.asker {
                Asker::Request(reply_to) => self.reply(reply_to, Ok(Answer::Changed)),
                Asker::Server(number) => self.registrar.installed.push(number),
            }
        }
    }

    /// Ends connections that the directory has no place for, some each turn.
    pub(super) fn enforce_directory(&mut self) {
        if self.enforcement.versions.is_empty() {
            return;
        }
        let count = self.transports.len() as u32;
        let end = count.min(self.enforcement.next + ENFORCED_PER_TURN);
        for index in self.enforcement.next..end {
            self.enforce_on(index);
            self.count_unseated_at(index);
        }
        self.enforcement.next = end;
        if end == count {
            for version in std::mem::take(&mut self.enforcement.versions) {
                self.post(REGISTRAR, Mail::DirectoryTaken { version });
            }
        }
    }

    /// Whether the next turn has to go on with what this one has begun.
    pub(super) fn is_enforcing(&self) -> bool {
        !self.enforcement.versions.is_empty()
    }

    /// Somebody wants to know whether a nonce is new.
    pub(super) fn handle_nonce(&mut self, reply_to: ReturnAddress, nonce: [u8; 16]) {
        let taken = self.nonces.take(self.now.mono_ms, nonce);
        self.reply(reply_to, taken.map(|()| Answer::FreshNonce));
    }

    fn reply(&mut self, reply_to: ReturnAddress, answer: Result<Answer, ErrorInfo>) {
        let ReturnAddress { shard, transport, request } = reply_to;
        self.post(usize::from(shard), Mail::Answer { transport, request, answer });
    }
}
