//! What is done with bytes that nobody has chosen. Each target takes any bytes and must neither panic nor
//! contradict itself; cargo-fuzz drives them (`tests/fuzz/`), and `tests/fuzz.rs` on stable.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ringcast::ably::{
    self, Capability, ChannelName, ChannelParams, Directory, Filter, Format, Identity, KeySpec,
    Operation, PresenceRequest, Publisher, Subject, TokenRequest,
};
use ringcast::base::{Entropy, Now};
use ringcast::http::{Progress, RequestParser};
use ringcast::shard::{Shard, ShardConfig};
use ringcast::ws::Decoder;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("websocket", websocket),
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
    let step = 1 + choice(&mut data, 16);
    let read = |step: usize| {
        let (mut events, mut decoder) = (Vec::new(), Decoder::new());
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
        let read = serde_json::from_slice::<HashMap<String, IgnoredAny>>(data);
        assert!(read.is_ok(), "no JSON object");
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
    assert!(!name.base().is_empty() && text.ends_with(name.base()));
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
