//! What only the test sandbox has: apps that clients make, fill with numbers and delete.

use data_encoding::BASE32_NOPAD;

use super::{Ask, Call, Inquiry, Outcome};
use crate::ably::{self, Change, ErrorCode, ErrorInfo, Principal};

/// Random bytes behind an id: eight letters and digits.
const ID_BYTES: usize = 5;

/// Makes an app. Whoever reaches the sandbox may.
pub(super) fn post(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    require_sandbox(call)?;
    let entropy = &mut *call.entropy;
    let mut next_id = || BASE32_NOPAD.encode(&entropy.bytes::<ID_BYTES>()).to_lowercase();
    let new = ably::decode_new_app(call.request.body(), &mut next_id)?;
    let host = call.request.header("Host").unwrap_or("localhost");
    let (host, port) = match host.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host, Some(port)),
        _ => (host, None),
    };
    let body = ably::encode_new_app(call.reply.format(), &new.app, host, port);
    Ok(change(call, Change::CreateApp(Box::new(new)), 201, body))
}

/// Deletes an app; it takes one of its keys.
pub(super) fn delete(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    require_sandbox(call)?;
    let principal = call.authenticate()?;
    let app_id = call.path_param("app");
    if principal.token().is_some() || principal.app_id() != app_id {
        let text = "an app is deleted with a key of its own";
        return Err(ErrorInfo::new(ErrorCode::INVALID_CREDENTIALS, text));
    }
    let delete = Change::DeleteApp { app_id: app_id.into() };
    Ok(change(call, delete, 204, Vec::new()))
}

/// Gives an app numbers that it never earned, for tests that read them.
pub(super) fn post_stats(call: &mut Call<'_>) -> Result<Outcome, ErrorInfo> {
    require_sandbox(call)?;
    let app_id = Principal::app_id(&*call.authenticate()?).into();
    let stats = ably::decode_stats(call.request.body())?;
    Ok(change(call, Change::AddStats { app_id, stats }, 201, b"[]".to_vec()))
}

/// The daemon serves the sandbox's endpoints, or has none.
fn require_sandbox(call: &Call<'_>) -> Result<(), ErrorInfo> {
    match call.context.is_sandbox {
        true => Ok(()),
        false => Err(ErrorInfo::new(ErrorCode::NOT_FOUND, "no such resource")),
    }
}

/// Asks for `change`, and answers once every shard has it.
fn change(call: &Call<'_>, change: Change, status: u16, body: Vec<u8>) -> Outcome {
    let reply = call.reply.clone();
    Outcome::Ask(Inquiry {
        app_id: String::new(),
        asks: vec![Ask::Change(change)],
        then: Box::new(move |mut answers| {
            Outcome::Reply(match answers.pop().expect("one for each question") {
                Ok(_) => reply.ok(status, &body),
                Err(error) => reply.error(&error),
            })
        }),
    })
}
