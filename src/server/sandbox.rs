//! Which files the daemon may open once it runs: what its configuration names, and what resolving names and
//! checking certificates takes. By Landlock, so it holds for every thread that begins later, and nothing in the
//! process can take it back.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};

/// The newest interface that the rules are written for; older kernels keep to what they know of it.
const NEWEST: ABI = ABI::V5;

/// What the C library, certificate checks and the executors read on any host.
const SYSTEM: [&str; 20] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/lib",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/proc",
    "/sys/devices/system",
];

/// Variables that name more of them.
const VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "CREDENTIALS_DIRECTORY"];

/// Files that a configuration names. Where a file may be replaced, the directory around it is what counts.
#[derive(Clone, Debug, Default)]
pub struct FileAccess {
    /// Files and directories that may be read, with all that is below them.
    pub read: Vec<PathBuf>,
    /// May be changed as well, and is made if it is not there.
    pub state_dir: Option<PathBuf>,
    /// The directory of the control socket, which is made and removed in it.
    pub control: Option<PathBuf>,
}

/// Confines the calling thread and all that it will start. Says how much of it this kernel enforces.
///
/// # Errors
/// The kernel has Landlock and refuses the rules.
pub(super) fn confine(access: &FileAccess) -> Result<&'static str, RulesetError> {
    if let Some(directory) = &access.state_dir {
        // What is not there cannot be allowed. Should this fail, so will the first who needs it, and say why.
        let _ = std::fs::create_dir_all(directory);
    }
    let named = VARIABLES.iter().filter_map(|name| std::env::var_os(name).map(PathBuf::from));
    let system = SYSTEM.iter().map(PathBuf::from);
    let read = access.read.iter().cloned().chain(named).chain(system);
    // Nothing is ever executed.
    let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let changing = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(read, reading))?
        .add_rules(path_beneath_rules(access.state_dir.iter().chain(&access.control), changing))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}
