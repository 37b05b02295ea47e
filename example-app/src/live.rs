//! Live results: one WebSocket for each page that shows a poll. It stays open when the release changes; all that its
//! viewers see of that is the version. Under `cargo relmgr dev` the page reloads itself when it is told of another one.

use std::sync::Arc;

use chrono::Utc;
use relmgr_app::{Context, Error, Message, Opening, Refusal, Session, SessionHandler};
use serde_json::json;

use crate::Shared;

/// Every page is subscribed to it.
const EVERYBODY: &str = "everybody";

/// Those who look at one poll.
fn viewers(id: u64) -> String {
    format!("poll/{id}")
}

/// Tells everybody who looks at a poll how it stands.
pub fn tell(shared: &Shared, id: u64) {
    if let Some(context) = &shared.context
        && let Ok(results) = shared.polls.results(id, Utc::now())
    {
        context.publish(&viewers(id), json!({"results": results}).to_string());
    }
}

/// Tells every page which release serves from now on.
pub fn tell_version(context: &Context) {
    context.publish(EVERYBODY, json!({"version": context.version()}).to_string());
}

/// A page that shows a poll: `/polls/{id}/live`.
pub struct Live(pub Arc<Shared>);

impl Live {
    fn id(session: &Session) -> Option<u64> {
        session.param("id")?.parse().ok()
    }
}

impl SessionHandler for Live {
    async fn open(&self, session: &mut Session, _: Opening) -> Result<(), Refusal> {
        session.subscribe(EVERYBODY)?;
        session.send(json!({"version": self.0.version}).to_string())?;
        if let Some(id) = Self::id(session) {
            session.subscribe(&viewers(id))?;
            if let Ok(results) = self.0.polls.results(id, Utc::now()) {
                session.send(json!({"results": results}).to_string())?;
            }
        }
        Ok(())
    }

    /// A vote: the option's number.
    async fn message(&self, session: &mut Session, message: Message) -> Result<(), Error> {
        let vote = message.text().and_then(|text| text.trim().parse().ok());
        if let (Some(id), Some(option)) = (Self::id(session), vote)
            && self.0.polls.vote(id, option, Utc::now()).is_ok()
        {
            tell(&self.0, id);
        }
        Ok(())
    }
}
