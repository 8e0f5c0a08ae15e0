//! A disk: files that survive the process, and what was synchronised the host. It fails when told to.

use std::collections::{BTreeMap, VecDeque};

use crate::base::Now;
use crate::journal::{Command, Done, Recovered, Recovery, SegmentId};

/// No such file.
const ENOENT: i32 = 2;

/// No space is left.
pub const ENOSPC: i32 = 28;
/// The disk has failed.
pub const EIO: i32 = 5;

/// Files, and what their disk does next.
#[derive(Clone, Default)]
pub struct Disk {
    /// Their bytes.
    pub files: BTreeMap<SegmentId, Vec<u8>>,
    /// Bytes of each file that survive a loss of power.
    pub synced: BTreeMap<SegmentId, usize>,
    /// Errors for the next commands that write.
    pub errors: VecDeque<Option<i32>>,
    /// Whether no file can be made.
    pub full: bool,
}

impl Disk {
    /// Does what is to be done, or fails.
    pub fn execute(&mut self, command: Command) -> Done {
        let error = match &command {
            Command::Create { .. } if self.full => Some(ENOSPC),
            Command::Read { .. } | Command::Remove { .. } => None,
            _ => self.errors.pop_front().flatten(),
        };
        let result = error.map_or(Ok(()), Err);
        match command {
            Command::Create { segment, header, .. } => {
                let written = if error.is_some() { &header[..5] } else { &header[..] };
                assert!(self.files.insert(segment, written.to_vec()).is_none(), "made once");
                self.synced.insert(segment, written.len());
                Done::Created(segment, result)
            }
            Command::Write { segment, offset, bytes } => {
                let file = self.files.get_mut(&segment).expect("made before");
                let written = if error.is_some() { bytes.len() / 2 } else { bytes.len() };
                let offset = offset as usize;
                file.resize(file.len().max(offset + written), 0);
                file[offset..offset + written].copy_from_slice(&bytes[..written]);
                Done::Written(segment, result)
            }
            Command::Sync { segment } => {
                if error.is_none() {
                    self.synced.insert(segment, self.files[&segment].len());
                }
                Done::Synced(segment, result)
            }
            Command::Cut { segment, bytes } => {
                if error.is_none()
                    && let Some(file) = self.files.get_mut(&segment)
                {
                    file.truncate(bytes as usize);
                    let synced = self.synced.entry(segment).or_default();
                    *synced = (*synced).min(file.len());
                }
                Done::Cut(segment, result)
            }
            Command::Remove { segment } => {
                self.files.remove(&segment);
                Done::Removed(segment, Ok(()))
            }
            Command::Read { query, segment, offset, length } => {
                let Some(file) = self.files.get(&segment) else {
                    return Done::Read(query, Err(ENOENT));
                };
                let from = (offset as usize).min(file.len());
                let to = (from + length).min(file.len());
                Done::Read(query, Ok(file[from..to].to_vec()))
            }
        }
    }

    /// The host ends: of what was not synchronised, some of each file is lost.
    pub fn lose_power(&mut self, below: &mut impl FnMut(u64) -> u64) {
        for (id, data) in &mut self.files {
            let kept = self.synced[id];
            data.truncate(kept + below((data.len() - kept) as u64 + 1) as usize);
        }
    }

    /// The process has ended while this was to be done: of a write some was.
    pub fn tear(&mut self, command: Command, below: &mut impl FnMut(u64) -> u64) {
        self.errors.clear();
        if let Command::Write { segment, offset, bytes } = command
            && self.files.get(&segment).is_some_and(|file| file.len() as u64 >= offset)
        {
            let bytes = bytes.slice(..below(bytes.len() as u64 + 1) as usize);
            let _ = self.execute(Command::Write { segment, offset, bytes });
        }
    }

    /// What the shards of the next start begin with.
    pub fn recover(
        &self,
        shards: usize,
        home: fn(&str, usize) -> usize,
        now: Now,
    ) -> Vec<Recovered> {
        let mut recovery = Recovery::new(shards, home);
        self.files.iter().for_each(|(id, data)| recovery.add(*id, data));
        recovery.finish(now.unix_ms).0
    }

    /// The first number that no file of a shard has.
    pub fn next_number(&self, shard: u16) -> u64 {
        let of_shard = self.files.keys().filter(|id| id.shard == shard);
        of_shard.map(|id| id.number + 1).max().unwrap_or(0)
    }
}
