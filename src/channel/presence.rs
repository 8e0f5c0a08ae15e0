//! Who is present on a channel, on its home core: the members, their events, and what a client that
//! attaches is told of them.
//!
//! A member is a clientId on a connection (TP3h). It stays until it leaves, or its connection does; a
//! connection that was lost leaves after a grace, unless it is heard of again. This file does not know
//! connections: it is told what has become of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::HISTORY_PAGE_BYTES_MAX;
use crate::ably::{
    self, ErrorCode, ErrorInfo, Format, HistoryQuery, MembersPage, MembersQuery, PresenceAction,
    PresenceChange, PresenceEvents, PresenceHistoryPage, PresenceMessage, PresenceRequest,
};
use crate::base::Now;

/// Bounds of the presence of one channel.
#[derive(Clone, Copy, Debug)]
pub struct PresenceConfig {
    /// Members.
    pub members_max: usize,
    /// Bytes of all members together, their data and what goes with it.
    pub bytes_max: u64,
}

/// Members in one SYNC, and leaves in one PRESENCE.
const PAGE_MEMBERS: usize = 100;

/// Bytes of members after which a frame ends early. One member is smaller than a publish may be.
const PAGE_BYTES_MAX: u64 = 64 << 10;

/// Sets of encoded pages that are kept: one for each format and name in use, the latest ones.
const RENDERINGS_MAX: usize = 4;

/// connectionId and clientId.
type MemberKey = (Box<str>, Box<str>);

/// A connection with members here.
#[derive(Debug, Default)]
struct Owner {
    /// How many.
    members: usize,
    /// The transport that it was heard over last, counted from its first: news of an earlier one may
    /// come late.
    transport_count: u32,
    /// When they leave, on the monotonic clock, if it is not heard of before.
    leave_at_ms: Option<u64>,
}

/// The pages of a SYNC in one format, for subscribers that use one name.
struct Rendering {
    format: Format,
    display_name: Arc<str>,
    /// The frames of each page; none where members have changed since.
    pages: Vec<Option<Vec<Bytes>>>,
}

/// The members of one channel. `bytes` is the sum of their sizes.
#[derive(Default)]
pub struct Members {
    /// In no order, without gaps, so that a page is a range and a change concerns one or two pages.
    list: Vec<Arc<PresenceMessage>>,
    /// Where each is in the list.
    places: BTreeMap<MemberKey, usize>,
    owners: HashMap<Box<str>, Owner>,
    /// Connections whose members are to leave, by time.
    leaving: BTreeSet<(u64, Box<str>)>,
    bytes: u64,
    renderings: VecDeque<Rendering>,
}

fn key(message: &PresenceMessage) -> MemberKey {
    (message.connection_id.clone(), message.client_id.clone())
}

impl Members {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Connections that have members.
    pub fn connection_count(&self) -> usize {
        self.owners.len()
    }

    /// Does what a client wants of its members, and returns what others are to hear of it: nothing
    /// where it repeats what is known (7.5). `transport_count` says over which of its transports the
    /// connection was heard.
    ///
    /// # Errors
    /// 91003, 91006: the channel has as many members, or as much data, as it may have. Nothing
    /// has happened.
    pub fn apply(
        &mut self,
        now: Now,
        config: &PresenceConfig,
        request: PresenceRequest,
        transport_count: u32,
    ) -> Result<Vec<Arc<PresenceMessage>>, ErrorInfo> {
        self.check_bounds(config, &request)?;
        let connection_id = request.connection_id;
        self.heard_of(&connection_id, transport_count);
        let changes = request.changes.into_iter();
        let events: Vec<_> =
            changes.filter_map(|change| self.change(now, &connection_id, change)).collect();
        if let Some(owner) = self.owners.get_mut(&connection_id) {
            owner.transport_count = owner.transport_count.max(transport_count);
        }
        Ok(events)
    }

    /// Whether there is room for what the request adds.
    fn check_bounds(
        &self,
        config: &PresenceConfig,
        request: &PresenceRequest,
    ) -> Result<(), ErrorInfo> {
        let mut seen = HashSet::new();
        let mut count = self.list.len();
        let mut bytes = self.bytes;
        let connection_id = &request.connection_id;
        for change in &request.changes {
            if change.action == PresenceAction::Leave {
                continue;
            }
            let known = self.get(&(connection_id.clone(), change.client_id.clone()));
            if known.is_some_and(|known| is_repetition(known, change)) {
                continue;
            }
            if seen.insert(&*change.client_id) {
                match known {
                    Some(known) => bytes -= known.size_bytes(),
                    None => count += 1,
                }
            }
            bytes += size_bytes(connection_id, change);
        }
        // Who is there already may change its data as long as that does not grow beyond the bound.
        if count > config.members_max && count > self.list.len() {
            let text = format!("the channel may have {} members", config.members_max);
            return Err(ErrorInfo::new(ErrorCode::TOO_MANY_MEMBERS, text));
        }
        if bytes > config.bytes_max && bytes > self.bytes {
            let text = format!("the members may have {} bytes together", config.bytes_max);
            return Err(ErrorInfo::new(ErrorCode::TOO_MUCH_PRESENCE_DATA, text));
        }
        Ok(())
    }

