//! An endpoint that is away for ten minutes, and a process that is killed meanwhile: under a clock of the
//! test's own, with files as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::courier::{Entry, Outcome, Pace, Parcel};
use super::line::Line;
use super::spool::Spool;
use crate::ably::{
    ChannelFilter, ContentType, Format, RequestShape, Rule, RuleEvent, RuleSource, WhenFull,
};
use crate::base::Now;

const CHANNELS: u64 = 20;
const EVENTS: u64 = 9_000;
/// From one event to the next.
const EVERY_MS: u64 = 100;
/// When the endpoint goes away, and when it is back.
const AWAY_MS: std::ops::Range<u64> = 60_000..660_000;
/// When the process is killed: in the middle of the outage, and while it catches up.
const KILLS_MS: [u64; 2] = [400_000, 725_000];

const PACE: Pace = Pace {
    concurrency: 25,
    requests_per_second_max: 0,
    batch_events_max: 1000,
    batch_bytes_max: 1 << 20,
    batch_interval: Duration::from_secs(1),
    retry_for: Duration::from_secs(86_400),
};

/// How an endpoint is away.
#[derive(Clone, Copy)]
enum Away {
    /// Nobody listens.
    Refuses,
    /// Somebody listens and does not answer.
    Hangs,
    /// Something in front of it answers.
    Fails,
}

/// One process after the other, with the endpoint that they send to.
struct Desk {
    directory: PathBuf,
    rule: Arc<Rule>,
    line: Line,
    spool: Option<Spool>,
    now: Now,
    away: Away,
    /// Requests under way with the times of their ends.
    requests: Vec<(u64, Parcel)>,
    /// What the endpoint has got, in order: channel and number of the event there.
    got: Vec<(u64, u64)>,
    /// Requests that have reached nobody.
    failures: usize,
    random: u64,
}

impl Desk {
    fn new(shape: RequestShape, away: Away, seed: u64) -> Desk {
        let name = format!("ringcast-outage-{}-{shape:?}-{seed}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&directory);
        let filter = ChannelFilter::compile("").expect("a filter");
        let (source, full) = (RuleSource::Message, WhenFull::Refuse);
        let rule = Rule::new("r", "app", source, filter, shape, Format::Json, full, 64 << 20);
        let mut desk = Desk {
            directory,
            rule: Arc::new(rule),
            line: Line::new(PACE, seed),
            spool: None,
            now: Now { mono_ms: 0, unix_ms: 1_700_000_000_000 },
            away,
            requests: Vec::new(),
            got: Vec::new(),
            failures: 0,
            random: seed,
        };
        desk.open();
        desk
    }

    /// A process begins, and finds what the one before it has left.
    fn open(&mut self) {
        let (spool, found) = Spool::open(&self.directory, 1 << 30).expect("opens");
        self.line = Line::new(PACE, self.random | 1);
        for (id, stored) in found.events {
            let event = Arc::new(stored.into_event(&self.rule));
            self.line.push(self.now, Entry { id, event });
        }
        self.spool = Some(spool);
    }

    /// The process is gone, in the middle of a write. Of what was under way the endpoint has got some.
    fn kill(&mut self) {
        self.spool = None;
        for (_, parcel) in std::mem::take(&mut self.requests) {
            if self.below(2) == 0 {
                self.take(&parcel);
            }
        }
        let segments = std::fs::read_dir(&self.directory).expect("is there");
        let newest = segments.map(|entry| entry.expect("is there").path()).max_by_key(|path| {
            path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok())
        });
        let mut newest = OpenOptions::new().append(true).open(newest.expect("one")).expect("opens");
        newest.write_all(&[1, 2, 3]).expect("writes");
        self.open();
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % bound
    }

    /// The endpoint gets a request, if it is there.
    fn take(&mut self, parcel: &Parcel) -> bool {
        let is_there = !AWAY_MS.contains(&self.now.mono_ms);
        if is_there {
            self.got.extend(parcel.entries.iter().map(|entry| {
                let text = std::str::from_utf8(&entry.event.body).expect("text");
                let (channel, number) = text.split_once(' ').expect("two numbers");
                (channel.parse().expect("a number"), number.parse().expect("a number"))
            }));
        }
        is_there
    }

