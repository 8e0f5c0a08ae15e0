//! The keeper of the rules: a thread that makes every change of them, one after another, and may wait
//! while it does. A rule leads somewhere before a core knows of it, and is forgotten by the cores before
//! what waits of it is given up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::SystemTime;

use anyhow::Context;

use super::Reloaded;
use super::log::Log;
use super::orders::{Configured, News};
use crate::ably::Directory;
use crate::admin::{ReloadOutcome, Reply};
use crate::base::{Level, LogLine};
use crate::hooks::{Book, HookControl, HooksConfig, RuleAnswer, RuleError, RuleRequest, rules_of};

/// Changes that may wait for the keeper; one more is refused.
const REQUESTS_MAX: usize = 64;

/// The file of the rules that were made while the daemon ran, in the state directory.
const FILE: &str = "rules.json";

/// Only its owner reads it: there are secrets in it.
const FILE_MODE: u32 = 0o600;

/// Letters of a rule's id, and how many it has; as Ably's have them.
const ID_LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_LENGTH: usize = 6;

/// What the keeper is asked for.
pub(super) enum Request {
    /// Have what was configured take the place of what was configured before; answered with
    /// [`News::Reloaded`].
    Reload(Box<Reloaded>, Option<Reply<ReloadOutcome>>),
    /// Something about the rules of an app.
    Rules(String, RuleRequest, Reply<RuleAnswer>),
}

/// Where the keeper is reached.
pub(super) type KeeperSender = SyncSender<Request>;

/// All rules: those of the configuration, and those that were made before the daemon was started.
///
/// # Errors
/// The file of those cannot be read.
pub(super) fn open_book(
    config: &HooksConfig,
    directory: &Directory,
    log: &mut Log,
) -> anyhow::Result<Book> {
    let mut book = Book::new(config.clone(), directory, now_ms());
    let Some(path) = config.state_dir.as_ref().map(|directory| directory.join(FILE)) else {
        return Ok(book);
    };
    let file = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(book),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let faults = book.restore(&file).with_context(|| format!("cannot use {}", path.display()))?;
    tell_faults(log, faults);
    Ok(book)
}

/// Says which made rules are not in effect.
fn tell_faults(log: &mut Log, faults: Vec<String>) {
    for fault in faults {
        log.line(LogLine::new(Level::Warn, "a rule is not in effect").with("detail", fault));
    }
}

/// Starts the keeper of `book`, whose rules are in effect.
pub(super) fn spawn(
    book: Book,
    state_dir: Option<PathBuf>,
    hooks: HookControl,
    news: SyncSender<News>,
    log: Log,
) -> io::Result<KeeperSender> {
    let (sender, requests) = mpsc::sync_channel(REQUESTS_MAX);
    let keeper = Keeper { requests, news, hooks, book, state_dir, log };
    std::thread::Builder::new().name("rules".into()).spawn(move || keeper.run())?;
    Ok(sender)
}

struct Keeper {
    requests: Receiver<Request>,
    news: SyncSender<News>,
    hooks: HookControl,
    /// In effect.
    book: Book,
    state_dir: Option<PathBuf>,
    log: Log,
}

impl Keeper {
    /// Runs until nobody can ask any more.
    fn run(mut self) {
        while let Ok(request) = self.requests.recv() {
            match request {
                Request::Reload(reloaded, asker) => {
                    let needs_restart = reloaded.needs_restart.clone();
                    let outcome = match self.reload(*reloaded) {
                        Ok(()) => ReloadOutcome { error: None, needs_restart },
                        Err(error) => ReloadOutcome::refused(format!("{error:#}")),
                    };
                    // The monitor may have ended.
                    let _ = self.news.send(News::Reloaded(outcome, asker));
                }
                Request::Rules(app_id, request, reply) => {
                    reply.send(self.answer(&app_id, &request));
                }
            }
        }
    }

    fn reload(&mut self, reloaded: Reloaded) -> anyhow::Result<()> {
        let Reloaded { directory, hooks, acceptor, limits, .. } = reloaded;
        let mut book = self.book.clone();
        let faults = book.reconfigure(hooks, &directory, now_ms())?;
        let directory = Arc::new(directory.with_rules(rules_of(&book.hooks())));
        let limits = Arc::new(limits);
        self.install(&book, Some(Configured { directory, limits, acceptor }))?;
        self.book = book;
        tell_faults(&mut self.log, faults);
        Ok(())
    }

    fn answer(&mut self, app_id: &str, request: &RuleRequest) -> RuleAnswer {
        let (answer, book) = self.book.answer(app_id, request, now_ms(), next_id)?;
        let Some(book) = book else { return Ok(answer) };
        self.install(&book, None).map_err(|error| RuleError::new(422, format!("{error:#}")))?;
        if let Err(error) = self.keep(&book) {
            // What is not kept is not in effect either.
            let undone = self.install(&self.book.clone(), None);
            let text = format!("the rules cannot be kept: {error}");
            let line = LogLine::new(Level::Error, "rules cannot be kept").with("error", error);
            self.log.line(line);
            return Err(RuleError::new(
                500,
                match undone {
                    Ok(()) => text,
                    Err(undone) => format!("{text}; and the change cannot be undone: {undone:#}"),
                },
            ));
        }
        self.book = book;
        Ok(answer)
    }

    /// Puts the rules of `book` into effect everywhere, with what was configured, and returns when they are.
    fn install(&mut self, book: &Book, configured: Option<Configured>) -> anyhow::Result<()> {
        let rules = book.hooks();
        self.hooks.set(rules.clone())?;
        let (done, installed) = mpsc::sync_channel(1);
        let ends = || anyhow::anyhow!("the daemon ends");
        let order = News::Install { rules: rules_of(&rules), configured, done };
        self.news.send(order).map_err(|_| ends())?;
        installed.recv().map_err(|_| ends())?;
        self.hooks.retain(rules.iter().map(|hook| hook.rule.id.clone()).collect())
    }

    /// Writes what outlives the process: whole, or not at all.
    fn keep(&self, book: &Book) -> io::Result<()> {
        let Some(directory) = &self.state_dir else { return Ok(()) };
        fs::create_dir_all(directory)?;
        write_whole(directory, FILE, &book.to_file())
    }
}

fn write_whole(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    // One that was left behind may be anybody's to read.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn now_ms() -> u64 {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    unix.as_millis() as u64
}

fn next_id() -> String {
    let mut random = [0; ID_LENGTH];
    getrandom::fill(&mut random).expect("the kernel has random bytes after boot");
    // Not quite even, which an id needs not be.
    random.map(|byte| char::from(ID_LETTERS[usize::from(byte) % ID_LETTERS.len()])).iter().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_written_whole_and_only_its_owner_reads_it() {
        let name = format!("ringcast-keeper-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        fs::write(directory.join("rules.json.new"), "torn").expect("as above");
        for content in ["one", "another"] {
            write_whole(&directory, FILE, content.as_bytes()).expect("can be written");
            let path = directory.join(FILE);
            assert_eq!(fs::read_to_string(&path).expect("is there"), content);
            let mode = fs::metadata(&path).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, FILE_MODE);
        }
        assert!(!directory.join("rules.json.new").exists());
        fs::remove_dir_all(&directory).expect("made above");
    }
}
