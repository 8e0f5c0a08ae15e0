//! Changes of the directory that clients ask for; the registrar makes them one after another.

use super::{Directory, ErrorCode, ErrorInfo, NewApp, Revocation, STATS_MAX, StatsFixture};

/// Apps of one daemon, at most, as far as clients make them.
const APPS_MAX: usize = 4096;

/// What the next directory has that this one does not.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new app.
    CreateApp(Box<NewApp>),
    /// One app less; its connections end.
    DeleteApp {
        /// Which one.
        app_id: Box<str>,
    },
    /// Tokens of a key are revoked; connections that have them end.
    Revoke {
        /// The key.
        key_name: Box<str>,
        /// Which tokens.
        revocation: Revocation,
    },
    /// More statistics of an app.
    AddStats {
        /// Which one.
        app_id: Box<str>,
        /// Its numbers, one after another.
        stats: Vec<StatsFixture>,
    },
}

impl Change {
    /// The directory behind the change.
    ///
    /// # Errors
    /// There are too many apps or statistics, or the app is not there any more.
    pub fn apply(&self, directory: &Directory) -> Result<Directory, ErrorInfo> {
        match self {
            Change::CreateApp(_) if directory.app_count() >= APPS_MAX => {
                let text = format!("there are {APPS_MAX} apps; delete one");
                Err(ErrorInfo::new(ErrorCode::FORBIDDEN, text))
            }
            Change::CreateApp(new) if directory.app(&new.app.id).is_some() => {
                Err(ErrorInfo::new(ErrorCode::BUSY, "two apps had one id; try again"))
            }
            Change::CreateApp(new) => Ok(directory.with_app(new.app.clone())),
            Change::DeleteApp { app_id } => {
                known(directory, app_id)?;
                Ok(directory.without_app(app_id))
            }
            Change::Revoke { key_name, revocation } => {
                directory.key(key_name)?;
                directory.with_revocation_of(key_name, revocation)
            }
            Change::AddStats { app_id, stats } => {
                known(directory, app_id)?;
                let all = directory.stats(app_id).len() + stats.len();
                if all > STATS_MAX {
                    let text = format!("an app has at most {STATS_MAX} intervals");
                    return Err(ErrorInfo::new(ErrorCode::BAD_REQUEST, text));
                }
                Ok(directory.with_stats(app_id, stats))
            }
        }
    }

    /// Whether there may be connections that it ends.
    pub fn is_enforced(&self) -> bool {
        match self {
            Change::DeleteApp { .. } | Change::Revoke { .. } => true,
            Change::CreateApp(_) | Change::AddStats { .. } => false,
        }
    }
}

fn known(directory: &Directory, app_id: &str) -> Result<(), ErrorInfo> {
    match directory.app(app_id) {
        Some(_) => Ok(()),
        None => Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "no such app")),
    }
}
