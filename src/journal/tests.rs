//! A journal on a disk that fails when told to, and ends at any moment.

use super::failure::UNCERTAIN_MS_MAX;
use super::seal::Seal;
use super::*;
use crate::ably::Direction;
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
        index_bytes_max: 1 << 30,
    }
}

/// Starts a journal on what a disk holds; `start` tells starts apart.
fn start(disk: &Disk, start: u8, now: Now) -> (Journal, Vec<Damage>) {
    let mut recovery = Recovery::new(1, home, disk.boot);
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
    let awaits = Some(if wants_sync { Safety::Synced } else { Safety::Written });
    let event = Event { channel, serial, timestamp_ms, messages, awaits, body: &body };
    journal.append(&event)
}

fn all(channel: &str) -> Query {
    Query::all_of(channel.into())
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
        assert_eq!(next.floor("app:room", Some(Safety::Written)).time_ms(), 0, "it was awaited");
        let unawaited = next.floor("app:nobody", None).time_ms();
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
        assert_eq!(next.floor("app:room", Some(Safety::Written)).time_ms(), 0, "{end}");
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
        let (messages, awaits) = (1, Some(Safety::Written));
        let event = Event { channel, serial, timestamp_ms, messages, awaits, body: &body };
        journal.append(&event);
        settle(&mut journal, &mut disk);
    }
    assert!(disk.files.len() > 2);
    let (next, damage) = start(&disk, 2, NOW);
    assert!(damage.is_empty(), "{damage:?}");
    assert_eq!(next.floor("app:room", Some(Safety::Written)).time_ms(), 0);
}

/// Cuts off what seals the segments of a disk, as if there had been no time for it.
fn without_seals(disk: &Disk) -> Disk {
    let mut disk = disk.clone();
    for data in disk.files.values_mut() {
        data.truncate(records_end(data));
    }
    disk
}

/// Where the records of a segment end that its seal is about.
fn records_end(data: &[u8]) -> usize {
    let (header, _) = Header::of_file(data).expect("a segment");
    let tail = &data[data.len().saturating_sub(Seal::BYTES)..];
    Seal::of_file(&header, tail, data.len() as u64).map_or(data.len(), |seal| seal.at as usize)
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
    let unsealed = without_seals(&disk);
    for at in (journal.header_bytes as usize + 40..unsealed.files[&first].len()).step_by(7) {
        let mut damaged = unsealed.clone();
        damaged.files.get_mut(&first).expect("made")[at] ^= 0x10;
        // Found when it starts: whoever was before it cannot go on.
        let (mut next, damage) = start(&damaged, 2, NOW);
        assert_eq!(damage.len(), 1, "{at}: {damage:?}");
        assert_eq!(damage[0].kind, DamageKind::Corrupt, "{at}");
        let found = times(&read(&mut next, &mut damaged, all("app:room")));
        assert_eq!(found.len(), 19, "{at}");
        let missing = (1..=20).find(|time| !found.contains(time)).expect("one");
        assert!(next.floor("app:room", Some(Safety::Written)).time_ms() >= missing, "{at}");
        // Found when it reads.
        let (mut next, damage) = start(&unsealed, 2, NOW);
        assert!(damage.is_empty());
        let answer = read(&mut next, &mut damaged, all("app:room"));
        assert!(answer.is_damaged && answer.events.len() == 19, "{at}");
        assert!(matches!(next.poll_notice(), Some(Notice::Unreadable(id, None)) if id == first));
    }
    let header = disk.files.get_mut(&first).expect("made");
    header[12] ^= 1;
    let (next, damage) = start(&disk, 2, NOW);
    assert_eq!(damage.iter().filter(|damage| damage.from == 0).count(), 1);
    assert!(next.floor("app:room", Some(Safety::Written)).time_ms() > 0);
}

