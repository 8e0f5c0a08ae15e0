//! Both codecs against a second opinion: `serde_json` and `rmpv` make the input and read the output.

use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::*;

fn msgpack_of(value: &Value) -> rmpv::Value {
    match value {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => value.into(),
            (None, Some(value)) => value.into(),
            (None, None) => number.as_f64().expect("a number").into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => rmpv::Value::Array(items.iter().map(msgpack_of).collect()),
        Value::Object(entries) => rmpv::Value::Map(
            entries.iter().map(|(key, value)| (key.as_str().into(), msgpack_of(value))).collect(),
        ),
    }
}

fn bytes_of(value: &rmpv::Value) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).expect("a Vec takes every byte");
    out
}

/// `value` in `format`.
pub(super) fn payload(format: Format, value: &Value) -> Vec<u8> {
    match format {
        Format::Json => serde_json::to_vec(value).expect("serializable"),
        Format::MsgPack => bytes_of(&msgpack_of(value)),
    }
}

/// What is in `bytes`, which have to be exactly one value of `format`; bin as `{"bin": base64}`.
pub(super) fn parsed(format: Format, bytes: &[u8]) -> Value {
    fn json_of(value: rmpv::Value) -> Value {
        match value {
            rmpv::Value::Nil => Value::Null,
            rmpv::Value::Boolean(value) => value.into(),
            rmpv::Value::Integer(value) => match value.as_u64() {
                Some(value) => value.into(),
                None => value.as_i64().into(),
            },
            rmpv::Value::F32(value) => value.into(),
            rmpv::Value::F64(value) => value.into(),
            rmpv::Value::String(text) => text.into_str().expect("UTF-8").into(),
            rmpv::Value::Binary(bytes) => json!({ "bin": BASE64.encode(&bytes) }),
            rmpv::Value::Array(items) => items.into_iter().map(json_of).collect(),
            rmpv::Value::Map(entries) => Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.as_str().expect("a string").into(), json_of(value)))
                    .collect(),
            ),
            rmpv::Value::Ext(..) => panic!("an extension type"),
        }
    }
    match format {
        Format::Json => serde_json::from_slice(bytes).expect("valid JSON"),
        Format::MsgPack => {
            let mut rest = bytes;
            let value = rmpv::decode::read_value(&mut rest).expect("valid MessagePack");
            assert!(rest.is_empty());
            json_of(value)
        }
    }
}

fn serial() -> ChannelSerial {
    "01826232498871-002@loc0abcdef".parse().expect("well-formed")
}

