//! A journal on a disk that fails when told to, and ends at any moment.

use super::*;
use crate::sim::{Disk, EIO, ENOSPC};

const NOW: Now = Now { mono_ms: 0, unix_ms: 1_800_000_000_000 };

fn home(channel: &str, shards: usize) -> usize {
    channel.len() % shards
}

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 4096,
        waiting_bytes_max: 2048,
        retention: Duration::from_secs(3600),
        bytes_max: 1 << 30,
    }
}

/// Starts a journal on what a disk holds; `start` tells starts apart.
fn start(disk: &Disk, start: u8, now: Now) -> (Journal, Vec<Damage>) {
    let mut recovery = Recovery::new(1, home);
    disk.files.iter().for_each(|(id, data)| recovery.add(*id, data));
    let (mut recovered, _, damage) = recovery.finish(now.unix_ms);
    let key = (SeriesId::new([start; 10]), u32::from(start));
    let mut journal = Journal::new(config(), (0, 1), key, recovered.remove(0), now);
    journal.number_from(disk.files.keys().next_back().map_or(0, |id| id.number + 1));
    (journal, damage)
}

fn settle(journal: &mut Journal, disk: &mut Disk) {
    while let Some(command) = journal.poll_command() {
        let done = disk.execute(command);
        journal.handle_done(done);
    }
}

fn serial(journal: &Journal, time_ms: u64) -> ChannelSerial {
    ChannelSerial::from_parts(time_ms, 0, journal.series).expect("a counter")
}

/// Appends an event of `channel` whose body is its time.
fn append(journal: &mut Journal, channel: &str, time_ms: u64, wants_sync: bool) -> u64 {
    let body = [&time_ms.to_le_bytes()[..], &[b'x'; 200]].concat();
    let serial = serial(journal, time_ms);
    let (messages, timestamp_ms) = (1, time_ms);
    let event = Event { channel, serial, timestamp_ms, messages, is_awaited: true, body: &body };
    journal.append(&event, wants_sync)
}

fn all(channel: &str) -> Query {
    Query {
        channel: channel.into(),
        after: None,
        until: None,
        start_ms: 0,
        end_ms: u64::MAX,
        direction: Direction::Forwards,
        messages_max: u32::MAX,
        bytes_max: u64::MAX,
    }
}

fn read(journal: &mut Journal, disk: &mut Disk, query: Query) -> Answer {
    let number = journal.read(query).expect("few ask");
    settle(journal, disk);
    let answer = journal.poll_answer().expect("answered");
    assert_eq!(answer.query, number);
    answer
}

fn times(answer: &Answer) -> Vec<u64> {
    let bodies = answer.events.iter().map(|event| *event.body.first_chunk().expect("a time"));
    let times: Vec<u64> = bodies.map(u64::from_le_bytes).collect();
    assert!(times.iter().zip(&answer.events).all(|(time, event)| event.serial.time_ms() == *time));
    times
}

#[test]
fn what_is_appended_between_two_turns_is_one_write() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=5 {
        append(&mut journal, "app:room", time_ms, false);
    }
    settle(&mut journal, &mut disk);
    assert_eq!(journal.progress(Safety::Written), 5);
    assert_eq!((journal.counters().writes, journal.counters().syncs), (1, 0));
    let lsn = append(&mut journal, "app:room", 6, true);
    let Some(Command::Write { .. }) = journal.poll_command() else { panic!("a write") };
    append(&mut journal, "app:room", 7, true);
    append(&mut journal, "app:room", 8, true);
    assert_eq!(journal.poll_command(), None, "one write at a time");
    assert!(journal.progress(Safety::Written) < lsn);
    let segment = *disk.files.keys().next_back().expect("made");
    journal.handle_done(Done::Written(segment, Ok(())));
    assert_eq!(journal.progress(Safety::Written), lsn);
    assert!(journal.progress(Safety::Synced) < lsn);
}

#[test]
fn a_burst_over_several_segments_that_are_not_made_yet_is_written() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=50 {
        append(&mut journal, "app:room", time_ms, time_ms % 7 == 0);
    }
    let Some(create @ Command::Create { .. }) = journal.poll_command() else { panic!("a file") };
    assert_eq!(journal.poll_command(), None, "one file at a time");
    journal.handle_done(disk.execute(create));
    settle(&mut journal, &mut disk);
    assert!(disk.files.len() > 2, "{}", disk.files.len());
    assert_eq!((journal.progress(Safety::Written), journal.progress(Safety::Synced)), (50, 50));
    let answer = read(&mut journal, &mut disk, all("app:room"));
    assert!(times(&answer).into_iter().eq(1..=50) && answer.is_complete);
}