#[test]
fn damage_to_a_sealed_segment_is_told_to_who_goes_on_from_before_it() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=40 {
        append(&mut journal, ["app:room", "app:other"][time_ms as usize % 2], time_ms, false);
        settle(&mut journal, &mut disk);
    }
    let first = *disk.files.keys().next().expect("made");
    let whole = disk.files[&first].clone();
    let end = records_end(&whole);
    assert!(end < whole.len(), "it is sealed");
    for at in journal.header_bytes as usize..whole.len() {
        let mut damaged = disk.clone();
        damaged.files.get_mut(&first).expect("made")[at] ^= 0x10;
        let (mut next, damage) = start(&damaged, 2, NOW);
        assert_eq!(damage, [], "{at}");
        assert_eq!(next.floor("app:room", Some(Safety::Written)).time_ms(), 0, "{at}");
        let mut missing = Vec::new();
        for channel in ["app:room", "app:other"] {
            let found = times(&read(&mut next, &mut damaged, all(channel)));
            let own = (1..=40).filter(|time| time % 2 == u64::from(channel == "app:other"));
            let lost: Vec<u64> = own.filter(|time| !found.contains(time)).collect();
            for &time in &lost {
                let after = Some(serial(&journal, time).preceding());
                let answer = read(&mut next, &mut damaged, Query { after, ..all(channel) });
                assert!(answer.is_damaged, "{at}: {channel} {time}");
            }
            missing.extend(lost);
        }
        // The beginning of the segment says nothing that is needed when it is sealed, nor does the seal when
        // the records can be read.
        let is_event = (journal.header_bytes as usize + 29..end).contains(&at);
        assert_eq!(missing.len(), usize::from(is_event), "{at}: {missing:?}");
        assert!(missing.is_empty() || next.poll_notice().is_some(), "{at}");
    }
}

#[test]
fn a_start_finds_the_same_with_seals_and_without_and_reads_little() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=400 {
        let channel = format!("app:{}", time_ms % 5);
        append(&mut journal, &channel, time_ms, time_ms % 3 == 0);
        settle(&mut journal, &mut disk);
    }
    let bytes: u64 = disk.files.values().map(|data| data.len() as u64).sum();
    assert_eq!(journal.gauges().disk_bytes, bytes, "with all seals");
    let unsealed = without_seals(&disk);
    let files: Vec<SegmentId> = disk.files.keys().copied().collect();
    let sealed = files.iter().filter(|id| disk.files[id] != unsealed.files[id]).count();
    assert!(sealed + 2 >= files.len() && sealed > 10, "{sealed} of {}", files.len());
    // What a start reads, and what it would have sealed.
    let read_of = |disk: &Disk| {
        let (mut recovery, mut bytes, mut again) =
            (Recovery::new(1, home, disk.boot), 0, disk.clone());
        for (id, data) in &disk.files {
            let added = recovery.add_file(*id, data.len() as u64, |at, count| {
                let rest = &data[at as usize..];
                bytes += count.min(rest.len());
                Ok::<_, ()>(rest[..count.min(rest.len())].to_vec())
            });
            if let Ok(Added::Read { seal: Some((at, seal)) }) = added {
                let file = again.files.get_mut(id).expect("one of them");
                file.truncate(at as usize);
                file.extend_from_slice(&seal);
            }
        }
        (recovery.finish(NOW.unix_ms), bytes, again)
    };
    let ((mut with, events, damage), bytes, _) = read_of(&disk);
    let ((mut without, events_without, damage_without), bytes_without, sealed_by_start) =
        read_of(&unsealed);
    assert_eq!((events, events_without, damage, damage_without), (400, 400, vec![], vec![]));
    assert!(bytes * 5 < bytes_without, "{bytes} of {bytes_without}");
    // Bit by bit the same seal, whoever made it.
    for id in &files[..files.len() - 2] {
        assert!(disk.files[id] == sealed_by_start.files[id], "{id:?}");
    }
    let key = |start: u8| (SeriesId::new([start; 10]), u32::from(start));
    let mut with = Journal::new(config(), (0, 1), key(2), with.remove(0), NOW);
    let mut without = Journal::new(config(), (0, 1), key(2), without.remove(0), NOW);
    assert_eq!(with.gauges().index_entries, without.gauges().index_entries);
    assert_eq!(with.reached_ms, without.reached_ms);
    for channel in ["app:0", "app:1", "app:2", "app:3", "app:4"] {
        assert_eq!(with.newest(channel), without.newest(channel));
        let served = times(&read(&mut with, &mut disk, all(channel)));
        assert_eq!(served, times(&read(&mut without, &mut disk, all(channel))));
        assert_eq!(served.len(), 80);
    }
}

