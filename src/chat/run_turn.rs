//! Runs a turn from its first frame to the end of the provider's stream, in one task. Only the
//! provider, a cancellation or a shutdown ends it; `finish_turn` does the rest.

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
use crate::domain::session::SessionSettings;
use crate::domain::{Session, SessionId, tool};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::{AssembledPrompt, PlanInput, PromptCount, PromptInput};
use crate::provider::{MAX_REPLY_BYTES, Prompt, ProviderError, ProviderErrorKind, ProviderEvents};
use crate::store::{StartedTurn, UserMessage};
use futures::{FutureExt, StreamExt};
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Prompts from this size on may be too long for some model: half of the smallest context window
/// that servers use by default.
const MIN_LONG_PROMPT_TOKENS: u32 = 2048;
/// How long to wait for the usage report after the provider sent its finish reason.
const USAGE_GRACE: Duration = Duration::from_secs(2);

pub(super) enum ReplyOutcome {
    /// The provider sent a finish reason.
    Finished(FinishReason),
    /// Cancelled by a user, a lost lease, or shutdown.
    Stopped,
    /// The stream ended cleanly without a finish reason: the partial reply is stored as
    /// interrupted.
    Truncated,
    Failed(Error),
}

/// Facts about the prompt that was sent, for usage and metadata.
#[derive(Default)]
pub(super) struct PromptRecord {
    /// Whether a provider may have received the prompt. If not, the turn is recorded with zero
    /// usage.
    pub(super) is_sent: bool,
    pub(super) memory: Option<MemorySummary>,
    /// `None` if the token count reported by the provider is not comparable with ours, for example
    /// for prompts with images.
    pub(super) prompt_count: Option<PromptCount>,
    /// From the start of the turn to the first event of the provider, in milliseconds.
    pub(super) first_token_ms: Option<u64>,
}

/// Receives a generated title while the reply is streaming.
pub(super) type PendingTitle = Option<oneshot::Receiver<String>>;

