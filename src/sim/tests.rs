//! Seeds of the past, some more, and whether the judge has eyes.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::oracle::{Gates, Oracle};
use super::payload::Kind;
use super::repertoire::{LATEST_FROM, Repertoire, WIDER_FROM, WIDEST_FROM};
use super::*;
use crate::ably::{
    Accepted, ChannelFilter, Directory, Format, Gate, Inquiry, OnFailure, QuestionShape,
    RequestShape, Rule, RuleSource, Since, Verdict, WhenFull,
};
use crate::channel::log::Link;
use crate::shard::{Joined, Mail, ReturnAddress};

/// Seeds that have found something once, with what it was.
const PAST: &[(u64, &str)] = &[
    (33, "what was owed was sent although a new token did not permit it any more"),
    (367, "a SYNC that was refused left an attachment that its client took for failed"),
    (388, "ATTACHED named a serial of messages that its client had not been sent"),
    (343, "a transport was sent its backlog after it was closed"),
    (1960, "what was sent again after a resume was never answered"),
    (45322, "a channel that was forgotten and opened within a millisecond used its serials again"),
    (49945, "the same, and who had attached in between missed a message"),
    (38067, "a member stayed whose DETACH came over the next transport"),
    (62171, "messages were withheld between two tokens and the answer said RESUMED"),
    (73713, "the same, where the first token came while the client attached"),
    (87377, "the same, of two attachments to one channel"),
    (94362, "the same, between an attachment and another with a rewind"),
    (38759, "who is present was judged while a lost connection still had time to come back"),
    (900154, "an ATTACH that waited for the disk was overtaken by the next one"),
    (900269, "the same, with a rewind"),
    (
        300157,
        "what the log had dropped of an open channel was passed over and the answer said RESUMED",
    ),
    (300493, "the same, of one segment of several"),
    (300150, "the log was never written again when a sync failed while a write was under way"),
    (416657, "a rewind left out what was too large, and went on with what lay before it"),
    (868112, "what was taken back left a stream behind the place that ATTACHED had told"),
    (858498, "who wants no echo got its own message, sent over the transport before this one"),
    (867663, "a member was expected to have left by the ACK of a LEAVE before it entered again"),
    (870351, "the same, on a channel in memory"),
    (2_001_713, "a revocation at once took the margin of a later one of the same target away"),
    (2_000_301, "an append was lost to who wants no echo and had made the next one of a run"),
    (7085, "a run that only ends as it should"),
    (
        3_019_761,
        "an id was forgotten whose message was left beside one that the host's end had damaged",
    ),
    (5_002_769, "nobody looked any more at who had come first after a pause of the machine"),
    (3_003_384, "a token ended while its connection was looked for, and was used once more"),
    (1_400_983, "a start was taken to have lost what its shard had never had, and went with age"),
    (5_021_242, "what was refused by a disk that failed was there again, and others were past it"),
    (2_134_151, "a file of the log was dropped to which something was still to be written"),
    (
        6_205_731,
        "a question waited for the next turn, which came too late for anybody to hear of it",
    ),
    (
        6_423_842,
        "a client took the ATTACHED of a new token for its answer, which told it of a gap behind that",
    ),
    (7_005_066, "another view of a channel began behind what its client was not to be sent again"),
    (6_401_409, "a file whose first record was torn said nothing of what had gone with age"),
    (3_214_249, "what told of damage was damaged before the start after the next"),
    (7_491_888, "who took the ATTACHED of a token for an answer was sent what followed once more"),
    (7_451_533, "the same ATTACHED was followed by a delta without its base"),
    (7_414_164, "a question was taken for given up in the turn of another shard"),
    (7_439_872, "the same, of a publish that was sent again"),
    (7_455_571, "the same, of one for which a rule had no room then"),
    (7_456_900, "the same, of one that the disk refused then"),
    (7_441_424, "a rule refused a publish of a channel that it was not for any more"),
    (7_480_400, "the same, of a rule that had let everything pass before"),
    (
        7_405_425,
        "an attachment whose modes a new token changed was taken to begin with an ATTACH that crossed that",
    ),
    (7_410_760, "the same"),
    (7_416_819, "the same"),
    (7_436_586, "the same"),
    (7_437_491, "the same"),
    (7_441_631, "the same"),
    (7_441_776, "the same"),
    (7_452_805, "the same"),
    (7_459_116, "the same"),
    (7_462_170, "the same"),
    (7_467_260, "the same"),
    (7_470_169, "the same"),
    (7_472_511, "the same"),
    (7_485_098, "the same"),
    (7_498_462, "the same"),
    (7_505_514, "the same"),
    (7_519_768, "the same"),
    (3_309_144, "a member stayed whose DETACH went again behind an ATTACH under another name"),
];