    /// One change, and the event that it is to others.
    fn change(
        &mut self,
        now: Now,
        connection_id: &str,
        change: PresenceChange,
    ) -> Option<Arc<PresenceMessage>> {
        let key = (Box::from(connection_id), change.client_id.clone());
        let known = self.get(&key);
        if known.is_some_and(|known| is_repetition(known, &change)) {
            return None;
        }
        let is_leave = change.action == PresenceAction::Leave;
        let PresenceChange { action, id, client_id, mut data, mut encoding, mut extras, .. } =
            change;
        match known {
            None if is_leave => return None,
            // RTP8e: a leave that says nothing repeats what was said last.
            Some(known) if is_leave && data == ably::Data::None => {
                data = known.data.clone();
                encoding = known.encoding.clone();
                extras = extras.or_else(|| known.extras.clone());
            }
            Some(_) | None => {}
        }
        let timestamp_ms = known.map_or(0, |known| known.timestamp_ms).max(now.unix_ms);
        let event = Arc::new(PresenceMessage {
            action,
            id: Some(id),
            connection_id: connection_id.into(),
            client_id,
            data,
            encoding,
            extras,
            timestamp_ms,
        });
        if is_leave {
            self.remove(&key);
        } else {
            self.put(Arc::clone(&event));
        }
        Some(event)
    }

    /// Every member of the connection leaves at once; returns what others are to hear of it, so many
    /// events at a time as one frame may carry.
    pub fn withdraw(&mut self, now: Now, connection_id: &str) -> Vec<Vec<Arc<PresenceMessage>>> {
        parts(&self.remove_all(now, connection_id)).map(<[_]>::to_vec).collect()
    }

    /// Removes every member of the connection; returns their leaves.
    fn remove_all(&mut self, now: Now, connection_id: &str) -> Vec<Arc<PresenceMessage>> {
        let from = (Box::from(connection_id), Box::from(""));
        let of_connection = self.places.range(from..).map(|(key, _)| key);
        let of_connection = of_connection.take_while(|(owner, _)| **owner == *connection_id);
        let keys: Vec<MemberKey> = of_connection.cloned().collect();
        let leaves = keys.iter().map(|key| {
            let last = self.remove(key);
            // Without id, and so compared by its time, which must not lie before the last event's
            // (RTP2b1).
            let timestamp_ms = last.timestamp_ms.max(now.unix_ms);
            let last = PresenceMessage::clone(&last);
            Arc::new(PresenceMessage {
                action: PresenceAction::Leave,
                id: None,
                timestamp_ms,
                ..last
            })
        });
        leaves.collect()
    }

    /// The connection has lost a transport, the `transport_count`th it had: its members leave at
    /// `leave_at_ms` unless it is heard of before.
    pub fn lose(&mut self, connection_id: &str, transport_count: u32, leave_at_ms: u64) {
        let Some(owner) = self.owners.get_mut(connection_id) else { return };
        if owner.transport_count > transport_count {
            return; // It has come back by another way, and this news is late.
        }
        if let Some(earlier_ms) = owner.leave_at_ms.replace(leave_at_ms) {
            self.leaving.remove(&(earlier_ms, connection_id.into()));
        }
        self.leaving.insert((leave_at_ms, connection_id.into()));
    }

    /// The connection is there, over the `transport_count`th of its transports: its members stay.
    pub fn heard_of(&mut self, connection_id: &str, transport_count: u32) {
        let Some(owner) = self.owners.get_mut(connection_id) else { return };
        if owner.transport_count > transport_count {
            return;
        }
        owner.transport_count = transport_count;
        if let Some(leave_at_ms) = owner.leave_at_ms.take() {
            self.leaving.remove(&(leave_at_ms, connection_id.into()));
        }
    }

    /// When the first of those leave that were lost, on the monotonic clock.
    pub fn next_leave_ms(&self) -> Option<u64> {
        self.leaving.first().map(|(leave_at_ms, _)| *leave_at_ms)
    }

    /// Members leave whose time has come, of as many connections as it takes for `leaves` of them;
    /// as [`withdraw`](Self::withdraw).
    pub fn withdraw_due(&mut self, now: Now, leaves: usize) -> Vec<Vec<Arc<PresenceMessage>>> {
        let mut left = Vec::new();
        while left.len() < leaves
            && let Some((leave_at_ms, connection_id)) = self.leaving.first()
            && *leave_at_ms <= now.mono_ms
        {
            let connection_id = connection_id.clone();
            left.extend(self.remove_all(now, &connection_id));
        }
        parts(&left).map(<[_]>::to_vec).collect()
    }

