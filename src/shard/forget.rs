//! When channels at home here run out, and what becomes of them then.
//!
//! Every channel that has something to forget, or is to be forgotten itself, is on the agenda of its shard, once,
//! under the time at which the first of that is due. What happens to it meanwhile moves its time away alone, and the
//! agenda does not hear of it: who comes up too early is put back under what its time is then. So a publish costs
//! nothing here, and neither does a channel that nobody has used for a while and somebody is attached to.
//!
//! Two things have channels looked at out of turn: namespaces that have changed, all of them once; and an app that was
//! deleted, its own until none is left.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::Shard;
use super::homes::{Homes, retention};
use crate::ably::Directory;
use crate::base::Now;
use crate::channel::ChannelKey;
use crate::channel::home::HomeChannel;

/// Milliseconds of one tick: a channel is looked at up to this much late and never early.
const TICK_MS: u64 = 250;

/// How far ahead a channel is looked at, at most, in milliseconds; what is due later is put back then. By so much may a
/// channel be late whose time something has moved towards us without saying so ([`Homes::hasten`]).
const AHEAD_MAX_MS: u64 = 120_000;

/// Until when a channel is left alone that could not go although its time had come, in milliseconds: it is not on disk
/// yet, somebody is attached who is being sent away, the wall clock was set back.
const PAUSE_MS: u64 = 1000;

/// Channels that are looked at in one turn for one of the reasons above, so that it is never held up for long.
const LOOKS_PER_TURN: usize = 1024;

/// Channels of one part of the agenda: nothing grows larger there, and what has become empty is given back.
const PART_CHANNELS: usize = 256;

/// Channels by the tick in which they are looked at.
#[derive(Default)]
struct Agenda {
    /// Of each tick some parts, of which the last one grows.
    parts: BTreeMap<(u32, u32), Vec<ChannelKey>>,
}

/// The tick in which something is done that is due then.
fn tick_of(now: Now, due_ms: u64) -> u32 {
    let at_ms = due_ms.min(now.mono_ms + AHEAD_MAX_MS);
    // 0 stands for none, and 2^32 of them are 34 years.
    at_ms.div_ceil(TICK_MS).max(1) as u32
}

/// The tick under which a channel is to be put, if that is not done yet and it can run out by itself.
pub(super) fn plan_look(now: Now, home: &mut HomeChannel) -> Option<u32> {
    if home.look() != 0 {
        return None;
    }
    let tick = tick_of(now, home.next_due_ms(now)?);
    home.set_look(tick);
    Some(tick)
}

impl Agenda {
    fn push(&mut self, tick: u32, key: ChannelKey) {
        let last = self.parts.range_mut((tick, 0)..=(tick, u32::MAX)).next_back();
        let next = match last {
            Some((_, part)) if part.len() < PART_CHANNELS => return part.push(key),
            Some(((_, number), _)) => number + 1,
            None => 0,
        };
        self.parts.insert((tick, next), vec![key]);
    }

    /// A channel whose tick has come.
    fn pop_due(&mut self, now: Now) -> Option<(u32, ChannelKey)> {
        let mut first = self.parts.first_entry()?;
        let (tick, _) = *first.key();
        if u64::from(tick) * TICK_MS > now.mono_ms {
            return None;
        }
        let key = first.get_mut().pop().expect("a part without channels is taken out");
        if first.get().is_empty() {
            first.remove();
        }
        Some((tick, key))
    }

    fn next_ms(&self) -> Option<u64> {
        self.parts.first_key_value().map(|((tick, _), _)| u64::from(*tick) * TICK_MS)
    }
}

/// A walk over channels in the order of their keys, some each turn.
struct Walk {
    from: Bound<ChannelKey>,
    /// When it goes on, on the monotonic clock.
    at_ms: u64,
    /// Whether there is something to do that a part it has passed does not have.
    is_to_repeat: bool,
}

impl Walk {
    fn new(from: Bound<ChannelKey>) -> Walk {
        Walk { from, at_ms: 0, is_to_repeat: false }
    }
}

/// Who is forgotten when; see the module text.
#[derive(Default)]
pub(super) struct Forgetting {
    agenda: Agenda,
    /// Over all channels, since namespaces have changed.
    reload: Option<Walk>,
    /// Over those of apps that were deleted, one after another.
    gone: VecDeque<(Box<str>, Walk)>,
}

