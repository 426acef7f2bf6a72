//! Responses: turns whose requests are kept, so that they can be told of, and heard, again. What is
//! kept of a request only its dialect reads. Called by `http::v1`.

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
use crate::store::StoredResponse;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

impl ChatService {
    /// Begins a turn, as [`ChatService::stream_turn`] does, and keeps its request beside it before anybody
    /// hears of it. The response, and whether it is new: a request that came before has the one that
    /// it had then, and where a person will answer there is none. With `is_taped` its stream can be
    /// heard again for ever.
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
            let stored = chat.store.save_response(session, &response).await?;
            // Of several equal requests only the first finds its own one kept.
            let is_new = stored == response;
            if is_recorded && is_new {
                chat.spawn_recording(principal, session.clone(), stored.clone());
            }
            Ok((reply, Some((stored, is_new))))
        })
        .await
    }

    /// Hears a response's reply from its beginning: the same pieces as its first listener, while it
    /// runs, for a minute after, and for as long as there is a tape; else in as few as there can be.
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
        let reader = self.open_response_reader(principal, session, response).await?;
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
        if let Some(buffer) = buffer.filter(|buffer| buffer.remote_progress().is_none()) {
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

    /// Listens to a reply until it ends and keeps each piece. Should the server end first, the reply
    /// is still there, in other pieces.
    fn spawn_recording(
        self: &Arc<Self>,
        principal: Principal,
        session: SessionId,
        response: StoredResponse,
    ) {
        let chat = self.clone();
        self.turn_tasks.spawn(async move {
            let recorded = async {
                let events = chat.replay_response(&principal, &session, &response).await?;
                let events = events.map(record_event).collect::<Vec<_>>().await;
                // One that is not whole would be told as if it were.
                let Some(events) = events.into_iter().collect::<Option<Vec<RecordedEvent>>>() else {
                    return Ok(());
                };
                let recording = serde_json::to_string(&events).map_err(Error::internal)?;
                chat.store.save_recording(&response.turn_id, &recording).await
            };
            if let Err(error) = recorded.await {
                tracing::warn!(turn.id = %response.turn_id, error = %error.chain(), "no tape is kept of a response");
            }
        });
    }
}

/// One piece of a reply as a tape keeps it.
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

/// A server that goes down is not part of what was said.
fn record_event(event: ReplyEvent) -> Option<RecordedEvent> {
    Some(match event {
        ReplyEvent::Text(text) => RecordedEvent::Text(text),
        ReplyEvent::Reasoning(text) => RecordedEvent::Reasoning(text),
        ReplyEvent::ToolCall { id, name } => RecordedEvent::ToolCall(id, name),
        ReplyEvent::ToolInput { id, delta } => RecordedEvent::ToolInput(id, delta),
        ReplyEvent::Finished { reason, model, usage } => {
            RecordedEvent::Finished { reason, model, usage }
        }
        ReplyEvent::Stopped => RecordedEvent::Stopped,
        ReplyEvent::Failed(error) if error.kind == ErrorKind::ShuttingDown => return None,
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
                Self::Finished { reason, model, usage }
            }
            RecordedEvent::Stopped => Self::Stopped,
            RecordedEvent::Failed { code, message } => {
                Self::Failed(Error::new(ErrorKind::from_code(&code), message))
            }
        }
    }
}
