//! The files of the message log: found when the daemon starts, and worked on by tasks of each shard.
//!
//! Files are buffered by the kernel. What is written is to survive the process, and for that the page cache
//! is as good as the disk and faster by the time of a seek or a flash page; what is to survive the host is
//! synchronised, and that takes the disk's time whichever way the bytes came to it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use glommio::GlommioError;
use glommio::io::{BufferedFile, Directory, OpenOptions, remove};

use super::bell::Bell;
use super::log::Log;
use crate::base::{Level, LogLine, Now};
use crate::channel::ChannelKey;
use crate::journal::{Added, BootId, Command, DamageKind, Done, Recovered, Recovery, SegmentId};
use crate::shard::Shard;

/// Files that a shard keeps open, beside those in use at the moment.
const OPEN_FILES_MAX: usize = 32;

/// Bytes beyond the end of a file that are worth to be given back: file systems round up.
const RESERVED_MIN: u64 = 256 << 10;

/// An error of which the kernel has not said which it is.
const EIO: i32 = libc::EIO;

/// The log as it was found, open for this process alone.
pub(super) struct Found {
    /// By shard: what it begins with, and the first number of its own files.
    pub shards: Vec<(Recovered, u64)>,
    /// Held while the daemon runs.
    _lock: File,
}

/// Reads what is in `root`, which is made if it is not there, and says in the log what that is. `boot`, if that is
/// known, is the one that the host is in. Blocks; nothing is served yet.
pub(super) fn find(
    root: &Path,
    shards: usize,
    boot: Option<BootId>,
    now: Now,
    log: &mut Log,
) -> io::Result<Found> {
    fs::create_dir_all(root)?;
    let lock = File::create(root.join("lock"))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::other("another process has it open"),
        TryLockError::Error(error) => error,
    })?;
    for shard in 0..shards {
        fs::create_dir_all(directory(root, shard as u16))?;
    }
    let mut recovery = Recovery::new(shards, ChannelKey::home_of, boot.unwrap_or_default());
    let mut next_numbers = vec![0; shards];
    for shard in numbers(root, "")? {
        let Ok(shard) = u16::try_from(shard) else { continue };
        for number in numbers(&directory(root, shard), SUFFIX)? {
            let id = SegmentId { shard, number };
            let path = path(root, id);
            let file = File::options().read(true).write(true).open(&path)?;
            let bytes = file.metadata()?.len();
            let added = recovery.add_file(id, bytes, |at, count| read_at(&file, at, count))?;
            let mut tell = |line: LogLine, error| {
                log.line(line.with("file", path.display()).with("error", error));
            };
            match added {
                // It was being made when the end came.
                Added::Nothing => {
                    fs::remove_file(path)?;
                    continue;
                }
                Added::Read { seal: Some((at, seal)) } => {
                    if let Err(error) = end_with(&file, at, &seal) {
                        let line = LogLine::new(
                            Level::Warn,
                            "a file of the message log is read as a whole again next time",
                        );
                        tell(line, error);
                    }
                }
                Added::Read { seal: None } | Added::Sealed => {}
            }
            if let Some(next) = next_numbers.get_mut(usize::from(shard)) {
                *next = number + 1;
            }
            // What an earlier start has written and did not come to synchronise is told of from now on, so it
            // has to be as safe as that says.
            file.sync_data()?;
            if let Err(error) = give_back_reserved(&file) {
                let line = LogLine::new(
                    Level::Warn,
                    "space that was reserved for the message log cannot be given back",
                );
                tell(line, error);
            }
        }
    }
    let (recovered, events, damage) = recovery.finish(now.unix_ms);
    for found in damage {
        let (level, text) = match found.kind {
            DamageKind::Torn => (Level::Info, "the message log ends in the middle of a record"),
            DamageKind::Corrupt => (
                Level::Error,
                "the message log is damaged: clients that resume from before it are told of a gap",
            ),
            DamageKind::Missing => (
                Level::Error,
                "a file of the message log is gone: clients that resume from before it are told of a gap",
            ),
        };
        let line = LogLine::new(level, text).with("file", path(root, found.segment).display());
        log.line(line.with("offset", found.from));
    }
    if events > 0 {
        log.line(LogLine::new(Level::Info, "the message log was read").with("events", events));
    }
    if boot.is_none() {
        let text = "this boot of the host has no id: an end of the daemon out of order counts as one of the host";
        let line = LogLine::new(Level::Warn, text);
        log.line(line);
    } else if recovered.iter().any(Recovered::has_host_ended) {
        let text = "the host has ended before the daemon: clients that resume channels with ack = written are told of a gap";
        let line = LogLine::new(Level::Warn, text);
        log.line(line);
    }
    let shards = recovered.into_iter().zip(next_numbers).collect();
    Ok(Found { shards, _lock: lock })
}

