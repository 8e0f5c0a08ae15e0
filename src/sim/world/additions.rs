//! What happens in runs whose clients can do more than they could at first.

use super::World;
use crate::sim::credentials::GRANTS_COUNT;
use crate::sim::rest::Call;
use crate::sim::revocations::Target;

impl World {
    /// Something of what the run has in addition, now and then.
    pub(super) fn act_more(&mut self) {
        let repertoire = &mut self.repertoire;
        if repertoire.has_revocations && repertoire.random.chance(20) {
            self.revoke();
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
