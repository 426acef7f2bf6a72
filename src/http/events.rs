//! `/api/events`: what happens to the caller's sessions, as it happens.

use super::Api;
use super::envelope::{Answer, Failure};
use super::extract::Caller;
use super::query::Query;
use super::sse;
use crate::domain::SessionId;
use axum::extract::State;
use axum::response::Response;

/// Listen to all sessions that the caller participates in, or to one. `event:` equals `data.type`:
/// first `sync {at}`; then `session {action: created|changed|deleted, sessionId, session?}`,
/// `message {sessionId, message}`, `turn {action: started|ended, sessionId, turnId, messageId}` and
/// `seen {sessionId, userId, upTo}`. Nothing is replayed: after a reconnect, and after any further
/// `sync`, read anew what you show. An imported session is one event, without one for each message.
#[utoipa::path(
    get, path = "/api/events", tag = "events",
    params(("sessionId" = Option<String>, Query, description = "Only this session")),
    responses(
        (status = 200, description = "Events, and a comment every 15 s", content_type = "text/event-stream", body = String),
        (status = "default", body = Failure),
    )
)]
pub(super) async fn listen(
    State(api): State<Api>,
    Caller(who): Caller,
    mut query: Query,
) -> Answer<Response> {
    let session = query.parsed("sessionId", |id| SessionId::parse("sessionId", id));
    query.finish()?;
    let reader = api.chat.events(&who, session).await?;
    Ok(sse::events(reader, api.heartbeat))
}
