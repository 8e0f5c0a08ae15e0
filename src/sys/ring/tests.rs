//! Rings over loopback: a server's and a client's, turned by hand.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use bytes::Bytes;
use io_uring::types::Fd;

use super::*;
use crate::sys::listener::{Listener, ListenerConfig};

const CONFIG: SocketRingConfig = SocketRingConfig {
    ring_entries: 64,
    table_entries: 8,
    receive_buffers: 4,
    receive_buffer_bytes: 16,
};

const DOOR: Door = Door(0);

fn listener() -> Listener {
    let config =
        ListenerConfig { send_buffer_bytes: 65_536, notsent_lowat_bytes: 16_384, backlog: 64 };
    Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &config).expect("bind")
}

fn v4(listener: &Listener) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.address().port())
}

/// What a ring has reported, without borrowed parts.
#[derive(Default)]
struct Log {
    accepted: Vec<Slot>,
    connected: Vec<(Slot, i32)>,
    received: Vec<u8>,
    ended: Vec<ReceiveEnd>,
    sent: Vec<Result<u32, i32>>,
    closed: Vec<Slot>,
    peers: Vec<Result<IpAddr, i32>>,
    accept_stopped: Vec<i32>,
}

impl Log {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Accepted(slot, ..) => self.accepted.push(slot),
            Event::AcceptStopped(_, errno) => self.accept_stopped.push(errno),
            Event::Connected(slot, errno) => self.connected.push((slot, errno)),
            Event::Received(_, bytes) => self.received.extend_from_slice(bytes),
            Event::ReceiveEnded(_, end) => self.ended.push(end),
            Event::Sent(_, result) => self.sent.push(result),
            Event::Closed(slot) => self.closed.push(slot),
            Event::Peer(_, peer) => self.peers.push(peer),
        }
    }
}

/// Turns `ring` until `done`; the ring waits in the kernel, so nothing depends on time.
fn turn_until(ring: &mut SocketRing, log: &mut Log, done: impl Fn(&Log) -> bool) {
    while !done(log) {
        ring.submit_and_wait().expect("submit");
        ring.reap(64, |event| log.take(event));
    }
}

fn pair() -> (SocketRing, Slot, SocketRing, Slot) {
    let listener = listener();
    let mut server = SocketRing::new(&CONFIG).expect("ring");
    let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
    server.start_accept(DOOR, listener.as_raw_fd(), false);
    let any = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 9), 0);
    client.connect(Slot(3), any, v4(&listener));
    let (mut server_log, mut client_log) = (Log::default(), Log::default());
    turn_until(&mut client, &mut client_log, |log| !log.connected.is_empty());
    assert_eq!(client_log.connected, [(Slot(3), 0)]);
    turn_until(&mut server, &mut server_log, |log| !log.accepted.is_empty());
    server.stop_accept(DOOR);
    turn_until(&mut server, &mut server_log, |log| !log.accept_stopped.is_empty());
    assert_eq!(server_log.accept_stopped, [libc::ECANCELED]);
    (server, server_log.accepted[0], client, Slot(3))
}

#[test]
fn bytes_outnumber_the_receive_buffers_and_still_all_arrive() {
    let (mut server, at_server, mut client, at_client) = pair();
    let sent: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    client.send(at_client, SendBuf::whole(Bytes::from(sent.clone())));
    let (mut server_log, mut client_log) = (Log::default(), Log::default());
    turn_until(&mut client, &mut client_log, |log| !log.sent.is_empty());
    assert_eq!(client_log.sent, [Ok(10_000)]);
    server.start_receive(at_server);
    turn_until(&mut server, &mut server_log, |log| log.received.len() == 10_000);
    assert_eq!(server_log.received, sent);
}

#[test]
fn closing_cancels_what_is_in_flight_and_frees_the_slot() {
    let (mut server, at_server, mut client, at_client) = pair();
    server.start_receive(at_server);
    // More than the socket buffers hold, to a peer that does not read: stays in flight.
    server.send(at_server, SendBuf::whole(Bytes::from(vec![0; 64 << 20])));
    server.submit().expect("submit");
    server.close(at_server);
    let mut log = Log::default();
    turn_until(&mut server, &mut log, |log| !log.closed.is_empty());
    assert_eq!((server.open_slots(), log.closed), (0, vec![at_server]));
    assert!(log.ended.is_empty(), "a closing slot is not reported");
    client.start_receive(at_client);
    let mut log = Log::default();
    turn_until(&mut client, &mut log, |log| !log.ended.is_empty());
}

