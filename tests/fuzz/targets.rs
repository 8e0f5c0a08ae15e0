//! What is done with bytes that nobody has chosen. Each target takes any bytes and must neither panic nor
//! contradict itself; cargo-fuzz drives them (`tests/fuzz/`), and `tests/fuzz.rs` on stable.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ringcast::ably::{
    self, Capability, ChannelName, ChannelParams, ChannelSerial, Directory, Filter, Format,
    Identity, KeySpec, Operation, PresenceRequest, Publisher, SeriesId, Subject, TokenRequest,
};
use ringcast::base::record::{write_bytes, write_record};
use ringcast::base::{Entropy, Now};
use ringcast::http::{Progress, RequestParser};
use ringcast::journal::{
    self, Event, Journal, JournalConfig, Query, Recovered, Recovery, Safety, SegmentId,
};
use ringcast::shard::{Shard, ShardConfig};
use ringcast::sim::Disk;
use ringcast::ws::{self, Data, Decoder, Deflater, FrameBuilder, OpCode, Window};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("websocket", websocket),
    ("deflate", deflate),
    ("http", http),
    ("protocol_json", protocol_json),
    ("protocol_msgpack", protocol_msgpack),
    ("bodies", bodies),
    ("capability", capability),
    ("token", token),
    ("config", config),
    ("vcdiff", vcdiff),
    ("channel", channel),
    ("filter", filter),
    ("spool", spool),
    ("journal", journal),
    ("shard", shard),
];

/// Bytes of one message in these tests.
const BYTES_MAX: usize = 64 << 10;

/// Takes the first byte off, as a number below `bound`.
fn choice(data: &mut &[u8], bound: usize) -> usize {
    data.split_off_first().map_or(0, |&byte| usize::from(byte) % bound)
}

/// A WebSocket in pieces says what it says at once.
pub fn websocket(mut data: &[u8]) {
    let step = choice(&mut data, 32);
    let window = (step >= 16).then_some(Window::Large);
    let step = 1 + step % 16;
    let read = |step: usize| {
        let (mut events, mut decoder) = (Vec::new(), Decoder::new().inflating(window));
        let mut outcome = Ok(());
        for piece in data.chunks(step) {
            let mut piece = piece.to_vec();
            outcome = outcome.and(decoder.handle_bytes(&mut piece, BYTES_MAX, &mut |event| {
                events.push(format!("{event:?}"));
                ControlFlow::Continue(())
            }));
        }
        (events, outcome)
    };
    assert_eq!(read(step), read(data.len().max(1)));
}

/// Messages that one deflater compresses after each other are read as what they are, within any window.
pub fn deflate(mut data: &[u8]) {
    let window = [Window::Large, Window::Small][choice(&mut data, 2)];
    let mut deflater = Deflater::new(window);
    while !data.is_empty() {
        let (len, times) = (1 + choice(&mut data, 256), 1 + choice(&mut data, 128));
        let payload =
            data.split_off(..len.min(data.len())).expect("no more than there is").repeat(times);
        let mut frame = FrameBuilder::with_capacity(OpCode::Data(Data::Binary), payload.len());
        frame.payload().extend_from_slice(&payload);
        let Some(deflated) = ws::deflated(&frame.finish(), 0, &mut deflater) else { continue };
        // From a client it would be masked, so it is: with nothing.
        let (head, body) = deflated.split_at(match deflated[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        });
        assert!(body.len() < payload.len());
        let mut masked = [head, &[0; 4], body].concat();
        masked[1] |= 0x80;
        let mut seen = Vec::new();
        let outcome = Decoder::new().inflating(Some(window)).handle_bytes(
            &mut masked,
            payload.len(),
            &mut |event| {
                seen.push(matches!(event, ws::Event::Binary(bytes) if bytes == payload));
                ControlFlow::Continue(())
            },
        );
        assert_eq!((outcome, &seen[..]), (Ok(()), &[true][..]));
    }
}