impl ChatService {
    /// Runs a turn to its end. In every case the reply is stored before the last frame is
    /// published.
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
        // A panic must still end the turn normally, or the session would stay claimed until
        // recovery ends the turn.
        let outcome = AssertUnwindSafe(streaming).catch_unwind().await;
        let outcome =
            outcome.unwrap_or_else(|_| ReplyOutcome::Failed(Error::internal("a turn panicked")));
        self.finish_turn(&started, &buffer, transcript, &record, outcome, permit).await;
        self.hub.close_buffer(&buffer);
    }

    /// Calls the provider and publishes its events until the reply ends.
    async fn stream_reply(
        &self,
        started: &StartedTurn,
        buffer: &TurnBuffer,
        mut title: PendingTitle,
        transcript: &mut Transcript,
        record: &mut PromptRecord,
    ) -> ReplyOutcome {
        let requested = tokio::select! {
            // Cancellation is checked first, so that a fast provider cannot starve it.
            biased;
            () = buffer.cancel.cancelled() => return ReplyOutcome::Stopped,
            requested = self.request_reply(started, record) => requested,
        };
        let mut events = match requested {
            Ok(events) => events,
            Err(error) => return ReplyOutcome::Failed(error),
        };
        let model = self.answering_model(started, transcript);
        transcript.set_answering_model(self.provider.endpoint(), model);
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
            // Outside the `select!`: `coalesce_events` is not cancel-safe, and a title arriving in
            // the middle would lose deltas.
            let EventBatch { events: received, end } =
                coalesce_events(first, &mut events, is_first).await;
            is_first &= received.is_empty();
            transcript.apply_events(received);
            buffer.publish_frames(transcript.take_frames());
            if transcript.is_full() {
                tracing::warn!(turn.id = %started.turn.turn_id, "reply too long, cut off");
                limits::note_hit("reply_size", &started.session.owner, MAX_REPLY_BYTES);
                return ReplyOutcome::Finished(FinishReason::Length);
            }
            match end {
                None => {}
                // The reply is complete once it has a finish reason. Errors after that only lose
                // the usage report.
                Some(_) if transcript.finish_reason().is_some() => break,
                Some(Ok(())) => return ReplyOutcome::Truncated,
                Some(Err(error)) => return ReplyOutcome::Failed(error.into()),
            }
        }
        // Last chance for a title that arrived together with the end of the reply.
        if let Some(title) = title.and_then(|mut title| title.try_recv().ok()) {
            transcript.write_title_frame(&title);
        }
        let provider_failure =
            |message: String| ReplyOutcome::Failed(Error::new(ErrorKind::ProviderError, message));
        match (transcript.finish_reason(), transcript.unsupported_content()) {
            (Some(FinishReason::Error) | None, _) => {
                provider_failure("the provider reported that the reply failed".to_owned())
            }
            // An empty reply must not look complete.
            (_, Some(kind)) => provider_failure(unsupported_content_message(kind)),
            // The model may have been cut off.
            (Some(FinishReason::Other), None) => ReplyOutcome::Truncated,
            (Some(reason), None) => ReplyOutcome::Finished(reason),
        }
    }

    /// `begin_turn` checked prices and quotas, but a queued turn may have waited for long, and
    /// other turns have spent quota since.
    async fn check_queued_turn(
        &self,
        started: &StartedTurn,
        settings: &SessionSettings,
    ) -> Result<()> {
        let Session { owner, project_id, .. } = &started.session;
        let model = settings.model.as_deref().unwrap_or(self.memory.default_model());
        self.require_price(model, &started.payer, owner, project_id.as_ref())?;
        self.check_session_quotas(&started.payer, &started.session, clock::now()).await
    }

    /// Builds the prompt and opens the stream. If the provider reports the prompt as too long,
    /// retries once with half of the memory.
    async fn request_reply(
        &self,
        started: &StartedTurn,
        record: &mut PromptRecord,
    ) -> Result<ProviderEvents> {
        let settings = started.options.clone().with_defaults(started.session.settings.clone());
        if started.was_queued {
            self.check_queued_turn(started, &settings).await?;
        }
        let UserMessage { id, parent_id, role, content, parts, tokens } = &started.user_message;
        let (rendered, images) = render_text_and_images(content, parts);
        // Tool results are meaningless without the calls, so the calling reply and the results are
        // planned together as the new message.
        let calling_reply =
            self.memory.find_calling_reply(&started.session, *role, parent_id.as_ref()).await?;
        let history_end =
            calling_reply.as_ref().map_or(parent_id.as_ref(), |reply| reply.parent_id.as_ref());
        let extra_tokens = self.memory.count_extra_tokens(calling_reply.as_ref(), &settings).await;
        let input = PlanInput { text: &rendered, tokens: *tokens, images: &images, extra_tokens };
        let mut plan = self.memory.plan_turn(&settings, input).await?;
        let mut refusal = None;
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
            match self.open_recorded_stream(started, &prompt, record).await {
                Err(error) if refusal.is_none() && is_too_long(&error, &assembled) => {
                    tracing::warn!(turn.id = %started.turn.turn_id, %error, "prompt too long, retrying with half the history");
                    refusal = Some(error.kind);
                    // Our token count can be too low for unknown tokenizers. Halving what was
                    // actually used, not the budget, makes sure that the second prompt is shorter.
                    plan.halve_memory(assembled.memory_tokens());
                }
                opened => {
                    if let Some(refusal) = refusal {
                        self.limit_next_prompts(&started.session.id, &assembled, refusal, &opened);
                    }
                    return opened.map_err(Error::from);
                }
            }
        }
    }

    /// Remembers the size of a prompt that was shortened after a refusal, so that the next turn
    /// does not begin with a prompt that is refused.
    fn limit_next_prompts(
        &self,
        session: &SessionId,
        assembled: &AssembledPrompt,
        refusal: ProviderErrorKind,
        opened: &Result<ProviderEvents, ProviderError>,
    ) {
        let AssembledPrompt { model, counted_tokens, .. } = assembled;
        // A refusal for another reason, such as one message, must not limit other sessions.
        let is_certain = refusal == ProviderErrorKind::ContextTooLong;
        match opened {
            Ok(_) if is_certain => self.memory.limit_prompts(model, None, *counted_tokens),
            Ok(_) => self.memory.limit_prompts(model, Some(session), *counted_tokens),
            Err(error)
                if error.may_be_too_long || error.kind == ProviderErrorKind::ContextTooLong =>
            {
                self.memory.limit_prompts(model, Some(session), counted_tokens / 2);
            }
            Err(_) => {}
        }
    }

    /// Opens the stream, and records the time of its first event and whether the prompt was sent.
    async fn open_recorded_stream(
        &self,
        started: &StartedTurn,
        prompt: &Prompt,
        record: &mut PromptRecord,
    ) -> Result<ProviderEvents, ProviderError> {
        let requested_at = Instant::now();
        // Assume sent until the provider says otherwise: a timeout or a panic must not be recorded
        // as free.
        let was_sent = mem::replace(&mut record.is_sent, true);
        let opened = self.provider.open_stream(prompt).await;
        match &opened {
            Ok(_) => {
                let waited = to_millis(requested_at.elapsed());
                record.first_token_ms =
                    Some(to_millis(clock::now().duration_since(started.turn.started_at)));
                tracing::debug!(turn.id = %started.turn.turn_id, provider.first_token_ms = waited, "first token");
            }
            // An unsent retry does not undo a first attempt that reached the provider.
            Err(error) => record.is_sent = was_sent || !error.is_unsent,
        }
        opened
    }
}

/// The error of a reply that consists of content of this kind alone.
pub(super) fn unsupported_content_message(kind: &str) -> String {
    let kind: String = kind.chars().filter(|c| !c.is_control()).take(64).collect();
    format!("the provider sent content of a kind that is not supported: {kind}")
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

/// Whether the prompt may have been too long. Few vendors have a code for it, so a refused prompt
/// that is not short counts as too long, whatever the vendor's words are.
fn is_too_long(error: &ProviderError, assembled: &AssembledPrompt) -> bool {
    error.kind == ProviderErrorKind::ContextTooLong
        || (error.may_be_too_long
            && assembled.prompt_tokens >= MIN_LONG_PROMPT_TOKENS
            && assembled.memory_tokens() > 0)
}

/// The next events. After the finish reason the wait is bounded: only the usage report is missing.
async fn next_events(events: &mut ProviderEvents, transcript: &Transcript) -> PolledEvents {
    if transcript.finish_reason().is_none() {
        return events.next().await;
    }
    timeout(USAGE_GRACE, events.next()).await.unwrap_or_default()
}

/// Waits for the title. Never resolves if there is none, so it can be an arm of `select!`.
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
