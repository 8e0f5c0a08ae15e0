//! Rules that are asked before a publish: one question with its repetitions, and what comes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::answer::Reply;
use super::attempts::Fate;
use super::client::Client;
use crate::ably::{Gate, Inquiry, Verdict, read_verdict};

/// Questions of one rule that are under way at once, of all channels; others wait for their turn.
pub const QUESTIONS_MAX: usize = 256;

/// Pause before a question is repeated; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// What has come of a question.
pub struct Outcome {
    /// Which.
    pub inquiry: Inquiry,
    /// What its shard is told.
    pub verdict: Verdict,
    /// What was asked, in order; nothing if its rule is gone.
    pub asked: Vec<Asked>,
}

impl Outcome {
    /// For the log, where there is no decision: a status, or what has failed.
    pub fn failure(&self) -> Option<&str> {
        match self.verdict {
            Verdict::Accept | Verdict::Replace(_) | Verdict::Reject(_) => None,
            Verdict::Failed(why) | Verdict::Unanswered(why) => {
                Some(self.asked.last().map_or(why, |asked| &asked.note))
            }
        }
    }
}

/// One request with a question, and what came of it.
pub struct Asked {
    /// Since the question was put.
    pub began: Duration,
    /// Until the answer was there.
    pub latency: Duration,
    /// Of the answer, if there was one.
    pub status: Option<u16>,
    /// A status, or what has failed; in words.
    pub note: String,
    /// What it came to.
    pub fate: Fate,
    /// The pause until it is asked again.
    pub pause: Option<Duration>,
}

/// What a reply means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// There is a decision.
    Decided(Verdict),
    /// It may be asked again.
    Again(&'static str),
    /// It will not be decided.
    Failed(&'static str),
}

/// Asks until there is a decision, or there will be none. `places` are those of the rule.
pub async fn ask(client: Arc<Client>, places: Arc<Semaphore>, inquiry: Inquiry) -> Outcome {
    let put = Instant::now();
    let mut asked = Vec::new();
    let Some(gate) = inquiry.rule.gate else {
        let verdict = Verdict::Failed("a rule of the channel cannot be asked");
        return Outcome { inquiry, verdict, asked };
    };
    // Since when a request is under way.
    let mut since = None;
    let decided = tokio::time::timeout(gate.timeout, async {
        let _place = places.acquire().await;
        let mut pause = PAUSE_FIRST;
        loop {
            let began = put.elapsed();
            since = Some(began);
            let reply = client.ask(inquiry.body.clone()).await;
            since = None;
            let may_repeat = asked.len() < gate.retries_max as usize;
            let (status, note, meaning) = match reply {
                Ok(reply) => {
                    let meaning = judge(&gate, &reply);
                    let mut note = format!("status {}", reply.status);
                    if let Meaning::Failed(why) | Meaning::Again(why) = meaning {
                        note = format!("{note}, {why}");
                    }
                    (Some(reply.status), note, meaning)
                }
                Err(note) => {
                    (None, note, Meaning::Again("a rule of the channel cannot be reached"))
                }
            };
            let (verdict, fate) = match meaning {
                Meaning::Decided(verdict) => {
                    let fate = match verdict {
                        Verdict::Accept => Fate::Accepted,
                        Verdict::Replace(_) => Fate::Replaced,
                        Verdict::Reject(_) => Fate::Rejected,
                        Verdict::Failed(_) | Verdict::Unanswered(_) => Fate::Undecided,
                    };
                    (Some(verdict), fate)
                }
                Meaning::Again(_) if may_repeat => (None, Fate::Retry),
                Meaning::Again(why) => (Some(Verdict::Unanswered(why)), Fate::Undecided),
                Meaning::Failed(why) => (Some(Verdict::Failed(why)), Fate::Undecided),
            };
            let latency = put.elapsed() - began;
            let again = verdict.is_none().then_some(pause);
            asked.push(Asked { began, latency, status, note, fate, pause: again });
            if let Some(verdict) = verdict {
                return verdict;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    });
    let verdict = decided.await.unwrap_or_else(|_| {
        if let Some(began) = since {
            let (latency, note) = (put.elapsed() - began, "no answer in time".to_owned());
            let fate = Fate::Undecided;
            asked.push(Asked { began, latency, status: None, note, fate, pause: None });
        } else if let Some(last) = asked.last_mut() {
            (last.fate, last.pause) = (Fate::Undecided, None);
        }
        Verdict::Unanswered("a rule of the channel has not answered in time")
    });
    Outcome { inquiry, verdict, asked }
}

/// What a reply means (15.9).
fn judge(gate: &Gate, reply: &Reply) -> Meaning {
    match reply.status {
        200..=299 => match read_verdict(&reply.body) {
            Ok(verdict) => Meaning::Decided(verdict),
            Err(why) => Meaning::Failed(why),
        },
        429 if !gate.retries_throttled => {
            Meaning::Failed("a rule of the channel was asked too often")
        }
        429 => Meaning::Again("a rule of the channel was asked too often"),
        408 | 425 | 500..=599 => Meaning::Again("a rule of the channel has failed"),
        _ => Meaning::Failed("a rule of the channel has failed"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ably::{OnFailure, QuestionShape};

    #[test]
    fn a_reply_decides_fails_or_is_worth_another_question() {
        let gate = Gate {
            on_failure: OnFailure::Reject,
            timeout: Duration::from_secs(1),
            concurrency: 1,
            retries_max: 1,
            retries_throttled: true,
            shape: QuestionShape::Messages,
        };
        let judge = |status, body: &'static str, retries_throttled| {
            let body = Bytes::from_static(body.as_bytes());
            super::judge(&Gate { retries_throttled, ..gate }, &Reply { status, body })
        };
        let accept = r#"{"action":"accept"}"#;
        assert_eq!(judge(200, accept, true), Meaning::Decided(Verdict::Accept));
        assert!(matches!(judge(200, "thanks", true), Meaning::Failed(_)));
        assert!(matches!(judge(204, "", true), Meaning::Failed(_)));
        for status in [301, 400, 403, 404] {
            assert!(matches!(judge(status, accept, true), Meaning::Failed(_)), "{status}");
        }
        for status in [408, 500, 502, 503] {
            assert!(matches!(judge(status, accept, true), Meaning::Again(_)), "{status}");
        }
        assert!(matches!(judge(429, accept, true), Meaning::Again(_)));
        assert!(matches!(judge(429, accept, false), Meaning::Failed(_)));
    }
}