#[test]
fn a_seal_that_is_torn_or_cannot_be_written_costs_nothing_but_time() {
    for is_torn in [false, true] {
        let mut disk = Disk::default();
        let (mut journal, _) = start(&disk, 1, NOW);
        let (mut time_ms, mut seals) = (0, 0);
        while seals < 3 {
            time_ms += 1;
            append(&mut journal, "app:room", time_ms, false);
            while let Some(command) = journal.poll_command() {
                let is_seal = matches!(&command, Command::Write { .. })
                    && journal.sealing.as_ref().is_some_and(|it| it.stage == Stage::Writing)
                    && journal.writing.is_none();
                seals += usize::from(is_seal);
                if is_seal && is_torn && seals == 3 {
                    // The process ends here.
                    disk.tear(command, &mut |below| below / 2);
                    break;
                }
                disk.errors = [is_seal.then_some(ENOSPC)].into();
                journal.handle_done(disk.execute(command));
            }
        }
        assert_eq!((journal.check(), journal.poll_notice()), (Ok(()), None));
        let (mut next, damage) = start(&disk, 2, NOW);
        assert!(damage.iter().all(|it| it.kind == DamageKind::Torn), "{damage:?}");
        assert!(is_torn || damage.is_empty());
        assert_eq!(next.floor("app:room", Some(Safety::Written)).time_ms(), 0);
        let found = times(&read(&mut next, &mut disk, all("app:room")));
        assert!(found.len() as u64 >= time_ms - 1, "{found:?}");
        assert!(found.iter().copied().eq(1..=found.len() as u64));
    }
}

#[test]
fn a_file_that_is_gone_from_the_middle_is_told() {
    let mut disk = Disk::default();
    let mut now = NOW;
    // Some starts, each of which leaves a segment that was made and not used.
    for number in 1..=3u8 {
        let (mut journal, damage) = start(&disk, number, now);
        assert_eq!(damage, []);
        for _ in 0..30 {
            now.unix_ms += 1000;
            append(&mut journal, "app:room", now.unix_ms, false);
            settle(&mut journal, &mut disk);
        }
        now.unix_ms += 1000;
    }
    let ids: Vec<SegmentId> = disk.files.keys().copied().collect();
    let (mut journal, _) = start(&disk, 9, now);
    let written = times(&read(&mut journal, &mut disk, all("app:room")));
    for id in &ids {
        let mut damaged = disk.clone();
        damaged.files.remove(id);
        let (mut next, damage) = start(&damaged, 9, now);
        let kept = times(&read(&mut next, &mut damaged, all("app:room")));
        let lost: Vec<u64> = written.iter().filter(|it| !kept.contains(it)).copied().collect();
        let floor_ms = next.floor("app:room", Some(Safety::Written)).time_ms();
        let Some(last) = lost.last() else {
            assert_eq!((damage, floor_ms), (vec![], 0), "it was not used");
            continue;
        };
        assert!(floor_ms >= *last, "{id:?}: {last} {floor_ms}");
        let missing = Damage { segment: *id, from: 0, kind: DamageKind::Missing };
        // The oldest goes first in any case.
        assert!(damage == [missing] || *id == ids[0], "{id:?}: {damage:?}");
        // The start after that knows it as well, although it has not seen what was lost.
        append(&mut next, "app:room", now.unix_ms, false);
        settle(&mut next, &mut damaged);
        let later = Now { unix_ms: now.unix_ms + 1000, ..now };
        let (next, _) = start(&damaged, 10, later);
        assert!(next.floor("app:room", Some(Safety::Written)).time_ms() >= *last, "{id:?}");
    }
    // What has gone with age is not missed.
    let (mut journal, _) = start(&disk, 9, now);
    journal.config.bytes_max = 3 * 4096;
    now.mono_ms += SWEEP_MS;
    journal.handle_timeout(now);
    settle(&mut journal, &mut disk);
    assert!(disk.files.len() < ids.len() - 3);
    assert_eq!(start(&disk, 10, now).1, []);
}

