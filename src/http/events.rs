//! `/api/events`: what happens to the caller's sessions, as it happens.

use super::ApiState;
use super::auth_middleware::CurrentIdentity;
use super::envelope::{ApiResult, ErrorResponse};
use super::query::QueryParams;
use super::sse::{self, SseSource};
use crate::auth::{Authenticator, Identity};
use crate::chat::EventReader;
use crate::domain::SessionId;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Listen to all sessions that the caller participates in, or to one. `event:` equals `data.type`:
/// first `sync {at}`; then `session {action: created|changed|deleted, sessionId, session?}`,
/// `message {sessionId, message}`, `turn {action: started|ended, sessionId, turnId, messageId}` and
/// `seen {sessionId, userId, upTo}`. Nothing is replayed: after a reconnect, and after any further
/// `sync`, read anew what you show. An imported session is one event, without one for each message.
/// The stream ends within 15 s once the credentials it was opened with are no longer good.
#[utoipa::path(
    get, path = "/api/events", tag = "events",
    params(("sessionId" = Option<String>, Query, description = "Only this session")),
    responses(
        (status = 200, description = "Events, and a comment every 15 s", content_type = "text/event-stream", body = String),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn stream_events(
    State(api): State<ApiState>,
    CurrentIdentity(identity): CurrentIdentity,
    mut query: QueryParams,
) -> ApiResult<Response> {
    let session = query.take_parsed("sessionId", |id| SessionId::parse("sessionId", id));
    query.finish()?;
    let events = api.chat.subscribe_events(&identity.principal, session).await?;
    let (pause, look_at) = (api.heartbeat, Instant::now() + api.heartbeat);
    let listener = AuthorizedEventStream {
        events,
        auth: api.auth,
        identity,
        check_interval: pause,
        next_check: look_at,
    };
    Ok(sse::stream_with_heartbeat(listener, api.heartbeat))
}

/// Somebody who listens for as long as they may: such a stream has no end of its own.
struct AuthorizedEventStream {
    events: EventReader,
    auth: Arc<Authenticator>,
    identity: Identity,
    /// How often to look whether their credentials are good still …
    check_interval: Duration,
    /// … and when the next time.
    next_check: Instant,
}

impl SseSource for AuthorizedEventStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                event = self.events.next() => return event,
                () = sleep_until(self.next_check) => {}
            }
            // A store that cannot be reached now changes nothing: the next look tells.
            if !self.auth.is_still_valid(&self.identity).await.unwrap_or(true) {
                return None;
            }
            self.next_check = Instant::now() + self.check_interval;
        }
    }
}
