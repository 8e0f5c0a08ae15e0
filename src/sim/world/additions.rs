//! What happens in runs whose clients can do more than they could at first.

use super::World;
use crate::sim::credentials::{GRANTS_COUNT, MUTABLE};
use crate::sim::oracle::Action;
use crate::sim::payload::Kind;
use crate::sim::repertoire::Repertoire;
use crate::sim::rest::{Asked, Call};
use crate::sim::revocations::Target;
use crate::sim::sdk::Link;

/// Channels with deltas, as clients call them.
const DELTA_NAMES: [&str; 3] = ["[?delta=vcdiff]a", "[?delta=vcdiff]b", "[?delta=vcdiff]kept:k"];

impl World {
    /// Something of what the run has in addition, now and then.
    pub(super) fn act_more(&mut self) {
        let repertoire = &mut self.repertoire;
        if repertoire.has_revocations && repertoire.random.chance(20) {
            self.revoke();
        }
        if let Some(helper) = &mut self.host.helper
            && self.repertoire.random.chance(12)
        {
            helper.is_stalled = !helper.is_stalled && self.repertoire.random.chance(2);
        }
        self.disturb_listeners();
        self.change_rules();
        if self.repertoire.loses_base() {
            let name = *self.repertoire.random.one_of(&DELTA_NAMES);
            let who = self.repertoire.random.below(self.sdks.len());
            self.sdks[who].lose_base(name);
        }
        let Repertoire { random, has_changes, has_deltas, .. } = &mut self.repertoire;
        if *has_changes && random.chance(2) {
            self.work_on_messages();
        } else if *has_deltas && random.chance(6) {
            let name = *random.one_of(&DELTA_NAMES);
            let who = self.below(self.sdks.len());
            self.with_sdk(who, |sdk, scene| sdk.attach(scene, name));
        }
    }

    /// Somebody makes a message that can change, changes one, or wants to hear of that.
    fn work_on_messages(&mut self) {
        let who = self.below(self.sdks.len());
        let now_ms = self.host.now.unix_ms;
        let random = &mut self.repertoire.random;
        let act = random.below(9);
        // One of the latest: they change often, and may be gone otherwise.
        let latest = self.oracle.mutable.len().saturating_sub(4);
        let target = match &self.oracle.mutable[latest..] {
            [] => None,
            some => Some(random.one_of(some).clone()),
        };
        let action =
            *random.one_of(&[Action::Update, Action::Append, Action::Append, Action::Delete]);
        let is_over = self.sdks[who].link == Link::Ended;
        match (act, target) {
            (0..=1, _) => self.with_sdk(who, |sdk, scene| sdk.attach(scene, MUTABLE)),
            (2, _) => self.with_sdk(who, |sdk, scene| sdk.detach(scene, MUTABLE)),
            (3, _) => {
                let shard = self.some_shard();
                let call = self.with_scene(|scene| Call::history(scene, shard, MUTABLE));
                self.calls.push(call);
            }
            (4, Some(target)) => {
                let publish = self.oracle.begin_change(action, &target, now_ms);
                let shard = self.some_shard();
                let call = self.with_scene(|scene| Call::change(scene, shard, publish));
                self.calls.push(call);
            }
            (5..=7, Some(target)) if !is_over => {
                let publish = self.oracle.begin_change(action, &target, now_ms);
                self.with_sdk(who, |sdk, scene| sdk.change(scene, publish));
            }
            _ if !is_over => {
                let publish = self.oracle.begin_publish(MUTABLE, 1, Kind::Text, false, now_ms);
                self.with_sdk(who, |sdk, scene| sdk.publish(scene, MUTABLE, publish, None));
            }
            _ => {}
        }
    }

    /// The history has the latest of each message.
    pub(super) fn judge_changes(&mut self) {
        if self.repertoire.has_changes {
            let history = self.ask(MUTABLE, Call::history);
            self.take_answer(&Asked::History(MUTABLE.into()), 200, &history);
            self.oracle.show_latest(MUTABLE, &history);
        }
    }

    /// Somebody has tokens revoked.
    fn revoke(&mut self) {
        let random = &mut self.repertoire.random;
        let client_id = *random.one_of(&["ann", "bob", "cleo"]);
        let resource = *random.one_of(&["a", "*", "vip:*"]);
        let target = match random.below(3) {
            0 => Target::ClientId(client_id),
            1 => Target::Channel(resource),
            _ => Target::Grant(random.below(GRANTS_COUNT)),
        };
        let has_margin = random.chance(3);
        let shard = self.some_shard();
        let call = self.with_scene(|scene| Call::revoke(scene, shard, target, has_margin));
        self.calls.push(call);
    }

    /// Nobody is connected with a token that was revoked.
    pub(super) fn judge_revocations(&mut self) {
        let now_ms = self.host.now.unix_ms;
        for sdk in &self.sdks {
            if let Some(token) = sdk.live_token()
                && self.oracle.revocations.since(token, now_ms).is_some()
            {
                let text = format!("{} goes on with a token that was revoked", sdk.state());
                self.oracle.find("revoked", text);
            }
        }
    }
}
