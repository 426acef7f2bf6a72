//! A turn from its first frame to the end of what the provider has to say: one task, which nobody
//! but the turn's own end, a stop or the server's end can end. `settle` does the rest.

use super::ChatService;
use super::cache_key::derive_cache_key;
use super::coalesce::{EventBatch, PolledEvents, coalesce_events};
use super::frames::MemorySummary;
use super::hub::TurnBuffer;
use super::transcript::{StreamHeader, Transcript};
use super::usage_policy::ConcurrencyPermit;
use crate::clock;
use crate::domain::attachment::render_text_and_images;
use crate::domain::message::FinishReason;
use crate::domain::{Session, tool};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{AssembledPrompt, PlanInput, PromptCount, PromptInput};
use crate::provider::{Prompt, ProviderEvents};
use crate::store::{StartedTurn, UserMessage};
use futures::{FutureExt, StreamExt};
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a provider that has said why it stopped may take to say what the reply cost.
const USAGE_GRACE: Duration = Duration::from_secs(2);

/// How producing a reply ended.
pub(super) enum ReplyOutcome {
    /// The model stopped by itself.
    Finished(FinishReason),
    /// Somebody stopped it, or the server is going down.
    Stopped,
    /// The stream ended without saying why: what came is kept, but it is not all.
    Truncated,
    /// Something failed.
    Failed(Error),
}

/// What was sent to the provider, as far as it came to that.
#[derive(Default)]
pub(super) struct PromptRecord {
    /// Whether a provider may have seen a prompt: a turn that ended before has cost nothing.
    pub(super) is_sent: bool,
    pub(super) memory: Option<MemorySummary>,
    /// How the prompt was counted, if its size as the provider reports it can be compared with that.
    pub(super) prompt_count: Option<PromptCount>,
    /// Milliseconds until the provider sent something.
    pub(super) first_token_ms: Option<u64>,
}

/// A title that may still be written while the reply is.
pub(super) type PendingTitle = Option<oneshot::Receiver<String>>;

impl ChatService {
    /// Runs a turn to its end. Whatever happens, the reply is stored before the last frame is out.
    pub(super) async fn run_turn(
        self: Arc<Self>,
        started: StartedTurn,
        buffer: Arc<TurnBuffer>,
        title: PendingTitle,
        permit: ConcurrencyPermit,
    ) {
        let continues =
            tool::find_continued_reply(started.user_message.role, &started.user_message.parts);
        let mut transcript = Transcript::begin_stream(
            started.turn.turn_id.clone(),
            &StreamHeader {
                message_id: &started.turn.message_id,
                continues: continues.as_ref(),
                session_id: &started.session.id,
                title: &started.session.title,
                user_message_id: &started.user_message.id,
            },
        );
        buffer.publish_frames(transcript.take_frames());
        let mut record = PromptRecord::default();
        let streaming = self.stream_reply(&started, &buffer, title, &mut transcript, &mut record);
        // A mistake of ours must not leave the session claimed for ever.
        let outcome = AssertUnwindSafe(streaming).catch_unwind().await;
        let outcome =
            outcome.unwrap_or_else(|_| ReplyOutcome::Failed(Error::internal("a turn panicked")));
        self.finish_turn(&started, &buffer, transcript, &record, outcome, permit).await;
        self.hub.close_buffer(&buffer);
    }

    /// Asks the provider and publishes what it sends.
    async fn stream_reply(
        &self,
        started: &StartedTurn,
        buffer: &TurnBuffer,
        mut title: PendingTitle,
        transcript: &mut Transcript,
        record: &mut PromptRecord,
    ) -> ReplyOutcome {
        let requested = tokio::select! {
            biased;
            () = buffer.cancel.cancelled() => return ReplyOutcome::Stopped,
            requested = self.request_reply(started, record) => requested,
        };
        let mut events = match requested {
            Ok(events) => events,
            Err(error) => return ReplyOutcome::Failed(error),
        };
        let mut is_first = true;
        loop {
            let first = tokio::select! {
                biased;
                () = buffer.cancel.cancelled() => return ReplyOutcome::Stopped,
                first = next_events(&mut events, transcript) => first,
                title = wait_for_title(&mut title) => {
                    transcript.write_title_frame(&title);
                    buffer.publish_frames(transcript.take_frames());
                    continue;
                }
            };
            let EventBatch { events: received, end } =
                coalesce_events(first, &mut events, is_first).await;
            is_first &= received.is_empty();
            transcript.apply_events(received);
            buffer.publish_frames(transcript.take_frames());
            match end {
                None => {}
                // What comes after the reason to finish takes nothing away from the reply.
                Some(_) if transcript.finish_reason().is_some() => break,
                Some(Ok(())) => return ReplyOutcome::Truncated,
                Some(Err(error)) => return ReplyOutcome::Failed(error.into()),
            }
        }
        if let Some(title) = title.and_then(|mut title| title.try_recv().ok()) {
            transcript.write_title_frame(&title);
        }
        match transcript.finish_reason() {
            Some(FinishReason::Error) | None => ReplyOutcome::Failed(Error::new(
                ErrorKind::ProviderError,
                "the provider says that the reply failed",
            )),
            Some(reason) => ReplyOutcome::Finished(reason),
        }
    }

