//! One event of a session to the generation that is current now, held until its handler is over.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use relmgr_abi::abi_stable::std_types::{RSlice, RStr};
use relmgr_abi::future::FfiFuture;
use relmgr_abi::head::RequestHead;
use relmgr_abi::session::{SessionOpening, SessionOutcome, SessionView};

use super::super::body::poll_purge;
use super::super::front::Front;
use super::super::generation::{Generation, Held, RequestGuard};
use super::end::End;
use super::enter;
use super::hub::HUB;
use super::session::{Session, State};

/// A WebSocket's client that is not let in.
pub struct Refused {
    /// HTTP's status.
    pub status: u16,
    /// For the client.
    pub words: String,
}

/// Asks the application whether a session begins; `head` is lent for this call alone. `None`: nobody takes it.
pub fn ask(
    generation: &Generation,
    session: &Session,
    head: Option<RequestHead<'_>>,
) -> Option<FfiFuture<SessionOutcome>> {
    with_view(generation, session, |generation, view| {
        generation.session_open(SessionOpening { session: view, head: head.into() })
    })
}

/// Waits for the application's decision.
///
/// # Errors
/// [`Refused`].
pub async fn decided(
    asked: Option<FfiFuture<SessionOutcome>>,
    guard: RequestGuard,
    session: &Session,
) -> Result<(), Refused> {
    let Some(future) = asked else {
        return Err(Refused { status: 404, words: "no such session is taken here\n".into() });
    };
    match finish(Held::new(future, guard), session).await {
        Ok((0, _)) => Ok(()),
        Ok((status, words)) => Err(Refused { status, words }),
        Err(End::Restart) => Err(Refused { status: 503, words: "the release was retired\n".into() }),
        Err(_) => Err(Refused { status: 500, words: "the handler failed\n".into() }),
    }
}

/// Hands over a message.
///
/// # Errors
/// The session's end.
pub async fn message(front: &Front, session: &Session, kind: u8, bytes: Bytes) -> Result<(), End> {
    let guard = enter(front).await.ok_or(End::NotServed)?;
    let begun = with_view(guard.generation(), session, |generation, view| {
        generation.session_message(view, kind, bytes.into())
    });
    let Some(future) = begun else { return Err(End::NotServed) };
    match finish(Held::new(future, guard), session).await? {
        (0, _) => Ok(()),
        (_, _) => Err(End::Failed),
    }
}

/// Tells the application of the end; where nobody serves such sessions any more, nobody is told.
pub async fn close(front: &Front, session: &Session, end: &End) {
    let Some(guard) = enter(front).await else { return };
    let (code, reason) = end.code();
    let begun = with_view(guard.generation(), session, |generation, view| {
        generation.session_close(view, code, RStr::from_str(reason))
    });
    if let Some(future) = begun {
        // How it went is logged where it went wrong; nothing is left to be done about it.
        let _ = finish(Held::new(future, guard), session).await;
    }
}

fn with_view(
    generation: &Generation,
    session: &Session,
    call: impl FnOnce(&Generation, SessionView<'_>) -> Option<FfiFuture<SessionOutcome>>,
) -> Option<FfiFuture<SessionOutcome>> {
    let endpoint = generation.offer().find(session.kind, &session.path)?;
    let State { schema, bytes } = session.state();
    let view = SessionView {
        id: session.id,
        endpoint,
        schema,
        state: RSlice::from_slice(&bytes),
        path: RStr::from_str(&session.path),
        connection: session.facts,
    };
    call(generation, view)
}

/// Waits for a handler's end and takes over the session's state. The verdict and its words.
async fn finish(mut held: Held<SessionOutcome>, session: &Session) -> Result<(u16, String), End> {
    let mut purge = None;
    let polled = poll_fn(|cx| {
        let polled = held.poll(cx);
        let cut = polled.is_pending() && poll_purge(&mut purge, held.guard().generation(), session.id, cx);
        if cut { Poll::Ready(None) } else { polled.map(Some) }
    });
    let outcome = match polled.await {
        Some(Ok(outcome)) => outcome,
        // The panic hook in the library has logged it.
        Some(Err(_)) => return Err(End::Failed),
        // The drain's deadline passed.
        None => return Err(End::Restart),
    };
    // Copies: what came from the library goes before its generation does.
    let (verdict, words) = (outcome.verdict, outcome.words.as_str().to_owned());
    if let Some(state) = outcome.state.as_ref().into_option().filter(|_| verdict == 0) {
        let (size, most) = (state.as_ref().len(), HUB.limits().state_bytes);
        if size > most {
            tracing::error!(
                session = session.id,
                "its state has {size} bytes: sessions.state_bytes allows {most}"
            );
            return Err(End::Failed);
        }
        let bytes = Bytes::copy_from_slice(state.as_ref());
        session.set_state(State { schema: outcome.schema, bytes });
    }
    // What came from the library is gone before the guard is.
    drop(outcome);
    drop(held);
    Ok((verdict, words))
}