/// How many more are run wherever these tests are.
const MORE: u64 = 120;

#[test]
fn whatever_happens_the_promise_is_kept() {
    let wider = WIDER_FROM..WIDER_FROM + MORE;
    let widest = WIDEST_FROM..WIDEST_FROM + MORE;
    let latest = LATEST_FROM..LATEST_FROM + MORE;
    let more = (1..=MORE).chain(wider).chain(widest).chain(latest);
    for seed in PAST.iter().map(|(seed, _)| *seed).chain(more) {
        let report = run(seed, Sabotage::default(), false);
        assert!(report.findings.is_empty(), "seed={seed} {:?}", report.findings);
    }
}

#[test]
fn a_seed_tells_the_same_story_every_time() {
    let mut deliveries = 0;
    let from = [1000, WIDER_FROM, WIDEST_FROM, LATEST_FROM];
    for seed in from.into_iter().flat_map(|from| from..from + 20) {
        let first = run(seed, Sabotage::default(), false);
        deliveries += first.deliveries;
        assert_eq!(first, run(seed, Sabotage::default(), false), "seed={seed}");
    }
    assert!(deliveries > 0);
    assert_ne!(
        run(1, Sabotage::default(), false).digest,
        run(2, Sabotage::default(), false).digest
    );
}

/// Runs seeds until one has a finding; returns what kind it is.
fn first_finding(tamper: fn(&mut Random, Mail) -> Vec<Mail>) -> &'static str {
    first_finding_of(1..400, || Sabotage { tamper: Some(Box::new(tamper)), ..Sabotage::default() })
}

/// The same with clients that can do more.
fn first_wider_finding(tamper: fn(&mut Random, Mail) -> Vec<Mail>) -> &'static str {
    first_finding_of(WIDER_FROM..WIDER_FROM + 400, || Sabotage {
        tamper: Some(Box::new(tamper)),
        ..Sabotage::default()
    })
}

/// The same of what is done to the disk between two starts.
fn first_finding_on(disk: fn(&mut Random, &mut Disk)) -> &'static str {
    first_finding_of(1..400, || Sabotage { disk: Some(Box::new(disk)), ..Sabotage::default() })
}

fn first_finding_of(
    seeds: impl IntoIterator<Item = u64>,
    sabotage: impl Fn() -> Sabotage,
) -> &'static str {
    for seed in seeds {
        let run = || run(seed, sabotage(), false);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(report) if report.findings.is_empty() => {}
            Ok(report) => return report.findings[0].kind,
            Err(_) => return "panic",
        }
    }
    "nothing"
}

#[test]
fn a_frame_that_is_lost_between_two_cores_is_missed() {
    let found = first_finding(|random, mail| match mail {
        Mail::Frame { frame: Some(_), .. } if random.chance(10) => Vec::new(),
        mail => vec![mail],
    });
    assert!(["gap", "gap or end"].contains(&found), "{found}");
}

/// A frame, and before it a copy that no delta starts from.
fn twice(mail: Mail) -> Vec<Mail> {
    let Mail::Frame { stream, serial, publisher, has_members, ref frame, .. } = mail else {
        return vec![mail];
    };
    let (frame, link) = (frame.clone(), Link::None);
    vec![Mail::Frame { stream, serial, publisher, has_members, frame, link }, mail]
}

#[test]
fn a_frame_that_comes_twice_is_one_too_many() {
    let found = first_finding(|random, mail| match mail {
        Mail::Frame { frame: Some(_), .. } if random.chance(10) => twice(mail),
        mail => vec![mail],
    });
    assert_eq!(found, "order");
}

#[test]
fn a_gap_that_is_passed_over_in_silence_is_seen() {
    let found = first_finding(|_, mail| match mail {
        Mail::Joined { transport, request, mut joined } => {
            (joined.resumed, joined.error) = (true, None);
            vec![Mail::Joined { transport, request, joined }]
        }
        mail => vec![mail],
    });
    assert!(["gap", "gap or end", "resume"].contains(&found), "{found}");
}