#[test]
fn events_are_read_back_across_segments_in_both_directions() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=100 {
        append(&mut journal, ["app:room", "app:other"][time_ms as usize % 2], time_ms, false);
        settle(&mut journal, &mut disk);
    }
    assert!(disk.files.len() > 5, "{}", disk.files.len());
    let answer = read(&mut journal, &mut disk, all("app:room"));
    assert!(answer.is_complete && !answer.is_damaged);
    assert_eq!(times(&answer), (1..=50).map(|half| half * 2).collect::<Vec<_>>());
    let after = Some(serial(&journal, 40));
    let until = Some(serial(&journal, 46));
    let between = read(&mut journal, &mut disk, Query { after, until, ..all("app:room") });
    assert_eq!(times(&between), [42, 44, 46]);
    let young = Query { start_ms: 95, end_ms: 98, ..all("app:room") };
    assert_eq!(times(&read(&mut journal, &mut disk, young)), [96, 98]);
    let direction = Direction::Backwards;
    let latest = Query { messages_max: 3, direction, ..all("app:room") };
    let latest = read(&mut journal, &mut disk, latest);
    assert!(!latest.is_complete && latest.events.len() < 30);
    assert!(times(&latest).ends_with(&[96, 98, 100]));
    assert!(read(&mut journal, &mut disk, all("app:nobody")).events.is_empty());
}

#[test]
fn a_new_start_finds_everything_and_knows_whether_the_end_was_clean() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=30 {
        append(&mut journal, "app:room", time_ms, false);
        settle(&mut journal, &mut disk);
    }
    let old = journal.series;
    let killed = disk.clone();
    for (is_clean, mut disk) in [(false, killed), (true, disk)] {
        if is_clean {
            assert!(!journal.end());
            settle(&mut journal, &mut disk);
            assert!(journal.end());
        }
        let (mut next, damage) = start(&disk, 2, NOW);
        assert!(damage.is_empty());
        assert!(next.knows(old) && next.knows(next.series));
        assert!(!next.knows(SeriesId::new([9; 10])));
        assert_eq!(
            times(&read(&mut next, &mut disk, all("app:room"))),
            (1..=30).collect::<Vec<_>>()
        );
        assert_eq!(next.floor("app:room", false).time_ms(), 0, "it was awaited");
        let unawaited = next.floor("app:nobody", false).time_ms();
        assert_eq!(unawaited, if is_clean { 0 } else { NOW.unix_ms });
        append(&mut next, "app:room", 31, true);
        settle(&mut next, &mut disk);
        assert_eq!(next.progress(Safety::Synced), 1);
        assert_eq!(read(&mut next, &mut disk, all("app:room")).events.len(), 31);
    }
}

#[test]
fn a_torn_end_loses_what_was_not_written_and_nothing_else() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=12 {
        append(&mut journal, "app:room", time_ms, false);
    }
    settle(&mut journal, &mut disk);
    let last = *disk.files.keys().next_back().expect("made");
    let whole = disk.files[&last].clone();
    let mut before = 12;
    for end in (journal.header_bytes as usize..whole.len()).rev() {
        disk.files.insert(last, whole[..end].to_vec());
        let (mut next, damage) = start(&disk, 2, NOW);
        assert!(damage.iter().all(|damage| damage.kind == DamageKind::Torn), "{end}");
        let found = times(&read(&mut next, &mut disk, all("app:room")));
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "{end}");
        assert!(found.len() == before || found.len() + 1 == before, "{end}");
        before = found.len();
        assert_eq!(next.floor("app:room", true).time_ms(), 0, "{end}");
    }
}

#[test]
fn a_segment_whose_last_record_ends_in_zeros_is_whole() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=40 {
        let serial = serial(&journal, time_ms);
        let body = [&time_ms.to_le_bytes()[..], &[0; 200]].concat();
        let (channel, timestamp_ms) = ("app:room", time_ms);
        let event =
            Event { channel, serial, timestamp_ms, messages: 1, is_awaited: true, body: &body };
        journal.append(&event, false);
        settle(&mut journal, &mut disk);
    }
    assert!(disk.files.len() > 2);
    let (next, damage) = start(&disk, 2, NOW);
    assert!(damage.is_empty(), "{damage:?}");
    assert_eq!(next.floor("app:room", true).time_ms(), 0);
}