    /// The frames of a SYNC with all members, at least one frame. `frame` makes one: it is told how
    /// many bytes of members there are, and what writes the payload.
    pub fn sync(
        &mut self,
        format: Format,
        display_name: &Arc<str>,
        frame: impl Fn(u64, &dyn Fn(&mut Vec<u8>)) -> Bytes,
    ) -> Vec<Bytes> {
        if self.list.is_empty() {
            let write = |out: &mut Vec<u8>| {
                ably::encode_sync(format, display_name, "", std::iter::empty(), out);
            };
            return vec![frame(0, &write)];
        }
        let at = self.rendering(format, display_name);
        let rendering = &mut self.renderings[at];
        let page_count = rendering.pages.len();
        for (index, members) in self.list.chunks(PAGE_MEMBERS).enumerate() {
            let page = &mut rendering.pages[index];
            if page.is_some() {
                continue;
            }
            let parts: Vec<_> = parts(members).collect();
            let frames = parts.iter().enumerate().map(|(part, members)| {
                let is_last = index + 1 == page_count && part + 1 == parts.len();
                let cursor = if is_last { String::new() } else { format!("{index}-{part}") };
                let bytes = members.iter().map(|member| member.size_bytes()).sum();
                frame(bytes, &|out| {
                    let members = members.iter().map(|member| &**member);
                    ably::encode_sync(format, display_name, &cursor, members, out);
                })
            });
            *page = Some(frames.collect());
        }
        let pages = rendering.pages.iter().flatten();
        pages.flatten().cloned().collect()
    }

    /// The place of the pages in that format for that name; they may have gaps.
    fn rendering(&mut self, format: Format, display_name: &Arc<str>) -> usize {
        let is_it =
            |known: &Rendering| known.format == format && known.display_name == *display_name;
        if let Some(at) = self.renderings.iter().position(is_it) {
            return at;
        }
        if self.renderings.len() == RENDERINGS_MAX {
            self.renderings.pop_front();
        }
        let pages = vec![None; self.list.len().div_ceil(PAGE_MEMBERS)];
        let display_name = Arc::clone(display_name);
        self.renderings.push_back(Rendering { format, display_name, pages });
        self.renderings.len() - 1
    }

    /// Reads one page.
    pub fn read(&self, query: &MembersQuery) -> MembersPage {
        let is_after = |key: &MemberKey| query.after.as_ref().is_none_or(|after| key > after);
        let has = |wanted: &Option<Box<str>>, own: &str| {
            wanted.as_ref().is_none_or(|wanted| **wanted == *own)
        };
        let wanted = self.places.iter().filter(|(key, _)| {
            is_after(key) && has(&query.connection_id, &key.0) && has(&query.client_id, &key.1)
        });
        let mut wanted = wanted.map(|(_, &place)| Arc::clone(&self.list[place]));
        let members = wanted.by_ref().take(query.limit).collect();
        MembersPage { members, has_more: wanted.next().is_some() }
    }

    fn get(&self, key: &MemberKey) -> Option<&PresenceMessage> {
        self.places.get(key).map(|&place| &*self.list[place])
    }

    fn put(&mut self, member: Arc<PresenceMessage>) {
        self.bytes += member.size_bytes();
        let key = key(&member);
        if let Some(&place) = self.places.get(&key) {
            let known = std::mem::replace(&mut self.list[place], member);
            self.bytes -= known.size_bytes();
            return self.changed(place);
        }
        self.owners.entry(key.0.clone()).or_default().members += 1;
        self.places.insert(key, self.list.len());
        self.list.push(member);
        self.changed(self.list.len() - 1);
    }

    /// Removes a member that is there; the last of the list takes its place.
    fn remove(&mut self, key: &MemberKey) -> Arc<PresenceMessage> {
        let place = self.places.remove(key).expect("the caller has found it");
        let member = self.list.swap_remove(place);
        self.bytes -= member.size_bytes();
        if let Some(moved) = self.list.get(place) {
            let moved = self::key(moved);
            *self.places.get_mut(&moved).expect("every member has a place") = place;
        }
        self.changed(place);
        self.changed(self.list.len());
        let owner = self.owners.get_mut(&key.0).expect("members have owners");
        owner.members -= 1;
        if owner.members == 0 {
            let owner = self.owners.remove(&key.0).expect("just found");
            if let Some(leave_at_ms) = owner.leave_at_ms {
                self.leaving.remove(&(leave_at_ms, key.0.clone()));
            }
        }
        member
    }

    /// Forgets the encoding of the page of `place`, and of the last one when there is another last.
    fn changed(&mut self, place: usize) {
        let page_count = self.list.len().div_ceil(PAGE_MEMBERS);
        for rendering in &mut self.renderings {
            if rendering.pages.len() != page_count {
                let kept = rendering.pages.len().min(page_count);
                if let Some(last) = kept.checked_sub(1) {
                    rendering.pages[last] = None;
                }
                rendering.pages.resize(page_count, None);
            }
            if let Some(page) = rendering.pages.get_mut(place / PAGE_MEMBERS) {
                *page = None;
            }
        }
        if self.list.is_empty() {
            self.renderings.clear();
        }
    }
}