#[test]
fn segments_of_the_version_before_are_read() {
    let data = include_bytes!("version_1.log");
    let id = SegmentId { shard: 0, number: 0 };
    let mut disk = Disk { files: [(id, data.to_vec())].into(), ..Disk::default() };
    for round in 0..2 {
        let mut recovery = Recovery::new(1, home, disk.boot);
        let bytes = disk.files[&id].len() as u64;
        let added = recovery.add_file(id, bytes, |at, count| {
            let rest = &disk.files[&id][at as usize..];
            Ok::<_, ()>(rest[..count.min(rest.len())].to_vec())
        });
        let (mut recovered, events, damage) = recovery.finish(NOW.unix_ms);
        assert_eq!((events, damage), (3, vec![]));
        let key = (SeriesId::new([2; 10]), 2);
        let mut journal = Journal::new(config(), (0, 1), key, recovered.remove(0), NOW);
        let answer = read(&mut journal, &mut disk, all("app:kept:a"));
        let serials = answer.events.iter().map(|event| event.serial.to_string());
        let expected = ["01795653616435-001", "01795653616501-000", "01795653616552-000"];
        assert!(serials.eq(expected.map(|serial| format!("{serial}@68gwnstzkz"))));
        assert_eq!(journal.floor("app:kept:a", None).time_ms(), 0, "it has ended in order");
        match added {
            Ok(Added::Read { seal: Some((at, seal)) }) if round == 0 => {
                let file = disk.files.get_mut(&id).expect("put there above");
                file.truncate(at as usize);
                file.extend_from_slice(&seal);
            }
            Ok(Added::Sealed) if round == 1 => {}
            other => panic!("{round}: {other:?}"),
        }
    }
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
            awaits: None,
            body: &body,
        };
        journal.append(&loose);
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
        // Something that was written alone may be gone with the host.
        let mut may_lack = false;
        for _ in 0..4 {
            starts += 1;
            let (mut journal, _) = start(&disk, starts, now);
            let found = times(&read(&mut journal, &mut disk, all("app:room")));
            assert!(found.is_sorted_by(|one, other| one < other), "seed={seed} {found:?}");
            if may_lack {
                confirmed.retain(|time| found.contains(time));
                let floor_ms = journal.floor("app:room", Some(Safety::Written)).time_ms();
                assert_eq!(floor_ms, now.unix_ms, "seed={seed} start={starts}");
            }
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
            may_lack = !wants_sync && !disk.files.is_empty() && below(3) == 0;
            if wants_sync || may_lack {
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
    let floor = journal.floor("app:room", Some(Safety::Written));
    assert!(floor < oldest && floor > serial(&journal, NOW.unix_ms), "{floor} {oldest}");
    // As the next start sees it.
    let (next, _) = start(&disk, 2, NOW);
    assert_eq!(next.floor("app:room", Some(Safety::Written)).time_ms(), floor.time_ms());
    pass(&mut journal, &mut disk, 3_700_000);
    pass(&mut journal, &mut disk, 1000);
    assert!(disk.files.len() <= 2, "{}", disk.files.len());
}

#[test]
fn what_went_with_age_is_no_gap_for_who_goes_on_from_behind_it() {
    let at = |ms: u64| Now { mono_ms: ms, unix_ms: NOW.unix_ms + ms };
    let make = |journal: &mut Journal, disk: &mut Disk, now: Now| {
        journal.set_wanted(true);
        journal.handle_timeout(now);
        settle(journal, disk);
    };
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    append(&mut journal, "app:room", NOW.unix_ms + 1, false);
    make(&mut journal, &mut disk, at(1));
    // Three starts in which nothing is published, each of them killed.
    for (number, ms) in [(2, 2), (3, 1_800_000), (4, 3_000_000)] {
        make(&mut start(&disk, number, at(ms)).0, &mut disk, at(ms));
    }
    let (mut fifth, _) = start(&disk, 5, at(3_500_000));
    assert_eq!(fifth.floor("app:room", Some(Safety::Written)).time_ms(), 0);
    make(&mut fifth, &mut disk, at(3_500_000));
    make(&mut fifth, &mut disk, at(3_700_000));
    assert!(read(&mut fifth, &mut disk, all("app:room")).events.is_empty());
    let went = NOW.unix_ms + 1;
    assert_eq!(fifth.floor("app:room", Some(Safety::Written)).time_ms(), went);
    let (sixth, damage) = start(&disk, 6, at(3_700_001));
    assert_eq!((sixth.floor("app:room", Some(Safety::Written)).time_ms(), damage), (went, vec![]));
}

#[test]
fn an_index_beyond_its_bound_takes_the_oldest_segments_with_it() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    journal.config.index_bytes_max = 4096;
    let index_bytes = |journal: &Journal| {
        journal.segments.keys().map(|id| journal.index.bytes_of(*id)).sum::<u64>()
    };
    let mut now = NOW;
    for time_ms in 1..=200 {
        // Every event is of another channel.
        append(&mut journal, &format!("app:{time_ms}"), NOW.unix_ms + time_ms, false);
        settle(&mut journal, &mut disk);
        if time_ms % 10 == 0 {
            now = Now { mono_ms: now.mono_ms + 1000, unix_ms: now.unix_ms + 1000 };
            journal.handle_timeout(now);
            settle(&mut journal, &mut disk);
            // One segment at most is more than fits, since they go as a whole.
            assert!(index_bytes(&journal) <= 4096 + 2048, "{}", index_bytes(&journal));
        }
    }
    assert!(journal.gauges().index_entries < 60, "{}", journal.gauges().index_entries);
    assert!(!journal.has("app:1") && journal.has("app:200"));
    let floor = journal.floor("app:200", Some(Safety::Synced));
    assert!(floor > serial(&journal, NOW.unix_ms), "{floor}");
    // The next start reads all that is left, and keeps to the bound as well.
    append(&mut journal, "app:201", NOW.unix_ms + 201, false);
    settle(&mut journal, &mut disk);
    let (mut next, _) = start(&disk, 2, now);
    next.config.index_bytes_max = 1024;
    assert!(next.has("app:201"));
    next.handle_timeout(Now { mono_ms: now.mono_ms + 1000, ..now });
    assert!(index_bytes(&next) <= 1024, "{}", index_bytes(&next));
}