#[test]
fn the_echo_of_ones_own_message_is_heard() {
    let found = first_finding(|_, mail| match mail {
        Mail::Frame { stream, serial, has_members, frame, link, .. } => {
            vec![Mail::Frame { stream, serial, publisher: None, has_members, frame, link }]
        }
        mail => vec![mail],
    });
    assert_eq!(found, "echo");
}

#[test]
fn a_byte_that_is_another_in_one_format_is_seen() {
    let found = first_wider_finding(|_, mail| {
        // Bytes come as they are in MessagePack alone.
        spoil(mail, |bytes| {
            bytes.iter_mut().filter(|byte| **byte == 0xfe).take(1).for_each(|byte| *byte = 0xfd);
        })
    });
    assert_eq!(found, "contents");
}

/// Makes the bytes of some frames others; not how many there are.
fn spoil(mail: Mail, spoil: impl Fn(&mut [u8])) -> Vec<Mail> {
    let Mail::Frame { stream, serial, publisher, has_members, frame: Some(frame), link } = mail
    else {
        return vec![mail];
    };
    let mut bytes = frame.to_vec();
    spoil(&mut bytes);
    let frame = Some(Bytes::from(bytes));
    vec![Mail::Frame { stream, serial, publisher, has_members, frame, link }]
}

#[test]
fn an_append_that_is_lost_is_missed() {
    let found = first_wider_finding(|random, mail| match mail {
        Mail::Append(_) if random.chance(3) => Vec::new(),
        mail => vec![mail],
    });
    assert!(["gap", "gap or end"].contains(&found), "{found}");
}

#[test]
fn a_version_that_lacks_an_append_is_noticed() {
    let found = first_wider_finding(|_, mail| {
        spoil(mail, |bytes| {
            // The text goes on with another letter where the append began, up to its end.
            if let Some(at) = bytes.windows(3).position(|it| it == b"x+p") {
                let append = bytes[at + 1..].iter_mut();
                let is_append = |byte: &&mut u8| b"+p.0123456789".contains(&**byte);
                append.take_while(is_append).for_each(|byte| *byte = b'x');
            }
        })
    });
    assert_eq!(found, "versions");
}

#[test]
fn a_delta_for_somebody_who_lacks_what_it_starts_from_is_noticed() {
    let found = first_wider_finding(|_, mail| match mail {
        Mail::Frame { stream, serial, publisher, has_members, frame, link: Link::Delta(_) } => {
            vec![Mail::Frame { stream, serial, publisher, has_members, frame, link: Link::Full }]
        }
        mail => vec![mail],
    });
    assert_eq!(found, "delta");
}

#[test]
fn a_delta_that_is_another_is_noticed() {
    let found = first_wider_finding(|_, mail| {
        spoil(mail, |bytes| {
            let name = b"\"from\":\"";
            if let Some(at) = bytes.windows(name.len()).position(|it| it == name) {
                bytes[at + name.len()] ^= 1;
            }
        })
    });
    assert_eq!(found, "delta");
}

/// The kind of the first finding where the answers to clients that could not decode a delta are spoilt; such
/// seeds are few, so the first to be tried is named.
fn first_finding_of_recoveries(from: u64, spoil: fn(&mut Joined)) -> &'static str {
    let has_some = |seed: &u64| Repertoire::new(*seed).has_lost_bases;
    first_finding_of((from..).filter(has_some).take(1000), || {
        // Nothing else joins one stream over one transport twice.
        let (mut joins, mut recoveries) = (HashSet::new(), HashSet::new());
        let tamper = move |_: &mut Random, mut mail: Mail| {
            match &mut mail {
                Mail::Join { reply_to, view, since, .. } if view.delta => {
                    let ReturnAddress { shard, transport, request } = *reply_to;
                    let is_again = !joins.insert((shard, transport, request >> 32));
                    if is_again && matches!(since, Since::Serial(_)) {
                        recoveries.insert((transport, request));
                    }
                }
                Mail::Joined { transport, request, joined }
                    if recoveries.remove(&(*transport, *request)) =>
                {
                    spoil(joined);
                }
                _ => {}
            }
            vec![mail]
        };
        Sabotage { tamper: Some(Box::new(tamper)), ..Sabotage::default() }
    })
}