impl Forgetting {
    /// Has a channel looked at in the tick that was planned for it.
    pub fn put(&mut self, tick: u32, key: ChannelKey) {
        self.agenda.push(tick, key);
    }

    /// When there is something to do, on the monotonic clock.
    pub fn next_ms(&self) -> Option<u64> {
        let walks = self.reload.iter().chain(self.gone.front().map(|(_, walk)| walk));
        walks.map(|walk| walk.at_ms).chain(self.agenda.next_ms()).min()
    }
}

impl Homes {
    /// Forgets what has run out, some of it if that is much.
    pub fn forget_due(&mut self, now: Now) {
        self.replays.forget_old(now.mono_ms);
        for _ in 0..LOOKS_PER_TURN {
            let Some((tick, key)) = self.forgetting.agenda.pop_due(now) else { break };
            // Otherwise it was forgotten out of turn, or put under an earlier time.
            if let Some(home) = self.channels.get_mut(&key)
                && home.look() == tick
            {
                home.set_look(0);
                self.look_at(now, &key);
            }
        }
        self.walk_for_reload(now);
        self.walk_for_gone_app(now);
    }

    /// Has a channel looked at that something has happened to, if it can run out by itself.
    pub fn note(&mut self, now: Now, key: &ChannelKey) {
        let home = self.channels.get_mut(key);
        if let Some(tick) = home.and_then(|home| plan_look(now, home)) {
            self.forgetting.put(tick, key.clone());
        }
    }

    /// Has a channel forget what is too old.
    pub fn trim(&mut self, now: Now, key: &ChannelKey) {
        if let Some(home) = self.channels.get_mut(key) {
            let before_bytes = home.history_bytes();
            home.trim(now, self.config.channel_bytes_max);
            self.history_bytes -= before_bytes - home.history_bytes();
        }
    }

    /// The same, and forgets the channel itself if nothing of it is left; otherwise sees to it that it is looked at
    /// again.
    fn look_at(&mut self, now: Now, key: &ChannelKey) {
        self.trim(now, key);
        let may_forget = self.keeping.as_ref().is_none_or(|keeping| keeping.may_forget());
        let home = self.channels.get_mut(key).expect("looked up by the caller");
        if home.is_idle(now) && (may_forget || !home.is_durable()) {
            return self.forget(key);
        }
        home.release_room();
        self.hasten(now, key);
    }

    /// Has a channel looked at when something of it is due, if that is sooner than was planned.
    pub fn hasten(&mut self, now: Now, key: &ChannelKey) {
        let Some(home) = self.channels.get_mut(key) else { return };
        let Some(mut due_ms) = home.next_due_ms(now) else { return };
        // Now, or as soon as the wall clock goes on.
        if due_ms <= now.mono_ms + 1 {
            due_ms = now.mono_ms + PAUSE_MS;
        }
        let tick = tick_of(now, due_ms);
        // Where it is under a later one, that does not count any more.
        if home.look() == 0 || tick < home.look() {
            home.set_look(tick);
            self.forgetting.put(tick, key.clone());
        }
    }

    fn forget(&mut self, key: &ChannelKey) {
        let Some(home) = self.channels.remove(key) else { return };
        self.history_bytes -= home.history_bytes();
        home.next_leave_ms().map(|at_ms| self.leaving.remove(&(at_ms, key.clone())));
        self.keys.remove(key);
        self.changes.push((key.clone(), false));
    }

    /// Takes another directory. Channels hear of other rules with their next event, and of namespaces in one of the
    /// next turns.
    pub fn set_directory(&mut self, directory: Arc<Directory>) {
        if let Some(keeping) = &mut self.keeping {
            keeping.set_directory(&directory);
        }
        if !directory.rules().is_same(self.directory.rules()) {
            self.rules_version = self.rules_version.wrapping_add(1).max(1);
        }
        if !directory.has_namespaces_of(&self.directory) {
            match &mut self.forgetting.reload {
                Some(walk) => walk.is_to_repeat = true,
                None => self.forgetting.reload = Some(Walk::new(Bound::Unbounded)),
            }
        }
        self.directory = directory;
    }

