//! What the applications of clients want.

use super::World;
use crate::sim::rest::Call;
use crate::sim::sdk::Link;

impl World {
    /// A client does what its application wants.
    pub(super) fn work(&mut self) {
        let who = self.below(self.sdks.len());
        let name = *self.host.random.one_of(self.names);
        match self.below(20) {
            0..=4 => self.with_sdk(who, |sdk, scene| sdk.attach(scene, name)),
            5 => self.with_sdk(who, |sdk, scene| sdk.detach(scene, name)),
            6..=13 => self.publish(who),
            14 if self.plan.has_presence => {
                self.with_sdk(who, |sdk, scene| sdk.leave(scene, name));
            }
            15..=16 if self.plan.has_presence => {
                self.with_sdk(who, |sdk, scene| sdk.enter(scene, name));
            }
            17 if self.plan.has_presence => {
                self.with_sdk(who, |sdk, scene| sdk.sync(scene, name));
            }
            18 if self.plan.has_tokens => {
                let grant = self.below(self.repertoire.grants_count());
                self.with_sdk(who, |sdk, scene| sdk.authenticate(scene, grant));
            }
            _ if self.plan.has_rest => self.request(),
            _ => self.publish(who),
        }
    }

    fn some_base(&mut self) -> &'static str {
        self.bases[self.below(self.bases.len())]
    }

    pub(super) fn choose_publish(&mut self) -> (usize, Option<String>) {
        // Somebody who is not sure whether it went well tries once more.
        if !self.ids.is_empty() && self.chance(6) {
            let (id, publish) = self.host.random.one_of(&self.ids).clone();
            return (publish, Some(id));
        }
        let channel = self.some_base();
        let count = 1 + self.below(4) / 3;
        let kind = self.repertoire.kind();
        let now_ms = self.host.now.unix_ms;
        let id = self.chance(4).then(|| format!("own{}", self.ids.len()));
        let publish = self.oracle.begin_publish(channel, count, kind, id.is_some(), now_ms);
        self.oracle.publishes[publish].is_ephemeral = self.repertoire.is_ephemeral();
        self.ids.extend(id.clone().map(|id| (id, publish)));
        (publish, id)
    }

    fn publish(&mut self, who: usize) {
        if self.sdks[who].link == Link::Ended {
            return;
        }
        let (publish, id) = self.choose_publish();
        let channel = self.oracle.publishes[publish].channel().to_owned();
        // REST and WebSockets name a single message differently; a pair they name alike.
        let id = id.map(|id| match self.oracle.publishes[publish].tags.len() {
            1 => format!("{id}:0"),
            _ => id,
        });
        self.with_sdk(who, |sdk, scene| sdk.publish(scene, &channel, publish, id.as_deref()));
    }

    fn request(&mut self) {
        let shard = self.some_shard();
        let channel = self.some_base();
        let call = match self.below(4) {
            0 => self.with_scene(|scene| Call::history(scene, shard, channel)),
            1 => self.with_scene(|scene| Call::presence(scene, shard, channel)),
            _ => {
                let (publish, id) = self.choose_publish();
                self.with_scene(|scene| Call::publish(scene, shard, publish, id.as_deref()))
            }
        };
        self.calls.push(call);
    }
}