/// As many bytes from `at` on as there are, up to `count`.
fn read_at(file: &File, at: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; count];
    let mut filled = 0;
    while filled < count {
        match file.read_at(&mut data[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(filled);
    Ok(data)
}

/// Has a file of an earlier start, to which nothing is added any more, end with `bytes` from `at` on. What lies
/// there says nothing.
fn end_with(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    file.set_len(at)?;
    file.write_all_at(bytes, at)
}

/// Gives back the space that an earlier start has reserved for a file and not used; nothing is added to it any
/// more.
fn give_back_reserved(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    // Of what is reserved there is as much as a segment is long.
    if metadata.blocks() * 512 > metadata.len() + RESERVED_MIN {
        file.set_len(metadata.len())?;
    }
    Ok(())
}

const SUFFIX: &str = ".log";

fn directory(root: &Path, shard: u16) -> PathBuf {
    root.join(shard.to_string())
}

fn path(root: &Path, id: SegmentId) -> PathBuf {
    directory(root, id.shard).join(format!("{:010}{SUFFIX}", id.number))
}

/// The numbers that entries of a directory are called by, in order.
fn numbers(directory: &Path, suffix: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(suffix)?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Works on the files of one shard.
pub(super) struct JournalFiles {
    files: Rc<Files>,
    done: Rc<RefCell<VecDeque<Done>>>,
    bell: Rc<Bell>,
}

struct Files {
    root: PathBuf,
    /// Oldest first.
    open: RefCell<VecDeque<(SegmentId, Rc<BufferedFile>)>>,
}

impl JournalFiles {
    /// For the files in `root`; what is done rings `bell`.
    pub(super) fn new(root: &Path, bell: &Rc<Bell>) -> JournalFiles {
        // The ring opens files by names that begin at the root alone.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let files = Rc::new(Files { root, open: RefCell::default() });
        JournalFiles { files, done: Rc::default(), bell: Rc::clone(bell) }
    }

    /// Tells the shard what was done. True when that was something.
    pub(super) fn deliver_to(&self, shard: &mut Shard) -> bool {
        let done = std::mem::take(&mut *self.done.borrow_mut());
        let some = !done.is_empty();
        done.into_iter().for_each(|done| shard.handle_journal(done));
        some
    }

    /// Begins what the shard wants done, each by a task of its own; the shard bounds how many there are.
    pub(super) fn collect_from(&self, shard: &mut Shard) {
        while let Some(command) = shard.poll_journal() {
            let (files, done) = (Rc::clone(&self.files), Rc::clone(&self.done));
            let bell = Rc::clone(&self.bell);
            glommio::spawn_local(async move {
                let result = files.execute(command).await;
                done.borrow_mut().push_back(result);
                bell.ring();
            })
            .detach();
        }
    }
}

impl Files {
    async fn execute(&self, command: Command) -> Done {
        match command {
            Command::Create { segment, header, reserve_bytes } => {
                let result = self.create(segment, header, reserve_bytes).await;
                Done::Created(segment, result.map_err(errno))
            }
            Command::Write { segment, offset, bytes } => {
                let result = self.write(segment, offset, bytes).await;
                Done::Written(segment, result.map_err(errno))
            }
            Command::Sync { segment } => {
                let result = match self.open(segment).await {
                    Ok(file) => file.fdatasync().await,
                    Err(error) => Err(error),
                };
                Done::Synced(segment, result.map_err(errno))
            }
            Command::Cut { segment, bytes } => {
                let result = match self.open(segment).await {
                    Ok(file) => file.truncate(bytes).await,
                    Err(error) => Err(error),
                };
                Done::Cut(segment, result.map_err(errno))
            }
            Command::Remove { segment } => {
                self.open.borrow_mut().retain(|(id, _)| *id != segment);
                let result = remove(path(&self.root, segment)).await;
                Done::Removed(segment, result.map_err(errno))
            }
            Command::Read { query, segment, offset, length } => {
                let result = self.read(segment, offset, length).await;
                Done::Read(query, result.map_err(errno))
            }
        }
    }

    async fn create(&self, id: SegmentId, header: Bytes, reserve_bytes: u64) -> Outcome<()> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = Rc::new(options.buffered_open(path(&self.root, id)).await?);
        self.keep(id, &file);
        match file.pre_allocate(reserve_bytes, true).await.map_err(errno) {
            Ok(()) => {}
            // Not every file system can; a full disk is noticed when it is written to, then.
            Err(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {}
            Err(errno) => return Err(io::Error::from_raw_os_error(errno).into()),
        }
        write_all(&file, 0, header).await?;
        file.fdatasync().await?;
        let directory = Directory::open(directory(&self.root, id.shard)).await?;
        let synced = directory.sync().await;
        directory.close().await?;
        synced
    }

    async fn write(&self, id: SegmentId, offset: u64, bytes: Bytes) -> Outcome<()> {
        write_all(&*self.open(id).await?, offset, bytes).await
    }

    async fn read(&self, id: SegmentId, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        let file = self.open(id).await?;
        let mut data = Vec::new();
        while data.len() < length {
            let at = offset + data.len() as u64;
            let read = file.read_at(at, length - data.len()).await?;
            if read.is_empty() {
                break;
            }
            data.extend_from_slice(&read);
        }
        Ok(data)
    }

    /// The file, which is there.
    async fn open(&self, id: SegmentId) -> Outcome<Rc<BufferedFile>> {
        let known = self.open.borrow().iter().find(|(known, _)| *known == id).cloned();
        if let Some((_, file)) = known {
            return Ok(file);
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true);
        let file = Rc::new(options.buffered_open(path(&self.root, id)).await?);
        self.keep(id, &file);
        Ok(file)
    }

    fn keep(&self, id: SegmentId, file: &Rc<BufferedFile>) {
        let mut open = self.open.borrow_mut();
        open.push_back((id, Rc::clone(file)));
        if open.len() > OPEN_FILES_MAX {
            open.pop_front();
        }
    }
}

type Outcome<T> = Result<T, GlommioError<()>>;

async fn write_all(file: &BufferedFile, offset: u64, bytes: Bytes) -> Outcome<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(bytes[written..].to_vec(), offset + written as u64).await? {
            // The kernel says why with the next try, or never.
            0 => return Err(io::Error::from_raw_os_error(EIO).into()),
            count => written += count,
        }
    }
    Ok(())
}

/// What the kernel calls an error.
fn errno(error: GlommioError<()>) -> i32 {
    let source = match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    };
    source.raw_os_error().unwrap_or(EIO)
}