#[test]
fn damage_in_the_middle_is_told_and_never_served() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=20 {
        append(&mut journal, "app:room", time_ms, false);
        settle(&mut journal, &mut disk);
    }
    let first = *disk.files.keys().next().expect("made");
    for at in (journal.header_bytes as usize + 40..disk.files[&first].len()).step_by(7) {
        let mut damaged = disk.clone();
        damaged.files.get_mut(&first).expect("made")[at] ^= 0x10;
        // Found when it starts: whoever was before it cannot go on.
        let (mut next, damage) = start(&damaged, 2, NOW);
        assert_eq!(damage.len(), 1, "{at}: {damage:?}");
        assert_eq!(damage[0].kind, DamageKind::Corrupt, "{at}");
        let found = times(&read(&mut next, &mut damaged, all("app:room")));
        assert_eq!(found.len(), 19, "{at}");
        let missing = (1..=20).find(|time| !found.contains(time)).expect("one");
        assert!(next.floor("app:room", true).time_ms() >= missing, "{at}");
        // Found when it reads.
        let (mut next, damage) = start(&disk, 2, NOW);
        assert!(damage.is_empty());
        let answer = read(&mut next, &mut damaged, all("app:room"));
        assert!(answer.is_damaged && answer.events.len() == 19, "{at}");
        assert!(matches!(next.poll_notice(), Some(Notice::Unreadable(id, None)) if id == first));
    }
    let header = disk.files.get_mut(&first).expect("made");
    header[12] ^= 1;
    let (next, damage) = start(&disk, 2, NOW);
    assert_eq!(damage.iter().filter(|damage| damage.from == 0).count(), 1);
    assert!(next.floor("app:room", true).time_ms() > 0);
}

#[test]
fn a_full_disk_refuses_before_it_loses_and_recovers() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    journal.set_wanted(true);
    journal.handle_timeout(NOW);
    settle(&mut journal, &mut disk);
    disk.full = true;
    let mut accepted = 0;
    while journal.check().is_ok() {
        accepted += 1;
        assert!(accepted < 100);
        append(&mut journal, "app:room", accepted, true);
        settle(&mut journal, &mut disk);
    }
    assert_eq!(journal.check(), Err(Refusal::Failing));
    assert_eq!(journal.poll_notice(), Some(Notice::Failing(ENOSPC)));
    // What was accepted had its space.
    assert_eq!(journal.progress(Safety::Synced), accepted);
    let mut now = NOW;
    for _ in 0..5 {
        now.mono_ms += RETRY_MS;
        journal.handle_timeout(now);
        settle(&mut journal, &mut disk);
        assert_eq!(journal.check(), Err(Refusal::Failing));
    }
    assert_eq!(journal.poll_notice(), None, "said once");
    disk.full = false;
    now.mono_ms += RETRY_MS;
    journal.handle_timeout(now);
    settle(&mut journal, &mut disk);
    assert_eq!((journal.check(), journal.poll_notice()), (Ok(()), Some(Notice::Recovered)));
    append(&mut journal, "app:room", accepted + 1, true);
    settle(&mut journal, &mut disk);
    let (mut next, damage) = start(&disk, 2, now);
    assert!(damage.is_empty(), "{damage:?}");
    let found = times(&read(&mut next, &mut disk, all("app:room")));
    assert_eq!(found, (1..=accepted + 1).collect::<Vec<_>>());
}

/// Lets a second go by on a disk.
fn pass(journal: &mut Journal, disk: &mut Disk, now: &mut Now) {
    now.mono_ms += 1000;
    journal.handle_timeout(*now);
    settle(journal, disk);
}

