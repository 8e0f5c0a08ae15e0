//! What keeps the daemon from starting, or from running as well as it could, told with the remedy; and
//! what a configuration will take of the host. Looks and never changes anything.
//!
//! | file | what |
//! | --- | --- |
//! | `mod.rs` | findings, and how they are told |
//! | `facts.rs` | what the host is like |
//! | `checks.rs` | judgements: a configuration and facts to findings, without I/O |
//! | `trials.rs` | what can only be found out by trying: ports, directories |
//! | `plan.rs` | sockets, files and memory, beside what the host allows |

mod checks;
mod facts;
mod plan;
mod trials;

use std::fmt::Write;

use serde::Serialize;

use self::facts::Facts;
use self::plan::Beside;
pub use self::plan::Plan;
use crate::config::Config;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// The daemon starts, and something will be worse than it need be.
    Warning,
    /// The daemon does not start.
    Error,
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The check, in a word or two.
    pub check: &'static str,
    /// What is so.
    pub what: String,
    /// Why it matters; empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Commands and settings, any of which is a remedy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        let (what, why, remedies) = (what.into(), String::new(), Vec::new());
        Finding { severity: Severity::Ok, check, what, why, remedies }
    }

    fn new(
        severity: Severity,
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        remedies: &[&str],
    ) -> Finding {
        let remedies = remedies.iter().map(|remedy| (*remedy).into()).collect();
        Finding { severity, check, what: what.into(), why: why.into(), remedies }
    }

    fn error(
        check: &'static str,
        what: impl Into<String>,
        why: &str,
        remedies: &[&str],
    ) -> Finding {
        Finding::new(Severity::Error, check, what, why, remedies)
    }

    fn warning(
        check: &'static str,
        what: impl Into<String>,
        why: &str,
        remedies: &[&str],
    ) -> Finding {
        Finding::new(Severity::Warning, check, what, why, remedies)
    }
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    /// One or more of each check.
    pub findings: Vec<Finding>,
    /// What the configuration takes, if there is one that can be honoured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// Looks at the host on behalf of `config`, or of the defaults where it could not be read.
pub fn examine(config: anyhow::Result<Config>) -> Report {
    let facts = Facts::gather();
    let mut findings = Vec::new();
    let config = config.unwrap_or_else(|error| {
        let what = format!("{error:#}");
        let why = "the daemon does not start with it; what follows is about the defaults";
        findings.push(Finding::error("configuration", what, why, &["ringcast config doc KEY"]));
        Config::default()
    });
    let rules_bytes_max = config.rules.iter().map(|rule| rule.waiting_bytes_max as u64).sum();
    let state_dir = config.state_dir.clone();
    match config.into_server() {
        Ok((server, directory)) => {
            if findings.is_empty() {
                findings.push(Finding::ok("configuration", "can be honoured"));
            }
            findings.extend(checks::run(&server, &facts));
            findings.extend(trials::ports(&server, &facts));
            findings.extend(state_dir.as_deref().map(trials::state_dir));
            let has_persisted = directory.has_persisted();
            let log = server.journal.as_ref().filter(|_| has_persisted);
            let disk_bytes = log.and_then(|(root, _)| trials::disk_room(root));
            let beside = Beside { rules_bytes_max, has_persisted, disk_bytes };
            let plan = Plan::new(&server, beside, &facts);
            findings.extend(checks::disk(&plan));
            Report { findings, plan: Some(plan) }
        }
        Err(error) => {
            let why = "shards are pinned to CPUs that a mask or a cgroup may keep the process from, \
                       and rules sign with keys that have to be there";
            let remedies = [
                "taskset -pc $$    # the CPUs that a process of this shell may use",
                "systemctl show -p AllowedCPUs -p CPUAffinity ringcast",
            ];
            findings.push(Finding::error("placement", format!("{error:#}"), why, &remedies));
            findings.extend(checks::io_uring(&facts));
            Report { findings, plan: None }
        }
    }
}

impl Report {
    /// Whether the daemon cannot start.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// For a reader at a terminal: what matters most comes last.
    pub fn to_text(&self) -> String {
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|finding| finding.severity);
        let mut text = findings.into_iter().map(show).collect::<String>();
        let count = |severity| self.findings.iter().filter(|f| f.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let _ = match errors {
            0 => writeln!(text, "nothing keeps the daemon from starting (warnings: {warnings})"),
            _ => {
                writeln!(text, "the daemon does not start (errors: {errors}, warnings: {warnings})")
            }
        };
        text
    }

    /// Only what keeps the daemon from starting.
    pub fn errors_text(&self) -> String {
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(show).collect()
    }

    /// The same for programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers can be encoded")
    }
}

fn show(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let mut text = format!("{severity:<8} {}: {}\n", finding.check, finding.what);
    if !finding.why.is_empty() {
        let _ = writeln!(text, "         {}", finding.why);
    }
    for remedy in &finding.remedies {
        let _ = writeln!(text, "         > {remedy}");
    }
    text
}