/// Whether the change brings nothing new: it has an id that the client chose, and clients would find
/// it no newer than what they know (RTP2b2). SDKs enter again like that after each attach (RTP17g).
fn is_repetition(known: &PresenceMessage, change: &PresenceChange) -> bool {
    change.has_chosen_id
        && (known.id.as_deref() == Some(&*change.id)
            || known.is_older_than(&change.id) == Some(false))
}

/// What a member takes after `change`.
fn size_bytes(connection_id: &str, change: &PresenceChange) -> u64 {
    let texts = [&change.encoding, &change.extras].into_iter().flatten();
    let texts = texts.chain([&change.id, &change.client_id]).map(|text| text.len());
    (size_of::<PresenceMessage>() + connection_id.len() + texts.sum::<usize>()) as u64
        + change.data.size_bytes()
}

/// Cuts `messages` into parts that each fit a frame.
fn parts(messages: &[Arc<PresenceMessage>]) -> impl Iterator<Item = &[Arc<PresenceMessage>]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |message: &&Arc<PresenceMessage>| {
            bytes += message.size_bytes();
            bytes <= PAGE_BYTES_MAX
        };
        let count = rest.iter().take(PAGE_MEMBERS).take_while(fits).count();
        let (part, behind) = rest.split_at(count.max(1).min(rest.len()));
        rest = behind;
        (!part.is_empty()).then_some(part)
    })
}

/// What a channel's home knows of presence.
#[derive(Default)]
pub struct Presence {
    /// Who is there.
    pub members: Members,
    /// What has happened.
    pub history: PresenceHistory,
}

impl Presence {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.history.is_empty()
    }
}

/// The recent presence events of one channel, oldest first. `bytes` is the sum of their sizes.
#[derive(Default)]
pub struct PresenceHistory {
    events: VecDeque<Arc<PresenceEvents>>,
    bytes: u64,
}

impl PresenceHistory {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Appends the newest events.
    pub fn push(&mut self, events: Arc<PresenceEvents>) {
        self.bytes += events.size_bytes();
        self.events.push_back(events);
    }

    /// When the one happened in the middle of those that are held.
    pub fn middle_ms(&self) -> Option<u64> {
        super::middle(&self.events).map(|events| events.timestamp_ms)
    }

    /// Gives back what it has had room for and does not need.
    pub fn release_room(&mut self) {
        super::release_room(&mut self.events);
    }

    /// Drops what happened before `oldest_ms`, and the oldest beyond `bytes_max`.
    pub fn trim(&mut self, oldest_ms: u64, bytes_max: u64) {
        while let Some(oldest) = self
            .events
            .pop_front_if(|oldest| oldest.timestamp_ms < oldest_ms || self.bytes > bytes_max)
        {
            self.bytes -= oldest.size_bytes();
        }
    }

