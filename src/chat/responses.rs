//! Responses: turns whose requests are stored, so that they can be retrieved and streamed again.
//! The stored request is opaque here; only `http::v1` interprets it.

use super::ChatService;
use super::hub::TurnReader;
use super::journal::ended_cutoff;
use super::reply_stream::{ReplyEvent, ReplyStream, TurnEventStream};
use super::start_turn::TurnRequest;
use crate::clock;
use crate::domain::message::FinishReason;
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, Usage};
use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::inherit_owner;
use crate::store::StoredResponse;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

impl ChatService {
    /// Starts a turn like [`ChatService::stream_turn`] and stores its request.
    ///
    /// Returns the response and whether it is new: a retry gets the response stored first. No
    /// response is returned if a human agent answers. With `is_recorded` all events are stored, so
    /// that the response can be streamed again at any time.
    pub async fn start_response(
        self: &Arc<Self>,
        turn_request: TurnRequest,
        request: String,
        is_recorded: bool,
    ) -> Result<(ReplyStream, Option<(StoredResponse, bool)>)> {
        let chat = self.clone();
        self.run_to_completion(async move {
            let principal = turn_request.principal.clone();
            let reply = chat.stream_turn(turn_request).await?;
            let ReplyStream {
                reply_id,
                session_id: Some(session),
                turn_id: Some(turn_id),
                user_message_id,
                ..
            } = &reply
            else {
                return Ok((reply, None));
            };
            let response = StoredResponse {
                turn_id: turn_id.clone(),
                reply_id: reply_id.clone(),
                user_message_id: user_message_id.clone().unwrap_or_else(|| reply_id.clone()),
                user: principal.user.clone(),
                created_at: clock::now(),
                request,
                recording: None,
            };
            // Stored before the stream is returned: a client that knows the id of the response can
            // retrieve it.
            let stored = chat.store.save_response(session, &response).await?;
            // Concurrent retries share a turn. Only the request whose response was stored first
            // starts the recording.
            let is_new = stored == response;
            if is_recorded && is_new {
                chat.spawn_recording(principal, session.clone(), stored.clone());
            }
            Ok((reply, Some((stored, is_new))))
        })
        .await
    }

    /// Streams the reply of a response from its beginning. The events are the same as in the
    /// original stream while the turn runs, for a minute after, and as long as a recording exists.
    /// After that the reply is replayed in as few events as possible.
    pub async fn replay_response(
        self: &Arc<Self>,
        principal: &Principal,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<BoxStream<'static, ReplyEvent>> {
        if let Some(recording) = &response.recording {
            let events: Vec<RecordedEvent> =
                serde_json::from_str(recording).map_err(Error::store_unavailable)?;
            return Ok(stream::iter(events.into_iter().map(ReplyEvent::from)).boxed());
        }
        let checked_at = Instant::now();
        let reader = self.open_response_reader(principal, session, response).await?;
        let reader = self.access_watch.watch_reader(principal, reader, checked_at);
        Ok(TurnEventStream::new(self, principal, session, &response.reply_id, reader).into_stream())
    }

    async fn open_response_reader(
        &self,
        principal: &Principal,
        id: &SessionId,
        response: &StoredResponse,
    ) -> Result<TurnReader> {
        let session = self.store.get_session(principal, id, AccessLevel::Participant).await?;
        let turn = &response.turn_id;
        let buffer = self.hub.find_session_buffer(id, turn);
        // From the most exact source to the least: the live buffer, the log via the relay, the log
        // of an ended turn, the stored reply.
        if let Some(buffer) = buffer.filter(|buffer| !buffer.is_remote()) {
            return Ok(TurnReader::new(buffer));
        }
        let running = session.active_turn.as_ref().filter(|active| active.turn_id == *turn);
        if let Some(running) = running.filter(|_| self.store.is_shared())
            && let Some(reader) = self.read_remote_turn(id, running, None).await?
        {
            return Ok(reader);
        }
        let log = self.store.read_log(id, turn, ended_cutoff()).await?;
        if !log.is_empty() && running.is_none() {
            return Ok(TurnReader::from_frames(log.concat().into()));
        }
        let reply = self.store.get_message(principal, id, &response.reply_id).await?;
        Ok(TurnReader::from_frames(self.replay_stored_reply(&session, turn.clone(), &reply).await?))
    }

