//! What is counted for each app on this shard (16.1); put together with the other shards' when it is
//! asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ably::{Counter, Direction, IntervalTally, StatsQuery, StatsUnit, Tally};

/// Intervals that are kept of each unit: a day of minutes, a month of hours, a year of days, ten of months.
const INTERVALS_MAX: [(StatsUnit, usize); 4] = [
    (StatsUnit::Minute, 1440),
    (StatsUnit::Hour, 744),
    (StatsUnit::Day, 366),
    (StatsUnit::Month, 120),
];

/// The counters of every app that has counted something.
#[derive(Default)]
pub(super) struct Stats {
    apps: HashMap<Arc<str>, AppStats>,
}

#[derive(Default)]
struct AppStats {
    /// The minute that goes on, by its beginning.
    minute_ms: u64,
    minute: Tally,
    /// Now open; peaks are made of these.
    connections: u64,
    channels: u64,
    /// What ended minutes have added up to.
    past: BTreeMap<(StatsUnit, u64), Tally>,
}

impl Stats {
    /// The counters of `app_id` for the minute of `now_ms`.
    pub fn of(&mut self, app_id: &str, now_ms: u64) -> &mut Tally {
        &mut self.app(app_id, now_ms).minute
    }

    /// A connection of the app was opened.
    pub fn connection_opened(&mut self, app_id: &str, now_ms: u64) {
        let app = self.app(app_id, now_ms);
        app.connections += 1;
        app.minute.add(Counter::ConnectionsOpened, 1);
        app.minute.peak(Counter::ConnectionsPeak, app.connections);
    }

    /// A connection of the app has got another transport, here.
    pub fn connection_resumed(&mut self, app_id: &str, now_ms: u64) {
        let app = self.app(app_id, now_ms);
        app.connections += 1;
        app.minute.peak(Counter::ConnectionsPeak, app.connections);
    }

    /// A connection of the app has lost its transport, or has ended.
    pub fn connection_closed(&mut self, app_id: &str, now_ms: u64) {
        let app = self.app(app_id, now_ms);
        // None was opened since the app was forgotten.
        app.connections = app.connections.saturating_sub(1);
    }

    /// A channel of the app has become active.
    pub fn channel_opened(&mut self, app_id: &str, now_ms: u64) {
        let app = self.app(app_id, now_ms);
        app.channels += 1;
        app.minute.add(Counter::ChannelsOpened, 1);
        app.minute.peak(Counter::ChannelsPeak, app.channels);
    }

    /// A channel of the app, which was opened here, was forgotten.
    pub fn channel_closed(&mut self, app_id: &str, now_ms: u64) {
        let app = self.app(app_id, now_ms);
        app.channels = app.channels.saturating_sub(1);
    }

    /// Forgets the apps that are gone.
    pub fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.apps.retain(|app_id, _| is_known(app_id));
    }

    /// The first intervals of an answer, one more than a page has if there are as many.
    pub fn read(&mut self, app_id: &str, now_ms: u64, query: &StatsQuery) -> Vec<IntervalTally> {
        if !self.apps.contains_key(app_id) {
            return Vec::new();
        }
        let app = self.app(app_id, now_ms);
        // A cursor may lie behind the end that was asked for.
        if query.start_ms > query.end_ms {
            return Vec::new();
        }
        let range = (query.unit, query.start_ms)..=(query.unit, query.end_ms);
        let past = app.past.range(range).map(|((_, start_ms), tally)| (*start_ms, tally));
        let current_ms = query.unit.floor(app.minute_ms);
        let is_current = (query.start_ms..=query.end_ms).contains(&current_ms);
        let current = is_current.then_some((current_ms, &app.minute));
        let mut read: BTreeMap<u64, Tally> = BTreeMap::new();
        for (start_ms, tally) in past.chain(current) {
            if *tally != Tally::default() {
                read.entry(start_ms).or_default().extend(tally);
            }
        }
        let count = query.limit + 1;
        match query.direction {
            Direction::Forwards => read.into_iter().take(count).collect(),
            Direction::Backwards => read.into_iter().rev().take(count).collect(),
        }
    }

    /// The app, with the minute that has ended since put away.
    fn app(&mut self, app_id: &str, now_ms: u64) -> &mut AppStats {
        // Looked up twice, as an entry would need a key of its own each time.
        if !self.apps.contains_key(app_id) {
            self.apps.insert(app_id.into(), AppStats::default());
        }
        let app = self.apps.get_mut(app_id).expect("inserted above");
        let minute_ms = StatsUnit::Minute.floor(now_ms);
        if app.minute_ms != minute_ms {
            app.put_away(minute_ms);
        }
        app
    }
}

