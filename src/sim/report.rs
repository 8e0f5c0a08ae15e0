//! What a run has come to.

use super::oracle::Finding;

/// What a run has come to, and a digest of everything that clients were told in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of the run.
    pub seed: u64,
    /// Turns of shards.
    pub turns: u64,
    /// Ends of the process or the host.
    pub kills: u64,
    /// Transports that clients have opened.
    pub transports: u64,
    /// Connections that were made or resumed.
    pub connects: u64,
    /// Transports that were lost or given up.
    pub drops: u64,
    /// Connections that went on over another transport.
    pub resumes: u64,
    /// Continuities that were said to have ended.
    pub discontinuities: u64,
    /// Publishes over WebSockets and REST.
    pub publishes: u64,
    /// Publishes that were refused.
    pub refused: u64,
    /// Transports that were let go of because their token was revoked.
    pub revoked: u64,
    /// Deltas that clients have undone.
    pub deltas: u64,
    /// Messages and presence events that clients have read.
    pub deliveries: u64,
    /// The same seed and the same commit give the same digest.
    pub digest: u64,
    /// What must not be, and was.
    pub findings: Vec<Finding>,
    /// Whether to print what happens.
    pub is_traced: bool,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(seed: u64, is_traced: bool) -> Report {
        Report { seed, is_traced, digest: 0xcbf2_9ce4_8422_2325, ..Report::default() }
    }

    /// Adds up what several runs have come to.
    pub fn add(&mut self, other: &Report) {
        self.turns += other.turns;
        self.kills += other.kills;
        self.transports += other.transports;
        self.connects += other.connects;
        self.drops += other.drops;
        self.resumes += other.resumes;
        self.discontinuities += other.discontinuities;
        self.publishes += other.publishes;
        self.refused += other.refused;
        self.revoked += other.revoked;
        self.deltas += other.deltas;
        self.deliveries += other.deliveries;
        self.findings.extend_from_slice(&other.findings);
    }

    /// Adds to the digest (FNV-1a).
    pub fn hash(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Prints what happens, if somebody wants to know.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{}", line());
        }
    }
}