#[test]
fn what_cannot_be_kept_is_given_up_in_time_and_nobody_finds_it() {
    // A write fails, or a synchronisation of what is written.
    for (is_sync, errors) in [(false, 0), (true, 0), (false, 2), (true, 3)] {
        let mut disk = Disk::default();
        let mut now = NOW;
        let (mut journal, _) = start(&disk, 1, NOW);
        append(&mut journal, "app:room", 1, is_sync);
        append(&mut journal, "app:other", 2, false);
        settle(&mut journal, &mut disk);
        append(&mut journal, "app:room", 3, is_sync);
        append(&mut journal, "app:other", 4, false);
        let body = [&5u64.to_le_bytes()[..], &[b'x'; 200]].concat();
        let serial = serial(&journal, 5);
        let loose = Event {
            channel: "app:loose",
            serial,
            timestamp_ms: 5,
            messages: 1,
            is_awaited: false,
            body: &body,
        };
        journal.append(&loose, false);
        let is_for_good = errors == 0;
        let count = if is_for_good { 1000 } else { errors };
        let first = usize::from(is_sync);
        disk.errors = (0..count).map(|at| (at >= first).then_some(EIO)).collect();
        settle(&mut journal, &mut disk);
        assert_eq!(journal.check(), Err(Refusal::Failing));
        let since_ms = now.mono_ms;
        let mut given_up = Vec::new();
        while given_up.is_empty() && now.mono_ms < since_ms + UNCERTAIN_MS_MAX + 2 * RETRY_MS {
            pass(&mut journal, &mut disk, &mut now);
            given_up.extend(journal.take_given_up().into_iter().flatten());
        }
        let numbers: Vec<u64> = given_up.iter().map(|it| it.number).collect();
        let expected: &[u64] = match (is_for_good, is_sync) {
            // A disk that is well again in time keeps all.
            (false, _) => &[],
            // What others were told is written stays, and what nobody waits for.
            (true, true) => &[3],
            (true, false) => &[3, 4],
        };
        assert_eq!(numbers, expected, "{is_sync} {errors}");
        if is_for_good {
            assert!(now.mono_ms <= since_ms + UNCERTAIN_MS_MAX + RETRY_MS);
            assert_eq!(journal.check(), Err(Refusal::Failing));
            disk.errors.clear();
            pass(&mut journal, &mut disk, &mut now);
        }
        assert_eq!(journal.check(), Ok(()), "{is_sync} {errors}");
        assert!(journal.is_written());
        assert_eq!(journal.gauges().waiting_bytes, 0);
        append(&mut journal, "app:room", 6, is_sync);
        settle(&mut journal, &mut disk);
        assert_eq!(journal.progress(Safety::Synced), 6);
        let (mut next, _) = start(&disk, 2, now);
        for journal in [&mut journal, &mut next] {
            for channel in ["app:room", "app:other", "app:loose"] {
                let own: &[u64] = match channel {
                    "app:room" => &[1, 3, 6],
                    "app:other" => &[2, 4],
                    _ => &[5],
                };
                let own = own.iter().filter(|it| !expected.contains(it));
                let found = times(&read(journal, &mut disk, all(channel)));
                assert_eq!(found, own.copied().collect::<Vec<_>>(), "{is_sync} {errors}");
            }
        }
    }
}

#[test]
fn what_was_given_up_is_not_there_after_a_kill_either() {
    let mut disk = Disk::default();
    let mut now = NOW;
    let (mut journal, _) = start(&disk, 1, NOW);
    append(&mut journal, "app:room", 1, false);
    settle(&mut journal, &mut disk);
    for time_ms in 2..=5 {
        append(&mut journal, "app:room", time_ms, false);
    }
    // Half of the write is there.
    disk.errors = [Some(EIO)].into();
    disk.full = true;
    settle(&mut journal, &mut disk);
    for _ in 0..4 {
        pass(&mut journal, &mut disk, &mut now);
    }
    assert_eq!(journal.take_given_up().map(|it| it.len()), Some(4));
    let (mut next, damage) = start(&disk, 2, now);
    assert!(damage.iter().all(|it| it.from == 0), "{damage:?}");
    assert_eq!(times(&read(&mut next, &mut disk, all("app:room"))), [1]);
}

#[test]
fn nothing_more_waits_than_may() {
    let (mut journal, _) = start(&Disk::default(), 1, NOW);
    let mut count = 0;
    while journal.check().is_ok() {
        count += 1;
        append(&mut journal, "app:room", count, false);
    }
    assert_eq!(journal.check(), Err(Refusal::Behind));
    let bytes = journal.gauges().waiting_bytes;
    assert!((2048..2600).contains(&bytes), "{bytes}");
}

