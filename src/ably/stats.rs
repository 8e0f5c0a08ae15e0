//! Statistics of one app (16.1, TS12): what is counted, over which intervals of time, and the two shapes in
//! which it is told.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value as Json, json};

use super::json::JsonValue;
use super::{Direction, Format};

/// What `schema` says of the entries.
const SCHEMA: &str = "https://schemas.ably.com/json/app-stats-0.0.5.json";

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One number that is counted; totals are made of these when they are told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        /// Names of the entries, in the order of the counters.
        const NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    /// Messages published over WebSockets.
    InboundRealtimeMessages = "messages.inbound.realtime.messages.count",
    /// Their bytes, as the size limit counts them.
    InboundRealtimeMessageBytes = "messages.inbound.realtime.messages.data",
    /// Presence events over WebSockets.
    InboundRealtimePresence = "messages.inbound.realtime.presence.count",
    /// Their bytes.
    InboundRealtimePresenceBytes = "messages.inbound.realtime.presence.data",
    /// Messages published over REST.
    InboundRestMessages = "messages.inbound.rest.messages.count",
    /// Their bytes.
    InboundRestMessageBytes = "messages.inbound.rest.messages.data",
    /// Presence events over REST.
    InboundRestPresence = "messages.inbound.rest.presence.count",
    /// Their bytes.
    InboundRestPresenceBytes = "messages.inbound.rest.presence.data",
    /// Messages delivered to subscribers, each counted.
    OutboundRealtimeMessages = "messages.outbound.realtime.messages.count",
    /// Their bytes.
    OutboundRealtimeMessageBytes = "messages.outbound.realtime.messages.data",
    /// Presence events delivered to subscribers.
    OutboundRealtimePresence = "messages.outbound.realtime.presence.count",
    /// Their bytes.
    OutboundRealtimePresenceBytes = "messages.outbound.realtime.presence.data",
    /// Messages read over REST.
    OutboundRestMessages = "messages.outbound.rest.messages.count",
    /// Their bytes.
    OutboundRestMessageBytes = "messages.outbound.rest.messages.data",
    /// Presence events read over REST.
    OutboundRestPresence = "messages.outbound.rest.presence.count",
    /// Their bytes.
    OutboundRestPresenceBytes = "messages.outbound.rest.presence.data",
    /// Messages kept beyond the two minutes.
    PersistedMessages = "messages.persisted.messages.count",
    /// Their bytes.
    PersistedMessageBytes = "messages.persisted.messages.data",
    /// Presence events kept beyond the two minutes.
    PersistedPresence = "messages.persisted.presence.count",
    /// Their bytes.
    PersistedPresenceBytes = "messages.persisted.presence.data",
    /// Most connections at one time, on each core.
    ConnectionsPeak = "connections.all.peak",
    /// Connections opened.
    ConnectionsOpened = "connections.all.opened",
    /// Connections refused.
    ConnectionsRefused = "connections.all.refused",
    /// Most channels at one time, on each core.
    ChannelsPeak = "channels.peak",
    /// Channels that became active.
    ChannelsOpened = "channels.opened",
    /// Requests answered as wished.
    RequestsSucceeded = "apiRequests.all.succeeded",
    /// Requests answered with an error.
    RequestsFailed = "apiRequests.all.failed",
    /// Requests refused for a bound.
    RequestsRefused = "apiRequests.all.refused",
    /// Tokens given out.
    TokenRequestsSucceeded = "apiRequests.tokenRequests.succeeded",
    /// Requests for a token answered with an error.
    TokenRequestsFailed = "apiRequests.tokenRequests.failed",
    /// Requests for a token refused for a bound.
    TokenRequestsRefused = "apiRequests.tokenRequests.refused",
}

const COUNT: usize = NAMES.len();

/// The counters of one interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; COUNT]);

impl Default for Tally {
    fn default() -> Tally {
        Tally([0; COUNT])
    }
}

impl Tally {
    /// Counts `more`.
    pub fn add(&mut self, counter: Counter, more: u64) {
        self.0[counter as usize] += more;
    }

    /// Notes that so many were there at one time.
    pub fn peak(&mut self, counter: Counter, level: u64) {
        let most = &mut self.0[counter as usize];
        *most = level.max(*most);
    }