    /// Reads one page.
    pub fn read(&self, query: &HistoryQuery) -> PresenceHistoryPage {
        PresenceHistoryPage::read(self.events.iter(), query, HISTORY_PAGE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::ably::{Data, Direction, SerialClock, SeriesId};

    const NOW: Now = Now { mono_ms: 5_000, unix_ms: 1_700_000_000_000 };
    const ROOMY: PresenceConfig = PresenceConfig { members_max: 1_000, bytes_max: 1 << 20 };

    fn later(ms: u64) -> Now {
        Now { mono_ms: NOW.mono_ms + ms, unix_ms: NOW.unix_ms + ms }
    }

    fn change(action: PresenceAction, client_id: &str, data: &str) -> PresenceChange {
        PresenceChange {
            action,
            id: "".into(),
            has_chosen_id: false,
            client_id: client_id.into(),
            data: if data.is_empty() { Data::None } else { Data::Text(data.into()) },
            encoding: None,
            extras: None,
        }
    }

    fn enter(client_id: &str, data: &str) -> PresenceChange {
        change(PresenceAction::Enter, client_id, data)
    }

    fn with_id(id: &str, change: PresenceChange) -> PresenceChange {
        PresenceChange { id: id.into(), has_chosen_id: true, ..change }
    }

    fn request(connection_id: &str, serial: u64, changes: Vec<PresenceChange>) -> PresenceRequest {
        let mut request = PresenceRequest {
            id: format!("{connection_id}:{serial}").into(),
            connection_id: connection_id.into(),
            changes,
        };
        for (index, change) in request.changes.iter_mut().enumerate() {
            if !change.has_chosen_id {
                change.id = format!("{}:{index}", request.id).into();
            }
        }
        request
    }

    type Event = (PresenceAction, Option<String>, String, String);

    fn shown(events: &[Arc<PresenceMessage>]) -> Vec<Event> {
        let event = |event: &Arc<PresenceMessage>| {
            let data = match &event.data {
                Data::Text(text) => text.to_string(),
                _ => String::new(),
            };
            (event.action, event.id.as_deref().map(String::from), event.client_id.to_string(), data)
        };
        events.iter().map(event).collect()
    }

    fn event(action: PresenceAction, id: Option<&str>, client_id: &str, data: &str) -> Event {
        (action, id.map(String::from), client_id.to_owned(), data.to_owned())
    }

    /// Applies one request over the first transport of its connection, within generous bounds.
    fn apply(
        members: &mut Members,
        connection_id: &str,
        serial: u64,
        changes: Vec<PresenceChange>,
    ) -> Vec<Event> {
        let request = request(connection_id, serial, changes);
        let events = members.apply(NOW, &ROOMY, request, 1);
        check(members);
        shown(&events.expect("within bounds"))
    }

    /// Holds the parts of the state against each other.
    fn check(members: &Members) {
        let bytes: u64 = members.list.iter().map(|member| member.size_bytes()).sum();
        assert_eq!(members.bytes, bytes);
        assert_eq!(members.places.len(), members.list.len());
        for (at, member) in members.list.iter().enumerate() {
            assert_eq!(members.places[&key(member)], at);
        }
        let counted: usize = members.owners.values().map(|owner| owner.members).sum();
        assert_eq!(counted, members.list.len());
        let leaving = members.owners.iter().filter_map(|(id, owner)| {
            assert!(owner.members > 0);
            owner.leave_at_ms.map(|at| (at, id.clone()))
        });
        assert_eq!(leaving.collect::<BTreeSet<_>>(), members.leaving);
    }

    fn read(members: &Members) -> Vec<(String, String)> {
        let query = MembersQuery { limit: 1000, ..MembersQuery::default() };
        let page = members.read(&query);
        let names = page.members.iter();
        names
            .map(|member| (member.connection_id.to_string(), member.client_id.to_string()))
            .collect()
    }

    use PresenceAction::{Enter, Leave, Update};

    #[test]
    fn a_member_enters_changes_and_leaves_and_everybody_hears_each_step() {
        let mut members = Members::default();
        let heard = apply(&mut members, "c", 0, vec![enter("ann", "a")]);
        assert_eq!(heard, [event(Enter, Some("c:0:0"), "ann", "a")]);
        // Whoever enters again is heard again: nothing tells that others know already.
        let heard = apply(&mut members, "c", 1, vec![enter("ann", "b")]);
        assert_eq!(heard, [event(Enter, Some("c:1:0"), "ann", "b")]);
        let heard = apply(&mut members, "c", 2, vec![change(Update, "ann", "c")]);
        assert_eq!(heard, [event(Update, Some("c:2:0"), "ann", "c")]);
        assert_eq!(members.len(), 1);
        let heard = apply(&mut members, "c", 3, vec![change(Leave, "ann", "bye")]);
        assert_eq!(heard, [event(Leave, Some("c:3:0"), "ann", "bye")]);
        assert!(members.is_empty());
        assert_eq!(members.connection_count(), 0);
    }

    #[test]
    fn an_update_enters_whoever_is_absent() {
        let mut members = Members::default();
        let heard = apply(&mut members, "c", 0, vec![change(Update, "ann", "a")]);
        assert_eq!(heard, [event(Update, Some("c:0:0"), "ann", "a")]);
        assert_eq!(members.len(), 1);
    }

    #[test]
    fn a_leave_of_nobody_succeeds_and_nobody_hears_of_it() {
        let mut members = Members::default();
        assert_eq!(apply(&mut members, "c", 0, vec![change(Leave, "ann", "x")]), []);
        apply(&mut members, "c", 1, vec![enter("ann", "a")]);
        assert_eq!(apply(&mut members, "d", 0, vec![change(Leave, "ann", "x")]), []);
        assert_eq!(members.len(), 1);
    }

    #[test]
    fn a_leave_without_data_carries_the_last_data() {
        let mut members = Members::default();
        let last = PresenceChange {
            encoding: Some("json".into()),
            extras: Some("{}".into()),
            ..enter("ann", "{}")
        };
        apply(&mut members, "c", 0, vec![last]);
        let leave = request("c", 1, vec![change(Leave, "ann", "")]);
        let heard = members.apply(NOW, &ROOMY, leave, 1).expect("accepted");
        assert_eq!(shown(&heard), [event(Leave, Some("c:1:0"), "ann", "{}")]);
        assert_eq!(heard[0].encoding.as_deref(), Some("json"));
        assert_eq!(heard[0].extras.as_deref(), Some("{}"));
    }

    #[test]
    fn several_members_of_one_request_are_told_together() {
        let mut members = Members::default();
        let changes = vec![enter("ann", "a"), enter("bob", "b"), change(Leave, "ann", "")];
        assert_eq!(
            apply(&mut members, "c", 4, changes),
            [
                event(Enter, Some("c:4:0"), "ann", "a"),
                event(Enter, Some("c:4:1"), "bob", "b"),
                event(Leave, Some("c:4:2"), "ann", "a"),
            ]
        );
        assert_eq!(read(&members), [("c".into(), "bob".into())]);
    }

    #[test]
    fn the_same_client_on_two_connections_is_two_members() {
        let mut members = Members::default();
        apply(&mut members, "c", 0, vec![enter("ann", "a")]);
        apply(&mut members, "d", 0, vec![enter("ann", "b")]);
        assert_eq!(read(&members), [("c".into(), "ann".into()), ("d".into(), "ann".into())]);
        let heard = members.withdraw(NOW, "c");
        assert_eq!(heard.len(), 1);
        assert_eq!(read(&members), [("d".into(), "ann".into())]);
        check(&members);
    }

    #[test]
    fn whoever_enters_again_with_the_id_of_before_is_not_heard() {
        let mut members = Members::default();
        apply(&mut members, "c", 3, vec![enter("ann", "a")]);
        apply(&mut members, "c", 7, vec![change(Update, "ann", "b")]);
        // What others know is at least as new.
        for id in ["c:7:0", "c:3:0", "c:6:9"] {
            assert_eq!(apply(&mut members, "c", 9, vec![with_id(id, enter("ann", "b"))]), []);
        }
        // Ids that nobody has seen are new, whether or not they can be compared.
        for id in ["c:8:0", "chosen"] {
            let heard = apply(&mut members, "c", 9, vec![with_id(id, enter("ann", "c"))]);
            assert_eq!(heard, [event(Enter, Some(id), "ann", "c")]);
        }
        // Nor is an old id of somebody who is absent a repetition.
        let heard = apply(&mut members, "c", 9, vec![with_id("c:0:0", enter("bob", "x"))]);
        assert_eq!(heard, [event(Enter, Some("c:0:0"), "bob", "x")]);
    }

    #[test]
    fn members_of_a_lost_connection_leave_in_time_with_their_last_data_and_no_id() {
        let mut members = Members::default();
        apply(&mut members, "c", 0, vec![enter("ann", "a"), enter("bob", "b")]);
        apply(&mut members, "d", 0, vec![enter("ann", "d")]);
        assert_eq!(members.next_leave_ms(), None);
        members.lose("c", 1, NOW.mono_ms + 15_000);
        members.lose("unknown", 1, NOW.mono_ms + 1);
        check(&members);
        assert_eq!(members.next_leave_ms(), Some(NOW.mono_ms + 15_000));
        assert_eq!(members.withdraw_due(later(14_999), 100), Vec::<Vec<_>>::new());
        let heard = members.withdraw_due(later(15_000), 100);
        assert_eq!(heard.len(), 1);
        assert_eq!(
            shown(&heard[0]),
            [event(Leave, None, "ann", "a"), event(Leave, None, "bob", "b")]
        );
        assert_eq!(heard[0][0].timestamp_ms, NOW.unix_ms + 15_000);
        assert_eq!(read(&members), [("d".into(), "ann".into())]);
        assert_eq!(members.next_leave_ms(), None);
        check(&members);
    }

    #[test]
    fn connections_that_were_lost_together_leave_together_some_at_a_time() {
        let mut members = Members::default();
        for at in 0..150 {
            let id = format!("c{at}");
            apply(&mut members, &id, 0, vec![enter("ann", "")]);
            members.lose(&id, 1, NOW.mono_ms + 15_000);
        }
        let heard = members.withdraw_due(later(15_000), 120);
        assert_eq!(heard.iter().map(Vec::len).collect::<Vec<_>>(), [100, 20]);
        check(&members);
        assert_eq!(members.withdraw_due(later(15_000), 120)[0].len(), 30);
        assert_eq!(members.next_leave_ms(), None);
    }

    #[test]
    fn a_leave_is_never_older_than_what_went_before() {
        let mut members = Members::default();
        let request = request("c", 0, vec![enter("ann", "")]);
        members.apply(later(500), &ROOMY, request, 1).expect("accepted");
        assert_eq!(members.withdraw(NOW, "c")[0][0].timestamp_ms, NOW.unix_ms + 500);
    }

    #[test]
    fn a_connection_that_is_heard_of_stays() {
        let mut members = Members::default();
        let entered = || vec![with_id("c:0:0", enter("ann", "a"))];
        apply(&mut members, "c", 0, entered());
        for hear in [
            |members: &mut Members| members.heard_of("c", 2),
            |members: &mut Members| {
                let again = request("c", 1, vec![with_id("c:0:0", enter("ann", "a"))]);
                let heard = members.apply(NOW, &ROOMY, again, 2);
                assert_eq!(heard, Ok(Vec::new()));
            },
        ] {
            members.lose("c", 2, NOW.mono_ms + 20_000);
            members.lose("c", 2, NOW.mono_ms + 15_000);
            assert_eq!(members.next_leave_ms(), Some(NOW.mono_ms + 15_000));
            check(&members);
            hear(&mut members);
            check(&members);
            assert_eq!(members.next_leave_ms(), None);
            assert!(members.withdraw_due(later(60_000), 100).is_empty());
        }
        assert_eq!(members.len(), 1);
    }

    #[test]
    fn news_of_an_earlier_transport_is_too_late() {
        let mut members = Members::default();
        apply(&mut members, "c", 0, vec![enter("ann", "a")]);
        members.heard_of("c", 2);
        members.lose("c", 1, NOW.mono_ms + 15_000);
        assert_eq!(members.next_leave_ms(), None);
        members.lose("c", 2, NOW.mono_ms + 15_000);
        members.heard_of("c", 1);
        assert_eq!(members.next_leave_ms(), Some(NOW.mono_ms + 15_000));
    }

    #[test]
    fn the_bounds_refuse_the_whole_request_and_nothing_that_does_not_add() {
        let config = PresenceConfig { members_max: 2, bytes_max: 2_000 };
        let mut members = Members::default();
        let mut apply = |serial, changes| {
            let heard = members.apply(NOW, &config, request("c", serial, changes), 1);
            check(&members);
            heard.map(|heard| heard.len()).map_err(|error| error.code.0)
        };
        assert_eq!(apply(0, vec![enter("a", ""), enter("b", ""), enter("c", "")]), Err(91003));
        assert_eq!(apply(1, vec![enter("a", ""), enter("b", ""), enter("a", "")]), Ok(3));
        assert_eq!(apply(2, vec![enter("c", "")]), Err(91003));
        assert_eq!(apply(3, vec![change(Update, "a", "x")]), Ok(1));
        assert_eq!(apply(4, vec![change(Update, "a", &"x".repeat(2_000))]), Err(91006));
        assert_eq!(apply(5, vec![change(Leave, "a", &"x".repeat(2_000))]), Ok(1));
        assert_eq!(apply(6, vec![enter("c", "")]), Ok(1));
        // A change that repeats what is known adds nothing, however full the channel is.
        assert_eq!(apply(7, vec![with_id("c:6:0", enter("c", &"x".repeat(3_000)))]), Ok(0));
    }

    const ROOM: &str = "room";

    /// What the frames of a SYNC say: the cursor of each, and the ids of all members.
    fn synced(
        members: &mut Members,
        encoded: &std::cell::Cell<usize>,
    ) -> (Vec<String>, Vec<String>) {
        let frames = members.sync(Format::Json, &ROOM.into(), |_, write| {
            let mut out = Vec::new();
            write(&mut out);
            encoded.set(encoded.get() + 1);
            out.into()
        });
        let mut cursors = Vec::new();
        let mut ids = Vec::new();
        for frame in frames {
            let value: Value = serde_json::from_slice(&frame).expect("JSON");
            let serial = value["channelSerial"].as_str().expect("a string");
            let (sync_id, cursor) = serial.split_once(':').expect("two parts");
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            assert!(!sync_id.is_empty() && sync_id.bytes().all(is_word), "{sync_id}");
            cursors.push(cursor.to_owned());
            let presence = value["presence"].as_array().expect("an array");
            ids.extend(presence.iter().map(|member| {
                assert_eq!(member["action"], 1);
                member["id"].as_str().expect("a string").to_owned()
            }));
        }
        (cursors, ids)
    }

    #[test]
    fn a_sync_has_pages_of_a_hundred_and_ends_with_an_empty_cursor() {
        let encoded = std::cell::Cell::new(0);
        let mut members = Members::default();
        assert_eq!(synced(&mut members, &encoded), (vec![String::new()], vec![]));
        for (count, cursors) in
            [(1, &[""][..]), (100, &[""]), (101, &["0-0", ""]), (250, &["0-0", "1-0", ""])]
        {
            let changes = (members.len()..count).map(|at| enter(&format!("client{at}"), ""));
            apply(&mut members, "c", count as u64, changes.collect());
            let (seen, mut ids) = synced(&mut members, &encoded);
            assert_eq!(seen, cursors);
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), count);
        }
    }