/// Random events, errors, ends of the process and of the host: what was confirmed is there once and in
/// order, whatever happened.
#[test]
fn what_was_confirmed_survives_in_order_and_once() {
    for seed in 1..=400u64 {
        let mut random = seed;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let mut disk = Disk::default();
        let mut now = NOW;
        let (mut time_ms, mut starts) = (0, 0);
        let mut confirmed: Vec<u64> = Vec::new();
        for _ in 0..4 {
            starts += 1;
            let (mut journal, _) = start(&disk, starts, now);
            let found = times(&read(&mut journal, &mut disk, all("app:room")));
            assert!(found.is_sorted_by(|one, other| one < other), "seed={seed} {found:?}");
            for time in &confirmed {
                assert!(found.contains(time), "seed={seed} start={starts} {time} {found:?}");
            }
            let (mut waiting, mut under_way) = (VecDeque::new(), Vec::new());
            let wants_sync = below(2) == 0;
            let safety = if wants_sync { Safety::Synced } else { Safety::Written };
            let has_errors = below(2) == 0;
            for _ in 0..200 {
                match below(5) {
                    0 | 1 if journal.check().is_ok() => {
                        time_ms += 1 + below(3);
                        waiting.push_back((
                            append(&mut journal, "app:room", time_ms, wants_sync),
                            time_ms,
                        ));
                    }
                    2 => {
                        now.mono_ms += below(700);
                        journal.handle_timeout(now);
                    }
                    3 => under_way.extend(journal.poll_command()),
                    _ if !under_way.is_empty() => {
                        let command = under_way.swap_remove(below(under_way.len() as u64) as usize);
                        let error = if below(2) == 0 { EIO } else { ENOSPC };
                        disk.errors = [(has_errors && below(4) == 0).then_some(error)].into();
                        let done = disk.execute(command);
                        journal.handle_done(done);
                    }
                    _ => {}
                }
                let given_up: Vec<u64> =
                    journal.take_given_up().iter().flatten().map(|it| it.number).collect();
                waiting.retain(|(lsn, _)| !given_up.contains(lsn));
                let progress = journal.progress(safety);
                while let Some((_, time)) = waiting.pop_front_if(|(lsn, _)| *lsn <= progress) {
                    confirmed.push(time);
                }
            }
            if below(2) == 0 {
                // A disk that is well again takes all that it has missed.
                disk.errors.clear();
                for _ in 0..4 {
                    for command in std::mem::take(&mut under_way) {
                        let done = disk.execute(command);
                        journal.handle_done(done);
                    }
                    settle(&mut journal, &mut disk);
                    now.mono_ms += RETRY_MS;
                    journal.handle_timeout(now);
                }
                let given_up: Vec<u64> =
                    journal.take_given_up().iter().flatten().map(|it| it.number).collect();
                waiting.retain(|(lsn, _)| !given_up.contains(lsn));
                assert_eq!(journal.check(), Ok(()), "seed={seed}");
                assert!(journal.is_written(), "seed={seed}");
                assert_eq!(journal.progress(safety), journal.appended, "seed={seed}");
                assert_eq!(journal.gauges().waiting_bytes, 0, "seed={seed}");
                confirmed.extend(waiting.drain(..).map(|(_, time)| time));
            }
            // The host ends, and takes with it what it had not synchronised; or the process alone.
            if wants_sync {
                disk.lose_power(&mut below);
            }
            under_way.into_iter().for_each(|command| disk.tear(command, &mut below));
            // What is there by now stays, whatever the next start loses.
            disk.synced = disk.files.iter().map(|(id, data)| (*id, data.len())).collect();
        }
        assert!(seed > 1 || !confirmed.is_empty());
    }
}

