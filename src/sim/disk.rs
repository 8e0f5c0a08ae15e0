//! A disk: files that survive the process, and what was synchronised the host. It fails when told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::Now;
use crate::journal::{BootId, Command, Done, Recovered, Recovery, SegmentId};

/// No such file.
const ENOENT: i32 = 2;

/// No space is left.
pub const ENOSPC: i32 = 28;
/// The disk has failed.
pub const EIO: i32 = 5;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// Files, and what their disk does next.
#[derive(Clone)]
pub struct Disk {
    /// Of the host that it is in.
    pub boot: BootId,
    /// Their bytes.
    pub files: BTreeMap<SegmentId, Vec<u8>>,
    /// Bytes of each file that survive a loss of power.
    pub synced: BTreeMap<SegmentId, usize>,
    /// Errors for the next commands that write.
    pub errors: VecDeque<Option<i32>>,
    /// Files that could not be made.
    pub unmade: BTreeSet<SegmentId>,
    /// Whether no file can be made.
    pub full: bool,
    /// Whether a synchronisation has failed, or a file was not cut: what was written is then not sure to
    /// stay, and what was refused not sure to be gone.
    pub is_unsure: bool,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            boot: BootId([1; 16]),
            files: BTreeMap::new(),
            synced: BTreeMap::new(),
            errors: VecDeque::new(),
            unmade: BTreeSet::new(),
            full: false,
            is_unsure: false,
        }
    }
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
        self.is_unsure |=
            error.is_some() && matches!(command, Command::Sync { .. } | Command::Cut { .. });
        match command {
            Command::Create { segment, header, .. } => {
                let written = if error.is_some() { &header[..5] } else { &header[..] };
                if error.is_some() {
                    self.unmade.insert(segment);
                }
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

    /// The host ends: of what was not synchronised, some of each file is lost, at its end and, now and
    /// then, a sector before that.
    pub fn lose_power(&mut self, below: &mut impl FnMut(u64) -> u64) {
        let BootId(boot) = self.boot;
        self.boot = BootId((u128::from_be_bytes(boot) + 1).to_be_bytes());
        for (id, data) in &mut self.files {
            let kept = self.synced[id];
            data.truncate(kept + below((data.len() - kept) as u64 + 1) as usize);
            let sectors = kept.div_ceil(SECTOR_BYTES)..data.len() / SECTOR_BYTES;
            if !sectors.is_empty() && below(4) == 0 {
                let at = SECTOR_BYTES * (sectors.start + below(sectors.len() as u64) as usize);
                data[at..at + SECTOR_BYTES].fill(0);
            }
            self.synced.insert(*id, data.len());
        }
    }

    /// The process has ended while this was to be done: it was, or some of it, or nothing.
    pub fn tear(&mut self, command: Command, below: &mut impl FnMut(u64) -> u64) {
        self.errors.clear();
        match command {
            Command::Write { segment, offset, bytes } => {
                if self.files.get(&segment).is_some_and(|file| file.len() as u64 >= offset) {
                    let bytes = bytes.slice(..below(bytes.len() as u64 + 1) as usize);
                    let _ = self.execute(Command::Write { segment, offset, bytes });
                }
            }
            Command::Create { segment, header, .. } => {
                let header = &header[..below(header.len() as u64 + 1) as usize];
                if !header.is_empty() {
                    self.files.insert(segment, header.to_vec());
                    self.synced.insert(segment, 0);
                }
            }
            Command::Sync { .. } | Command::Cut { .. } | Command::Remove { .. } => {
                if below(2) == 0 {
                    let _ = self.execute(command);
                }
            }
            Command::Read { .. } => {}
        }
    }

    /// Something on it is not what was written: a bit, or some bytes in a row.
    pub fn damage(&mut self, below: &mut impl FnMut(u64) -> u64) {
        let files = self.files.values_mut().filter(|data| !data.is_empty());
        let mut files: Vec<&mut Vec<u8>> = files.collect();
        if files.is_empty() {
            return;
        }
        let file = below(files.len() as u64) as usize;
        let data = &mut *files[file];
        let at = below(data.len() as u64) as usize;
        match below(3) {
            0 => {
                let end = data.len().min(at + 1 + below(200) as usize);
                data[at..end].iter_mut().for_each(|byte| *byte = below(256) as u8);
            }
            1 => {
                let end = data.len().min(at + SECTOR_BYTES);
                data[at..end].fill(0);
            }
            _ => data[at] ^= 1 << below(8),
        }
    }

    /// Whether the oldest file of a shard comes behind one that could not be made: nobody can tell its number
    /// from that of one that was in use and is gone.
    pub fn lacks_first(&self) -> bool {
        self.unmade.iter().any(|unmade| {
            let first = self.files.keys().find(|id| id.shard == unmade.shard);
            first.is_some_and(|first| first > unmade)
        })
    }

    /// What the shards of the next start begin with; as the daemon does, it has what it finds synchronised
    /// first.
    pub fn recover(
        &mut self,
        shards: usize,
        home: fn(&str, usize) -> usize,
        now: Now,
    ) -> Vec<Recovered> {
        self.synced = self.files.iter().map(|(id, data)| (*id, data.len())).collect();
        let mut recovery = Recovery::new(shards, home, self.boot);
        self.files.iter().for_each(|(id, data)| recovery.add(*id, data));
        recovery.finish(now.unix_ms).0
    }

    /// The first number that no file of a shard has.
    pub fn next_number(&self, shard: u16) -> u64 {
        let of_shard = self.files.keys().filter(|id| id.shard == shard);
        of_shard.map(|id| id.number + 1).max().unwrap_or(0)
    }
}
