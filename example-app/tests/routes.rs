//! The routes, asked as a client would.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use live_poll::LivePoll;
use live_poll::settings::Settings;
use relmgr_app::Application;
use relmgr_app::testing::Alone;
use serde_json::{Value, json};
use tower::ServiceExt;

async fn ask(app: &LivePoll, method: &str, path: &str, body: Option<Value>) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = app.router().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

/// The application over state tables of its own, which go with what is returned beside it.
fn app() -> (LivePoll, Alone) {
    let alone = Alone::new().unwrap();
    (LivePoll::open(&alone.context("1.2.3"), Settings::default()).unwrap(), alone)
}

#[tokio::test]
async fn a_poll_is_made_voted_on_and_read() {
    let (app, _alone) = app();
    let new = json!({"question": "Tea?", "options": ["yes", "no"]});
    assert_eq!(ask(&app, "POST", "/polls", Some(new)).await, (StatusCode::CREATED, "{\"id\":1}".into()));
    let (status, _) = ask(&app, "POST", "/polls/1/votes", Some(json!({"option": 1}))).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = ask(&app, "GET", "/polls/1", None).await;
    let expected = json!({"question": "Tea?", "options": [{"text": "yes", "votes": 0}, {"text": "no", "votes": 1}],
        "total": 1, "open": true});
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (StatusCode::OK, expected));
}

#[tokio::test]
async fn mistakes_have_their_status_and_words() {
    let (app, _alone) = app();
    ask(&app, "POST", "/polls", Some(json!({"question": "Tea?", "options": ["yes", "no"]}))).await;
    let past = json!({"question": "Old?", "options": ["a", "b"], "closes_at": "2020-01-01T00:00:00Z"});
    ask(&app, "POST", "/polls", Some(past)).await;
    let cases = [
        ("/polls", json!({"question": "", "options": ["a", "b"]}), StatusCode::UNPROCESSABLE_ENTITY),
        ("/polls", json!({"question": "One?", "options": ["a"]}), StatusCode::UNPROCESSABLE_ENTITY),
        ("/polls", json!({"options": ["a", "b"]}), StatusCode::UNPROCESSABLE_ENTITY),
        ("/polls/1/votes", json!({"option": 9}), StatusCode::UNPROCESSABLE_ENTITY),
        ("/polls/2/votes", json!({"option": 0}), StatusCode::CONFLICT),
        ("/polls/7/votes", json!({"option": 0}), StatusCode::NOT_FOUND),
    ];
    for (path, body, expected) in cases {
        let (status, answer) = ask(&app, "POST", path, Some(body.clone())).await;
        assert_eq!(status, expected, "{path} {body}: {answer}");
        assert!(serde_json::from_str::<Value>(&answer).unwrap()["error"].is_string());
    }
}

#[tokio::test]
async fn pages_show_bars_and_version_and_escape_what_users_write() {
    let (app, _alone) = app();
    let new = json!({"question": "<script>alert(1)</script>{{version}}", "options": ["a & b", "\"c\""]});
    ask(&app, "POST", "/polls", Some(new)).await;
    for path in ["/", "/polls/1/page"] {
        let (status, page) = ask(&app, "GET", path, None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(
            page.contains("1.2.3")
                && page.contains("&lt;script&gt;alert(1)")
                && !page.contains("<script>alert")
        );
        assert!(page.contains("{{version}}"), "a user's text is no template");
        assert!(page.contains("version && false && "), "users' pages do not reload themselves");
    }
    assert_eq!(ask(&app, "GET", "/polls/9/page", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn debug_handlers_do_what_they_say() {
    let (app, _alone) = app();
    assert_eq!(ask(&app, "GET", "/debug/json", None).await.1, "{\"ok\":true}");
    assert_eq!(ask(&app, "GET", "/debug/bytes?n=100000", None).await.1.len(), 100_000);
    assert_eq!(ask(&app, "GET", "/debug/stream?chunks=2&interval_ms=1", None).await.1, "chunk 0\nchunk 1\n");
    assert_eq!(ask(&app, "POST", "/debug/sink", Some(json!("12345"))).await.1, "{\"bytes\":7}");
    assert_eq!(ask(&app, "POST", "/debug/echo", Some(json!("back"))).await.1, "\"back\"");
    assert_eq!(ask(&app, "GET", "/debug/sleep?ms=1", None).await.1, "slept 1 ms\n");
}

#[tokio::test]
async fn changed_settings_apply_to_what_comes_next() {
    let (app, _alone) = app();
    let new = |options: &[&str]| json!({"question": "Tea?", "options": options});
    assert_eq!(ask(&app, "POST", "/polls", Some(new(&["a", "b", "c"]))).await.0, StatusCode::CREATED);
    let mut settings = Settings::default();
    settings.poll.title = "Questions".into();
    settings.poll.max_options = 2;
    let changed = vec!["poll.max_options".into(), "poll.title".into()];
    let change = relmgr_app::ConfChange { settings, changed, new: vec![], removed: vec![] };
    app.conf_change(change).await.unwrap();
    assert!(ask(&app, "GET", "/", None).await.1.contains("<h1>Questions</h1>"));
    let (status, words) = ask(&app, "POST", "/polls", Some(new(&["a", "b", "c"]))).await;
    assert!(status.is_client_error() && words.contains("2 options at most"), "{status} {words}");
    assert_eq!(ask(&app, "GET", "/polls/1", None).await.0, StatusCode::OK);
}

#[tokio::test]
async fn votes_are_there_for_the_next_release() {
    let (app, alone) = app();
    ask(&app, "POST", "/polls", Some(json!({"question": "Tea?", "options": ["yes", "no"]}))).await;
    ask(&app, "POST", "/polls/1/votes", Some(json!({"option": 1}))).await;
    let next = LivePoll::open(&alone.context("1.2.4"), Settings::default()).unwrap();
    ask(&next, "POST", "/polls/1/votes", Some(json!({"option": 1}))).await;
    let (_, body) = ask(&app, "GET", "/polls/1", None).await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["options"][1]["votes"], 2);
}

#[tokio::test]
async fn the_line_protocol_votes_and_shows() {
    let (app, _alone) = app();
    ask(&app, "POST", "/polls", Some(json!({"question": "Tea?", "options": ["yes", "no"]}))).await;
    let said = |line: &str| live_poll::line::answer(app.shared(), line);
    assert_eq!(said("show 1"), "open; yes 0; no 0");
    assert_eq!(said("vote 1 1"), "open; yes 0; no 1");
    assert_eq!(said("vote 1 2"), "error: there is no such option");
    assert_eq!(said("show 9"), "error: there is no such poll");
    for line in ["", "vote 1", "vote 1 yes", "show all", "drop 1"] {
        assert!(said(line).contains("what can be said"), "{line}");
    }
}
