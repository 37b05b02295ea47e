//! The host's calls for sessions.

use bytes::Bytes;
use relmgr_abi::abi_stable::std_types::RString;
use relmgr_abi::buffer::FfiBytes;
use relmgr_abi::session::{SessionOpening, SessionOutcome, SessionView};

use super::{Message, Opening, Session, SessionEnd, Sessions};
use crate::response::describe;
use crate::{log, request};

/// The WebSocket's code for a fault of the server's.
const INTERNAL: u16 = 1011;

fn outcome(verdict: u16, words: &str, session: Session) -> SessionOutcome {
    let (schema, state) = session.changed();
    let state = state.map(FfiBytes::from).into();
    SessionOutcome { verdict, words: RString::from(words), schema, state }
}

/// The host asks for what this library does not have.
fn nobody(status: u16) -> SessionOutcome {
    let words = RString::from("no such session is taken here");
    SessionOutcome { verdict: status, words, schema: 0, state: None.into() }
}

/// A session begins.
pub(crate) fn begin(
    sessions: &'static Sessions,
    opening: &SessionOpening<'_>,
) -> impl Future<Output = SessionOutcome> + Send + 'static + use<> {
    let view = &opening.session;
    let found = sessions.entry(view.endpoint).map(|entry| {
        let session = Session::new(view, &entry.endpoint.name);
        let request = opening.head.as_ref().map(|head| request::read(head, ())).into_option().transpose();
        (entry, session, request)
    });
    async move {
        let Some((entry, mut session, request)) = found else { return nobody(404) };
        let request = match request {
            Ok(request) => request.map(|request| request.into_parts().0),
            Err(error) => return outcome(400, &error.to_string(), session),
        };
        match entry.handler.open(&mut session, Opening { request }).await {
            Ok(()) => outcome(0, "", session),
            Err(refusal) => outcome(refusal.status.max(400), &refusal.words, session),
        }
    }
}

/// A message came.
pub(crate) fn said(
    sessions: &'static Sessions,
    view: &SessionView<'_>,
    kind: u8,
    bytes: FfiBytes,
) -> impl Future<Output = SessionOutcome> + Send + 'static + use<> {
    let found = sessions.entry(view.endpoint).map(|entry| (entry, Session::new(view, &entry.endpoint.name)));
    async move {
        let Some((entry, mut session)) = found else { return nobody(INTERNAL) };
        let message = Message::read(kind, Bytes::from_owner(bytes));
        match entry.handler.message(&mut session, message).await {
            Ok(()) => outcome(0, "", session),
            Err(error) => {
                let number = session.handle().number();
                let words = format!("a message of session {number} failed: {}", describe(error.as_ref()));
                log::send(1, "relmgr_app", &words);
                outcome(INTERNAL, "the message could not be handled", session)
            }
        }
    }
}

/// A session is over.
pub(crate) fn over(
    sessions: &'static Sessions,
    view: &SessionView<'_>,
    code: u16,
    reason: &str,
) -> impl Future<Output = SessionOutcome> + Send + 'static + use<> {
    let found = sessions.entry(view.endpoint).map(|entry| (entry, Session::new(view, &entry.endpoint.name)));
    let end = SessionEnd { code, reason: reason.to_owned() };
    async move {
        let Some((entry, mut session)) = found else { return nobody(0) };
        entry.handler.close(&mut session, end).await;
        outcome(0, "", session)
    }
}