#[test]
fn every_shard_begins_with_its_own_channels_whoever_wrote_them() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    for time_ms in 1..=20 {
        append(&mut journal, ["app:even", "app:odd"][time_ms as usize % 2], time_ms, false);
        settle(&mut journal, &mut disk);
    }
    let mut recovery = Recovery::new(2, home, disk.boot);
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
        let floor_ms = next.floor("app:room", Some(Safety::Written)).time_ms();
        let is_kept = |time_ms: &u64| kept.contains(time_ms);
        let lost =
            (1..=60).map(|time_ms| NOW.unix_ms + time_ms).filter(|time_ms| !is_kept(time_ms));
        let last = lost.max();
        assert!(last.is_none_or(|last| floor_ms >= last), "{id:?}: {last:?} {floor_ms}");
        // One that was made and not used yet has lost nothing.
        assert_eq!(last.is_some(), floor_ms >= NOW.unix_ms, "{id:?}: {floor_ms}");
    }
}

/// The start of a journal on each of some shards, with as many of the journals before.
fn start_all(disk: &Disk, shards: u16, start: u8, now: Now) -> Vec<Journal> {
    let mut recovery = Recovery::new(shards.into(), home, disk.boot);
    disk.files.iter().for_each(|(id, data)| recovery.add(*id, data));
    let begin = |(shard, recovered): (u16, Recovered)| {
        let key = (SeriesId::new([4 * start + shard as u8; 10]), u32::from(start));
        let mut journal = Journal::new(config(), (shard, shards), key, recovered, now);
        journal.number_from(disk.next_number(shard));
        journal
    };
    (0..).zip(recovery.finish(now.unix_ms).0).map(begin).collect()
}