#[test]
fn old_and_many_segments_go_and_continuity_with_them() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=100 {
        append(&mut journal, "app:room", NOW.unix_ms + time_ms, false);
        settle(&mut journal, &mut disk);
    }
    let files = disk.files.len();
    journal.config.bytes_max = 3 * 4096;
    let mut now = NOW;
    let mut pass = |journal: &mut Journal, disk: &mut Disk, ms: u64| {
        now.mono_ms += ms;
        now.unix_ms += ms;
        journal.handle_timeout(now);
        settle(journal, disk);
    };
    pass(&mut journal, &mut disk, 1000);
    assert!(disk.files.len() < files && disk.files.len() <= 5, "{}", disk.files.len());
    assert!(journal.gauges().disk_bytes <= 3 * 4096);
    let answer = read(&mut journal, &mut disk, all("app:room"));
    let oldest = answer.events[0].serial;
    let floor = journal.floor("app:room", true);
    assert!(floor < oldest && floor > serial(&journal, NOW.unix_ms), "{floor} {oldest}");
    // As the next start sees it.
    let (next, _) = start(&disk, 2, NOW);
    assert_eq!(next.floor("app:room", true).time_ms(), floor.time_ms());
    pass(&mut journal, &mut disk, 3_700_000);
    pass(&mut journal, &mut disk, 1000);
    assert!(disk.files.len() <= 2, "{}", disk.files.len());
}

#[test]
fn every_shard_begins_with_its_own_channels_whoever_wrote_them() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=20 {
        append(&mut journal, ["app:even", "app:odd"][time_ms as usize % 2], time_ms, false);
        settle(&mut journal, &mut disk);
    }
    let mut recovery = Recovery::new(2, home);
    disk.files.iter().for_each(|(id, data)| recovery.add(*id, data));
    let (recovered, events, damage) = recovery.finish(NOW.unix_ms);
    assert_eq!((events, damage.len()), (20, 0));
    for (shard, recovered) in (0..).zip(recovered) {
        let key = (SeriesId::new([2; 10]), 2);
        let mut journal = Journal::new(config(), (shard, 2), key, recovered, NOW);
        let own = ["app:even", "app:odd"][usize::from(shard)];
        assert_eq!(read(&mut journal, &mut disk, all(own)).events.len(), 10);
        let other = ["app:odd", "app:even"][usize::from(shard)];
        assert!(!journal.has(other));
        assert_eq!(journal.gauges().disk_bytes > 0, shard == 0, "of what it has to remove");
    }
}

#[test]
fn a_segment_that_has_lost_its_header_is_a_gap() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=60 {
        append(&mut journal, "app:room", NOW.unix_ms + time_ms, false);
        settle(&mut journal, &mut disk);
    }
    let end = Now { unix_ms: NOW.unix_ms + 3_600_000, ..NOW };
    let ids: Vec<SegmentId> = disk.files.keys().copied().collect();
    for id in ids {
        let mut damaged = disk.clone();
        damaged.files.get_mut(&id).expect("one of them")[20] ^= 1;
        let (mut next, damage) = start(&damaged, 2, end);
        assert_eq!(damage, [Damage { segment: id, from: 0, kind: DamageKind::Corrupt }]);
        let kept = times(&read(&mut next, &mut damaged, all("app:room")));
        let floor_ms = next.floor("app:room", true).time_ms();
        let is_kept = |time_ms: &u64| kept.contains(time_ms);
        let lost =
            (1..=60).map(|time_ms| NOW.unix_ms + time_ms).filter(|time_ms| !is_kept(time_ms));
        let last = lost.max();
        assert!(last.is_none_or(|last| floor_ms >= last), "{id:?}: {last:?} {floor_ms}");
        // One that was made and not used yet has lost nothing.
        assert_eq!(last.is_some(), floor_ms >= NOW.unix_ms, "{id:?}: {floor_ms}");
    }
}

#[test]
fn a_start_that_was_killed_before_it_wrote_is_not_complete() {
    for is_orderly in [false, true] {
        let mut disk = Disk::default();
        let (mut journal, _) = start(&disk, 1, NOW);
        journal.set_wanted(true);
        journal.handle_timeout(NOW);
        settle(&mut journal, &mut disk);
        assert_eq!(disk.files.len(), 1);
        if is_orderly {
            assert!(!journal.end());
            settle(&mut journal, &mut disk);
            assert!(journal.end());
        } else {
            // Told to whom it concerns and never written.
            let serial = serial(&journal, 1);
            let event = Event {
                channel: "app:loose",
                serial,
                timestamp_ms: 1,
                messages: 1,
                is_awaited: false,
                body: b"told",
            };
            journal.append(&event, false);
        }
        let (next, _) = start(&disk, 2, NOW);
        let floor_ms = next.floor("app:loose", false).time_ms();
        assert_eq!(floor_ms, if is_orderly { 0 } else { NOW.unix_ms });
        assert_eq!(next.floor("app:kept", true).time_ms(), 0);
    }
}