#[test]
fn closing_one_of_many_lets_the_others_go_on() {
    let listener = listener();
    let mut server = SocketRing::new(&CONFIG).expect("ring");
    let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
    server.start_accept(DOOR, listener.as_raw_fd(), false);
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let (mut server_log, mut client_log) = (Log::default(), Log::default());
    for slot in 0..3 {
        client.connect(Slot(slot), any, v4(&listener));
        turn_until(&mut client, &mut client_log, |log| log.connected.len() > slot as usize);
        turn_until(&mut server, &mut server_log, |log| log.accepted.len() > slot as usize);
    }
    let accepted = std::mem::take(&mut server_log.accepted);
    for &slot in &accepted {
        server.start_receive(slot);
        server.send(slot, SendBuf::whole(Bytes::from(vec![0; 64 << 20])));
    }
    server.submit().expect("submit");
    server.close(accepted[1]);
    turn_until(&mut server, &mut server_log, |log| !log.closed.is_empty());
    assert_eq!((server.open_slots(), &server_log.closed), (2, &vec![accepted[1]]));
    for slot in [0, 2] {
        client.send(Slot(slot), SendBuf::whole(Bytes::from_static(b"x")));
    }
    turn_until(&mut client, &mut client_log, |log| log.sent.len() == 2);
    turn_until(&mut server, &mut server_log, |log| log.received.len() == 2);
    assert_eq!((server_log.sent, server_log.ended), (vec![], vec![]));
}

#[test]
fn a_refused_connect_reports_the_errno_and_frees_the_slot() {
    let refused = v4(&listener());
    let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
    client.connect(Slot(0), SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), refused);
    let mut log = Log::default();
    turn_until(&mut client, &mut log, |log| !log.closed.is_empty());
    assert_eq!(log.connected, [(Slot(0), libc::ECONNREFUSED)]);
    assert_eq!(client.open_slots(), 0);
}

#[test]
fn a_full_table_stops_the_accept_and_a_freed_slot_lets_it_go_on() {
    let listener = listener();
    let mut server = SocketRing::new(&CONFIG).expect("ring");
    let mut client =
        SocketRing::for_clients(&SocketRingConfig { table_entries: 32, ..CONFIG }).expect("ring");
    server.start_accept(DOOR, listener.as_raw_fd(), false);
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    for slot in 0..9 {
        client.connect(Slot(slot), any, v4(&listener));
    }
    let (mut server_log, mut client_log) = (Log::default(), Log::default());
    turn_until(&mut client, &mut client_log, |log| log.connected.len() == 9);
    turn_until(&mut server, &mut server_log, |log| !log.accept_stopped.is_empty());
    assert_eq!(server_log.accepted.len(), 8);
    assert_eq!(server_log.accept_stopped, [libc::ENFILE]);
    assert!(!server.is_accepting(DOOR));
    server.close(server_log.accepted[0]);
    turn_until(&mut server, &mut server_log, |log| !log.closed.is_empty());
    server.start_accept(DOOR, listener.as_raw_fd(), false);
    client.connect(Slot(20), any, v4(&listener));
    turn_until(&mut client, &mut client_log, |log| log.connected.len() == 10);
    turn_until(&mut server, &mut server_log, |log| log.accepted.len() == 9);
}

#[test]
fn each_client_is_told_with_its_door_and_doors_close_one_by_one() {
    let listeners = [listener(), listener()];
    let mut server = SocketRing::new(&CONFIG).expect("ring");
    let mut client = SocketRing::for_clients(&CONFIG).expect("ring");
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut accepted = Vec::new();
    let mut stopped = Vec::new();
    for (door, listener) in (0..).map(Door).zip(&listeners) {
        server.start_accept(door, listener.as_raw_fd(), false);
        client.connect(Slot(door.0.into()), any, v4(listener));
    }
    let mut log = Log::default();
    turn_until(&mut client, &mut log, |log| log.connected.len() == 2);
    while accepted.len() < 2 || stopped.is_empty() {
        server.submit_and_wait().expect("submit");
        server.reap(64, |event| match event {
            Event::Accepted(_, door, _) => accepted.push(door),
            Event::AcceptStopped(door, errno) => stopped.push((door, errno)),
            other => panic!("{other:?}"),
        });
        if accepted.len() == 2 {
            server.stop_accept(Door(1));
        }
    }
    accepted.sort_by_key(|door| door.0);
    assert_eq!(accepted, [Door(0), Door(1)]);
    assert_eq!(stopped, [(Door(1), libc::ECANCELED)]);
    assert!(server.is_accepting(Door(0)) && !server.is_accepting(Door(1)));
}