    /// One of the counters.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Adds what was counted elsewhere in the same interval.
    pub fn merge(&mut self, other: &Tally) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own += other);
    }

    /// Adds what was counted in another interval: peaks are the higher one.
    pub fn extend(&mut self, other: &Tally) {
        for (index, (own, other)) in self.0.iter_mut().zip(other.0).enumerate() {
            let is_peak = NAMES[index].ends_with(".peak");
            *own = if is_peak { other.max(*own) } else { *own + other };
        }
    }

    /// Every entry that is not zero, totals too.
    fn entries(&self) -> BTreeMap<&'static str, u64> {
        let mut entries = BTreeMap::new();
        for (totals, value) in TOTALS.iter().zip(self.0).filter(|(_, value)| *value > 0) {
            totals.iter().for_each(|name| *entries.entry(&**name).or_default() += value);
        }
        entries
    }
}

/// The entries that each counter is part of: its own, and `all` of its kind, its way or its direction.
static TOTALS: LazyLock<Vec<Vec<String>>> =
    LazyLock::new(|| NAMES.iter().map(|name| totals(name)).collect());

fn totals(name: &str) -> Vec<String> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["messages", "persisted", kind, measure] => {
            ["all", kind].map(|kind| format!("messages.persisted.{kind}.{measure}")).into()
        }
        ["messages", direction, way, kind, measure] => {
            let mut names = Vec::new();
            for kind in ["all", kind] {
                names.push(format!("messages.all.{kind}.{measure}"));
                for way in ["all", way] {
                    names.push(format!("messages.{direction}.{way}.{kind}.{measure}"));
                }
            }
            names
        }
        _ => vec![name.to_owned()],
    }
}

/// Length of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatsUnit {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day, in UTC.
    Day,
    /// A month, in UTC.
    Month,
}

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

impl StatsUnit {
    /// All of them, shortest first.
    pub const ALL: [StatsUnit; 4] =
        [StatsUnit::Minute, StatsUnit::Hour, StatsUnit::Day, StatsUnit::Month];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            StatsUnit::Minute => "minute",
            StatsUnit::Hour => "hour",
            StatsUnit::Day => "day",
            StatsUnit::Month => "month",
        }
    }

    /// The unit called `name`.
    pub fn parse(name: &str) -> Option<StatsUnit> {
        StatsUnit::ALL.into_iter().find(|unit| unit.name() == name)
    }

    /// When the interval began that `unix_ms` is part of.
    pub fn floor(self, unix_ms: u64) -> u64 {
        match self {
            StatsUnit::Minute => unix_ms - unix_ms % MINUTE_MS,
            StatsUnit::Hour => unix_ms - unix_ms % HOUR_MS,
            StatsUnit::Day => unix_ms - unix_ms % DAY_MS,
            StatsUnit::Month => {
                let (_, _, day) = civil(unix_ms / DAY_MS);
                (unix_ms / DAY_MS - u64::from(day - 1)) * DAY_MS
            }
        }
    }

    /// The name of the interval that `unix_ms` is part of: `2026-02-03:15:03`, or as much of that as the
    /// unit has.
    pub fn interval_id(self, unix_ms: u64) -> String {
        let (year, month, day) = civil(unix_ms / DAY_MS);
        let (hour, minute) = (unix_ms % DAY_MS / HOUR_MS, unix_ms % HOUR_MS / MINUTE_MS);
        match self {
            StatsUnit::Minute => format!("{year:04}-{month:02}-{day:02}:{hour:02}:{minute:02}"),
            StatsUnit::Hour => format!("{year:04}-{month:02}-{day:02}:{hour:02}"),
            StatsUnit::Day => format!("{year:04}-{month:02}-{day:02}"),
            StatsUnit::Month => format!("{year:04}-{month:02}"),
        }
    }
}

/// When the interval called `id` begins, whatever its unit; `None` if it is no interval since 1970.
pub fn parse_interval(id: &str) -> Option<u64> {
    let (date, time) = id.split_once(':').map_or((id, ""), |(date, time)| (date, time));
    let number = |text: &str, len, range: std::ops::RangeInclusive<u64>| {
        let digits = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|value| digits && range.contains(value))
    };
    let has_day = date.len() > "2026-02".len();
    let mut date = date.split('-');
    let year = number(date.next()?, 4, 1970..=9999)?;
    let month = number(date.next()?, 2, 1..=12)?;
    let day = date.next().map_or(Some(1), |day| number(day, 2, 1..=31))?;
    let (hour, minute) = match (time, has_day) {
        ("", _) => (0, 0),
        (time, true) => {
            let (hour, minute) = time.split_once(':').unwrap_or((time, "00"));
            (number(hour, 2, 0..=23)?, number(minute, 2, 0..=59)?)
        }
        (_, false) => return None,
    };
    let day_start = days(year, month, day);
    // 30 February is a day of another month.
    let is_date = civil(day_start) == (year, month as u32, day as u32);
    (is_date && date.next().is_none())
        .then_some(day_start * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS)
}