    /// The next channels of a walk; those that are behind the walk's last step.
    fn next_of(&self, walk: &Walk, is_wanted: impl Fn(&ChannelKey) -> bool) -> Vec<ChannelKey> {
        let keys = self.keys.range((walk.from.clone(), Bound::Unbounded));
        keys.take_while(|key| is_wanted(key)).take(LOOKS_PER_TURN).cloned().collect()
    }

    /// Has channels keep their past as long as their namespaces say by now.
    fn walk_for_reload(&mut self, now: Now) {
        let Some(mut walk) = self.forgetting.reload.take() else { return };
        let keys = self.next_of(&walk, |_| true);
        for key in &keys {
            let home = self.channels.get_mut(key).expect("listed channels exist");
            home.set_retention(retention(&self.config, &self.directory, key));
            self.look_at(now, key);
        }
        if keys.len() < LOOKS_PER_TURN && !walk.is_to_repeat {
            return;
        }
        match keys.into_iter().nth(LOOKS_PER_TURN - 1) {
            Some(last) => walk.from = Bound::Excluded(last),
            None => walk = Walk::new(Bound::Unbounded),
        }
        self.forgetting.reload = Some(walk);
    }

    /// Has the channels of a deleted app forgotten, with whatever they hold.
    pub fn forget_app(&mut self, app_id: &str) {
        let walk = Walk::new(Bound::Included(ChannelKey::new(app_id, "")));
        self.forgetting.gone.push_back((app_id.into(), walk));
    }

    /// Forgets channels of a deleted app; those with subscribers wait until these, whose connections are being ended,
    /// have gone.
    fn walk_for_gone_app(&mut self, now: Now) {
        let Some((app_id, mut walk)) =
            self.forgetting.gone.pop_front_if(|(_, walk)| walk.at_ms <= now.mono_ms)
        else {
            return;
        };
        let keys = self.next_of(&walk, |key| key.is_of(&app_id));
        for key in &keys {
            let home = self.channels.get(key).expect("listed channels exist");
            match home.subscribers().is_empty() {
                true => self.forget(key),
                false => walk.is_to_repeat = true,
            }
        }
        match keys.into_iter().nth(LOOKS_PER_TURN - 1) {
            Some(last) => {
                walk.from = Bound::Excluded(last);
                self.forgetting.gone.push_front((app_id, walk));
            }
            None if walk.is_to_repeat => {
                let mut again = Walk::new(Bound::Included(ChannelKey::new(&app_id, "")));
                again.at_ms = now.mono_ms + PAUSE_MS;
                self.forgetting.gone.push_back((app_id, again));
            }
            None => {}
        }
    }

    #[cfg(test)]
    pub fn has_channels_of(&self, app_id: &str) -> bool {
        self.keys.iter().any(|key| key.is_of(app_id)) || !self.forgetting.gone.is_empty()
    }
}

