//! Polls for people: two pages without a framework or a foreign resource.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use chrono::Utc;

use crate::Shared;
use crate::api::Fault;
use crate::polls::{PollError, Results};

/// The routes.
pub fn router() -> Router<Arc<Shared>> {
    Router::new().route("/", get(start)).route("/polls/{id}/page", get(poll))
}

const FRAME: &str = include_str!("pages/frame.html");
const FORM: &str = include_str!("pages/form.html");

/// How many polls the start page shows.
const NEWEST: usize = 20;

async fn start(State(shared): State<Arc<Shared>>) -> Result<Html<String>, Fault> {
    let mut body = String::from("<h1>");
    let settings = shared.settings();
    body += &escape(&settings.poll.title);
    body += "</h1><ul class=\"polls\">";
    for (id, question) in shared.polls.newest(NEWEST)? {
        // Writing to a string does not fail.
        let _ = write!(body, "<li><a href=\"/polls/{id}/page\">{}</a></li>", escape(&question));
    }
    body += "</ul>";
    body += FORM;
    Ok(Html(frame(&shared, &settings.poll.title, &body)))
}

async fn poll(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Result<Response, Fault> {
    match shared.polls.results(id, Utc::now()) {
        Ok(results) => Ok(Html(frame(&shared, &results.question, &bars(id, &results))).into_response()),
        Err(PollError::Unknown) => {
            let body = "<h1>There is no such poll</h1><p><a href=\"/\">All polls</a></p>";
            Ok((StatusCode::NOT_FOUND, Html(frame(&shared, "No such poll", body))).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

fn bars(id: u64, results: &Results) -> String {
    let mut body = format!("<h1>{}</h1><div id=\"poll\" data-id=\"{id}\">", escape(&results.question));
    for (number, option) in results.options.iter().enumerate() {
        let share = (option.votes * 100).checked_div(results.total).unwrap_or(0);
        let disabled = if results.open { "" } else { " disabled" };
        let _ = write!(
            body,
            "<button class=\"option\" data-option=\"{number}\"{disabled}><span class=\"bar\" \
             style=\"width:{share}%\"></span><span class=\"text\">{}</span><span class=\"votes\">{}</span></button>",
            escape(&option.text),
            option.votes
        );
    }
    let state = if results.open { "open" } else { "closed" };
    let _ = write!(
        body,
        "</div><p class=\"note\"><span id=\"total\">{}</span> votes, <span id=\"open\">{state}</span> \
         &middot; <a href=\"/\">all polls</a></p>",
        results.total
    );
    body
}

fn frame(shared: &Shared, title: &str, body: &str) -> String {
    // In one pass over the template, so that nothing that a user wrote is looked at again.
    let mut page = String::with_capacity(FRAME.len() + body.len());
    for part in FRAME.split_inclusive("}}") {
        let (text, name) = part.split_once("{{").unwrap_or((part, ""));
        page += text;
        match name {
            "title}}" => page += &escape(title),
            "version}}" => page += &escape(&shared.version),
            "development}}" => page += if shared.development() { "true" } else { "false" },
            "body}}" => page += body,
            _ => {}
        }
    }
    page
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            other => out.push(other),
        }
    }
    out
}