#[test]
fn addresses_are_learnt_where_they_are_asked_for_and_accepting_changes_over_to_it() {
    let listener = listener();
    let sizes = SocketRingConfig { table_entries: 400, ..CONFIG };
    let mut server = SocketRing::new(&sizes).expect("ring");
    let mut client = SocketRing::for_clients(&sizes).expect("ring");
    let mut slots = (0..).map(Slot);
    for learns in [false, true, false, true] {
        server.start_accept(DOOR, listener.as_raw_fd(), learns);
        assert_eq!(server.learns_addresses(DOOR), learns);
        let (mut addresses, mut stopped) = (Vec::new(), None);
        // Together more than are armed at once, and no more than the backlog holds at a time.
        for lot in 0..2u8 {
            let mut log = Log::default();
            for host in 1..=40 {
                let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, lot, host), 0);
                client.connect(slots.next().expect("endless"), from, v4(&listener));
            }
            turn_until(&mut client, &mut log, |log| log.connected.len() == 40);
            assert!(log.connected.iter().all(|(_, errno)| *errno == 0));
            while addresses.len() < 40 * (usize::from(lot) + 1) {
                server.submit_and_wait().expect("submit");
                server.reap(256, |event| match event {
                    Event::Accepted(_, _, address) => addresses.push(address),
                    other => panic!("{other:?}"),
                });
            }
        }
        server.stop_accept(DOOR);
        while stopped.is_none() {
            server.submit_and_wait().expect("submit");
            server.reap(256, |event| match event {
                Event::AcceptStopped(_, errno) => stopped = Some(errno),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!((stopped, server.is_accepting(DOOR)), (Some(libc::ECANCELED), false));
        let known: std::collections::BTreeSet<_> = addresses.iter().flatten().collect();
        assert_eq!(known.len(), if learns { 80 } else { 0 });
    }
}

#[test]
fn the_address_of_a_client_can_be_learnt_later_and_the_socket_goes_on() {
    let (mut server, at_server, mut client, at_client) = pair();
    server.start_receive(at_server);
    if !server.learn_peer(at_server) {
        assert!(!server.can_install);
        return; // Linux before 6.8
    }
    let mut log = Log::default();
    turn_until(&mut server, &mut log, |log| !log.peers.is_empty());
    assert_eq!(log.peers, [Ok(Ipv4Addr::new(127, 0, 0, 9).into())]);
    client.send(at_client, SendBuf::whole(Bytes::from_static(b"x")));
    client.submit().expect("submit");
    turn_until(&mut server, &mut log, |log| log.received == b"x");
    // One that is closing is not reported, and its slot is free afterwards.
    assert!(server.learn_peer(at_server));
    server.close(at_server);
    turn_until(&mut server, &mut log, |log| !log.closed.is_empty());
    assert_eq!((server.open_slots(), log.peers.len()), (0, 1));
    let mut log = Log::default();
    client.start_receive(at_client);
    // No descriptor of it is left, or the client would not be told.
    turn_until(&mut client, &mut log, |log| !log.ended.is_empty());
}

#[test]
fn more_operations_than_the_queue_holds_wait_their_turn() {
    let listener = listener();
    let sizes = SocketRingConfig { table_entries: 200, ..CONFIG };
    let mut server = SocketRing::new(&sizes).expect("ring");
    let mut client = SocketRing::for_clients(&sizes).expect("ring");
    server.start_accept(DOOR, listener.as_raw_fd(), false);
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let (mut server_log, mut client_log) = (Log::default(), Log::default());
    for slot in 0..200 {
        client.connect(Slot(slot), any, v4(&listener));
        turn_until(&mut client, &mut client_log, |log| log.connected.len() > slot as usize);
        turn_until(&mut server, &mut server_log, |log| log.accepted.len() > slot as usize);
    }
    // 200 sends and receives meet a submission queue of 64 entries.
    for &slot in &server_log.accepted {
        server.send(slot, SendBuf::whole(Bytes::from_static(b"x")));
        server.start_receive(slot);
    }
    turn_until(&mut server, &mut server_log, |log| log.sent.len() == 200);
    assert!(server_log.sent.iter().all(|sent| *sent == Ok(1)));
}

#[test]
fn a_ring_that_serves_opens_nothing() {
    let mut ring = SocketRing::new(&CONFIG).expect("ring");
    for refused in [
        opcode::Nop::new().build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/etc/hosts".as_ptr()).build(),
    ] {
        ring.push(refused);
        ring.ring.submit_and_wait(1).expect("submitted");
        let entry = ring.ring.completion().next().expect("has been waited for");
        assert_eq!(entry.result(), -libc::EACCES);
    }
    let again = ring.ring.submitter().register_files_sparse(8).expect_err("not any more");
    assert_eq!(again.raw_os_error(), Some(libc::EACCES));
}

#[test]
fn a_send_larger_than_the_socket_buffer_ends_when_all_of_it_was_taken() {
    let (mut server, at_server, mut client, at_client) = pair();
    const BYTES: usize = 8 << 20;
    server.send(at_server, SendBuf::whole(Bytes::from(vec![7; BYTES])));
    server.submit().expect("submit");
    client.start_receive(at_client);
    let (mut server_log, mut client_log) = (Log::default(), Log::default());
    while client_log.received.len() < BYTES {
        client.submit().expect("submit");
        client.reap(64, |event| client_log.take(event));
        server.submit().expect("submit");
        server.reap(64, |event| server_log.take(event));
    }
    turn_until(&mut server, &mut server_log, |log| !log.sent.is_empty());
    assert_eq!(server_log.sent, [Ok(BYTES as u32)]);
    assert!(client_log.received.iter().all(|&byte| byte == 7));
}
