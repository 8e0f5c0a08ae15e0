//! A turn of one shard, as the pump makes it.

use super::client::End;
use super::{EPIPE, Host};

impl Host {
    /// One turn of one shard, as the pump makes it.
    pub fn turn(&mut self, id: usize) {
        self.shards[id].begin_turn(self.now);
        self.deliver_verdicts(id);
        self.reap(id);
        self.deliver_mail(id);
        let shard = &mut self.shards[id];
        shard.handle_timeout();
        shard.settle();
        if let Some(helper) = &mut self.helper {
            helper.expire(self.now, id);
        }
        self.collect_mail(id);
        self.turn_disk(id);
        let shard = &mut self.shards[id];
        if self.takes_hooks && shard.has_hooks() {
            self.hooks.append(&mut shard.take_hooks());
        }
        self.hand_over_hooks(id);
        self.collect_reading(id);
        while let Some(index) = self.shards[id].poll_stranger() {
            let client = self.slots[id][index as usize].expect("it is open");
            if let Some(peer) = self.clients[client].peer {
                self.shards[id].handle_peer(index, peer);
            }
        }
        self.collect_sends(id);
        self.collect_closes(id);
        while self.shards[id].poll_log().is_some() {}
    }

    /// Tells a shard what rules have answered.
    fn deliver_verdicts(&mut self, id: usize) {
        let Some(helper) = &mut self.helper else { return };
        helper.work(self.now);
        for answered in helper.answers(self.now, id) {
            self.shards[id].handle_verdict(answered);
        }
    }

    /// Hands over what a shard has for rules, if there is room.
    fn hand_over_hooks(&mut self, id: usize) {
        let Some(helper) = &mut self.helper else { return };
        let shard = &mut self.shards[id];
        let has_some = shard.has_hooks() || shard.has_inquiries();
        if has_some && helper.has_room(self.now, id) {
            helper.take(self.now, shard.take_hooks(), shard.take_inquiries());
        }
    }

    /// Takes what a shard wants to have done with its files, and does something of what is to be done.
    fn turn_disk(&mut self, id: usize) {
        let Some(disk) = &mut self.disk else { return };
        while let Some(command) = self.shards[id].poll_journal() {
            self.disk_commands.push((id, command));
        }
        if !self.is_disk_stalled && !self.disk_commands.is_empty() {
            let next = self.random.below(self.disk_commands.len());
            let (shard, command) = self.disk_commands.swap_remove(next);
            self.shards[shard].handle_journal(disk.execute(command));
            // A channel that was waited for may have asked: that is handed over in the turn in which it is.
            self.hand_over_hooks(shard);
        }
    }

    /// What has happened to the sockets of a shard since its last turn, in any order.
    fn reap(&mut self, id: usize) {
        let count = self.slots[id].len();
        let first = if count > 0 { self.random.below(count) } else { 0 };
        for slot in (first..count).chain(0..first) {
            let Some(number) = self.slots[id][slot] else { continue };
            let index = slot as u32;
            let client = &mut self.clients[number];
            if client.is_closing {
                // The operations in flight end first.
                if self.random.chance(2) {
                    client.is_closed = true;
                    (client.sending, client.sent) = (None, None);
                    self.slots[id][slot] = None;
                    self.shards[id].handle_closed(index);
                }
                continue;
            }
            let is_sent_first = self.random.chance(2);
            if is_sent_first && let Some(result) = client.sent.take() {
                self.shards[id].handle_sent(index, result);
            }
            let client = &mut self.clients[number];
            match client.under_way.len() {
                _ if client.is_held => {}
                0 if client.end == End::Due => {
                    client.end = End::Told;
                    self.shards[id].handle_receive_end(index);
                }
                0 => {}
                _ if self.random.chance(4) => {}
                len => {
                    let is_all = self.random.chance(2);
                    let count = if is_all { len } else { 1 + self.random.below(len) };
                    let rest = client.under_way.split_off(count);
                    let mut arrived = std::mem::replace(&mut client.under_way, rest);
                    self.shards[id].handle_bytes(index, &mut arrived);
                }
            }
            if !is_sent_first && let Some(result) = self.clients[number].sent.take() {
                self.shards[id].handle_sent(index, result);
            }
        }
    }

    fn collect_reading(&mut self, id: usize) {
        while let Some((index, reads)) = self.shards[id].poll_reading() {
            if let Some(number) = self.slots[id][index as usize] {
                self.clients[number].is_held = !reads;
            }
        }
    }

    fn deliver_mail(&mut self, id: usize) {
        for from in 0..self.shards.len() {
            let waiting = self.mesh[from][id].len();
            let count =
                if self.random.chance(2) { waiting } else { self.random.below(waiting + 1) };
            for mail in self.mesh[from][id].drain(..count) {
                self.shards[id].handle_mail(from, mail);
            }
        }
    }

    fn collect_mail(&mut self, id: usize) {
        for to in (0..self.shards.len()).filter(|&to| to != id) {
            while let Some(mail) = self.shards[id].poll_mail(to) {
                let queue = &mut self.mesh[id][to];
                if queue.len() >= self.mesh_entries {
                    self.shards[id].return_mail(to, mail);
                    break;
                }
                match &mut self.tamper {
                    Some(tamper) => queue.extend(tamper(&mut self.random, mail)),
                    None => queue.push_back(mail),
                }
            }
        }
    }

    /// As many sends as the ring takes.
    fn collect_sends(&mut self, id: usize) {
        for _ in 0..self.random.below(8) {
            let Some((index, bytes)) = self.shards[id].poll_transmit() else { break };
            let client =
                self.slots[id][index as usize].expect("sends are to sockets that are open");
            let client = &mut self.clients[client];
            assert!(client.sending.is_none() && client.sent.is_none(), "one send at a time");
            assert!(!client.is_closing, "nothing is sent to a socket that is closing");
            // Nobody is there any more, which the shard has not heard yet.
            match client.end {
                End::No => client.sending = Some(bytes),
                End::Due | End::Told => client.sent = Some(Err(EPIPE)),
            }
        }
    }

    fn collect_closes(&mut self, id: usize) {
        while self.shards[id].poll_shut_down().is_some() {}
        while let Some(index) = self.shards[id].poll_close() {
            let client = self.slots[id][index as usize].expect("what is closed is open");
            let client = &mut self.clients[client];
            assert!(!client.is_closing, "closed once");
            client.is_closing = true;
            client.under_way.clear();
        }
    }
}