#[test]
fn a_message_that_is_not_sent_again_to_who_could_not_decode_it_is_missed() {
    let found = first_finding_of_recoveries(6_001_600, |joined| {
        if joined.has_backlog {
            joined.frames.clear();
            joined.has_base = false;
        }
    });
    assert!(["gap", "gap or end"].contains(&found), "{found}");
}

#[test]
fn who_could_not_decode_a_delta_is_not_sent_another_first() {
    let found = first_finding_of_recoveries(6_003_400, |joined| {
        // What follows starts from the first one.
        if let Some(bytes) = joined.frames.first_mut().filter(|_| joined.has_backlog)
            && let Some((.., rest)) = frame::split(bytes)
            && let Some((_, next, _)) = frame::split(rest)
            && next.windows(7).any(|it| it == b"/vcdiff")
        {
            *bytes = bytes.slice_ref(rest);
        }
    });
    assert_eq!(found, "delta");
}

#[test]
fn a_core_that_does_not_hear_of_a_revocation_is_noticed() {
    let found = first_wider_finding(|_, mail| match mail {
        Mail::Directory { version, directory: _, enforce: true } => {
            // It confirms that it has the directory, and has the one that it had.
            let directory = Arc::new(super::credentials::directory(true, |_| true));
            vec![Mail::Directory { version, directory, enforce: true }]
        }
        mail => vec![mail],
    });
    assert_eq!(found, "revoked");
}

#[test]
fn publishes_of_one_connection_that_change_places_are_noticed() {
    let mut oracle = Oracle::default();
    let told = ["01800000000002-000@s:0", "01800000000001-000@s:0"].map(str::to_owned);
    for serial in told {
        let publish = oracle.begin_publish("a", 1, Kind::Text, false, 0);
        oracle.attempt(publish, None);
        oracle.told(publish, Ok(vec![serial]), Some("connection"));
    }
    assert_eq!(oracle.findings.first().map(|finding| finding.kind), Some("turn"));
}

#[test]
fn an_event_that_a_listener_is_not_sent_is_missed() {
    let found = first_finding_of(WIDEST_FROM..WIDEST_FROM + 400, || {
        let is_event = |bytes: &Bytes| bytes.windows(14).any(|it| it == b"event: message");
        let tamper = move |random: &mut Random, mail: Mail| match mail {
            Mail::Frame { frame: Some(bytes), .. } if is_event(&bytes) && random.chance(4) => {
                Vec::new()
            }
            mail => vec![mail],
        };
        Sabotage { tamper: Some(Box::new(tamper)), ..Sabotage::default() }
    });
    assert!(["gap", "gap or end"].contains(&found), "{found}");
}

#[test]
fn who_is_told_a_place_has_been_sent_everything_up_to_there_and_nothing_of_it_again() {
    let serials = ["01800000000001-000@s", "01800000000002-000@s"];
    let kind_of = |sent: &[&str], place: &str, behind: &[&str]| {
        let mut oracle = Oracle::default();
        oracle.begin_start(vec!["s".into()]);
        let segment = oracle.begin_segment(0, "a", "0", false, false);
        for serial in serials {
            let publish = oracle.begin_publish("a", 1, Kind::Text, false, 0);
            oracle.attempt(publish, None);
            oracle.told(publish, Ok(vec![format!("{serial}:0")]), None);
        }
        sent.iter().for_each(|serial| oracle.receive(segment, serial, true));
        oracle.place(segment, place);
        behind.iter().for_each(|serial| oracle.receive(segment, serial, true));
        oracle.judge();
        oracle.findings.first().map(|finding| finding.kind)
    };
    assert_eq!(kind_of(&serials, serials[1], &[]), None);
    assert_eq!(kind_of(&serials[..1], serials[0], &serials[1..]), None);
    assert_eq!(kind_of(&serials[..1], serials[1], &[]), Some("gap"));
    assert_eq!(kind_of(&serials[..1], serials[1], &serials[1..]), Some("order"));
}

/// Runs seeds with rules until one has a finding; returns what kind it is.
fn first_finding_about_rules(sabotage: impl Fn() -> Sabotage) -> &'static str {
    first_finding_of(WIDEST_FROM..WIDEST_FROM + 400, sabotage)
}

