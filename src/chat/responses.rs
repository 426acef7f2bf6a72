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
        new: TurnRequest,
        request: String,
        is_taped: bool,
    ) -> Result<(ReplyStream, Option<(StoredResponse, bool)>)> {
        let chat = self.clone();
        self.run_to_completion(async move {
            let who = new.principal.clone();
            let hearing = chat.stream_turn(new).await?;
            let ReplyStream {
                reply_id: id,
                session_id: Some(session),
                turn_id: Some(turn),
                user_message_id: question,
                ..
            } = &hearing
            else {
                return Ok((hearing, None));
            };
            let response = StoredResponse {
                turn_id: turn.clone(),
                reply_id: id.clone(),
                user_message_id: question.clone().unwrap_or_else(|| id.clone()),
                user: who.user.clone(),
                created_at: clock::now(),
                request,
                recording: None,
            };
            let kept = chat.store.save_response(session, &response).await?;
            // Of several equal requests only the first finds its own one kept.
            let is_new = kept == response;
            if is_taped && is_new {
                chat.spawn_recording(who, session.clone(), kept.clone());
            }
            Ok((hearing, Some((kept, is_new))))
        })
        .await
    }

    /// Hears a response's reply from its beginning: the same pieces as its first listener, while it
    /// runs, for a minute after, and for as long as there is a tape; else in as few as there can be.
    pub async fn replay_response(
        self: &Arc<Self>,
        who: &Principal,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<BoxStream<'static, ReplyEvent>> {
        if let Some(tape) = &response.recording {
            let pieces: Vec<RecordedEvent> =
                serde_json::from_str(tape).map_err(Error::store_unavailable)?;
            return Ok(stream::iter(pieces.into_iter().map(ReplyEvent::from)).boxed());
        }
        let reader = self.open_response_reader(who, session, response).await?;
        Ok(TurnEventStream::new(self, who, session, &response.reply_id, reader).into_stream())
    }

    async fn open_response_reader(
        &self,
        who: &Principal,
        id: &SessionId,
        response: &StoredResponse,
    ) -> Result<TurnReader> {
        let session = self.store.get_session(who, id, AccessLevel::Participant).await?;
        let turn = &response.turn_id;
        let live = self.hub.find_session_buffer(id, turn);
        if let Some(live) = live.filter(|live| live.remote_progress().is_none()) {
            return Ok(TurnReader::new(live));
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
        let reply = self.store.get_message(who, id, &response.reply_id).await?;
        Ok(TurnReader::from_frames(self.replay_stored_reply(&session, turn.clone(), &reply).await?))
    }

    /// Listens to a reply until it ends and keeps each piece. Should the server end first, the reply
    /// is still there, in other pieces.
    fn spawn_recording(
        self: &Arc<Self>,
        who: Principal,
        session: SessionId,
        response: StoredResponse,
    ) {
        let chat = self.clone();
        self.turn_tasks.spawn(async move {
            let taped = async {
                let heard = chat.replay_response(&who, &session, &response).await?;
                let pieces = heard.map(record_event).collect::<Vec<_>>().await;
                // One that is not whole would be told as if it were.
                let Some(pieces) = pieces.into_iter().collect::<Option<Vec<RecordedEvent>>>() else {
                    return Ok(());
                };
                let tape = serde_json::to_string(&pieces).map_err(Error::internal)?;
                chat.store.save_recording(&response.turn_id, &tape).await
            };
            if let Err(error) = taped.await {
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
fn record_event(heard: ReplyEvent) -> Option<RecordedEvent> {
    Some(match heard {
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
    fn from(taped: RecordedEvent) -> Self {
        match taped {
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