    #[test]
    fn large_members_make_smaller_pages() {
        let encoded = std::cell::Cell::new(0);
        let mut members = Members::default();
        let data = "x".repeat(30_000);
        for at in 0..5 {
            apply(&mut members, "c", at, vec![enter(&format!("client{at}"), &data)]);
        }
        let (cursors, ids) = synced(&mut members, &encoded);
        assert_eq!(cursors, ["0-0", "0-1", ""]);
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn a_storm_of_joins_encodes_about_one_page_each() {
        let encoded = std::cell::Cell::new(0);
        let join = |members: &mut Members| {
            let frame = |_: u64, _: &dyn Fn(&mut Vec<u8>)| {
                encoded.set(encoded.get() + 1);
                Bytes::new()
            };
            members.sync(Format::Json, &ROOM.into(), frame).len()
        };
        let mut members = Members::default();
        for at in 0..1_000_usize {
            assert_eq!(join(&mut members), at.max(1).div_ceil(PAGE_MEMBERS));
            let asked = request(&format!("c{at}"), 0, vec![enter("ann", "")]);
            members.apply(NOW, &ROOMY, asked, 1).expect("within bounds");
        }
        // The last page, and at times the one that was the last before.
        assert!(encoded.get() <= 1_010, "{} pages", encoded.get());
        encoded.set(0);
        for _ in 0..1_000 {
            assert_eq!(join(&mut members), 10);
        }
        assert_eq!(encoded.get(), 1);
    }

    #[test]
    fn pages_that_are_kept_never_differ_from_new_ones() {
        let encoded = std::cell::Cell::new(0);
        let mut members = Members::default();
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        for serial in 0..1_500 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let client = format!("client{}", random % 320);
            let action = if random >> 32 & 3 == 0 { Leave } else { Enter };
            apply(&mut members, "c", serial, vec![change(action, &client, "")]);
            if serial % 15 == 0 {
                let kept = synced(&mut members, &encoded);
                members.renderings.clear();
                assert_eq!(kept, synced(&mut members, &encoded), "serial={serial}");
            }
        }
        assert!(members.len() > 200);
    }

