//! Mail between shards: a single-producer single-consumer channel for each ordered pair.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use glommio::channels::channel_mesh::{FullMesh, MeshBuilder, Receivers, Senders};
use glommio::{GlommioError, ResourceType};

use super::bell::Bell;
use crate::shard::{Mail, Shard};

/// The mesh before the shards have joined it.
#[derive(Clone)]
pub(super) struct Mesh {
    builder: FullMesh<Mail>,
    entries: usize,
}

/// Mail that has arrived, with the shard it is from.
type Inbox = Rc<RefCell<VecDeque<(usize, Mail)>>>;

/// One shard's ends of the mesh.
pub(super) struct MeshEnds {
    senders: Option<Senders<Mail>>,
    shards: usize,
    id: usize,
    inbox: Inbox,
}

impl Mesh {
    /// `entries` bounds the mail under way from one shard to another.
    pub(super) fn new(shards: usize, entries: usize) -> Mesh {
        Mesh { builder: MeshBuilder::full(shards, entries), entries }
    }

    /// Joins as shard `id`; returns when all shards have. Arriving mail rings `bell`.
    pub(super) async fn join(self, id: usize, bell: &Rc<Bell>) -> io::Result<MeshEnds> {
        let shards = self.builder.nr_peers();
        let inbox = Inbox::default();
        if shards == 1 {
            return Ok(MeshEnds { senders: None, shards, id, inbox });
        }
        let (senders, receivers) =
            self.builder.join().await.map_err(|error| io::Error::other(error.to_string()))?;
        // The mesh numbers its peers in the order in which their executors were made.
        assert_eq!(senders.peer_id(), id, "executors are made in the order of their shards");
        collect(receivers, self.entries, &inbox, bell);
        Ok(MeshEnds { senders: Some(senders), shards, id, inbox })
    }
}

/// One task a peer moves its mail into the inbox, at most `entries` ahead of the shard.
fn collect(mut receivers: Receivers<Mail>, entries: usize, inbox: &Inbox, bell: &Rc<Bell>) {
    for (from, receiver) in receivers.streams() {
        let (inbox, bell) = (Rc::clone(inbox), Rc::clone(bell));
        glommio::spawn_local(async move {
            while let Some(mail) = receiver.recv().await {
                inbox.borrow_mut().push_back((from, mail));
                bell.ring();
                while inbox.borrow().len() >= entries {
                    // The shard is awake (the bell was rung) and empties the inbox in its next turn.
                    glommio::executor().yield_task_queue_now().await;
                }
            }
        })
        .detach();
    }
}

impl MeshEnds {
    /// Hands all mail that has arrived to `shard`; returns how much there was.
    pub(super) fn deliver_to(&self, shard: &mut Shard) -> usize {
        let arrived = std::mem::take(&mut *self.inbox.borrow_mut());
        let count = arrived.len();
        for (from, mail) in arrived {
            shard.handle_mail(from, mail);
        }
        count
    }

    /// Sends what the shard has for others, as far as the mesh takes it. True when some is left.
    pub(super) fn collect_from(&self, shard: &mut Shard) -> io::Result<bool> {
        let Some(senders) = &self.senders else { return Ok(false) };
        let mut left = false;
        for to in (0..self.shards).filter(|&to| to != self.id) {
            while let Some(mail) = shard.poll_mail(to) {
                match senders.try_send_to(to, mail) {
                    Ok(()) => {}
                    Err(GlommioError::WouldBlock(ResourceType::Channel(mail))) => {
                        shard.return_mail(to, mail);
                        left = true;
                        break;
                    }
                    Err(_) => return Err(io::Error::other(format!("shard {to} has gone"))),
                }
            }
        }
        Ok(left)
    }
}