/// Year, month and day of a day since 1970 (days_from_civil of Howard Hinnant's chrono algorithms).
fn civil(days: u64) -> (u64, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month as u32, day as u32)
}

/// The day since 1970 of a date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Which intervals to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsQuery {
    /// Their length.
    pub unit: StatsUnit,
    /// Beginning of the first one, in milliseconds since the Unix epoch.
    pub start_ms: u64,
    /// Beginning of the last one.
    pub end_ms: u64,
    /// Order of the answer.
    pub direction: Direction,
    /// Intervals per page, 1 to 1,000.
    pub limit: usize,
}

/// An interval, by its beginning, and what was counted in it.
pub type IntervalTally = (u64, Tally);

/// Puts together what the shards have counted: one page, and where the next one begins if more follows.
/// Each part has one interval more than a page, if the shard has.
pub fn merge_stats(
    query: &StatsQuery,
    parts: impl IntoIterator<Item = Vec<IntervalTally>>,
) -> (Vec<IntervalTally>, Option<u64>) {
    let mut merged: BTreeMap<u64, Tally> = BTreeMap::new();
    for (start_ms, tally) in parts.into_iter().flatten() {
        merged.entry(start_ms).or_default().merge(&tally);
    }
    let mut page: Vec<IntervalTally> = merged.into_iter().collect();
    if query.direction == Direction::Backwards {
        page.reverse();
    }
    let next = page.get(query.limit).map(|(start_ms, _)| *start_ms);
    page.truncate(query.limit);
    (page, next)
}

/// How the entries of an interval are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsShape {
    /// One object of names with dots, since protocol version 3.
    Flat,
    /// Objects in objects.
    Nested,
}

/// The body of a page of statistics of the app, at `now_ms`.
pub fn encode_stats(
    format: Format,
    shape: StatsShape,
    app_id: &str,
    unit: StatsUnit,
    page: &[IntervalTally],
    now_ms: u64,
) -> Vec<u8> {
    let items = page.iter().map(|(start_ms, tally)| {
        let mut item = match shape {
            StatsShape::Flat => json!({
                "schema": SCHEMA,
                "appId": app_id,
                "entries": tally.entries(),
            }),
            StatsShape::Nested => nested(tally),
        };
        item["intervalId"] = unit.interval_id(*start_ms).into();
        item["unit"] = unit.name().into();
        if unit.floor(now_ms) == *start_ms {
            item["inProgress"] = StatsUnit::Minute.interval_id(now_ms).into();
        }
        item
    });
    let text = Json::Array(items.collect()).to_string();
    match format {
        Format::Json => text.into_bytes(),
        Format::MsgPack => {
            let mut out = Vec::new();
            JsonValue::of_validated(&text).write_msgpack(&mut out);
            out
        }
    }
}

/// The entries as they were told before version 3: `inbound.realtime.messages.count` is a number in
/// objects in objects.
fn nested(tally: &Tally) -> Json {
    let mut root = Json::Object(Map::new());
    for (name, value) in tally.entries() {
        let name = old_name(name);
        let mut place = &mut root;
        for part in name.split('.') {
            place = &mut place[part];
        }
        *place = value.into();
    }
    root
}

/// The path of an entry before version 3.
fn old_name(name: &str) -> String {
    let name = name.strip_prefix("messages.").unwrap_or(name);
    match name.strip_prefix("apiRequests.") {
        Some(rest) => match rest.strip_prefix("all.") {
            Some(rest) => format!("apiRequests.{rest}"),
            None => rest.to_owned(),
        },
        None => name.to_owned(),
    }
}