impl Shard {
    /// Forgets what has run out of the channels at home here.
    pub(super) fn forget_due(&mut self) {
        self.homes.forget_due(self.now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ably::{
        AppSpec, ChannelName, ChannelParams, Data, Format, Message, Messages, Metrics, Modes,
        Namespace, SeriesId,
    };
    use crate::channel::history::HistoryConfig;
    use crate::channel::home::{StreamRef, Subscriber};
    use crate::channel::view::View;

    const RETENTION: Duration = Duration::from_secs(120);
    const START: Now = Now { mono_ms: 5_000, unix_ms: 1_700_000_000_000 };
    const STREAM: StreamRef = StreamRef { index: 1, generation: 0 };

    fn after(ms: u64) -> Now {
        Now { mono_ms: START.mono_ms + ms, unix_ms: START.unix_ms + ms }
    }

    fn directory(persisted: bool) -> Arc<Directory> {
        let namespace = Namespace { id: "kept".into(), persisted, ..Namespace::default() };
        let namespaces = vec![namespace];
        Arc::new(Directory::new([AppSpec { id: "app".into(), namespaces, ..AppSpec::default() }]))
    }

    fn homes() -> Homes {
        homes_that_keep(RETENTION)
    }

    fn homes_that_keep(retention: Duration) -> Homes {
        let config = HistoryConfig {
            retention,
            persisted_retention: Duration::from_secs(24 * 60 * 60),
            channel_bytes_max: 4 << 20,
            shard_bytes_max: 64 << 20,
        };
        Homes::new(SeriesId::new([7; 10]), config, directory(true), None)
    }

    fn key(name: &str) -> ChannelKey {
        ChannelKey::new("app", name)
    }

    fn publish(homes: &mut Homes, now: Now, name: &str) {
        let message = Message { data: Data::Text("x".into()), ..Message::default() };
        let messages = Messages::of_server(&format!("server:{}", now.mono_ms), vec![message]);
        homes.change(now, &key(name), |home| home.publish(now, messages));
    }

    fn subscribe(homes: &mut Homes, now: Now, name: &str) {
        let channel = ChannelName::parse(name).expect("valid");
        homes.open(now, key(name)).subscribe(Subscriber {
            shard: 0,
            format: Format::Json,
            view: View::of(&channel, Modes::default(), &ChannelParams::default()),
            display_name: name.into(),
            stream: STREAM,
            metrics: Metrics::default(),
        });
        homes.note(now, &key(name));
    }

    fn unsubscribe(homes: &mut Homes, now: Now, name: &str, keep: Duration) {
        homes.open(now, key(name)).unsubscribe(now, 0, STREAM, keep);
        homes.note(now, &key(name));
    }

    fn noted(homes: &Homes) -> usize {
        homes.forgetting.agenda.parts.values().map(Vec::len).sum()
    }

    /// Looks whenever something is due until then; returns how often.
    fn run_until(homes: &mut Homes, end: Now) -> usize {
        let mut times = 0;
        while let Some(next_ms) = homes.forgetting.next_ms()
            && next_ms <= end.mono_ms
        {
            homes.forget_due(after(next_ms.saturating_sub(START.mono_ms)));
            times += 1;
        }
        times
    }

    #[test]
    fn a_channel_is_forgotten_when_it_has_run_out_and_not_before() {
        let mut homes = homes();
        publish(&mut homes, START, "room");
        publish(&mut homes, after(90_000), "room");
        run_until(&mut homes, after(210_000));
        assert_eq!((homes.len(), homes.history_bytes() > 0), (1, true));
        assert!(run_until(&mut homes, after(210_000 + TICK_MS)) > 0);
        assert_eq!((homes.len(), homes.history_bytes(), homes.keys.len()), (0, 0, 0));
        assert_eq!((noted(&homes), homes.forgetting.next_ms()), (0, None));
    }

    #[test]
    fn what_happens_to_a_channel_does_not_move_it_and_it_is_put_back() {
        let mut homes = homes();
        for at_ms in (0..600_000).step_by(100) {
            publish(&mut homes, after(at_ms), "room");
            assert_eq!(noted(&homes), 1);
            homes.forget_due(after(at_ms));
        }
        let kept = homes.get(&key("room")).expect("in use").history_bytes();
        // About every minute, when half of it is too old.
        let looks = run_until(&mut homes, after(720_000));
        assert!((3..20).contains(&looks), "{looks}");
        assert!(kept > 0 && homes.len() == 0);
    }

    #[test]
    fn whoever_is_attached_to_has_only_history_to_forget_and_runs_out_once_left() {
        let mut homes = homes();
        subscribe(&mut homes, START, "room");
        assert_eq!(noted(&homes), 0);
        publish(&mut homes, after(10), "room");
        run_until(&mut homes, after(121_000));
        assert_eq!((homes.len(), homes.history_bytes(), noted(&homes)), (1, 0, 0));
        unsubscribe(&mut homes, after(200_000), "room", Duration::from_secs(30));
        run_until(&mut homes, after(229_999));
        assert_eq!((homes.len(), noted(&homes)), (1, 1));
        run_until(&mut homes, after(230_000 + TICK_MS));
        assert_eq!(homes.len(), 0);
    }

    #[test]
    fn what_is_taken_back_does_not_keep_its_channel() {
        let mut homes = homes();
        publish(&mut homes, START, "room");
        let first = homes.get(&key("room")).expect("open").last_serial();
        publish(&mut homes, after(10), "room");
        assert!(!homes.take_back(after(20), &key("room"), first));
        assert_eq!((homes.len(), homes.history_bytes()), (1, 0));
        run_until(&mut homes, after(20 + PAUSE_MS + TICK_MS));
        assert_eq!(homes.len(), 0);
        // Where it was put first does not count any more.
        run_until(&mut homes, after(121_000));
        assert_eq!((noted(&homes), homes.forgetting.next_ms()), (0, None));
    }

    #[test]
    fn who_left_and_came_back_is_not_forgotten() {
        let mut homes = homes();
        subscribe(&mut homes, START, "room");
        unsubscribe(&mut homes, after(1_000), "room", Duration::from_secs(30));
        subscribe(&mut homes, after(2_000), "room");
        run_until(&mut homes, after(100_000));
        assert_eq!((homes.len(), noted(&homes)), (1, 0));
    }

    #[test]
    fn all_run_out_at_once_and_a_turn_forgets_some_of_them() {
        let mut homes = homes();
        let count = 3 * LOOKS_PER_TURN + PART_CHANNELS / 2;
        for number in 0..count {
            publish(&mut homes, START, &number.to_string());
        }
        assert_eq!(noted(&homes), count);
        let end = after(121_000);
        for turn in 1..=3 {
            homes.forget_due(end);
            assert_eq!(homes.len(), count - turn * LOOKS_PER_TURN);
            assert!(homes.next_timeout_ms().is_some_and(|next_ms| next_ms <= end.mono_ms));
        }
        homes.forget_due(end);
        assert_eq!((homes.len(), homes.forgetting.agenda.parts.len()), (0, 0));
    }

    #[test]
    fn a_shorter_retention_counts_for_all_channels_soon_after_a_reload() {
        let mut homes = homes_that_keep(Duration::from_secs(60));
        let count = LOOKS_PER_TURN + 10;
        for number in 0..count {
            publish(&mut homes, START, &format!("kept:{number}"));
        }
        run_until(&mut homes, after(300_000));
        assert_eq!(homes.len(), count);
        homes.set_directory(directory(true));
        assert!(homes.forgetting.reload.is_none(), "no namespace has changed");
        homes.set_directory(directory(false));
        homes.forget_due(after(300_000));
        assert_eq!(homes.len(), 10);
        // What changes meanwhile counts for those too that it has passed.
        homes.set_directory(directory(true));
        for _ in 0..3 {
            homes.forget_due(after(300_000));
        }
        assert!(homes.forgetting.reload.is_none());
        run_until(&mut homes, after(590_000));
        assert_eq!(homes.len(), 10, "kept for a day again");
        // One that stays is looked at earlier than was planned.
        publish(&mut homes, after(590_000), "kept:new");
        homes.set_directory(directory(false));
        homes.forget_due(after(600_000));
        assert_eq!(homes.len(), 1);
        run_until(&mut homes, after(650_000 + TICK_MS));
        assert_eq!(homes.len(), 0);
    }

    #[test]
    fn a_channel_that_is_there_before_its_app_is_kept_as_long_as_that_says() {
        let mut homes = homes_that_keep(Duration::from_secs(60));
        homes.set_directory(Arc::new(Directory::default()));
        publish(&mut homes, START, "kept:room");
        homes.set_directory(directory(true));
        run_until(&mut homes, after(300_000));
        assert_eq!((homes.len(), homes.history_bytes() > 0), (1, true));
    }

    #[test]
    fn an_app_that_is_gone_leaves_nothing_once_its_clients_have_gone() {
        let mut homes = homes();
        for number in 0..LOOKS_PER_TURN + 10 {
            publish(&mut homes, START, &number.to_string());
        }
        subscribe(&mut homes, START, "room");
        homes.forget_app("app");
        homes.forget_due(START);
        homes.forget_due(START);
        assert_eq!((homes.len(), homes.history_bytes()), (1, 0));
        let next_ms = homes.forgetting.next_ms();
        assert!(next_ms.is_some_and(|next_ms| next_ms > START.mono_ms), "it is not busy with that");
        unsubscribe(&mut homes, after(10), "room", RETENTION);
        run_until(&mut homes, after(PAUSE_MS));
        assert!(homes.len() == 0 && !homes.has_channels_of("app"));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_anybody_busy() {
        let mut homes = homes();
        homes.open(START, key("room"));
        homes.note(START, &key("room"));
        let mut looks = 0;
        for at_ms in 0..10_000 {
            let now = Now { unix_ms: START.unix_ms, ..after(at_ms) };
            looks += usize::from(homes.forgetting.next_ms().is_some_and(|ms| ms <= now.mono_ms));
            homes.forget_due(now);
        }
        assert!((2..=11).contains(&looks), "{looks}");
        run_until(&mut homes, after(12_000));
        assert_eq!(homes.len(), 0);
    }
}
