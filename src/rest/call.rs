//! What an endpoint works with: the request, who sent it, and how it will be answered.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;

use super::reply::Reply;
use super::{Ask, Context, Inquiry, Outcome, authenticate};
use crate::ably::{
    Answer, ChannelName, ErrorCode, ErrorInfo, Operation, Principal, Question, Survey,
};
use crate::base::Entropy;
use crate::http::Request;

/// The newest protocol version.
const VERSION: u32 = 6;

/// One request on its way through its endpoint.
pub(super) struct Call<'a> {
    pub context: &'a Context<'a>,
    pub entropy: &'a mut Entropy,
    pub request: &'a Request,
    pub reply: Reply,
    /// The path of the endpoint, as the table of routes has it.
    pub pattern: &'static str,
    /// The path of the request, split and decoded.
    pub segments: &'a [Cow<'a, str>],
    /// The app of whoever calls, once it is known.
    pub app_id: Option<Arc<str>>,
}

impl Call<'_> {
    /// The protocol version that the client speaks; one that does not say gets the newest shapes.
    pub fn version(&self) -> u32 {
        let version = self.request.header("X-Ably-Version").map(Cow::from);
        let version = version.or_else(|| self.request.query_param("v"));
        // Old clients send `1.2`.
        let major = version.and_then(|text| text.split('.').next().and_then(|v| v.parse().ok()));
        major.unwrap_or(VERSION)
    }

    /// A random id of `BYTES` bytes.
    pub fn fresh_id<const BYTES: usize>(&mut self) -> String {
        BASE64URL_NOPAD.encode(&self.entropy.bytes::<BYTES>())
    }

    /// What the request's path has in place of `{name}`.
    pub fn path_param(&self, name: &str) -> &str {
        let is_named = |part: &str| {
            part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) == Some(name)
        };
        let at = self.pattern.split('/').skip(1).position(is_named);
        &self.segments[at.expect("endpoints ask for what their path names")]
    }

    /// The channel in the path.
    ///
    /// # Errors
    /// 40010.
    pub fn channel(&self) -> Result<ChannelName, ErrorInfo> {
        let name = ChannelName::parse(self.path_param("channel"))?;
        match name.filter() {
            None => Ok(name),
            Some(_) => {
                let text = "a derived channel can only be attached to";
                Err(ErrorInfo::new(ErrorCode::INVALID_CHANNEL_NAME, text))
            }
        }
    }

    /// Who calls.
    ///
    /// # Errors
    /// As [`authenticate`].
    pub fn authenticate(&mut self) -> Result<Arc<Principal>, ErrorInfo> {
        let principal = authenticate(self.request, self.context.directory, self.context.now)?;
        self.app_id = Some(principal.app_id().into());
        Ok(principal)
    }

    /// Who calls for `channel` of the path, if the capability permits one of `operations` there.
    ///
    /// # Errors
    /// As [`authenticate`] and [`Principal::enter`], 40010, or 40160 with `denied`.
    pub fn authorize(
        &mut self,
        operations: &[Operation],
        denied: &'static str,
    ) -> Result<(Arc<Principal>, ChannelName), ErrorInfo> {
        let principal = self.authenticate()?;
        let channel = self.channel()?;
        principal.enter(channel.base())?;
        let capability = principal.capability();
        let permits = |operation: &Operation| capability.allows(channel.base(), *operation);
        match operations.iter().any(permits) {
            true => Ok((principal, channel)),
            false => Err(ErrorInfo::new(ErrorCode::CAPABILITY_DENIED, denied)),
        }
    }

    /// Asks the home of one channel, and answers with what `respond` makes of it.
    pub fn ask_home(
        &self,
        app_id: &str,
        channel: &ChannelName,
        question: Question,
        respond: impl FnOnce(&Reply, Answer) -> Bytes + 'static,
    ) -> Outcome {
        self.ask(app_id, Ask::Home { channel: channel.base().into(), question }, respond)
    }

    /// Asks every shard, and answers with what `respond` makes of their answers, or with the first
    /// error.
    pub fn ask_shards(
        &self,
        app_id: &str,
        survey: Survey,
        respond: impl FnOnce(&Reply, Vec<Answer>) -> Bytes + 'static,
    ) -> Outcome {
        let reply = self.reply.clone();
        let then = move |answers: Vec<Result<Answer, ErrorInfo>>| {
            let answers: Result<Vec<Answer>, ErrorInfo> = answers.into_iter().collect();
            Outcome::Reply(match answers {
                Ok(answers) => respond(&reply, answers),
                Err(error) => reply.error(&error),
            })
        };
        let asks = vec![Ask::Shards(survey)];
        Outcome::Ask(Inquiry { app_id: app_id.to_owned(), asks, then: Box::new(then) })
    }

    /// Asks one thing, and answers with what `respond` makes of it, or with the error.
    pub fn ask(
        &self,
        app_id: &str,
        ask: Ask,
        respond: impl FnOnce(&Reply, Answer) -> Bytes + 'static,
    ) -> Outcome {
        let reply = self.reply.clone();
        let then = move |mut answers: Vec<Result<Answer, ErrorInfo>>| {
            Outcome::Reply(match answers.pop().expect("one for each question") {
                Ok(answer) => respond(&reply, answer),
                Err(error) => reply.error(&error),
            })
        };
        Outcome::Ask(Inquiry { app_id: app_id.to_owned(), asks: vec![ask], then: Box::new(then) })
    }
}