/// Reads the JSON text of an interval that a test wants to find (13.4, `POST /stats`): an `intervalId`,
/// and numbers in objects in objects. What is not counted here is left out. `None`: it is no interval.
pub fn read_stats_fixture(text: &str) -> Option<IntervalTally> {
    let item: Json = serde_json::from_str(text).ok()?;
    let start_ms = parse_interval(item.get("intervalId")?.as_str()?)?;
    let number = |path: &str| -> Option<u64> {
        path.split('.').try_fold(&item, |place, part| place.get(part))?.as_u64()
    };
    let mut tally = Tally::default();
    for (value, name) in tally.0.iter_mut().zip(NAMES) {
        let path = old_name(name);
        *value = match path.strip_prefix("connections.all.") {
            // Connections are told apart by their transport there, and nowhere here.
            Some(measure) => ["all", "tls", "plain"]
                .iter()
                .filter_map(|transport| number(&format!("connections.{transport}.{measure}")))
                .sum(),
            None => number(&path).unwrap_or_default(),
        };
    }
    Some((start_ms, tally))
}

/// What of `fixtures` an answer has, interval by interval.
pub fn select_stats(query: &StatsQuery, fixtures: &[IntervalTally]) -> Vec<IntervalTally> {
    let mut selected: BTreeMap<u64, Tally> = BTreeMap::new();
    for (at_ms, tally) in fixtures {
        let start_ms = query.unit.floor(*at_ms);
        if (query.start_ms..=query.end_ms).contains(&start_ms) {
            selected.entry(start_ms).or_default().extend(tally);
        }
    }
    selected.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_named_and_read_back() {
        let ms = 1_770_130_987_654; // 2026-02-03T15:03:07.654Z
        for (unit, id) in [
            (StatsUnit::Minute, "2026-02-03:15:03"),
            (StatsUnit::Hour, "2026-02-03:15"),
            (StatsUnit::Day, "2026-02-03"),
            (StatsUnit::Month, "2026-02"),
        ] {
            assert_eq!(unit.interval_id(ms), id);
            assert_eq!(parse_interval(id), Some(unit.floor(ms)), "{id}");
            assert_eq!(StatsUnit::parse(unit.name()), Some(unit));
        }
        for wrong in [
            "",
            "2026",
            "2026-13",
            "2026-02-30",
            "2026-02:15",
            "2026-02-03:24",
            "1e10",
            "2026-02-03:15:60",
            "2026-02-03-04",
            "0000-01-01",
            "2026-2-3",
        ] {
            assert_eq!(parse_interval(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_day_of_three_centuries_is_its_own_date() {
        for day in 0..110_000 {
            let (year, month, day_of_month) = civil(day);
            assert_eq!(days(year, month.into(), day_of_month.into()), day);
        }
        assert_eq!(civil(19_782), (2024, 2, 29));
    }

    fn tally(counts: &[(Counter, u64)]) -> Tally {
        let mut tally = Tally::default();
        counts.iter().for_each(|(counter, count)| tally.add(*counter, *count));
        tally
    }

    #[test]
    fn totals_are_sums_of_what_was_counted() {
        let tally = tally(&[
            (Counter::InboundRealtimeMessages, 50),
            (Counter::InboundRestMessages, 7),
            (Counter::InboundRealtimePresence, 3),
            (Counter::OutboundRealtimeMessages, 20),
            (Counter::ConnectionsPeak, 9),
        ]);
        let entries = tally.entries();
        for (name, value) in [
            ("messages.inbound.realtime.messages.count", 50),
            ("messages.inbound.realtime.all.count", 53),
            ("messages.inbound.all.messages.count", 57),
            ("messages.inbound.all.all.count", 60),
            ("messages.outbound.all.messages.count", 20),
            ("messages.all.messages.count", 77),
            ("messages.all.all.count", 80),
            ("connections.all.peak", 9),
        ] {
            assert_eq!(entries.get(name), Some(&value), "{name}");
        }
        assert!(!entries.contains_key("messages.persisted.all.count"), "zeros are left out");
    }

    #[test]
    fn shards_add_up_and_later_intervals_raise_the_peak() {
        let first = tally(&[(Counter::ConnectionsPeak, 3), (Counter::ConnectionsOpened, 3)]);
        let second = tally(&[(Counter::ConnectionsPeak, 2), (Counter::ConnectionsOpened, 2)]);
        let (mut here, mut later) = (first.clone(), first);
        here.merge(&second);
        assert_eq!(
            (here.get(Counter::ConnectionsPeak), here.get(Counter::ConnectionsOpened)),
            (5, 5)
        );
        later.extend(&second);
        assert_eq!(later.get(Counter::ConnectionsPeak), 3);
        assert_eq!(later.get(Counter::ConnectionsOpened), 5);
    }

    #[test]
    fn pages_are_cut_from_what_all_shards_have() {
        let one = |starts: &[u64]| -> Vec<IntervalTally> {
            let tally = tally(&[(Counter::RequestsFailed, 1)]);
            starts.iter().map(|start| (*start, tally.clone())).collect()
        };
        let query = |direction| StatsQuery {
            unit: StatsUnit::Minute,
            start_ms: 0,
            end_ms: 100,
            direction,
            limit: 2,
        };
        let (page, next) =
            merge_stats(&query(Direction::Forwards), [one(&[1, 2, 4]), one(&[2, 3])]);
        let counts: Vec<_> = page
            .iter()
            .map(|(start, tally)| (*start, tally.get(Counter::RequestsFailed)))
            .collect();
        assert_eq!((counts, next), (vec![(1, 1), (2, 2)], Some(3)));
        let (page, next) = merge_stats(&query(Direction::Backwards), [one(&[4]), one(&[3])]);
        assert_eq!((page[0].0, page[1].0, next), (4, 3, None));
    }

    #[test]
    fn fixtures_are_read_and_told_in_both_shapes() {
        let text = r#"{"intervalId":"2025-02-03:15:03",
            "inbound":{"realtime":{"messages":{"count":50,"data":5000}}},
            "persisted":{"presence":{"count":20,"data":2000}},
            "connections":{"tls":{"peak":20,"opened":10}},
            "channels":{"peak":50,"opened":30},
            "apiRequests":{"succeeded":50,"failed":10},
            "tokenRequests":{"succeeded":60,"failed":20}}"#;
        let page = [read_stats_fixture(text).expect("an interval")];
        let told = |shape| -> Json {
            let body = encode_stats(Format::Json, shape, "app", StatsUnit::Minute, &page, 0);
            serde_json::from_slice(&body).expect("JSON")
        };
        let flat = &told(StatsShape::Flat)[0];
        assert_eq!(
            (&flat["intervalId"], &flat["unit"]),
            (&json!("2025-02-03:15:03"), &json!("minute"))
        );
        assert_eq!(flat["appId"], "app");
        assert!(flat.get("inProgress").is_none());
        let entries = &flat["entries"];
        assert_eq!(entries["messages.inbound.all.messages.data"], 5000);
        assert_eq!(entries["connections.all.peak"], 20);
        assert_eq!(entries["apiRequests.tokenRequests.failed"], 20);
        let nested = &told(StatsShape::Nested)[0];
        assert_eq!(nested["inbound"]["all"]["messages"]["count"], 50);
        assert_eq!(nested["persisted"]["presence"]["data"], 2000);
        assert_eq!(nested["apiRequests"], json!({"succeeded": 50, "failed": 10}));
        assert_eq!(nested["tokenRequests"]["succeeded"], 60);
        assert_eq!(nested["channels"]["peak"], 50);
        assert_eq!(nested["all"]["all"]["count"], 50);
    }

    #[test]
    fn fixtures_of_one_hour_add_up() {
        let fixture = |minute: &str| {
            let text = format!(
                r#"{{"intervalId":"2025-02-03:15:{minute}","channels":{{"opened":2,"peak":5}}}}"#
            );
            read_stats_fixture(&text).expect("an interval")
        };
        let start_ms = parse_interval("2025-02-03:15").expect("an hour");
        let query = StatsQuery {
            unit: StatsUnit::Hour,
            start_ms,
            end_ms: start_ms,
            direction: Direction::Backwards,
            limit: 1,
        };
        let selected = select_stats(&query, &[fixture("03"), fixture("04")]);
        let [(at_ms, tally)] = &selected[..] else { panic!("{selected:?}") };
        assert_eq!(*at_ms, start_ms);
        assert_eq!(tally.get(Counter::ChannelsOpened), 4);
        assert_eq!(tally.get(Counter::ChannelsPeak), 5);
        for wrong in ["", "1", "{}", r#"{"intervalId":"x"}"#] {
            assert_eq!(read_stats_fixture(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_interval_that_goes_on_says_so() {
        let now_ms = 1_770_130_987_654;
        let page = [(StatsUnit::Hour.floor(now_ms), Tally::default())];
        let encode =
            |format| encode_stats(format, StatsShape::Flat, "app", StatsUnit::Hour, &page, now_ms);
        let body: Json = serde_json::from_slice(&encode(Format::Json)).expect("JSON");
        assert_eq!(body[0]["inProgress"], "2026-02-03:15:03");
        assert_eq!(encode(Format::MsgPack)[0], 0x91, "an array of one");
    }
}