    #[test]
    fn few_renderings_are_kept_whatever_clients_call_the_channel() {
        let mut members = Members::default();
        apply(&mut members, "c", 0, vec![enter("ann", "")]);
        for at in 0..100 {
            members.sync(Format::Json, &format!("[?x={at}]room").into(), |_, _| Bytes::new());
        }
        assert_eq!(members.renderings.len(), RENDERINGS_MAX);
        members.withdraw(NOW, "c");
        assert!(members.renderings.is_empty());
    }

    #[test]
    fn many_leaves_are_told_in_parts() {
        let mut members = Members::default();
        let changes = (0..250).map(|at| enter(&format!("client{at}"), ""));
        apply(&mut members, "c", 0, changes.collect());
        let heard = members.withdraw(NOW, "c");
        assert_eq!(heard.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        check(&members);
    }

    #[test]
    fn members_are_read_page_by_page_and_filtered() {
        let mut members = Members::default();
        for connection_id in ["c", "d"] {
            apply(&mut members, connection_id, 0, ["x", "y", "z"].map(|at| enter(at, "")).into());
        }
        let mut query = MembersQuery { limit: 4, ..MembersQuery::default() };
        let page = members.read(&query);
        assert_eq!((page.members.len(), page.has_more), (4, true));
        query.after = page.members.last().map(|last| key(last));
        members.withdraw(NOW, "c");
        let page = members.read(&query);
        let names: Vec<_> = page.members.iter().map(|member| &*member.client_id).collect();
        assert_eq!((names, page.has_more), (vec!["y", "z"], false));
        let one = MembersQuery {
            client_id: Some("z".into()),
            connection_id: Some("d".into()),
            limit: 1,
            after: None,
        };
        let page = members.read(&one);
        assert_eq!((page.members.len(), page.has_more), (1, false));
        let none = MembersQuery { connection_id: Some("c".into()), ..one };
        assert!(members.read(&none).members.is_empty());
    }

    #[test]
    fn history_goes_both_ways_and_forgets_what_is_old_or_too_much() {
        let mut history = PresenceHistory::default();
        let mut members = Members::default();
        let mut clock = SerialClock::new(SeriesId::new([7; 10]));
        for serial in 0..10 {
            let now = later(serial * 10);
            let asked = request("c", serial, vec![enter("ann", ""), enter("bob", "")]);
            let messages = members.apply(now, &ROOMY, asked, 1);
            history.push(Arc::new(PresenceEvents {
                channel_serial: clock.next(now.unix_ms),
                id: None,
                timestamp_ms: now.unix_ms,
                messages: messages.expect("accepted"),
            }));
        }
        let ids = |page: &PresenceHistoryPage| -> Vec<String> {
            let ids = page.events.iter().map(|event| event.id.as_deref().expect("has one"));
            ids.map(String::from).collect()
        };
        let mut query = HistoryQuery {
            start_ms: Some(NOW.unix_ms + 10),
            end_ms: Some(NOW.unix_ms + 30),
            direction: Direction::Backwards,
            limit: 4,
            until: None,
            after: None,
        };
        let page = history.read(&query);
        assert_eq!(ids(&page), ["c:3:1", "c:3:0", "c:2:1", "c:2:0"]);
        query.after = page.next;
        let page = history.read(&query);
        assert_eq!(ids(&page), ["c:1:1", "c:1:0"]);
        assert_eq!(page.next, None);
        query = HistoryQuery { direction: Direction::Forwards, after: None, ..query };
        assert_eq!(ids(&history.read(&query)), ["c:1:0", "c:1:1", "c:2:0", "c:2:1"]);
        history.trim(NOW.unix_ms + 20, u64::MAX);
        assert_eq!(ids(&history.read(&query)), ["c:2:0", "c:2:1", "c:3:0", "c:3:1"]);
        let half = history.bytes() / 2;
        history.trim(0, half);
        assert!(history.bytes() <= half && !history.is_empty());
        history.trim(u64::MAX, u64::MAX);
        assert_eq!((history.bytes(), history.is_empty()), (0, true));
    }
}
