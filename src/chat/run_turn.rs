//! A turn from its first frame to its stored reply: one task, which nobody but the turn's own end,
//! a stop or the server's end can end.

use super::Chat;
use super::frames::MemorySummary;
use super::hub::LiveTurn;
use super::transcript::{Ending, Opening, Transcript};
use crate::clock;
use crate::domain::message::{Body, FinishReason, MessageError};
use crate::domain::session::Settings;
use crate::domain::turn::ActiveTurn;
use crate::domain::{MessageType, Role, Session, Status, Usage, UserId};
use crate::error::{Error, Kind, Result};
use crate::memory::{Assembled, Piece, tokens};
use crate::provider::{Event, Events, ProviderError};
use crate::store::{FinishTurn, NewMessage, Question, ReplyFields};
use futures::{FutureExt, StreamExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Deltas are gathered into one frame for at most this long while more keep arriving.
const GATHER: Duration = Duration::from_millis(1);
/// A reply that cannot be stored is tried again for this long, at growing intervals.
const STORE_PATIENCE: Duration = Duration::from_secs(30);

/// A turn whose question is stored and whose session is claimed.
pub(super) struct RunningTurn {
    pub(super) session: Session,
    pub(super) question: Question,
    pub(super) turn: ActiveTurn,
    /// The request's settings over the session's.
    pub(super) settings: Settings,
}

impl RunningTurn {
    pub(super) fn new(
        session: Session,
        question: Question,
        turn: ActiveTurn,
        request: Settings,
    ) -> Self {
        let settings = request.over(session.settings.clone());
        Self { session, question, turn, settings }
    }
}

/// How producing a reply ended.
enum Outcome {
    /// The model stopped by itself.
    Finished(FinishReason),
    /// Somebody stopped it, or the server is going down.
    Stopped,
    /// The stream ended without saying why: what came is kept, but it is not all.
    CutOff,
    /// Something failed.
    Failed(Error),
}

/// What was sent to the provider, as far as it came to that.
#[derive(Default)]
struct Sent {
    prompt_tokens: u32,
    memory: Option<MemorySummary>,
}

impl Chat {
    /// Runs a turn to its end. Whatever happens, the reply is stored before the last frame is out.
    pub(super) async fn run_turn(self: Arc<Self>, turn: RunningTurn, live: Arc<LiveTurn>) {
        let mut transcript = Transcript::begin(
            turn.turn.turn_id.clone(),
            &Opening {
                message_id: &turn.turn.message_id,
                session_id: &turn.session.id,
                title: &turn.session.title,
                user_message_id: &turn.question.id,
            },
        );
        live.publish(transcript.take_frames());
        let mut sent = Sent::default();
        let produced =
            AssertUnwindSafe(self.produce(&turn, &live, &mut transcript, &mut sent)).catch_unwind();
        // A mistake of ours must not leave the session claimed for ever.
        let outcome =
            produced.await.unwrap_or_else(|_| Outcome::Failed(Error::internal("a turn panicked")));
        self.settle(&turn, &mut transcript, &sent, outcome).await;
        live.publish(transcript.take_frames());
        live.end();
        self.hub.close(&turn.turn.turn_id);
    }

    /// Builds the prompt, asks the provider and publishes what it sends.
    async fn produce(
        &self,
        turn: &RunningTurn,
        live: &LiveTurn,
        transcript: &mut Transcript,
        sent: &mut Sent,
    ) -> Outcome {
        let asked = async {
            let assembled = self.assemble(turn).await?;
            sent.prompt_tokens = assembled.prompt_tokens;
            sent.memory = Some(MemorySummary {
                strategy: assembled.strategy,
                prompt_tokens: assembled.prompt_tokens,
                messages: assembled.recent_messages(),
            });
            Ok::<_, Error>(self.provider.stream(&assembled.prompt(&turn.settings)).await?)
        };
        let mut events = tokio::select! {
            biased;
            () = live.stop.cancelled() => return Outcome::Stopped,
            asked = asked => match asked {
                Ok(events) => events,
                Err(error) => return Outcome::Failed(error),
            },
        };
        let started = Instant::now();
        let mut is_first = true;
        loop {
            let batch = tokio::select! {
                biased;
                () = live.stop.cancelled() => return Outcome::Stopped,
                batch = gather(&mut events, is_first) => batch,
            };
            if is_first && !batch.events.is_empty() {
                is_first = false;
                let waited = started.elapsed().as_millis();
                tracing::debug!(turn.id = %transcript.turn_id(), provider.first_token_ms = waited, "first token");
            }
            transcript.fold(batch.events);
            live.publish(transcript.take_frames());
            match batch.end {
                None => {}
                Some(Ok(())) => {
                    return transcript.finish().map_or(Outcome::CutOff, Outcome::Finished);
                }
                Some(Err(error)) => return Outcome::Failed(error.into()),
            }
        }
    }

    async fn assemble(&self, turn: &RunningTurn) -> Result<Assembled> {
        let Question { id, parent_id, role, content, tokens, .. } = &turn.question;
        let plan = self.memory.plan(&turn.settings, *tokens)?;
        let new = Piece::new_message(Some(id.clone()), *role, content.as_str().into(), *tokens);
        self.memory.assemble(&turn.session.id, plan, parent_id.as_ref(), Some(new)).await
    }

    /// Stores the reply, then writes the frames that end the stream: who has read them can read
    /// the reply.
    async fn settle(
        &self,
        turn: &RunningTurn,
        transcript: &mut Transcript,
        sent: &Sent,
        outcome: Outcome,
    ) {
        let model =
            turn.settings.model.clone().unwrap_or_else(|| self.memory.default_model().to_owned());
        let usage = usage(transcript, sent).await;
        let reply = reply(turn, transcript, &outcome, usage, model.clone()).await;
        let (status, finish_reason) = (reply.reply.status, reply.reply.finish_reason);
        let stored = self.store_reply(turn, reply).await;
        tracing::info!(
            turn.id = %turn.turn.turn_id,
            session.id = %turn.session.id,
            turn.status = status.as_str(),
            turn.ms = u64::try_from(clock::now().since(turn.turn.started_at).as_millis()).unwrap_or(u64::MAX),
            usage.prompt_tokens = usage.prompt_tokens,
            usage.completion_tokens = usage.completion_tokens,
            model,
            "turn ended"
        );
        let failure;
        transcript.end(match (stored, &outcome) {
            (Err(error), _) => {
                failure = error.to_string();
                Ending::Error(&failure)
            }
            (Ok(()), Outcome::Finished(_)) => Ending::Finish {
                reason: finish_reason.unwrap_or(FinishReason::Other),
                model: Some(&model),
                usage: Some(usage),
                memory: sent.memory.as_ref(),
            },
            (Ok(()), Outcome::Stopped) => Ending::Abort,
            (Ok(()), Outcome::CutOff) => Ending::Error(CUT_OFF),
            (Ok(()), Outcome::Failed(error)) => {
                failure = error.to_string();
                Ending::Error(&failure)
            }
        });
    }

    /// A reply is not given up because the store stumbles.
    async fn store_reply(&self, turn: &RunningTurn, reply: NewMessage) -> Result<()> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(50);
        let finish = FinishTurn {
            session_id: turn.session.id.clone(),
            turn_id: turn.turn.turn_id.clone(),
            reply,
        };
        loop {
            match self.store.finish_turn(finish.clone()).await {
                Ok(Some(_)) => return Ok(()),
                // The session was deleted meanwhile: there is nothing to keep the reply for.
                Ok(None) => return Ok(()),
                Err(error)
                    if started.elapsed() > STORE_PATIENCE
                        || error.kind != Kind::StoreUnavailable =>
                {
                    tracing::error!(turn.id = %turn.turn.turn_id, error = %error.chain(), "a reply could not be stored");
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(turn.id = %turn.turn.turn_id, error = %error.chain(), "storing a reply again");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }
}

const CUT_OFF: &str = "the provider's reply broke off";

/// Events that were ready together, and the end if it was among them.
struct Batch {
    events: Vec<Event>,
    end: Option<Result<(), ProviderError>>,
}

/// Waits for events and takes along what arrives right behind them, so that a burst becomes one
/// frame and one write to each reader. The very first delta goes out by itself: somebody waits.
async fn gather(events: &mut Events, is_first: bool) -> Batch {
    let mut batch = Batch { events: Vec::new(), end: None };
    let mut next = events.next().await;
    let started = Instant::now();
    loop {
        match next {
            None => batch.end = Some(Ok(())),
            Some(Err(error)) => batch.end = Some(Err(error)),
            Some(Ok(more)) => extend(&mut batch.events, more),
        }
        let is_enough = is_first && !batch.events.is_empty();
        if is_enough || batch.end.is_some() || started.elapsed() > GATHER {
            return batch;
        }
        next = match events.next().now_or_never() {
            Some(next) => next,
            None => {
                // The connection's own task may be about to hand over more: let it run once.
                tokio::task::yield_now().await;
                match events.next().now_or_never() {
                    Some(next) => next,
                    None => return batch,
                }
            }
        };
    }
}

/// Adjacent deltas become one.
fn extend(events: &mut Vec<Event>, more: Vec<Event>) {
    for event in more {
        match (events.last_mut(), event) {
            (Some(Event::Text(so_far)), Event::Text(delta))
            | (Some(Event::Reasoning(so_far)), Event::Reasoning(delta)) => so_far.push_str(&delta),
            (_, event) => events.push(event),
        }
    }
}

/// What the provider says it took, else what we count.
async fn usage(transcript: &Transcript, sent: &Sent) -> Usage {
    match transcript.usage() {
        Some(usage) => usage,
        None => Usage {
            prompt_tokens: u64::from(sent.prompt_tokens),
            completion_tokens: u64::from(tokens::count_long(transcript.text()).await),
            estimated: true,
            ..Usage::default()
        },
    }
}

async fn reply(
    turn: &RunningTurn,
    transcript: &Transcript,
    outcome: &Outcome,
    usage: Usage,
    model: String,
) -> NewMessage {
    let (status, finish_reason, error) = match outcome {
        Outcome::Finished(reason) => (Status::Complete, Some(*reason), None),
        Outcome::Stopped => (Status::Interrupted, None, None),
        Outcome::CutOff => {
            (Status::Interrupted, None, Some((Kind::ProviderError, CUT_OFF.to_owned())))
        }
        Outcome::Failed(error) => {
            (Status::Failed, Some(FinishReason::Error), Some((error.kind, error.to_string())))
        }
    };
    NewMessage {
        id: turn.turn.message_id.clone(),
        client_message_id: None,
        role: Role::Assistant,
        sender_id: UserId::assistant(),
        body: Body {
            content: transcript.text().to_owned(),
            parts: transcript.parts(),
            kind: MessageType::Text,
        },
        tokens: tokens::count_long(transcript.text()).await,
        created_at: clock::now(),
        reply: ReplyFields {
            status,
            model: Some(model),
            finish_reason,
            error: error
                .map(|(kind, message)| MessageError { code: kind.code().to_owned(), message }),
            usage: Some(usage),
        },
    }
}
