//! Polls over HTTP, as JSON.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::polls::{NewPoll, PollError, Results};
use crate::{Shared, live};

/// The routes.
pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/polls", post(create))
        .route("/polls/{id}", get(results))
        .route("/polls/{id}/votes", post(vote))
}

#[derive(Serialize)]
struct Created {
    id: u64,
}

#[derive(Deserialize)]
struct Vote {
    option: usize,
}

async fn create(
    State(shared): State<Arc<Shared>>,
    body: Result<Json<NewPoll>, JsonRejection>,
) -> Result<(StatusCode, Json<Created>), Fault> {
    let Json(new) = body?;
    let id = shared.polls.create(new)?;
    Ok((StatusCode::CREATED, Json(Created { id })))
}

async fn vote(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<u64>,
    body: Result<Json<Vote>, JsonRejection>,
) -> Result<Json<Results>, Fault> {
    let Json(Vote { option }) = body?;
    let now = Utc::now();
    shared.polls.vote(id, option, now)?;
    live::tell(&shared, id);
    Ok(Json(shared.polls.results(id, now)?))
}

async fn results(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Result<Json<Results>, Fault> {
    Ok(Json(shared.polls.results(id, Utc::now())?))
}

/// What a client did wrong: a status, and `{"error"}`.
pub struct Fault(StatusCode, String);

impl From<PollError> for Fault {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Unknown => Self(StatusCode::NOT_FOUND, "there is no such poll".into()),
            PollError::Closed => Self(StatusCode::CONFLICT, "the poll is closed".into()),
            PollError::NoOption => Self(StatusCode::UNPROCESSABLE_ENTITY, "there is no such option".into()),
            PollError::Invalid(reason) => Self(StatusCode::UNPROCESSABLE_ENTITY, reason),
            PollError::Tables(error) => {
                tracing::error!(%error, "the polls' tables");
                Self(StatusCode::SERVICE_UNAVAILABLE, "polls cannot be read or written just now".into())
            }
        }
    }
}

impl From<JsonRejection> for Fault {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}
