//! The end of a shard.

use super::*;
use crate::ably::{ChannelFilter, RequestShape, Rule, RuleSource, Rules, WhenFull};

impl Host {
    fn drain(&mut self, window: Duration) {
        for shard in &mut self.shards {
            shard.begin_drain(window);
        }
    }
}

#[test]
fn a_drain_sends_clients_away_evenly_over_its_window() {
    let mut host = Host::new(1, 1);
    let shard = &mut host.shards[0];
    for index in 0..5000 {
        shard.handle_accept(index, None);
    }
    shard.begin_drain(Duration::from_secs(10));
    let mut gone = 0;
    for second in 1..=10 {
        for _ in 0..100 {
            host.now.mono_ms += 10;
            let shard = &mut host.shards[0];
            shard.begin_turn(host.now);
            shard.handle_timeout();
            shard.settle();
            while let Some(index) = shard.poll_close() {
                shard.handle_closed(index);
                gone += 1;
            }
            assert!(
                shard.next_timeout().is_none_or(|at| at <= host.now.mono_ms + 10) || gone == 5000
            );
        }
        let expected = second * 500;
        assert!((expected - 10..=expected).contains(&gone), "{gone} after {second} s");
    }
    assert!(host.shards[0].is_drained());
}

/// Turns a shard that has drained for `elapsed_ms`, and closes what it wants closed.
fn turn_and_close(host: &mut Host, elapsed_ms: u64) {
    host.now.mono_ms += elapsed_ms;
    let now = host.now;
    let shard = &mut host.shards[0];
    shard.begin_turn(now);
    shard.handle_timeout();
    shard.settle();
    while let Some(index) = shard.poll_close() {
        shard.handle_closed(index);
    }
}

#[test]
fn a_shard_that_seldom_gets_to_run_sends_all_away_before_its_bound_and_knows_how_many_are_left() {
    let mut host = Host::new(1, 2);
    let count = 65_536;
    for index in 0..count {
        host.shards[0].handle_accept(index, None);
    }
    assert_eq!(host.shards[0].gauges().unsent_away, 0, "nobody is sent away yet");
    let window = Duration::from_secs(10);
    host.shards[0].begin_drain(window);
    let mut left = u64::from(count);
    let end_ms = (window + DRAIN_GRACE).as_millis() as u64;
    for elapsed_ms in (0..=end_ms).step_by(700) {
        let is_first = elapsed_ms == 0;
        turn_and_close(&mut host, if is_first { 0 } else { 700 });
        let gauges = host.shards[0].gauges();
        assert!(is_first || gauges.unsent_away < left || left == 0, "{left} after {elapsed_ms} ms");
        assert_eq!(gauges.unsent_away, gauges.transports);
        left = gauges.unsent_away;
    }
    assert!(host.shards[0].is_drained());
}

#[test]
fn whoever_is_waited_for_counts_as_not_sent_away_and_whoever_was_told_does_not() {
    let mut host = Host::new(1, 6);
    let told = host.connect(0, "");
    host.accept(0);
    host.write(1, b"GET /time HTTP/1.1\r\nHo");
    host.drain(Duration::ZERO);
    host.pass(Duration::from_millis(10));
    host.settle_quickly();
    assert_eq!(host.messages(told).pop().expect("told")["error"]["code"], 50320);
    let gauges = host.shards[0].gauges();
    assert_eq!((gauges.transports, gauges.unsent_away), (2, 1));
    for _ in 0..500 {
        host.pass(Duration::from_millis(10));
        host.settle_quickly();
    }
    let gauges = host.shards[0].gauges();
    assert_eq!((gauges.transports, gauges.unsent_away), (0, 0));
}

#[test]
fn few_clients_do_not_wait_for_the_whole_window() {
    let mut host = Host::new(2, 3);
    let clients = [host.connect(0, ""), host.connect(1, "")];
    host.drain(Duration::from_secs(3600));
    for _ in 0..20 {
        host.pass(Duration::from_millis(10));
        host.settle();
    }
    for client in clients {
        let last = host.messages(client).pop().expect("told");
        let error = (&last["action"], &last["error"]["code"], &last["error"]["statusCode"]);
        assert_eq!(error, (&json!(6), &json!(50320), &json!(503)));
    }
    host.pass(LINGER);
    host.settle();
    assert!(host.shards.iter().all(Shard::is_drained));
}