/// The same of what is done to what rules decide.
fn first_doubt(doubt: fn(&mut Random, Verdict) -> Verdict) -> &'static str {
    first_finding_about_rules(|| Sabotage { doubt: Some(Box::new(doubt)), ..Sabotage::default() })
}

#[test]
fn what_a_rule_has_refused_may_not_be_there() {
    let found = first_doubt(|_, verdict| match verdict {
        Verdict::Reject(_) => Verdict::Accept,
        verdict => verdict,
    });
    assert_eq!(found, "gate");
}

#[test]
fn what_a_rule_has_let_pass_may_not_be_refused_in_its_name() {
    let found = first_doubt(|random, verdict| match verdict {
        Verdict::Accept if random.chance(4) => {
            let code = crate::ably::ErrorCode::REJECTED_BY_RULE;
            Verdict::Reject(crate::ably::ErrorInfo::new(code, "not so"))
        }
        verdict => verdict,
    });
    assert_eq!(found, "gate");
}

#[test]
fn what_a_rule_has_replaced_may_not_be_there_as_it_was() {
    let found = first_doubt(|_, verdict| match verdict {
        Verdict::Replace(_) => Verdict::Accept,
        verdict => verdict,
    });
    assert!(["gate", "question"].contains(&found), "{found}");
}

#[test]
fn what_a_rule_has_not_understood_has_not_passed_it() {
    let found = first_doubt(|_, verdict| match verdict {
        Verdict::Failed(_) => Verdict::Accept,
        verdict => verdict,
    });
    assert_eq!(found, "gate");
}

#[test]
fn an_event_that_a_rule_is_not_told_of_is_missed() {
    let retold = |random: &mut Random| usize::from(!random.chance(10));
    let sabotage = || Sabotage { retold: Some(retold), ..Sabotage::default() };
    let found = first_finding_about_rules(sabotage);
    assert!(["gap", "gap or end"].contains(&found), "{found}");
}

#[test]
fn an_event_that_a_rule_is_told_of_twice_is_one_too_many() {
    let retold = |random: &mut Random| 1 + usize::from(random.chance(10));
    let sabotage = || Sabotage { retold: Some(retold), ..Sabotage::default() };
    assert_eq!(first_finding_about_rules(sabotage), "order");
}

#[test]
fn a_core_that_goes_on_with_rules_that_have_changed_is_noticed() {
    let found = first_finding_of(LATEST_FROM..LATEST_FROM + 400, || {
        let mut sent: BTreeMap<u64, Arc<Directory>> = BTreeMap::new();
        let tamper = move |_: &mut Random, mail: Mail| match mail {
            Mail::Directory { version, directory, enforce } => {
                sent.entry(version).or_insert_with(|| Arc::clone(&directory));
                // It confirms that it has them, and has those of before.
                let before = sent.get(&(version - 1)).filter(|_| !enforce);
                let directory = before.map_or(directory, Arc::clone);
                vec![Mail::Directory { version, directory, enforce }]
            }
            mail => vec![mail],
        };
        Sabotage { tamper: Some(Box::new(tamper)), ..Sabotage::default() }
    });
    assert!(["question", "gate", "told", "gap", "gap or end"].contains(&found), "{found}");
}

#[test]
fn a_rule_is_asked_only_about_channels_that_it_is_for_then() {
    let gate = Gate {
        on_failure: OnFailure::Reject,
        timeout: Duration::from_secs(1),
        concurrency: 1,
        retries_max: 0,
        retries_throttled: false,
        shape: QuestionShape::Messages,
    };
    let rule = |filter: &str| {
        let filter = ChannelFilter::compile(filter).expect("a filter");
        let (source, shape) = (RuleSource::Message, RequestShape::Enveloped);
        let (format, full) = (Format::Json, WhenFull::DropOldest);
        Arc::new(Rule::new("r", "app", source, filter, shape, format, full, 0).with_gate(gate))
    };
    let rules = [rule("^a$"), rule("^b$")];
    let kind_of = |asks: &Arc<Rule>| {
        let mut oracle = Oracle::default();
        oracle.gates = Gates::new(vec![Arc::clone(&rules[0])], 1000);
        oracle.begin_publish("a", 1, Kind::Text, false, 0);
        oracle.gates.change(vec![Arc::clone(&rules[1])]);
        let messages = json!([{"action": 0, "data": "p0.0"}]);
        let body = json!({"channel": "a", "ruleId": "r", "messages": messages}).to_string();
        let (rule, channel) = (Arc::clone(asks), "a".into());
        oracle.ask(1, &Inquiry { rule, shard: 0, number: 0, channel, body: body.into() });
        oracle.findings.first().map(|finding| finding.kind)
    };
    // It may have been asked before the change; as it is now it has no say in that channel.
    assert_eq!(rules.each_ref().map(kind_of), [None, Some("question")]);
}