#[test]
fn what_an_end_of_the_host_may_have_taken_is_told_by_what_was_waited_for() {
    let levels = [None, Some(Safety::Written), Some(Safety::Synced)];
    let names = ["app:loose", "app:written", "app:synced"];
    let floors = |journal: &Journal| {
        [0, 1, 2].map(|level| journal.floor(names[level], levels[level]).time_ms())
    };
    let later = |ms| Now { unix_ms: NOW.unix_ms + ms, ..NOW };
    for (is_orderly, is_of_host) in [(false, false), (false, true), (true, true)] {
        let mut disk = Disk::default();
        let mut first = start_all(&disk, 1, 1, NOW).remove(0);
        for (channel, awaits) in names.into_iter().zip(levels) {
            let serial = serial(&first, NOW.unix_ms + 1);
            let (timestamp_ms, messages, body) = (NOW.unix_ms + 1, 1, &b"told"[..]);
            first.append(&Event { channel, serial, timestamp_ms, messages, awaits, body });
        }
        settle(&mut first, &mut disk);
        if is_orderly {
            first.end();
            settle(&mut first, &mut disk);
        }
        if is_of_host {
            disk.lose_power(&mut |bound| bound - 1);
        }
        let second = start_all(&disk, 1, 2, later(10)).remove(0);
        let end_ms = NOW.unix_ms + 9;
        let expected = match (is_orderly, is_of_host) {
            (true, _) => [0, 0, 0],
            (false, false) => [end_ms, 0, 0],
            (false, true) => [end_ms, end_ms, 0],
        };
        assert_eq!(floors(&second), expected, "{is_orderly} {is_of_host}");
        assert_eq!(second.past.has_host_ended, is_of_host && !is_orderly);
        // Nor is more of it gone for any later start, whatever that one is on.
        let mut second = second;
        append(&mut second, "app:other", NOW.unix_ms + 11, false);
        settle(&mut second, &mut disk);
        second.end();
        settle(&mut second, &mut disk);
        disk.lose_power(&mut |bound| bound - 1);
        let third = start_all(&disk, 1, 3, later(20)).remove(0);
        assert_eq!(floors(&third), expected, "{is_orderly} {is_of_host}");
        assert!(!third.past.has_host_ended);
    }
}

#[test]
fn a_start_on_fewer_shards_vouches_for_what_the_others_have_left() {
    let mut disk = Disk::default();
    let write = |disk: &mut Disk, shards, start, ms, is_orderly: bool| {
        let now = Now { unix_ms: NOW.unix_ms + ms, ..NOW };
        let mut journals = start_all(disk, shards, start, now);
        for journal in &mut journals {
            append(journal, "app:written", now.unix_ms, false);
            settle(journal, disk);
            if is_orderly {
                journal.end();
                settle(journal, disk);
            }
        }
        let written = Some(Safety::Written);
        journals.iter().map(|it| it.floor("app:written", written).time_ms()).max()
    };
    assert_eq!(write(&mut disk, 2, 1, 0, false), Some(0));
    // The second shard has nobody behind it among its own.
    assert_eq!(write(&mut disk, 1, 2, 10, true), Some(0));
    disk.lose_power(&mut |bound| bound - 1);
    assert_eq!(write(&mut disk, 2, 3, 20, true), Some(0));
    disk.lose_power(&mut |bound| bound - 1);
    // Of those that do not tell when they began, nobody vouches but the next of the same shard.
    disk.files.values_mut().for_each(|data| *data = without_beginning(data));
    assert_eq!(write(&mut disk, 2, 4, 30, true), Some(NOW.unix_ms + 19));
}