/// Requests in pieces are the requests that they are at once.
pub fn http(mut data: &[u8]) {
    let step = 1 + choice(&mut data, 64);
    let read = |step: usize| {
        let (mut requests, mut parser) = (Vec::new(), RequestParser::new(BYTES_MAX as u32));
        for piece in data.chunks(step) {
            if parser.handle_bytes(piece).is_err() {
                return (requests, true);
            }
            loop {
                match parser.poll() {
                    Ok(Progress::NeedMore) => break,
                    Ok(Progress::Continue) => {}
                    Ok(Progress::Request(request)) => {
                        let segments = format!("{:?}", request.path_segments());
                        let params: Vec<_> = request.query_params().collect();
                        let asked = format!("{} {segments} {params:?}", request.method());
                        requests.push((asked, request.body().to_vec()));
                    }
                    Err(_) => return (requests, true),
                }
            }
        }
        (requests, false)
    };
    assert_eq!(read(step), read(data.len().max(1)));
}

fn publisher<'a>(identity: &'a Identity, capability: &'a Capability) -> Publisher<'a> {
    let id = "abcdefghijkl:0".to_owned();
    let connection_id = Some("abcdefghijkl");
    Publisher { id, connection_id, identity, capability, has_mutable_messages: true }
}

/// A publication as JSON. Its numbers may be larger than a number of Rust's.
#[derive(Deserialize)]
struct Published {
    messages: Vec<IgnoredAny>,
}

/// What a client says, and all that is made of it until it would be published.
fn protocol(format: Format, data: &[u8]) {
    let Ok(message) = ably::decode(format, data) else { return };
    let name = message.channel.as_deref().unwrap_or_default();
    let _ = ChannelName::parse(name);
    let _ = ChannelParams::read(&message.params);
    let capability = Capability::all();
    for identity in [Identity::Anonymous, Identity::Client("bob".into()), Identity::Wildcard] {
        let publisher = publisher(&identity, &capability);
        let bytes_max = BYTES_MAX as u64;
        let again = ably::decode(format, data).expect("the same bytes");
        let presence = PresenceRequest::check("room", again.presence, &publisher, bytes_max);
        let _ = presence.map(|request| format!("{request:?}"));
        let annotations = again.annotations;
        let _ = ably::validate_annotations("room", annotations, None, &publisher, bytes_max);
        let Ok(accepted) =
            ably::validate("room", again.messages, &again.params, &publisher, bytes_max)
        else {
            continue;
        };
        assert!(accepted.size_bytes() <= 4 * bytes_max, "more than was checked");
        if let ably::Accepted::Messages(messages) = accepted {
            let serial = "01800000000000-000@0000000000".parse().expect("a serial");
            let publication = messages.into_publication(serial, 1_800_000_000_000);
            for message in &publication.messages {
                let _ = Subject::of(message);
            }
            let mut json = Vec::new();
            ably::encode_publication(Format::Json, "room", &publication, &mut json);
            let read: Published = serde_json::from_slice(&json).expect("JSON");
            assert_eq!(read.messages.len(), publication.messages.len());
            let mut packed = Vec::new();
            ably::encode_publication(Format::MsgPack, "room", &publication, &mut packed);
            let mut rest = &packed[..];
            rmpv::decode::read_value(&mut rest).expect("MessagePack");
            assert!(rest.is_empty(), "one value");
        }
    }
}

/// Protocol messages as JSON: what is one is JSON to others too.
pub fn protocol_json(data: &[u8]) {
    if ably::decode(Format::Json, data).is_ok() {
        // Not into strings: a lone surrogate is JSON, and what we replace.
        let is_json = serde_json::from_slice::<IgnoredAny>(data).is_ok();
        assert!(is_json && data.trim_ascii_start().starts_with(b"{"), "no JSON object");
    }
    protocol(Format::Json, data);
}

/// The same as MessagePack.
pub fn protocol_msgpack(data: &[u8]) {
    if ably::decode(Format::MsgPack, data).is_ok() {
        let mut rest = data;
        let read = rmpv::decode::read_value(&mut rest);
        assert!(read.is_ok_and(|value| value.is_map()) && rest.is_empty(), "no MessagePack map");
    }
    protocol(Format::MsgPack, data);
}

/// Bodies of requests, and answers of gates.
pub fn bodies(mut data: &[u8]) {
    let format = Format::ALL[choice(&mut data, 2)];
    let _ = ably::decode_publish(format, data);
    let _ = ably::decode_batch(format, data);
    let _ = ably::decode_annotations(format, data);
    let mut made = 0;
    let _ = ably::decode_new_app(data, || {
        made += 1;
        format!("id{made}")
    });
    let _ = ably::decode_stats(data);
    let _ = ably::read_verdict(data);
}

