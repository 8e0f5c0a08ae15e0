//! Rules that are asked before a publish: one question with its repetitions, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::client::Client;
use crate::ably::{Gate, Inquiry, Verdict, read_verdict};

/// Questions of one rule that are under way at once, of all channels; others wait for their turn.
pub const QUESTIONS_MAX: usize = 256;

/// Bytes of an answer; a longer one is none.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Pause before a question is repeated; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// What came back to one request.
pub struct Reply {
    /// As of HTTP.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

/// What has come of a question.
pub struct Outcome {
    /// Which.
    pub inquiry: Inquiry,
    /// What its shard is told.
    pub verdict: Verdict,
    /// For the log, where there is no decision: a status, or what has failed.
    pub failure: Option<String>,
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
    let Some(gate) = inquiry.rule.gate else {
        let why = "a rule of the channel cannot be asked";
        return Outcome { inquiry, verdict: Verdict::Failed(why), failure: Some(why.to_owned()) };
    };
    let mut failure = "no answer in time".to_owned();
    let asked = tokio::time::timeout(gate.timeout, async {
        let _place = places.acquire().await;
        let (mut asked, mut pause) = (0, PAUSE_FIRST);
        loop {
            let meaning = match client.ask(inquiry.body.clone()).await {
                Ok(reply) => {
                    let meaning = judge(&gate, &reply);
                    if let Meaning::Failed(why) | Meaning::Again(why) = meaning {
                        failure = format!("status {}, {why}", reply.status);
                    }
                    meaning
                }
                Err(note) => {
                    failure = note;
                    Meaning::Again("a rule of the channel cannot be reached")
                }
            };
            match meaning {
                Meaning::Decided(verdict) => return verdict,
                Meaning::Again(_) if asked < gate.retries_max => {}
                Meaning::Again(why) => return Verdict::Unanswered(why),
                Meaning::Failed(why) => return Verdict::Failed(why),
            }
            asked += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    });
    let why = "a rule of the channel has not answered in time";
    let verdict = asked.await.unwrap_or(Verdict::Unanswered(why));
    let is_decided = !matches!(verdict, Verdict::Failed(_) | Verdict::Unanswered(_));
    Outcome { inquiry, verdict, failure: (!is_decided).then_some(failure) }
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
