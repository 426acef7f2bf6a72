//! Responses: turns whose requests are kept, so that they can be told of, and heard, again. What is
//! kept of a request only its dialect reads. Called by `http::v1`.

use super::Chat;
use super::heard::{Heard, Hearing, Listening};
use super::hub::Reader;
use super::journal::lingering_since;
use super::start_turn::NewTurn;
use crate::clock;
use crate::domain::message::FinishReason;
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, Usage};
use crate::error::{Error, Kind, Result};
use crate::store::StoredResponse;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

impl Chat {
    /// Begins a turn, as [`Chat::hear_turn`] does, and keeps its request beside it before anybody
    /// hears of it. The response, and whether it is new: a request that came before has the one that
    /// it had then, and where a person will answer there is none. With `is_taped` its stream can be
    /// heard again for ever.
    pub async fn hear_response(
        self: &Arc<Self>,
        new: NewTurn,
        request: String,
        is_taped: bool,
    ) -> Result<(Hearing, Option<(StoredResponse, bool)>)> {
        let chat = self.clone();
        self.carry_through(async move {
            let who = new.who.clone();
            let hearing = chat.hear_turn(new).await?;
            let Hearing { id, session: Some(session), turn: Some(turn), question, .. } = &hearing
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
                chat.keep_tape(who, session.clone(), kept.clone());
            }
            Ok((hearing, Some((kept, is_new))))
        })
        .await
    }

    /// Hears a response's reply from its beginning: the same pieces as its first listener, while it
    /// runs, for a minute after, and for as long as there is a tape; else in as few as there can be.
    pub async fn hear_again(
        self: &Arc<Self>,
        who: &Principal,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<BoxStream<'static, Heard>> {
        if let Some(tape) = &response.recording {
            let pieces: Vec<Taped> =
                serde_json::from_str(tape).map_err(Error::store_unavailable)?;
            return Ok(stream::iter(pieces.into_iter().map(Heard::from)).boxed());
        }
        let reader = self.read_again(who, session, response).await?;
        Ok(Listening::new(self, who, session, &response.reply_id, reader).stream())
    }

    async fn read_again(
        &self,
        who: &Principal,
        id: &SessionId,
        response: &StoredResponse,
    ) -> Result<Reader> {
        let session = self.store.get_session(who, id, AccessLevel::Participant).await?;
        let turn = &response.turn_id;
        let live = self.hub.get(id, turn);
        if let Some(live) = live.filter(|live| live.remote().is_none()) {
            return Ok(Reader::new(live));
        }
        let running = session.active_turn.as_ref().filter(|active| active.turn_id == *turn);
        if let Some(running) = running.filter(|_| self.store.is_shared())
            && let Some(reader) = self.read_remote(id, running, None).await?
        {
            return Ok(reader);
        }
        let log = self.store.read_log(id, turn, lingering_since()).await?;
        if !log.is_empty() && running.is_none() {
            return Ok(Reader::of(log.concat().into()));
        }
        let reply = self.store.get_message(who, id, &response.reply_id).await?;
        Ok(Reader::of(self.replayed(&session, turn.clone(), &reply).await?))
    }

    /// Listens to a reply until it ends and keeps each piece. Should the server end first, the reply
    /// is still there, in other pieces.
    fn keep_tape(self: &Arc<Self>, who: Principal, session: SessionId, response: StoredResponse) {
        let chat = self.clone();
        self.turns.spawn(async move {
            let taped = async {
                let heard = chat.hear_again(&who, &session, &response).await?;
                let pieces = heard.map(taped).collect::<Vec<_>>().await;
                // One that is not whole would be told as if it were.
                let Some(pieces) = pieces.into_iter().collect::<Option<Vec<Taped>>>() else {
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
enum Taped {
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
fn taped(heard: Heard) -> Option<Taped> {
    Some(match heard {
        Heard::Text(text) => Taped::Text(text),
        Heard::Reasoning(text) => Taped::Reasoning(text),
        Heard::ToolCall { id, name } => Taped::ToolCall(id, name),
        Heard::ToolInput { id, delta } => Taped::ToolInput(id, delta),
        Heard::Finished { reason, model, usage } => Taped::Finished { reason, model, usage },
        Heard::Stopped => Taped::Stopped,
        Heard::Failed(error) if error.kind == Kind::ShuttingDown => return None,
        Heard::Failed(error) => Taped::Failed {
            code: error.kind.code().to_owned(),
            message: error.message.into_owned(),
        },
    })
}

impl From<Taped> for Heard {
    fn from(taped: Taped) -> Self {
        match taped {
            Taped::Text(text) => Self::Text(text),
            Taped::Reasoning(text) => Self::Reasoning(text),
            Taped::ToolCall(id, name) => Self::ToolCall { id, name },
            Taped::ToolInput(id, delta) => Self::ToolInput { id, delta },
            Taped::Finished { reason, model, usage } => Self::Finished { reason, model, usage },
            Taped::Stopped => Self::Stopped,
            Taped::Failed { code, message } => {
                Self::Failed(Error::new(Kind::of_code(&code), message))
            }
        }
    }
}