/// What two capabilities permit together both permit, and nothing else.
pub fn capability(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (first, second) = text.split_once('\n').unwrap_or((text, text));
    let _ = Capability::parse_lenient(second);
    let (Ok(first), Ok(second)) = (Capability::parse(first), Capability::parse(second)) else {
        return;
    };
    let both = first.intersection(&second);
    let names = ["foo", "foo:a", "foo:a:b", "foo*", "[meta]x", "[filter]foo", "*", "", ":"];
    let of_both = first.resources().chain(second.resources());
    for name in names.into_iter().chain(of_both) {
        for operation in [Operation::Publish, Operation::Subscribe, Operation::History] {
            let is_permitted = first.allows(name, operation) && second.allows(name, operation);
            if both.allows(name, operation) {
                assert!(is_permitted, "{name:?} {operation:?}");
            }
        }
    }
    assert_eq!(both.to_string(), second.intersection(&first).to_string());
    let again = Capability::parse_lenient(&both.to_string());
    assert!(both.is_empty() || again.is_ok(), "{both}");
}

fn directory() -> Directory {
    let key = "app.key:secret".parse().expect("a key");
    let spec = KeySpec::new(key, &Capability::all().to_string(), true).expect("valid");
    Directory::new([ably::AppSpec { id: "app".into(), keys: vec![spec], ..Default::default() }])
}

/// Nobody comes in with bytes that nobody has signed.
pub fn token(mut data: &[u8]) {
    let directory = directory();
    let format = Format::ALL[choice(&mut data, 2)];
    let now_ms = 1_800_000_000_000;
    if let Ok(request) = TokenRequest::decode(format, data)
        && let Ok(key) = directory.key("app.key")
        && request.is_signed()
    {
        assert!(request.check(key, now_ms).is_err(), "signed by chance");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(directory.authenticate_token(text, now_ms).is_err(), "signed by chance");
    let _ = ably::decode_basic(text);
    let _ = text.parse::<ably::ApiKey>();
    let _ = text.parse::<ably::ChannelSerial>().map(|serial| {
        assert_eq!(serial.to_string(), text, "read as something else");
    });
    let _ = text.parse::<ringcast::connection::ConnectionKey>();
}

/// A configuration is read or refused with a place.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = ringcast::config::Config::parse("ringcast.toml", text) {
        assert!(error.to_string().starts_with("ringcast.toml"), "{error}");
    }
}

/// A delta gives its target back.
pub fn vcdiff(mut data: &[u8]) {
    let at = choice(&mut data, 256) * data.len() / 256;
    let (base, target) = data.split_at(at);
    let mut encoder = ably::vcdiff::Encoder::default();
    for (base, target) in [(base, target), (target, base), (data, base), (data, data)] {
        if let Some(delta) = encoder.encode(base, target) {
            let decoded = ably::vcdiff::decoder::decode(base, &delta);
            assert_eq!(decoded.as_deref(), Some(target));
        }
    }
}

/// A name is itself again, and what it means has a meaning.
pub fn channel(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(name) = ChannelName::parse(text) else { return };
    assert_eq!(name.as_str(), text);
    // A metachannel is one whatever params it is attached to with.
    let base = name.base().strip_prefix("[meta]").unwrap_or(name.base());
    assert!(!base.is_empty() && text.ends_with(base));
    let _ = name.resource();
    let _ = ChannelParams::read(&name.params());
    let _ = name.filter().map(Filter::compile);
    if let Ok(writable) = name.writable() {
        assert!(!writable.is_read_only());
    }
}

/// An expression is refused or answers, and does not run away.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(filter) = Filter::compile(text) else { return };
    let body = br#"{"name":"abc","data":"x","clientId":"c","extras":{"headers":{"a":1,"b":"x"}}}"#;
    let drafts = ably::decode_publish(Format::Json, body).expect("a message");
    let (identity, capability) = (Identity::Wildcard, Capability::all());
    let publisher = publisher(&identity, &capability);
    let params = ably::Params::default();
    let accepted = ably::validate("room", Some(drafts), &params, &publisher, BYTES_MAX as u64);
    let Ok(ably::Accepted::Messages(messages)) = accepted else { panic!("a message") };
    let serial = "01800000000000-000@0000000000".parse().expect("a serial");
    let publication = messages.into_publication(serial, 1_800_000_000_000);
    let _ = filter.passes(&Subject::of(&publication.messages[0]));
}