    fn publish(&mut self, id: u64) {
        let channel = self.below(CHANNELS);
        let body = Bytes::from(format!("{channel} {id}"));
        let (name, content_type) = (format!("channel-{channel}"), ContentType::Text);
        let at_ms = self.now.unix_ms;
        let rule = Arc::clone(&self.rule);
        let event = RuleEvent::new(rule, &name, at_ms, content_type, body, Vec::new());
        let spool = self.spool.as_mut().expect("the process lives");
        spool.append([(id, &event)]).expect("writes");
        self.line.push(self.now, Entry { id, event: Arc::new(event) });
    }

    /// Ends the requests whose time has come, and begins those that may.
    fn turn(&mut self) {
        let now_ms = self.now.mono_ms;
        let ended = self.requests.extract_if(.., |(end_ms, _)| *end_ms <= now_ms);
        for (_, parcel) in ended.collect::<Vec<_>>() {
            let outcome = match self.take(&parcel) {
                true => Outcome::Delivered,
                false => {
                    self.failures += 1;
                    Outcome::Failed { retry_after: None }
                }
            };
            let (finished, _) = self.line.handle_outcome(self.now, parcel, outcome);
            assert!(finished.iter().all(|finished| finished.given_up.is_none()), "none is lost");
            let ids: Vec<u64> = finished.iter().map(|finished| finished.entry.id).collect();
            self.spool.as_mut().expect("the process lives").finish(&ids).expect("writes");
        }
        while let Some(parcel) = self.line.poll_parcel(self.now) {
            let lasts_ms = match self.away {
                _ if !AWAY_MS.contains(&now_ms) => 1 + self.below(20),
                Away::Refuses => 0,
                Away::Fails => 30,
                Away::Hangs => 10_000,
            };
            self.requests.push((now_ms + lasts_ms.max(1), parcel));
        }
    }

    /// Lets time pass up to `until_ms`.
    fn pass(&mut self, until_ms: u64) {
        loop {
            self.turn();
            let next = self.line.next_timeout(self.now, false);
            let next = next.into_iter().chain(self.requests.iter().map(|(end_ms, _)| *end_ms));
            let next_ms = next.min().map_or(until_ms, |next_ms| next_ms.max(self.now.mono_ms + 1));
            let next_ms = next_ms.min(until_ms);
            self.now.unix_ms += next_ms - self.now.mono_ms;
            self.now.mono_ms = next_ms;
            if next_ms == until_ms {
                return self.turn();
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn outage(shape: RequestShape, away: Away, seed: u64) {
    let mut desk = Desk::new(shape, away, seed);
    let mut kills = KILLS_MS.into_iter().peekable();
    let mut waited = 0;
    for id in 0..EVENTS {
        desk.pass(id * EVERY_MS);
        if kills.next_if(|at_ms| *at_ms <= desk.now.mono_ms).is_some() {
            desk.kill();
        }
        desk.publish(id);
        waited = waited.max(desk.line.len());
        let is_long_back = desk.now.mono_ms > AWAY_MS.end + 120_000;
        assert!(!is_long_back || desk.line.len() < 50, "it catches up: {}", desk.line.len());
    }
    desk.pass(EVENTS * EVERY_MS + 10_000);
    assert_eq!(desk.line.len(), 0);
    assert!(waited >= 5_900, "ten minutes of events had to wait: {waited}");
    // Whoever is away is not besieged: a request a minute, about, once that is clear.
    let besieged = 25 * 5 + 40;
    assert!(desk.failures <= besieged, "{}", desk.failures);

    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    let mut repeated = 0;
    for &(channel, number) in &desk.got {
        if !seen.insert(number) {
            repeated += 1;
            continue;
        }
        let before = last.insert(channel, number);
        assert!(
            before.is_none_or(|before| before < number),
            "channel {channel}: {before:?}, {number}"
        );
    }
    assert_eq!(seen.len() as u64, EVENTS, "every event, seed {seed}");
    let at_once = if shape == RequestShape::Batch { 1000 } else { 25 };
    assert!(
        repeated <= KILLS_MS.len() * at_once,
        "only what was under way comes twice: {repeated}"
    );
}

#[test]
fn ten_minutes_away_and_two_kills_cost_no_event_and_no_order_one_by_one() {
    for (seed, away) in [Away::Refuses, Away::Hangs, Away::Fails].into_iter().enumerate() {
        outage(RequestShape::Enveloped, away, seed as u64 + 1);
    }
}

#[test]
fn ten_minutes_away_and_two_kills_cost_no_event_and_no_order_in_batches() {
    for (seed, away) in [Away::Refuses, Away::Hangs, Away::Fails].into_iter().enumerate() {
        outage(RequestShape::Batch, away, seed as u64 + 1);
    }
}