/// Publishes on `room` whatever is in `message`, as connection `conn` and its message 0.
fn publish_as(
    identity: &Identity,
    message: ProtocolMessage,
    bytes_max: u64,
) -> Result<Publication, ErrorInfo> {
    let publisher = Publisher {
        id: "conn:0".into(),
        connection_id: Some("conn"),
        identity,
        capability: &Capability::parse(r#"{"*":["publish"]}"#).expect("valid"),
        has_mutable_messages: true,
    };
    let ProtocolMessage { messages, params, .. } = message;
    let accepted = validate("room", messages, &params, &publisher, bytes_max)?;
    let Accepted::Messages(messages) = accepted else { panic!("{accepted:?}") };
    Ok(messages.into_publication(serial(), 1_826_232_498_871))
}

fn publish(format: Format, message: &Value) -> Result<Publication, ErrorInfo> {
    let payload =
        payload(format, &json!({ "action": 15, "channel": "room", "messages": [message] }));
    publish_as(&Identity::Wildcard, decode(format, &payload).expect("well-formed"), 65_536)
}

fn delivered(format: Format, publication: &Publication) -> Value {
    let mut out = Vec::new();
    encode_publication(format, "room", publication, &mut out);
    parsed(format, &out)
}

/// `data` and `encoding` as subscribers get them.
fn delivered_data(format: Format, publication: &Publication) -> Value {
    let message = &delivered(format, publication)["messages"][0];
    let mut entries = serde_json::Map::new();
    for key in ["data", "encoding"] {
        if let Some(value) = message.get(key) {
            entries.insert(key.into(), value.clone());
        }
    }
    Value::Object(entries)
}

fn encoded(format: Format, message: &Outbound<'_>) -> Value {
    let mut out = Vec::new();
    encode(format, message, &mut out);
    parsed(format, &out)
}

/// The next number of a fixed pseudo-random sequence.
fn random(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

/// Protocol messages that use every field a client can send.
fn samples() -> [Value; 4] {
    [
        json!({ "action": 0, "id": "ping-1" }),
        json!({ "action": 10, "channel": "[?rewind=1]room", "channelSerial": serial().to_string(),
            "flags": 262_144, "params": { "rewind": "1", "n": 2, "b": true, "skip": null } }),
        json!({ "action": 15, "channel": "room", "msgSerial": 7, "messages": [
            { "name": "n\u{e9}\"\\\n", "data": "x", "clientId": "bob",
              "extras": { "headers": { "k": 1, "z": null }, "more": [1.5, -3, [{}]] } },
            { "data": "3q2+7w==", "encoding": "utf-8/base64" },
            { "data": { "b": [1, { "c": "d" }], "a": 18_446_744_073_709_551_615u64 } },
            { "data": 1.25, "name": null } ] }),
        json!({ "action": 17, "auth": { "accessToken": "token" } }),
    ]
}

#[test]
fn both_formats_decode_to_the_same_protocol_message() {
    for sample in samples() {
        let [a, b] = Format::ALL.map(|format| decode(format, &payload(format, &sample)));
        assert_eq!(a, b);
        let message = a.expect("well-formed");
        assert_ne!(message.action, Action::Unknown);
    }
    let attach = decode(Format::Json, &payload(Format::Json, &samples()[1])).expect("well-formed");
    assert_eq!(attach.action, Action::Attach);
    assert_eq!(attach.channel.as_deref(), Some("[?rewind=1]room"));
    assert_eq!(attach.flags, 262_144);
    assert_eq!(attach.params.get("n"), Some("2"));
    assert_eq!(attach.params.get("b"), Some("true"));
    assert_eq!(attach.params.get("skip"), None);
}

#[test]
fn no_prefix_of_a_payload_is_a_payload() {
    for sample in samples() {
        for format in Format::ALL {
            let payload = payload(format, &sample);
            for end in 0..payload.len() {
                assert_eq!(decode(format, &payload[..end]), Err(DecodeError::Malformed), "{end}");
            }
            let longer = [&payload[..], b"1"].concat();
            assert_eq!(decode(format, &longer), Err(DecodeError::Malformed));
        }
    }
}

#[test]
fn whatever_noise_decodes_can_be_answered_and_delivered() {
    let mut seed = 1;
    let mut published = 0;
    for round in 0..40_000 {
        let format = Format::ALL[round % 2];
        let mut payload = payload(format, &samples()[random(&mut seed) % 4]);
        for _ in 0..=random(&mut seed) % 4 {
            let at = random(&mut seed) % payload.len();
            payload[at] = random(&mut seed) as u8;
        }
        let Ok(message) = decode(format, &payload) else { continue };
        let Ok(publication) = publish_as(&Identity::Wildcard, message, 65_536) else { continue };
        published += 1;
        for format in Format::ALL {
            delivered(format, &publication);
        }
    }
    assert!(published > 100, "the noise leaves something to deliver: {published}");
}

#[test]
fn numbers_of_any_width_and_whole_floats_are_integers() {
    let number = |value: rmpv::Value| {
        let map = rmpv::Value::Map(vec![("action".into(), 15.into()), ("msgSerial".into(), value)]);
        decode(Format::MsgPack, &bytes_of(&map)).map(|message| message.msg_serial)
    };
    assert_eq!(number(rmpv::Value::F64(7.0)), Ok(Some(7)));
    assert_eq!(number(rmpv::Value::F32(7.0)), Ok(Some(7)));
    for (value, widths) in [
        (
            7u64,
            [&[0xcc, 7][..], &[0xcd, 0, 7], &[0xce, 0, 0, 0, 7], &[0xcf, 0, 0, 0, 0, 0, 0, 0, 7]],
        ),
        (7, [&[0xd0, 7][..], &[0xd1, 0, 7], &[0xd2, 0, 0, 0, 7], &[0xd3, 0, 0, 0, 0, 0, 0, 0, 7]]),
    ] {
        for width in widths {
            let payload = [b"\x81\xa9msgSerial", width].concat();
            let message = decode(Format::MsgPack, &payload).expect("well-formed");
            assert_eq!(message.msg_serial, Some(value), "{width:x?}");
        }
    }
    for value in [rmpv::Value::F64(7.5), rmpv::Value::F64(-1.0), (-1).into(), "7".into()] {
        assert_eq!(number(value), Err(DecodeError::InvalidMsgSerial));
    }
    for (text, expected) in [("7", 7), ("7.0", 7), ("7e0", 7), ("9007199254740992", 1 << 53)] {
        let payload = format!(r#"{{"msgSerial":{text}}}"#);
        let message = decode(Format::Json, payload.as_bytes()).expect("well-formed");
        assert_eq!(message.msg_serial, Some(expected), "{text}");
    }
    for text in ["9007199254740993", "18446744073709551615", "1e19"] {
        let payload = format!(r#"{{"msgSerial":{text}}}"#);
        let error = decode(Format::Json, payload.as_bytes());
        assert_eq!(error, Err(DecodeError::InvalidMsgSerial), "{text}");
    }
}

#[test]
fn a_null_field_is_an_absent_one() {
    let nulls = json!({ "action": 15, "id": null, "channel": null, "channelSerial": null,
        "msgSerial": null, "flags": null, "params": null, "auth": null, "messages": [{ "id": null,
        "name": null, "data": null, "encoding": null, "clientId": null, "connectionId": null,
        "connectionKey": null, "extras": null, "action": null }] });
    let absent = json!({ "action": 15, "messages": [{}] });
    for format in Format::ALL {
        let decoded = |value| decode(format, &payload(format, value)).expect("well-formed");
        assert_eq!(decoded(&nulls), decoded(&absent));
        assert_eq!(decoded(&json!({ "action": null, "messages": null })), decoded(&json!({})));
    }
}

#[test]
fn what_is_unknown_is_ignored() {
    let value = json!({ "action": 99, "shape": { "a": [1] }, "flags": 1u64 << 40, "channel": 1 });
    for format in Format::ALL {
        let message = decode(format, &payload(format, &value)).expect("well-formed");
        assert_eq!(message.action, Action::Unknown);
        assert_eq!(message.channel, None);
    }
    for value in [json!([]), json!(1), json!("x"), json!(null)] {
        for format in Format::ALL {
            let decoded = decode(format, &payload(format, &value));
            assert_eq!(decoded, Err(DecodeError::NotAnObject));
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    for format in Format::ALL {
        let decoded = |depth| decode(format, &payload(format, &json!({ "x": nested(depth) })));
        assert!(decoded(DEPTH_MAX - 1).is_ok());
        assert_eq!(decoded(DEPTH_MAX), Err(DecodeError::TooDeep));
    }
    let deep = [vec![0x91; 400_000], vec![1]].concat();
    assert_eq!(decode(Format::MsgPack, &deep), Err(DecodeError::TooDeep));
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    assert_eq!(decode(Format::Json, deep.as_bytes()), Err(DecodeError::TooDeep));
    // Lengths that promise more than there is.
    for head in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
        let payload = [head, 0xff, 0xff, 0xff, 0xff, 0xc0];
        assert_eq!(decode(Format::MsgPack, &payload), Err(DecodeError::Malformed), "{head:x}");
    }
}

#[test]
fn too_many_messages_are_refused_and_not_all_read() {
    for format in Format::ALL {
        let with = |count: usize| {
            let messages = vec![json!({}); count];
            decode(format, &payload(format, &json!({ "messages": messages }))).expect("well-formed")
        };
        assert!(publish_as(&Identity::Wildcard, with(MESSAGES_MAX), 65_536).is_ok());
        let message = with(100_000);
        assert_eq!(message.messages.as_deref().map(<[_]>::len), Some(MESSAGES_MAX + 1));
        let error = publish_as(&Identity::Wildcard, message, 65_536).expect_err("too many");
        assert_eq!((error.code.0, error.status), (40034, 400));
    }
}

#[test]
fn encodings_are_converted_between_formats_and_otherwise_left_alone() {
    // Data and encoding as sent in JSON, and as delivered in JSON and in MessagePack; the first
    // five are ably-common's messages-encoding.json.
    for (sent, in_json, in_msgpack) in [
        (json!({ "data": "foo" }), json!({ "data": "foo" }), json!({ "data": "foo" })),
        (
            json!({ "data": "{\"foo\":42}" }),
            json!({ "data": "{\"foo\":42}" }),
            json!({ "data": "{\"foo\":42}" }),
        ),
        (
            json!({ "data": "{\"foo\":42,\"bar\":[\"a\",1.2,{\"boo\":\"ha\"}]}", "encoding": "json" }),
            json!({ "data": "{\"foo\":42,\"bar\":[\"a\",1.2,{\"boo\":\"ha\"}]}", "encoding": "json" }),
            json!({ "data": "{\"foo\":42,\"bar\":[\"a\",1.2,{\"boo\":\"ha\"}]}", "encoding": "json" }),
        ),
        (
            json!({ "data": "[{\"foo\":42},\"qux\"]", "encoding": "json" }),
            json!({ "data": "[{\"foo\":42},\"qux\"]", "encoding": "json" }),
            json!({ "data": "[{\"foo\":42},\"qux\"]", "encoding": "json" }),
        ),
        (
            json!({ "data": "3q2+7w==", "encoding": "base64" }),
            json!({ "data": "3q2+7w==", "encoding": "base64" }),
            json!({ "data": { "bin": "3q2+7w==" } }),
        ),
        (
            json!({ "data": "3q2+7w==", "encoding": "json/utf-8/cipher+aes-256-cbc/base64" }),
            json!({ "data": "3q2+7w==", "encoding": "json/utf-8/cipher+aes-256-cbc/base64" }),
            json!({ "data": { "bin": "3q2+7w==" }, "encoding": "json/utf-8/cipher+aes-256-cbc" }),
        ),
        (
            json!({ "data": "", "encoding": "base64" }),
            json!({ "data": "", "encoding": "base64" }),
            json!({ "data": { "bin": "" } }),
        ),
        // Not base64, or not as an encoder writes it: it would not come back the same.
        (
            json!({ "data": "not base64!", "encoding": "utf-8/base64" }),
            json!({ "data": "not base64!", "encoding": "utf-8/base64" }),
            json!({ "data": "not base64!", "encoding": "utf-8/base64" }),
        ),
        (
            json!({ "data": "3q2+7w", "encoding": "base64" }),
            json!({ "data": "3q2+7w", "encoding": "base64" }),
            json!({ "data": "3q2+7w", "encoding": "base64" }),
        ),
        (
            json!({ "data": "x", "encoding": "choahofhpxf" }),
            json!({ "data": "x", "encoding": "choahofhpxf" }),
            json!({ "data": "x", "encoding": "choahofhpxf" }),
        ),
        (
            json!({ "data": "3q2+7w==", "encoding": "mybase64" }),
            json!({ "data": "3q2+7w==", "encoding": "mybase64" }),
            json!({ "data": "3q2+7w==", "encoding": "mybase64" }),
        ),
        (json!({ "data": "x", "encoding": "" }), json!({ "data": "x" }), json!({ "data": "x" })),
        (
            json!({ "data": { "a": 1 } }),
            json!({ "data": "{\"a\":1}", "encoding": "json" }),
            json!({ "data": "{\"a\":1}", "encoding": "json" }),
        ),
        (
            json!({ "data": [] }),
            json!({ "data": "[]", "encoding": "json" }),
            json!({ "data": "[]", "encoding": "json" }),
        ),
        (json!({ "data": "" }), json!({ "data": "" }), json!({ "data": "" })),
        (json!({ "data": 0 }), json!({ "data": 0 }), json!({ "data": 0 })),
        (json!({ "data": -1.5 }), json!({ "data": -1.5 }), json!({ "data": -1.5 })),
        (json!({ "data": false }), json!({ "data": false }), json!({ "data": false })),
        (json!({}), json!({}), json!({})),
    ] {
        // A MessagePack string under `base64` counts as one in JSON does.
        for format in Format::ALL {
            let publication = publish(format, &sent).expect("valid");
            assert_eq!(delivered_data(Format::Json, &publication), in_json, "{sent}");
            assert_eq!(delivered_data(Format::MsgPack, &publication), in_msgpack, "{sent}");
        }
    }
}

#[test]
fn bytes_from_messagepack_are_base64_in_json() {
    for (encoding, in_json) in [(None, "base64"), (Some("utf-8"), "utf-8/base64")] {
        let bin = rmpv::Value::Binary(vec![0xde, 0xad, 0xbe, 0xef]);
        let mut message = vec![("data".into(), bin)];
        message.extend(encoding.map(|encoding| ("encoding".into(), encoding.into())));
        let messages = rmpv::Value::Array(vec![rmpv::Value::Map(message)]);
        let payload = bytes_of(&rmpv::Value::Map(vec![("messages".into(), messages)]));
        let message = decode(Format::MsgPack, &payload).expect("well-formed");
        let publication = publish_as(&Identity::Wildcard, message, 4).expect("four raw bytes");
        assert_eq!(
            publication.messages[0].data,
            Data::Binary(Bytes::from_static(b"\xde\xad\xbe\xef"))
        );
        let expected = json!({ "data": "3q2+7w==", "encoding": in_json });
        assert_eq!(delivered_data(Format::Json, &publication), expected);
    }
}

#[test]
fn messagepack_of_the_fixtures_is_understood() {
    // ably-common's msgpack_test_fixtures.json: "json array", "short string", "short binary".
    for (fixture, expected) in [
        (
            "gqhtZXNzYWdlc5GCpGRhdGGtWyJhIiwiYiIsImMiXahlbmNvZGluZ6Rqc29uqW1zZ1NlcmlhbAA=",
            json!({ "data": "[\"a\",\"b\",\"c\"]", "encoding": "json" }),
        ),
        ("gqhtZXNzYWdlc5GBpGRhdGGhYaltc2dTZXJpYWwA", json!({ "data": "a" })),
        (
            "gqhtZXNzYWdlc5GCpGRhdGGkWVE9PahlbmNvZGluZ6ZiYXNlNjSpbXNnU2VyaWFsAA==",
            json!({ "data": { "bin": "YQ==" } }),
        ),
    ] {
        let payload = BASE64.decode(fixture.as_bytes()).expect("base64");
        let message = decode(Format::MsgPack, &payload).expect("well-formed");
        assert_eq!(message.msg_serial, Some(0));
        let publication = publish_as(&Identity::Wildcard, message, 65_536).expect("valid");
        assert_eq!(delivered_data(Format::MsgPack, &publication), expected);
    }
}

#[test]
fn json_inside_a_message_stays_the_text_it_was() {
    let extras = r#"{ "z":1.0,"a":[1e3, 123456789012345678901234567890],"k":"\u00e9\/" }"#;
    let data = r#"{"b":100000000000000000001,"a":1.50}"#;
    let payload = format!(r#"{{"messages":[{{"extras":{extras},"data":{data}}}]}}"#);
    let message = decode(Format::Json, payload.as_bytes()).expect("well-formed");
    let publication = publish_as(&Identity::Wildcard, message, 65_536).expect("valid");
    assert_eq!(publication.messages[0].extras.as_deref(), Some(extras));
    assert_eq!(publication.messages[0].data, Data::Text(data.into()));
    let mut out = Vec::new();
    encode_publication(Format::Json, "room", &publication, &mut out);
    assert!(String::from_utf8(out).expect("UTF-8").contains(extras));
}

#[test]
fn extras_keep_order_and_integers_across_formats() {
    let entries = vec![
        ("z".into(), u64::MAX.into()),
        ("a".into(), i64::MIN.into()),
        (rmpv::Value::from(7), rmpv::Value::F32(0.5)),
        ("deep".into(), rmpv::Value::Array(vec![rmpv::Value::Nil, true.into(), "\u{1}\"".into()])),
    ];
    let message = rmpv::Value::Map(vec![("extras".into(), rmpv::Value::Map(entries))]);
    let messages = rmpv::Value::Array(vec![message]);
    let payload = bytes_of(&rmpv::Value::Map(vec![("messages".into(), messages)]));
    let message = decode(Format::MsgPack, &payload).expect("well-formed");
    let publication = publish_as(&Identity::Wildcard, message, 65_536).expect("valid");
    let text = r#"{"z":18446744073709551615,"a":-9223372036854775808,"7":0.5,"deep":[null,true,"\u0001\""]}"#;
    assert_eq!(publication.messages[0].extras.as_deref(), Some(text));
    let mut out = Vec::new();
    encode_publication(Format::MsgPack, "room", &publication, &mut out);
    let written = rmpv::decode::read_value(&mut &out[..]).expect("valid MessagePack");
    let extras = &written["messages"][0]["extras"];
    let keys: Vec<_> =
        extras.as_map().expect("a map").iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, [Some("z"), Some("a"), Some("7"), Some("deep")]);
    assert_eq!(extras["z"].as_u64(), Some(u64::MAX));
    assert_eq!(extras["a"].as_i64(), Some(i64::MIN));
}

#[test]
fn strings_are_unescaped_and_a_lone_surrogate_is_replaced() {
    let payload =
        br#"{"channel":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00","id":"x\ud800y","x\u0041":1}"#;
    let message = decode(Format::Json, payload).expect("well-formed");
    assert_eq!(message.channel.as_deref(), Some("a\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}"));
    let id = message.id.expect("a string");
    assert!(id.starts_with('x') && id.ends_with('y') && id.contains('\u{fffd}'));
    for payload in
        [&b"{\"id\":\"\xff\"}"[..], b"{\"id\":\"\n\"}", br#"{"id":"\x"}"#, br#"{"a":01}"#]
    {
        assert_eq!(decode(Format::Json, payload), Err(DecodeError::Malformed));
    }
    assert_eq!(decode(Format::MsgPack, b"\x81\xa1a\xa1\xff"), Err(DecodeError::Malformed));
}

#[test]
fn white_space_between_tokens_changes_nothing() {
    let loose = br#"
        { "action" : 15 , "params" : { "a" : "b" , "c" : 1 } , "messages" : [ { "data" : [ 1 , 2 ] } , { } ] }
    "#;
    let dense = br#"{"action":15,"params":{"a":"b","c":1},"messages":[{"data":[ 1 , 2 ]},{}]}"#;
    assert_eq!(decode(Format::Json, loose), decode(Format::Json, dense));
}

#[test]
fn a_publication_is_one_message_with_everything_subscribers_need() {
    let publication =
        publish(Format::Json, &json!({ "name": "n", "data": "x", "clientId": "bob" }));
    let publication = publication.expect("valid");
    let serial = "01826232498871-002@loc0abcdef:000";
    let message = json!({ "id": "conn:0:0", "name": "n", "clientId": "bob", "data": "x", "action": 0,
        "serial": serial, "version": { "serial": serial, "timestamp": 1_826_232_498_871u64 } });
    for format in Format::ALL {
        assert_eq!(
            delivered(format, &publication),
            json!({ "action": 15, "id": "conn:0", "channel": "room",
                "channelSerial": "01826232498871-002@loc0abcdef", "connectionId": "conn",
                "timestamp": 1_826_232_498_871u64, "messages": [message] })
        );
        // By itself, a message has what it would inherit.
        let mut alone = message.clone();
        alone["connectionId"] = "conn".into();
        alone["timestamp"] = 1_826_232_498_871u64.into();
        let mut out = Vec::new();
        encode_message(format, &publication, 0, &mut out);
        assert_eq!(parsed(format, &out), alone);
        let page = encode_history(format, [(&publication, 0), (&publication, 0)].into_iter());
        assert_eq!(parsed(format, &page), json!([alone, alone]));
    }
}

#[test]
fn maps_take_one_byte_of_messagepack_until_they_are_long() {
    let mut out = Vec::new();
    encode(Format::MsgPack, &Outbound::Closed, &mut out);
    assert_eq!(out, b"\x81\xa6action\x08");
    for count in [15, 16, 40] {
        let params: Params = (0..count).map(|n| (n.to_string().into(), "v".into())).collect();
        let attached = Outbound::Attached {
            channel: "room",
            channel_serial: &serial(),
            flags: 0,
            params: &params,
            error: None,
        };
        let value = encoded(Format::MsgPack, &attached);
        assert_eq!(value["params"].as_object().map(serde_json::Map::len), Some(count));
        assert_eq!(value, encoded(Format::Json, &attached));
    }
}

#[test]
fn answers_carry_what_sdks_trip_over_when_it_is_missing() {
    let error = ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, "no \"way\"");
    let error_value = json!({ "message": "no \"way\"", "code": 40160, "statusCode": 401,
        "href": "https://help.ably.io/error/40160" });
    let result = PublishResult {
        message_id: "conn:0".into(),
        serials: vec![Some("a:000".into()), None, Some("a:002".into())],
    };
    let params: Params = [("modes".into(), "subscribe".into())].into_iter().collect();
    let details = ConnectionDetails {
        client_id: Some("*"),
        connection_key: "conn!key",
        max_message_size: 65_536,
        max_frame_size: 524_288,
        max_inbound_rate: 1000,
        connection_state_ttl: std::time::Duration::from_secs(120),
        max_idle_interval: std::time::Duration::from_secs(15),
    };
    for (message, expected) in [
        (Outbound::Heartbeat { id: Some("p") }, json!({ "action": 0, "id": "p" })),
        (Outbound::Heartbeat { id: None }, json!({ "action": 0 })),
        (
            Outbound::Ack { msg_serial: 0, results: std::slice::from_ref(&result) },
            json!({ "action": 1, "msgSerial": 0, "count": 1,
                "res": [{ "serials": ["a:000", null, "a:002"] }] }),
        ),
        (
            Outbound::Nack { msg_serial: 0, error: &error },
            json!({ "action": 2, "msgSerial": 0, "count": 1, "error": error_value }),
        ),
        (
            Outbound::Connected { connection_id: "conn", details, error: None },
            json!({ "action": 4, "connectionId": "conn", "connectionKey": "conn!key",
                "connectionDetails": { "clientId": "*", "connectionKey": "conn!key",
                    "maxMessageSize": 65_536, "maxFrameSize": 524_288, "maxInboundRate": 1000,
                    "connectionStateTtl": 120_000, "maxIdleInterval": 15_000 } }),
        ),
        (
            Outbound::Disconnected { error: Some(&error) },
            json!({ "action": 6, "error": error_value }),
        ),
        (Outbound::Closed, json!({ "action": 8 })),
        (
            Outbound::Error { channel: Some(""), error: &error },
            json!({ "action": 9, "channel": "", "error": error_value }),
        ),
        (
            Outbound::Error { channel: None, error: &error },
            json!({ "action": 9, "error": error_value }),
        ),
        (
            Outbound::Attached {
                channel: "room",
                channel_serial: &serial(),
                flags: 262_146,
                params: &params,
                error: None,
            },
            json!({ "action": 11, "channel": "room", "channelSerial": serial().to_string(),
                "flags": 262_146, "params": { "modes": "subscribe" } }),
        ),
        (
            Outbound::Detached { channel: "room", error: Some(&error) },
            json!({ "action": 13, "channel": "room", "error": error_value }),
        ),
    ] {
        for format in Format::ALL {
            assert_eq!(encoded(format, &message), expected);
        }
    }
    for format in Format::ALL {
        assert_eq!(parsed(format, &encode_error(format, &error)), json!({ "error": error_value }));
        assert_eq!(
            parsed(format, &encode_time(format, 1_826_232_498_871)),
            json!([1_826_232_498_871u64])
        );
        assert_eq!(
            parsed(format, &encode_publish_result(format, "a/b", &result)),
            json!({ "channel": "a/b", "messageId": "conn:0", "serials": ["a:000", null, "a:002"] })
        );
    }
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_code() {
    for (messages, code) in [
        (json!([]), 40000),
        (json!("x"), 40000),
        (json!([1]), 40000),
        (json!([{ "name": 1 }]), 40016),
        (json!([{ "encoding": 1 }]), 40013),
        (json!([{ "id": 1 }]), 40031),
        (json!([{ "id": "a:0" }, {}]), 40031),
        (json!([{}, { "id": "a:1" }]), 40031),
        (json!([{ "id": "a:0" }, { "id": "b:1" }]), 40031),
        (json!([{ "id": "a:0" }, { "id": "a:2" }]), 40031),
        (json!([{ "id": "a:0" }, { "id": "a:01" }]), 40031),
        (json!([{ "id": "a" }, { "id": "a:1" }]), 40031),
        (json!([{ "clientId": "" }]), 40012),
        (json!([{ "clientId": "*" }]), 40012),
        (json!([{ "clientId": 1 }]), 40012),
        (json!([{ "connectionId": "other" }]), 40006),
        (json!([{ "extras": 1 }]), 40032),
        (json!([{ "extras": [] }]), 40032),
        (json!([{ "extras": { "headers": 1 } }]), 40032),
        (json!([{ "extras": { "headers": { "a": {} } } }]), 40032),
        (json!([{ "extras": { "delta": {} } }]), 40032),
        (json!([{ "extras": { "userClaim": "x" } }]), 40032),
        (json!([{ "id": "x".repeat(257) }]), 40031),
        (json!([{ "data": "x", "encoding": "x".repeat(257) }]), 40013),
        (json!([{ "encoding": "x".repeat(257) }]), 40013),
        (json!([{ "extras": { "privileged": {} } }]), 40160),
        (json!([{ "extras": { "ephemeral": true } }, {}]), 40000),
        (json!([{ "data": "x".repeat(65_537) }]), 40009),
        (json!([{ "data": "x".repeat(40_000) }, { "name": "y".repeat(25_537) }]), 40009),
    ] {
        for format in Format::ALL {
            let payload = payload(format, &json!({ "action": 15, "messages": messages }));
            let message = decode(format, &payload).expect("well-formed");
            let error =
                publish_as(&Identity::Wildcard, message, 65_536).expect_err("against a rule");
            assert_eq!(error.code.0, code, "{error}");
        }
    }
    for (params, code) in
        [(json!({ "_forceNack": "" }), 40099), (json!({ "_forceNack": 1 }), 40099)]
    {
        let message = json!({ "messages": [{}], "params": params });
        let message = decode(Format::Json, &payload(Format::Json, &message)).expect("well-formed");
        let error = publish_as(&Identity::Wildcard, message, 65_536).expect_err("asked for");
        assert_eq!((error.code.0, error.status), (code, 400));
    }
}

#[test]
fn a_client_id_is_what_the_credentials_permit() {
    let own = Identity::Client("bob".into());
    for (identity, claimed, expected) in [
        (&Identity::Anonymous, None, Ok(None)),
        (&Identity::Anonymous, Some("bob"), Err(40012)),
        (&own, None, Ok(Some("bob"))),
        (&own, Some("bob"), Ok(Some("bob"))),
        (&own, Some("eve"), Err(40012)),
        (&Identity::Wildcard, None, Ok(None)),
        (&Identity::Wildcard, Some("bob"), Ok(Some("bob"))),
    ] {
        let message = json!({ "messages": [{ "clientId": claimed }] });
        let message = decode(Format::Json, &payload(Format::Json, &message)).expect("well-formed");
        let published = publish_as(identity, message, 65_536);
        let client_id =
            published.as_ref().map(|publication| publication.messages[0].client_id.as_deref());
        assert_eq!(client_id.map_err(|error| error.code.0), expected, "{identity:?} {claimed:?}");
    }
}

#[test]
fn a_publish_may_be_exactly_as_large_as_the_limit() {
    let own = Identity::Client("bob".into());
    for (message, bytes) in [
        (json!({ "data": "x".repeat(100) }), 100),
        // An implied clientId is not sent, so the SDK does not count it.
        (json!({ "name": "ab", "data": "é" }), 4),
        (json!({ "clientId": "bob", "extras": { "headers": {} } }), 3 + r#"{"headers":{}}"#.len()),
        (json!({ "data": { "a": 1 } }), r#"{"a":1}"#.len()),
        (json!({ "data": "3q2+7w==", "encoding": "base64" }), 4),
    ] {
        for format in Format::ALL {
            let message = || {
                let payload = payload(format, &json!({ "messages": [message] }));
                decode(format, &payload).expect("well-formed")
            };
            assert!(publish_as(&own, message(), bytes as u64).is_ok(), "{bytes}");
            let error = publish_as(&own, message(), bytes as u64 - 1).expect_err("too large");
            assert_eq!((error.code.0, error.status), (40009, 413));
        }
    }
}

#[test]
fn messages_are_named_by_the_client_or_by_their_place() {
    for (messages, ids, id) in [
        (json!([{}, {}]), &["conn:0:0", "conn:0:1"][..], "conn:0"),
        (json!([{ "id": "some_id" }]), &["some_id"], "some_id"),
        (json!([{ "id": "x/+:0" }, { "id": "x/+:1" }]), &["x/+:0", "x/+:1"], "x/+"),
    ] {
        let message = json!({ "messages": messages });
        let message = decode(Format::Json, &payload(Format::Json, &message)).expect("well-formed");
        let publication = publish_as(&Identity::Wildcard, message, 65_536).expect("valid");
        let given =
            publication.messages.iter().map(|message| message.id.as_deref().expect("an id"));
        assert_eq!(given.collect::<Vec<_>>(), ids);
        assert_eq!(&*publication.id, id);
    }
}

#[test]
fn a_key_that_is_a_map_is_refused_whatever_is_in_it() {
    // Keys in each other; as text, each would have twice the backslashes of the one inside it.
    let mut key = b"\xa1k".to_vec();
    for depth in 1..=60 {
        key = [b"\x81", &key[..], b"\xc0"].concat();
        let message = [b"\x81", &key[..], b"\xc0"].concat();
        assert_eq!(decode(Format::MsgPack, &message), Err(DecodeError::Malformed), "{depth}");
        let data = [b"\x81\xa4data\x81", &key[..], b"\x01"].concat();
        assert!(decode_publish(Format::MsgPack, &data).is_err(), "{depth}");
    }
    let array = b"\x81\x91\xa1k\xc0";
    assert_eq!(decode(Format::MsgPack, array), Err(DecodeError::Malformed));
    // Numbers are good keys to those who have them.
    assert!(decode(Format::MsgPack, b"\x81\x07\xc0").is_ok());
}

#[test]
fn a_rest_body_is_one_message_or_an_array() {
    for format in Format::ALL {
        let drafts = |value: &Value| decode_publish(format, &payload(format, value));
        assert_eq!(drafts(&json!({ "name": "n" })), drafts(&json!([{ "name": "n" }])));
        assert_eq!(drafts(&json!([])).map(|drafts| drafts.len()), Ok(0));
        for value in [json!(1), json!("x"), json!(null), json!([1]), json!([[]])] {
            let error = drafts(&value).expect_err("no message");
            assert_eq!((error.code.0, error.status), (40001, 400), "{value}");
        }
        let body = payload(format, &json!([{ "name": "n", "data": "x" }]));
        for end in 0..body.len() {
            assert!(decode_publish(format, &body[..end]).is_err());
        }
    }
}