/// A segment of a spool that is anything at all: what is whole before it is found, and it can be written on.
pub fn spool(data: &[u8]) {
    let directory = std::env::temp_dir().join(format!("ringcast-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    drop(ringcast::hooks::spool::Spool::open(&directory, 1 << 20).expect("a new one"));
    let segments = || std::fs::read_dir(&directory).expect("a directory").flatten();
    for entry in segments().filter(|entry| entry.file_name() != "lock") {
        std::fs::write(entry.path(), data).expect("written");
    }
    let (spool, found) = ringcast::hooks::spool::Spool::open(&directory, 1 << 20).expect("opened");
    drop(spool);
    let (_, again) = ringcast::hooks::spool::Spool::open(&directory, 1 << 20).expect("again");
    assert_eq!(again.events.len(), found.events.len(), "what was found stays");
    let _ = std::fs::remove_dir_all(&directory);
}

/// Channels of a message log. The home of both is the first shard.
const CHANNELS: [&str; 2] = ["app:room", "app:other"];

/// Bytes of a segment's header.
const HEADER_BYTES: usize = 71;

fn journal_home(_channel: &str, _shards: usize) -> usize {
    0
}

/// A message log of start `start` on what was recovered.
fn open_journal(recovered: Recovered, start: u8, salt: u32, disk: &Disk, now: Now) -> Journal {
    let (segment_bytes, waiting_bytes_max) = (4096, 2048);
    let config = JournalConfig { segment_bytes, waiting_bytes_max, ..JournalConfig::default() };
    let key = (SeriesId::new([start; 10]), salt);
    let mut journal = Journal::new(config, (0, 1), key, recovered, now);
    journal.number_from(disk.next_number(0));
    journal
}

fn settle(journal: &mut Journal, disk: &mut Disk) {
    while let Some(command) = journal.poll_command() {
        let done = disk.execute(command);
        journal.handle_done(done);
    }
}

/// Everything that is kept of a channel.
fn read_journal(journal: &mut Journal, disk: &mut Disk, channel: &str) -> journal::Answer {
    read_journal_after(journal, disk, channel, None)
}

/// The same, of what lies behind a serial.
fn read_journal_after(
    journal: &mut Journal,
    disk: &mut Disk,
    channel: &str,
    after: Option<ChannelSerial>,
) -> journal::Answer {
    let query = Query { after, ..Query::all_of(channel.into()) };
    journal.read(query).expect("nobody else reads");
    settle(journal, disk);
    journal.poll_answer().expect("the disk has answered")
}

/// A message log whose files are not what was written, or are what somebody made up: what is served was
/// written, once and in order, what is missing is announced, and it can be written on.
pub fn journal(mut data: &[u8]) {
    match choice(&mut data, 2) {
        0 => journal_damaged(data),
        _ => journal_made_up(data),
    }
}

fn journal_damaged(mut data: &[u8]) {
    // Depends on all bytes, so that none of them can be chosen to be a record.
    let salt =
        data.iter().fold(7u32, |salt, &byte| (salt ^ u32::from(byte)).wrapping_mul(16_777_619));
    let now = Now { mono_ms: 0, unix_ms: 1_800_000_000_000 };
    let end = Now { mono_ms: 0, unix_ms: now.unix_ms + 3_600_000 };
    let (mut disk, mut time_ms) = (Disk::default(), now.unix_ms);
    let mut written = Vec::new();
    for start in 0..1 + choice(&mut data, 2) as u8 {
        let recovered = disk.recover(1, journal_home, end).remove(0);
        let mut journal = open_journal(recovered, start, salt ^ u32::from(start), &disk, now);
        for _ in 0..choice(&mut data, 32) {
            time_ms += 1 + choice(&mut data, 3) as u64;
            let channel = CHANNELS[choice(&mut data, CHANNELS.len())];
            let body =
                [&time_ms.to_le_bytes()[..], &vec![start; 4 * choice(&mut data, 256)]].concat();
            let series = SeriesId::new([start; 10]);
            let serial = ChannelSerial::from_parts(time_ms, 0, series).expect("a counter");
            let (messages, timestamp_ms, awaits) = (1, time_ms, Some(Safety::Written));
            let event = Event { channel, serial, timestamp_ms, messages, awaits, body: &body };
            journal.append(&event);
            written.push((channel, serial, body));
            if choice(&mut data, 2) == 1 || journal.check().is_err() {
                settle(&mut journal, &mut disk);
            }
        }
        settle(&mut journal, &mut disk);
        if choice(&mut data, 2) == 1 {
            journal.end();
            settle(&mut journal, &mut disk);
        }
    }
    let as_written = disk.files.clone();
    let changes = choice(&mut data, 4);
    for _ in 0..changes {
        let ids: Vec<SegmentId> = disk.files.keys().copied().collect();
        let Some(&id) = ids.get(choice(&mut data, 16)) else { continue };
        if choice(&mut data, 5) == 4 {
            disk.files.remove(&id);
            continue;
        }
        let file = disk.files.get_mut(&id).expect("one of them");
        let at = (choice(&mut data, 256) << 8 | choice(&mut data, 256)).min(file.len());
        match choice(&mut data, 4) {
            0 if at < file.len() => file[at] ^= 1 << choice(&mut data, 8),
            1 => file.truncate(at),
            2 => {
                let end = (at + 8 * choice(&mut data, 256)).min(file.len());
                file[at..end].fill(0);
            }
            _ => {
                let len = choice(&mut data, 64);
                for (byte, other) in file[at..].iter_mut().zip(&data[..len.min(data.len())]) {
                    *byte = *other;
                }
            }
        }
    }

    let mut recovery = Recovery::new(1, journal_home, disk.boot);
    disk.files.iter().for_each(|(id, data)| recovery.add(*id, data));
    let (mut recovered, _, damage) = recovery.finish(end.unix_ms);
    let mut journal = open_journal(recovered.remove(0), 9, !salt, &disk, end);
    let read = |journal: &mut Journal, disk: &mut Disk| -> HashMap<&str, Vec<_>> {
        CHANNELS.into_iter().map(|name| (name, read_journal(journal, disk, name).events)).collect()
    };
    let served = read(&mut journal, &mut disk);
    let latest_of = |series| {
        let served = served.values().flatten().map(|event| event.serial);
        served.filter(|serial| serial.series() == series).max()
    };
    // A file that has nothing but a header looks like one that was never used.
    let is_erased = |id: &SegmentId| {
        let is_empty = |file: &[u8]| file.iter().skip(HEADER_BYTES).all(|&byte| byte == 0);
        is_empty(&disk.files[id]) && !is_empty(&as_written[id])
    };
    let is_plain = changes <= 1 && !disk.files.keys().any(is_erased);
    for (name, events) in &served {
        assert!(events.is_sorted_by(|one, next| one.serial < next.serial), "{name}: order");
        let mut events = events.iter().peekable();
        for (_, serial, body) in written.iter().filter(|(channel, ..)| channel == name) {
            if let Some(event) = events.next_if(|event| event.serial == *serial) {
                assert!(event.body == body[..], "{name}: {serial} is another");
                continue;
            }
            assert!(disk.files != as_written, "{name}: {serial} is lost");
            // Nobody can tell where a start would have ended, if nothing comes behind it.
            let is_at_end = latest_of(serial.series()).is_none_or(|latest| *serial > latest);
            // By what a start knows, or by what is read for who goes on from before it.
            let is_announced = *serial <= journal.floor(name, Some(Safety::Written)) || {
                let before = Some(serial.preceding());
                read_journal_after(&mut journal, &mut disk, name, before).is_damaged
            };
            let is_known = is_at_end || is_announced;
            assert!(is_known || !is_plain, "{name}: {serial} is missing, {damage:?}");
        }
        assert_eq!(events.next(), None, "{name}: was not written");
    }
    if disk.files == as_written {
        assert_eq!(damage, []);
    }

    let series = SeriesId::new([9; 10]);
    let serial = ChannelSerial::from_parts(end.unix_ms + 1, 0, series).expect("a counter");
    let [channel, _] = CHANNELS;
    let (messages, timestamp_ms, awaits) = (1, end.unix_ms, Some(Safety::Written));
    let event = Event { channel, serial, timestamp_ms, messages, awaits, body: b"new" };
    journal.append(&event);
    settle(&mut journal, &mut disk);
    let again = read(&mut journal, &mut disk);
    let (last, before) = again[channel].split_last().expect("appended to");
    assert_eq!((last.serial, &last.body[..]), (serial, &b"new"[..]));
    assert!(before == served[channel], "what was there stays");
}

/// Segments whose checksums are right, with records that hold anything.
fn journal_made_up(mut data: &[u8]) {
    let now = Now { mono_ms: 0, unix_ms: 1_800_000_000_000 };
    let number = |data: &mut &[u8]| match choice(data, 4) {
        0 => choice(data, 4) as u64,
        1 => now.unix_ms + choice(data, 256) as u64,
        2 => u64::MAX - choice(data, 4) as u64,
        _ => {
            let bytes = data.split_off(..data.len().min(8)).unwrap_or_default();
            bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
        }
    };
    let (mut disk, mut events) = (Disk::default(), 0);
    for _ in 0..1 + choice(&mut data, 4) {
        let shard = choice(&mut data, 3) as u16;
        let id = SegmentId { shard, number: choice(&mut data, 8) as u64 };
        let (start, salt) = (choice(&mut data, 4) as u8, choice(&mut data, 2) as u32);
        let mut file = Vec::new();
        write_record(&mut file, 0, 1, |out| {
            let version = choice(&mut data, 3);
            out.extend_from_slice([b"ringlog1", b"ringlog2", b"ringlog2"][version]);
            out.extend_from_slice(&SeriesId::new([start; 10]).bytes());
            out.extend_from_slice(&salt.to_le_bytes());
            out.extend_from_slice(&number(&mut data).to_le_bytes());
            if version >= 1 {
                out.extend_from_slice(&number(&mut data).to_le_bytes());
            }
            if version == 2 {
                out.extend_from_slice(&[choice(&mut data, 3) as u8; 16]);
                out.extend_from_slice(&number(&mut data).to_le_bytes());
            }
        });
        for _ in 0..choice(&mut data, 16) {
            match choice(&mut data, 6) {
                0 => write_record(&mut file, salt, 2, |out| {
                    out.extend_from_slice(&number(&mut data).to_le_bytes());
                    out.extend_from_slice(&(number(&mut data) as u32).to_le_bytes());
                    out.extend_from_slice(&number(&mut data).to_le_bytes());
                }),
                1 | 2 => {
                    events += 1;
                    write_record(&mut file, salt, 3, |out| {
                        out.push(choice(&mut data, 4) as u8);
                        write_bytes(out, CHANNELS[choice(&mut data, CHANNELS.len())].as_bytes());
                        out.extend_from_slice(&number(&mut data).to_le_bytes());
                        out.extend_from_slice(&(choice(&mut data, 2) as u16).to_le_bytes());
                        out.extend_from_slice(&number(&mut data).to_le_bytes());
                        out.extend_from_slice(&(number(&mut data) as u32).to_le_bytes());
                    });
                }
                3 => write_record(&mut file, salt, 4, |_| {}),
                4 => {
                    let kind = choice(&mut data, 256) as u8;
                    events += u64::from(kind == 3);
                    let len = choice(&mut data, 64).min(data.len());
                    let content = data.split_off(..len).unwrap_or_default();
                    write_record(&mut file, salt, kind, |out| out.extend_from_slice(content));
                }
                _ => {
                    let len = choice(&mut data, 64).min(data.len());
                    file.extend_from_slice(data.split_off(..len).unwrap_or_default());
                }
            }
        }
        if choice(&mut data, 2) == 1 {
            write_seal(&mut file, salt, &mut data, number);
        }
        disk.files.insert(id, file);
    }
    let shards = 1 + choice(&mut data, 3);
    let mut recovery = Recovery::new(shards, journal_home, disk.boot);
    disk.files.iter().for_each(|(id, data)| recovery.add(*id, data));
    let (mut recovered, found, _) = recovery.finish(now.unix_ms);
    assert!(found <= events, "{found} of {events}");
    let mut journal = open_journal(recovered.remove(0), 9, 9, &disk, now);
    for name in CHANNELS {
        let answer = read_journal(&mut journal, &mut disk, name);
        assert!(answer.events.len() as u64 <= events, "{} of {events}", answer.events.len());
        let _ = (journal.floor(name, Some(Safety::Written)), journal.newest(name));
    }
    journal.handle_timeout(Now { mono_ms: 5000, ..now });
    settle(&mut journal, &mut disk);
}

/// A seal whose checksums are right, with places that may be anywhere.
fn write_seal(file: &mut Vec<u8>, salt: u32, data: &mut &[u8], number: impl Fn(&mut &[u8]) -> u64) {
    let at = file.len();
    let place = |data: &mut &[u8]| match choice(data, 2) {
        0 => choice(data, at + 1) as u32,
        _ => number(data) as u32,
    };
    for _ in 0..choice(data, 3) {
        write_record(file, salt, 5, |out| {
            for _ in 0..choice(data, 3) {
                write_bytes(out, CHANNELS[choice(data, CHANNELS.len())].as_bytes());
                out.push(choice(data, 2) as u8);
                out.extend_from_slice(&number(data).to_le_bytes());
                out.extend_from_slice(&(choice(data, 2) as u16).to_le_bytes());
                let runs = choice(data, 3);
                out.extend_from_slice(&(runs as u32).to_le_bytes());
                for _ in 0..runs {
                    out.extend_from_slice(&place(data).to_le_bytes());
                    out.extend_from_slice(&place(data).to_le_bytes());
                    out.extend_from_slice(&number(data).to_le_bytes());
                    out.extend_from_slice(&(choice(data, 2) as u16).to_le_bytes());
                }
            }
        });
    }
    write_record(file, salt, 6, |out| {
        let at = if choice(data, 4) == 0 { place(data) } else { at as u32 };
        out.extend_from_slice(&at.to_le_bytes());
        out.push(choice(data, 8) as u8);
        out.extend_from_slice(&number(data).to_le_bytes());
        out.extend_from_slice(&(number(data) as u32).to_le_bytes());
        out.extend_from_slice(&number(data).to_le_bytes());
        out.extend_from_slice(&number(data).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
    });
}

/// Any bytes at all to a shard, as HTTP or as what follows an upgrade.
pub fn shard(mut data: &[u8]) {
    let now = Now { mono_ms: 0, unix_ms: 1_800_000_000_000 };
    let config = ShardConfig { sandbox: true, echo: true, ..ShardConfig::default() };
    let mut next = 1u8;
    let entropy = Entropy::new(move |page| {
        page.fill_with(|| {
            next = next.wrapping_mul(5).wrapping_add(3);
            next
        });
    });
    let mut shard = Shard::new(config, Arc::new(directory()), 0, 1, entropy, now);
    shard.begin_turn(now);
    shard.handle_accept(0, None);
    let upgrade = b"GET /?key=app.key:secret&v=6 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    if choice(&mut data, 2) == 1 {
        shard.handle_bytes(0, &mut upgrade.to_vec());
        // A client masks; this one always with nothing, so that the rest is what it looks like.
        let (mut rest, mut frames) = (data, Vec::new());
        while !rest.is_empty() {
            let len = (1 + choice(&mut rest, 125)).min(rest.len());
            let Some(payload) = rest.split_off(..len).filter(|payload| !payload.is_empty()) else {
                break;
            };
            frames.extend([0x81, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
            frames.extend_from_slice(payload);
        }
        shard.handle_bytes(0, &mut frames);
    } else {
        shard.handle_bytes(0, &mut data.to_vec());
    }
    for turn in 1..4 {
        shard.begin_turn(Now { mono_ms: turn * 700, ..now });
        shard.handle_timeout();
        shard.settle();
        while let Some((index, bytes)) = shard.poll_transmit() {
            shard.handle_sent(index, Ok(bytes.len()));
        }
        while shard.poll_shut_down().is_some() {}
        while let Some(index) = shard.poll_close() {
            shard.handle_closed(index);
        }
    }
}