/// A segment as an earlier version has written it, without a seal.
fn without_beginning(data: &[u8]) -> Vec<u8> {
    let (header, at) = Header::of_file(data).expect("a segment");
    let header = Header { beginning: None, ..header };
    [&header.encode()[..], &data[at..records_end(data)]].concat()
}

#[test]
fn what_comes_behind_an_end_is_told_once_the_disk_has_it() {
    let mut disk = Disk::default();
    let (mut journal, _) = start(&disk, 1, NOW);
    append(&mut journal, "app:room", 1, false);
    settle(&mut journal, &mut disk);
    journal.end();
    settle(&mut journal, &mut disk);
    assert!(journal.end());
    let number = append(&mut journal, "app:room", 2, false);
    let behind = append(&mut journal, "app:room", 3, false);
    while let Some(command) = journal.poll_command() {
        let is_sync = matches!(command, Command::Sync { .. });
        assert!(journal.progress(Safety::Written) < number, "{command:?}");
        journal.handle_done(disk.execute(command));
        assert_eq!(journal.progress(Safety::Written) >= behind, is_sync);
    }
    let last = append(&mut journal, "app:room", 4, false);
    let syncs = journal.counters().syncs;
    settle(&mut journal, &mut disk);
    assert_eq!((journal.progress(Safety::Written), journal.counters().syncs), (last, syncs));
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
                awaits: None,
                body: b"told",
            };
            journal.append(&event);
        }
        let (next, _) = start(&disk, 2, NOW);
        let floor_ms = next.floor("app:loose", None).time_ms();
        assert_eq!(floor_ms, if is_orderly { 0 } else { NOW.unix_ms });
        assert_eq!(next.floor("app:kept", Some(Safety::Written)).time_ms(), 0);
    }
}

#[test]
fn a_file_whose_making_was_cut_short_is_no_gap() {
    let mut disk = Disk::default();
    let first = SegmentId { shard: 0, number: 0 };
    let make = |journal: &mut Journal, disk: &mut Disk| {
        journal.set_wanted(true);
        journal.handle_timeout(NOW);
        settle(journal, disk);
    };
    make(&mut start(&disk, 1, NOW).0, &mut disk);
    disk.files.get_mut(&first).expect("made").truncate(20);
    // The next start leaves its number out; one is killed before anything is in its file, one behind that.
    let (mut second, _) = start(&disk, 2, NOW);
    make(&mut second, &mut disk);
    assert_eq!(disk.files.len(), 2);
    assert_eq!(start(&disk, 3, NOW).0.floor("app:room", Some(Safety::Written)).time_ms(), 0);
    append(&mut second, "app:room", NOW.unix_ms + 1, false);
    settle(&mut second, &mut disk);
    assert_eq!(start(&disk, 3, NOW).0.floor("app:room", Some(Safety::Written)).time_ms(), 0);
    // Nobody knows of one that is not there what was in it.
    let mut third = start(&disk, 3, NOW).0;
    append(&mut third, "app:room", NOW.unix_ms + 2, false);
    settle(&mut third, &mut disk);
    disk.files.retain(|id, _| id.number >= 2);
    let floor = start(&disk, 4, Now { unix_ms: NOW.unix_ms + 9, ..NOW })
        .0
        .floor("app:room", Some(Safety::Written));
    assert_eq!(floor.time_ms(), NOW.unix_ms + 1);
}