#[test]
fn whoever_is_sent_away_has_got_what_was_acknowledged_before() {
    for seed in 1..=20 {
        let mut host = Host::new(3, seed);
        let publisher = host.connect(0, "");
        let subscribers: Vec<usize> = (0..6).map(|client| host.connect(client % 3, "")).collect();
        for &client in &subscribers {
            host.attach(client, "room");
            host.attach(client, "other");
        }
        for msg_serial in 0..20 {
            let channel = ["room", "other"][msg_serial as usize % 2];
            host.publish(publisher, msg_serial, channel, &msg_serial.to_string());
        }
        let mut acked = 0;
        while acked < 20 {
            host.step();
            let messages = host.messages(publisher);
            let acks = messages.iter().filter(|message| message["action"] == 1);
            acked += acks.map(|ack| ack["count"].as_u64().expect("a count")).sum::<u64>();
        }
        // The mail behind the last ACK: frames for other shards.
        for id in 0..3 {
            for to in (0..3).filter(|&to| to != id) {
                while let Some(mail) = host.shards[id].poll_mail(to) {
                    host.shards[to].handle_mail(id, mail);
                }
            }
        }
        host.drain(Duration::ZERO);
        for _ in 0..5 {
            host.pass(Duration::from_millis(10));
            host.settle();
        }
        for &client in &subscribers {
            let messages = host.messages(client);
            let (last, before) = messages.split_last().expect("some came");
            assert_eq!((&last["action"], &last["error"]["code"]), (&json!(6), &json!(50320)));
            let heard = before.iter().filter(|message| message["action"] == 15).count();
            assert_eq!(heard, 20, "seed={seed} client={client}");
        }
    }
}

#[test]
fn a_drain_ends_although_a_client_does_not_read_and_another_never_finishes_its_request() {
    let mut host = Host::new(1, 9);
    let client = host.connect(0, "");
    host.attach(client, "room");
    host.stalled.push(client);
    host.publish(client, 0, "room", "unread");
    host.settle();
    host.accept(0);
    host.write(
        1,
        b"POST /channels/room/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n",
    );
    host.drain(Duration::ZERO);
    host.settle();
    assert!(!host.shards[0].is_drained());
    host.pass(Duration::from_millis(10));
    host.settle();
    assert!(!host.clients[1].is_closed, "a request that has begun is waited for");
    for _ in 0..500 {
        host.pass(Duration::from_millis(10));
        host.settle_quickly();
    }
    assert!(host.shards[0].is_drained());
}

#[test]
fn requests_that_come_during_a_drain_are_answered_and_are_their_transports_last() {
    let mut host = Host::new(1, 4);
    host.accept(0);
    host.write(0, b"GET /readyz HTTP/1.1\r\nHo");
    host.drain(Duration::from_secs(1));
    host.pass(Duration::from_millis(20));
    host.settle_quickly();
    host.write(0, b"st: h\r\n\r\n");
    host.settle();
    let answer = String::from_utf8(host.clients[0].received.clone()).expect("text");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    assert!(host.clients[0].is_closed);
}

#[test]
fn what_is_owed_to_one_that_was_cut_is_not_sent_to_whoever_comes_next() {
    let mut host = Host::new(1, 5);
    let client = host.connect(0, "");
    host.attach(client, "room");
    host.stalled.push(client);
    host.publish(client, 0, "room", "in flight");
    host.settle();
    host.publish(client, 1, "room", "owed");
    host.settle();
    let shard = &mut host.shards[0];
    shard.begin_drain(Duration::ZERO);
    shard.settle();
    // Its send ends, so that it waits for its turn with the goodbye; and is cut before that comes.
    shard.handle_sent(0, Ok(1));
    shard.close(0);
    assert_eq!(shard.poll_close(), Some(0));
    shard.handle_closed(0);
    assert!(shard.poll_transmit().is_none());
}

#[test]
fn a_shard_has_not_drained_while_rules_are_to_be_told_of_what_was_acknowledged() {
    let filter = ChannelFilter::compile("").expect("a filter");
    let (source, shape, full) = (RuleSource::Message, RequestShape::Batch, WhenFull::Refuse);
    let rule = Rule::new("r", "app", source, filter, shape, Format::Json, full, 1 << 20);
    let mut host = Host::new(1, 9);
    host.set_rules(Rules::new([Arc::new(rule)]));
    let client = host.connect(0, "");
    host.publish(client, 0, "room", "acknowledged");
    host.settle();
    host.drain(Duration::ZERO);
    for _ in 0..500 {
        host.pass(Duration::from_millis(10));
        host.settle_quickly();
    }
    assert!(host.clients[client].is_closed);
    assert!(!host.shards[0].is_drained(), "an event waits");
    assert_eq!(host.shards[0].take_hooks().len(), 1);
    assert!(host.shards[0].is_drained());
}
