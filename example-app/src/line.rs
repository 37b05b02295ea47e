//! Polls over a line protocol, on a listener of its own (`[listen.tcp.line]`): `vote <poll> <option>`, `show <poll>`.

use std::fmt::Write;
use std::sync::Arc;

use chrono::Utc;
use relmgr_app::{Error, Message, Session, SessionHandler};

use crate::polls::{PollError, Results};
use crate::{Shared, live};

/// A connection to the listener.
pub struct Line(pub Arc<Shared>);

impl SessionHandler for Line {
    async fn message(&self, session: &mut Session, message: Message) -> Result<(), Error> {
        let answer = match message.text() {
            Some(text) => answer(&self.0, text),
            None => "error: that is no text".into(),
        };
        session.send(answer)?;
        Ok(())
    }
}

const HELP: &str = "error: what can be said is `vote <poll> <option>` and `show <poll>`";

/// The answer to one line.
pub fn answer(shared: &Shared, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let (id, option) = match words[..] {
        ["show", id] => (id.parse(), None),
        ["vote", id, option] => match option.parse() {
            Ok(option) => (id.parse(), Some(option)),
            Err(_) => return HELP.into(),
        },
        _ => return HELP.into(),
    };
    let Ok(id) = id else { return HELP.into() };
    let now = Utc::now();
    let voted = option.map_or(Ok(()), |option| shared.polls.vote(id, option, now));
    match voted.and_then(|()| shared.polls.results(id, now)) {
        Ok(results) => {
            if option.is_some() {
                live::tell(shared, id);
            }
            show(&results)
        }
        Err(PollError::Unknown) => "error: there is no such poll".into(),
        Err(PollError::Closed) => "error: the poll is closed".into(),
        Err(PollError::NoOption) => "error: there is no such option".into(),
        Err(PollError::Invalid(words)) => format!("error: {words}"),
        Err(PollError::Tables(error)) => format!("error: {error}"),
    }
}

fn show(results: &Results) -> String {
    let mut text = String::from(if results.open { "open" } else { "closed" });
    for option in &results.options {
        // Writing to a string does not fail.
        let _ = write!(text, "; {} {}", option.text.replace(['\n', ';'], " "), option.votes);
    }
    text
}