    /// Records all events of a reply. If the server stops first, there is no recording, but the
    /// reply itself is stored.
    fn spawn_recording(
        self: &Arc<Self>,
        principal: Principal,
        session: SessionId,
        response: StoredResponse,
    ) {
        let chat = self.clone();
        self.turn_tasks.spawn(inherit_owner(async move {
            let recorded = async {
                let events = chat.replay_response(&principal, &session, &response).await?;
                let events = events.map(record_event).collect::<Vec<_>>().await;
                // An incomplete recording would be replayed as if it were complete.
                let Some(events) = events.into_iter().collect::<Option<Vec<RecordedEvent>>>() else {
                    return Ok(());
                };
                let recording = serde_json::to_string(&events).map_err(Error::internal)?;
                chat.store.save_recording(&response.turn_id, &recording).await
            };
            if let Err(error) = recorded.await {
                tracing::warn!(turn.id = %response.turn_id, error = %error.chain(), "storing the recording of a response failed");
            }
        }));
    }
}

/// An event in a recording. The short names keep recordings small.
#[derive(Serialize, Deserialize)]
enum RecordedEvent {
    #[serde(rename = "t")]
    Text(String),
    #[serde(rename = "r")]
    Reasoning(String),
    #[serde(rename = "call")]
    ToolCall(String, String),
    #[serde(rename = "c")]
    ToolInput(String, String),
    #[serde(rename = "end")]
    Finished { reason: FinishReason, model: Option<String>, usage: Option<Usage> },
    #[serde(rename = "stopped")]
    Stopped,
    #[serde(rename = "failed")]
    Failed { code: String, message: String },
}

/// `None` for a shutdown or lost access: that is an end of this stream, not of the reply.
fn record_event(event: ReplyEvent) -> Option<RecordedEvent> {
    Some(match event {
        ReplyEvent::Text(text) => RecordedEvent::Text(text),
        ReplyEvent::Reasoning(text) => RecordedEvent::Reasoning(text),
        ReplyEvent::ToolCall { id, name } => RecordedEvent::ToolCall(id, name),
        ReplyEvent::ToolInput { id, delta } => RecordedEvent::ToolInput(id, delta),
        ReplyEvent::Finished { reason, model, usage, .. } => {
            RecordedEvent::Finished { reason, model, usage }
        }
        ReplyEvent::Stopped => RecordedEvent::Stopped,
        ReplyEvent::Failed(error)
            if matches!(error.kind, ErrorKind::ShuttingDown | ErrorKind::SessionNotFound) =>
        {
            return None;
        }
        ReplyEvent::Failed(error) => RecordedEvent::Failed {
            code: error.kind.code().to_owned(),
            message: error.message.into_owned(),
        },
    })
}

impl From<RecordedEvent> for ReplyEvent {
    fn from(event: RecordedEvent) -> Self {
        match event {
            RecordedEvent::Text(text) => Self::Text(text),
            RecordedEvent::Reasoning(text) => Self::Reasoning(text),
            RecordedEvent::ToolCall(id, name) => Self::ToolCall { id, name },
            RecordedEvent::ToolInput(id, delta) => Self::ToolInput { id, delta },
            RecordedEvent::Finished { reason, model, usage } => {
                Self::Finished { reason, model, usage, call_origins: Vec::new() }
            }
            RecordedEvent::Stopped => Self::Stopped,
            RecordedEvent::Failed { code, message } => {
                Self::Failed(Error::new(ErrorKind::from_code(&code), message))
            }
        }
    }
}