impl AppStats {
    /// Ends the minute, and begins that of `minute_ms`.
    fn put_away(&mut self, minute_ms: u64) {
        let ended = std::mem::take(&mut self.minute);
        let ended_ms = std::mem::replace(&mut self.minute_ms, minute_ms);
        // Who stays has been there in the new minute too.
        self.minute.peak(Counter::ConnectionsPeak, self.connections);
        self.minute.peak(Counter::ChannelsPeak, self.channels);
        if ended == Tally::default() {
            return;
        }
        for (unit, intervals_max) in INTERVALS_MAX {
            self.past.entry((unit, unit.floor(ended_ms))).or_default().extend(&ended);
            let of_unit = (unit, 0)..=(unit, u64::MAX);
            if self.past.range(of_unit.clone()).count() > intervals_max {
                let (&oldest, _) = self.past.range(of_unit).next().expect("more than none");
                self.past.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    /// Midnight of some first of January, long after 1970.
    const START: u64 = 1_767_225_600_000;

    fn read(
        stats: &mut Stats,
        now_ms: u64,
        unit: StatsUnit,
        direction: Direction,
    ) -> Vec<(u64, u64)> {
        let query = StatsQuery { unit, start_ms: 0, end_ms: u64::MAX, direction, limit: 1000 };
        let read = stats.read("app", now_ms, &query);
        read.iter().map(|(at, tally)| (at - START, tally.get(Counter::RequestsSucceeded))).collect()
    }

    #[test]
    fn a_page_that_begins_behind_its_end_is_empty() {
        let mut stats = Stats::default();
        stats.of("app", START).add(Counter::RequestsSucceeded, 1);
        stats.of("app", START + MINUTE).add(Counter::RequestsSucceeded, 1);
        for direction in [Direction::Forwards, Direction::Backwards] {
            let (start_ms, end_ms, unit) = (START + 1, START, StatsUnit::Minute);
            let query = StatsQuery { unit, start_ms, end_ms, direction, limit: 1000 };
            assert!(stats.read("app", START + MINUTE, &query).is_empty());
        }
    }

    #[test]
    fn minutes_add_up_to_hours_and_those_that_go_on_count() {
        let mut stats = Stats::default();
        for minute in [0, 0, 1, 61] {
            stats.of("app", START + minute * MINUTE).add(Counter::RequestsSucceeded, 1);
        }
        let now = START + 61 * MINUTE;
        let minutes = read(&mut stats, now, StatsUnit::Minute, Direction::Forwards);
        assert_eq!(minutes, [(0, 2), (MINUTE, 1), (61 * MINUTE, 1)]);
        let hours = read(&mut stats, now, StatsUnit::Hour, Direction::Backwards);
        assert_eq!(hours, [(60 * MINUTE, 1), (0, 3)]);
        assert_eq!(read(&mut stats, now, StatsUnit::Month, Direction::Forwards), [(0, 4)]);
        let other = StatsQuery {
            unit: StatsUnit::Day,
            start_ms: 0,
            end_ms: u64::MAX,
            direction: Direction::Forwards,
            limit: 1,
        };
        assert!(stats.read("other", now, &other).is_empty());
    }

    #[test]
    fn peaks_last_as_long_as_their_connections() {
        let mut stats = Stats::default();
        let peak = |stats: &mut Stats, now| stats.of("app", now).get(Counter::ConnectionsPeak);
        stats.connection_opened("app", START);
        stats.connection_opened("app", START);
        stats.connection_closed("app", START);
        assert_eq!(peak(&mut stats, START), 2);
        assert_eq!(peak(&mut stats, START + MINUTE), 1);
        stats.connection_closed("app", START + MINUTE);
        assert_eq!(peak(&mut stats, START + 2 * MINUTE), 0);
    }

    #[test]
    fn the_oldest_minutes_are_forgotten_and_their_hours_are_not() {
        let mut stats = Stats::default();
        for minute in 0..1500 {
            stats.of("app", START + minute * MINUTE).add(Counter::RequestsSucceeded, 1);
        }
        let now = START + 1500 * MINUTE;
        let minutes = read(&mut stats, now, StatsUnit::Minute, Direction::Forwards);
        assert_eq!(minutes.first(), Some(&(60 * MINUTE, 1)));
        let days = read(&mut stats, now, StatsUnit::Day, Direction::Forwards);
        assert_eq!(days, [(0, 1440), (1440 * MINUTE, 60)]);
    }
}