#[test]
fn what_is_delivered_and_forgotten_is_missed_by_who_was_there() {
    let found = first_finding_of(LATEST_FROM..LATEST_FROM + 400, || {
        let is_ephemeral = |bytes: &Bytes| bytes.windows(11).any(|it| it == b"\"ephemeral\"");
        let tamper = move |random: &mut Random, mail: Mail| match mail {
            Mail::Frame { frame: Some(bytes), .. } if is_ephemeral(&bytes) && random.chance(4) => {
                Vec::new()
            }
            mail => vec![mail],
        };
        Sabotage { tamper: Some(Box::new(tamper)), ..Sabotage::default() }
    });
    assert!(["gap", "gap or end"].contains(&found), "{found}");
}

#[test]
fn what_is_delivered_and_forgotten_is_kept_nowhere() {
    // The messages of such publishes are kept like others.
    let keep = |mail: &mut Mail| {
        if let Mail::Publish { accepted: Accepted::Messages(messages), .. } = mail
            && messages.is_ephemeral()
        {
            *messages = messages.clone().kept();
        }
    };
    let found = first_finding_of(LATEST_FROM..LATEST_FROM + 400, || {
        let tamper = move |_: &mut Random, mut mail: Mail| {
            keep(&mut mail);
            vec![mail]
        };
        Sabotage { tamper: Some(Box::new(tamper)), ..Sabotage::default() }
    });
    assert_eq!(found, "ephemeral");
}

#[test]
fn what_is_delivered_and_forgotten_is_delivered_once() {
    let found = first_finding_of(LATEST_FROM..LATEST_FROM + 400, || {
        let is_ephemeral = |bytes: &Bytes| bytes.windows(11).any(|it| it == b"\"ephemeral\"");
        let tamper = move |random: &mut Random, mail: Mail| match &mail {
            Mail::Frame { frame: Some(bytes), .. } if is_ephemeral(bytes) && random.chance(4) => {
                twice(mail)
            }
            _ => vec![mail],
        };
        Sabotage { tamper: Some(Box::new(tamper)), ..Sabotage::default() }
    });
    assert_eq!(found, "order");
}

#[test]
fn what_is_to_be_forgotten_is_not_sent_again_to_an_attachment_that_goes_on() {
    const PUBLISHED_MS: u64 = 1_800_000_000_005;
    let kind_of = |asked_ms: u64, changes: bool, is_cut: bool, is_ephemeral: bool| {
        let mut oracle = Oracle::default();
        oracle.begin_start(vec!["s".into()]);
        let publish = oracle.begin_publish("a", 1, Kind::Text, false, 0);
        oracle.publishes[publish].is_ephemeral = is_ephemeral;
        oracle.attempt(publish, None);
        let serial = format!("{PUBLISHED_MS:014}-000@s");
        oracle.told(publish, Ok(vec![format!("{serial}:0")]), None);
        let mut segment = oracle.begin_segment(0, "a", "0", false, false);
        oracle.pause(segment, Some(asked_ms), "0".into());
        if changes {
            // Its modes change, but not since when it is attached.
            oracle.pause(segment, Some(asked_ms), "~".into());
        }
        oracle.receive(segment, &serial, true);
        if is_cut {
            let before = segment;
            segment = oracle.begin_segment(0, "a", "0", false, false);
            oracle.pause(segment, Some(asked_ms), "0".into());
            oracle.follow(segment, before);
            oracle.receive(segment, &serial, true);
        }
        oracle.findings.first().map(|finding| finding.kind)
    };
    for changes in [false, true] {
        assert_eq!(kind_of(PUBLISHED_MS, changes, false, true), None);
        assert_eq!(kind_of(PUBLISHED_MS + 1, changes, false, true), Some("ephemeral"));
        assert_eq!(kind_of(PUBLISHED_MS, changes, true, true), Some("ephemeral"));
        assert_eq!(kind_of(PUBLISHED_MS + 1, changes, true, false), None);
    }
}