    /// Builds the prompt and sends it. A provider that finds it too long gets a shorter one, once.
    async fn request_reply(
        &self,
        started: &StartedTurn,
        record: &mut PromptRecord,
    ) -> Result<ProviderEvents> {
        let settings = started.options.clone().with_defaults(started.session.settings.clone());
        if started.was_queued {
            let Session { owner, project_id, .. } = &started.session;
            let model = settings.model.as_deref().unwrap_or(self.memory.default_model());
            self.require_price(model, &started.payer, owner, project_id.as_ref())?;
            self.check_session_quotas(&started.payer, &started.session, clock::now()).await?;
        }
        let UserMessage { id, parent_id, role, content, parts, tokens } = &started.user_message;
        let (rendered, images) = render_text_and_images(content, parts);
        // Results mean nothing without their calls: both are the new message together.
        let calling_reply =
            self.memory.find_calling_reply(&started.session, *role, parent_id.as_ref()).await?;
        let history_end =
            calling_reply.as_ref().map_or(parent_id.as_ref(), |reply| reply.parent_id.as_ref());
        let extra_tokens = self.memory.count_extra_tokens(calling_reply.as_ref(), &settings).await;
        let input = PlanInput { text: &rendered, tokens: *tokens, images: &images, extra_tokens };
        let mut plan = self.memory.plan_turn(&settings, input).await?;
        let mut is_shortened = false;
        loop {
            let prompt_input = PromptInput {
                id: Some(id.clone()),
                role: *role,
                text: (&*rendered).into(),
                images: images.clone(),
                results: tool::parse_results(parts),
                calling_reply: calling_reply.clone(),
                sent_at: clock::now(),
            };
            let assembled = self
                .memory
                .assemble_prompt(&started.session, plan.clone(), history_end, Some(prompt_input))
                .await?;
            record.memory = Some(memory_summary(&assembled));
            record.prompt_count = assembled.prompt_count();
            let cache_key = Some(derive_cache_key(&started.session.id));
            let prompt = Prompt { cache_key, ..assembled.to_prompt(&settings) };
            let requested_at = Instant::now();
            let was_sent = mem::replace(&mut record.is_sent, true);
            match self.provider.open_stream(&prompt).await {
                Ok(events) => {
                    let waited = to_millis(requested_at.elapsed());
                    record.first_token_ms =
                        Some(to_millis(clock::now().duration_since(started.turn.started_at)));
                    tracing::debug!(turn.id = %started.turn.turn_id, provider.first_token_ms = waited, "first token");
                    return Ok(events);
                }
                Err(error) if error.error_kind() == ErrorKind::ContextTooLong && !is_shortened => {
                    tracing::warn!(turn.id = %started.turn.turn_id, %error, "halving the memory");
                    is_shortened = true;
                    plan.halve_memory(assembled.memory_tokens());
                }
                Err(error) => {
                    record.is_sent = was_sent || !error.is_unsent;
                    return Err(error.into());
                }
            }
        }
    }
}

fn to_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn memory_summary(assembled: &AssembledPrompt) -> MemorySummary {
    MemorySummary {
        strategy: assembled.strategy,
        prompt_tokens: assembled.prompt_tokens,
        messages: assembled.earlier_message_count(),
    }
}

/// What the provider sends next. A reply that has its reason to finish does not wait long.
async fn next_events(events: &mut ProviderEvents, transcript: &Transcript) -> PolledEvents {
    if transcript.finish_reason().is_none() {
        return events.next().await;
    }
    timeout(USAGE_GRACE, events.next()).await.unwrap_or_default()
}

/// Waits for the title; for ever if none will come.
async fn wait_for_title(title: &mut PendingTitle) -> String {
    if let Some(pending) = title {
        let received = pending.await;
        *title = None;
        if let Ok(received) = received {
            return received;
        }
    }
    std::future::pending().await
}