#[test]
fn an_ack_of_what_is_not_in_the_order_is_a_lie() {
    let found = first_finding(|random, mail| match mail {
        Mail::Published { transport, request, result: Ok(mut result) } if random.chance(5) => {
            for serial in result.serials.iter_mut().flatten() {
                *serial = serial.replacen("01", "02", 1).into();
            }
            vec![Mail::Published { transport, request, result: Ok(result) }]
        }
        mail => vec![mail],
    });
    assert!(["ack", "gap or end", "gap"].contains(&found), "{found}");
}

#[test]
fn a_nack_of_what_is_in_the_order_is_a_lie() {
    let found = first_finding(|random, mail| match mail {
        Mail::Published { transport, request, result: Ok(_) } if random.chance(5) => {
            let error = crate::ably::ErrorInfo::new(crate::ably::ErrorCode::BUSY, "not so");
            vec![Mail::Published { transport, request, result: Err(error) }]
        }
        mail => vec![mail],
    });
    assert_eq!(found, "nack");
}

#[test]
fn a_member_that_only_some_know_of_is_seen() {
    let found = first_finding(|random, mail| match mail {
        Mail::ChangeMembers { .. } | Mail::Connection { .. } if random.chance(4) => Vec::new(),
        mail => vec![mail],
    });
    // Or a client waits for its ACK for ever.
    assert!(["presence", "does not settle"].contains(&found), "{found}");
}

#[test]
fn what_is_left_behind_is_found() {
    let found = first_finding(|_, mail| match mail {
        Mail::Unsubscribe { .. } => Vec::new(),
        mail => vec![mail],
    });
    assert_eq!(found, "left behind");
}

/// The newest segment with events, and where its last record begins.
fn last_record(disk: &mut Disk) -> Option<(&mut Vec<u8>, usize)> {
    disk.files.values_mut().rev().find_map(|data| {
        let at = crate::journal::last_event(data)?;
        Some((data, at))
    })
}

#[test]
fn a_confirmed_record_that_the_next_start_does_not_have_is_missed() {
    let found = first_finding_on(|_, disk| {
        if let Some((data, at)) = last_record(disk) {
            data.truncate(at);
        }
    });
    assert_eq!(found, "lost");
}

#[test]
fn an_end_of_the_host_that_the_next_start_does_not_see_leaves_a_gap() {
    let found = first_finding_on(|_, disk| disk.boot = Disk::default().boot);
    assert!(["gap", "gap or end"].contains(&found), "{found}");
}

#[test]
fn a_record_that_the_next_start_has_twice_is_one_too_many() {
    let found = first_finding_on(|_, disk| {
        if let Some((data, at)) = last_record(disk) {
            data.extend_from_within(at..);
        }
    });
    assert!(["order", "one order"].contains(&found), "{found}");
}

#[test]
fn who_goes_on_over_a_start_that_has_kept_nothing_is_lied_to() {
    let found = first_finding(|_, mail| match mail {
        Mail::Joined { transport, request, mut joined } => {
            let is_of_another_start = |error: &crate::ably::ErrorInfo| {
                error.code == crate::ably::ErrorCode::UNKNOWN_SERIES
            };
            if joined.error.as_ref().is_some_and(is_of_another_start) {
                (joined.resumed, joined.error) = (true, None);
            }
            vec![Mail::Joined { transport, request, joined }]
        }
        mail => vec![mail],
    });
    assert_eq!(found, "resume");
}

#[test]
fn a_gap_that_need_not_be_is_noticed() {
    let found = first_finding(|_, mail| match mail {
        Mail::Joined { transport, request, mut joined } if joined.resumed => {
            let code = crate::ably::ErrorCode::HISTORY_EXPIRED;
            joined.error = Some(crate::ably::ErrorInfo::new(code, "not so"));
            joined.resumed = false;
            vec![Mail::Joined { transport, request, joined }]
        }
        mail => vec![mail],
    });
    assert_eq!(found, "needless gap");
}
