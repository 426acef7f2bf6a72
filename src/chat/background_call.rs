//! Model calls for titles and summaries: charged to the payer of the turn that caused them, checked
//! against the same quotas, and recorded in the ledger whether they succeed or fail.
//!
//! Their usage is not part of the usage of the turn. Shutdown waits for calls that have begun, and
//! cuts them off with the turns; no new ones begin meanwhile.

use super::{ChatService, shutting_down_error};
use crate::clock;
use crate::domain::message::FinishReason;
use crate::domain::quota::{UsagePayer, compute_cost};
use crate::domain::{CallKind, Session, Status, TurnId, Usage};
use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::run_as;
use crate::memory::tokens;
use crate::provider::{Prompt, TextCompletion, TextGenerator, complete_text};
use crate::store::LedgerEntry;
use async_trait::async_trait;

/// A model call in the background of a turn, charged to its payer.
pub(super) struct BackgroundCall<'a> {
    chat: &'a ChatService,
    kind: CallKind,
    session: &'a Session,
    payer: &'a UsagePayer,
}

impl ChatService {
    pub(super) fn background_call<'a>(
        &'a self,
        kind: CallKind,
        session: &'a Session,
        payer: &'a UsagePayer,
    ) -> BackgroundCall<'a> {
        BackgroundCall { chat: self, kind, session, payer }
    }

    /// Spawns work in the background of a turn, on behalf of the session's owner. Shutdown waits
    /// for it, so that the usage of its calls is recorded.
    pub(super) fn spawn_background<F>(&self, session: &Session, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.turn_tasks.spawn(run_as(session.owner.clone(), work));
    }
}

#[async_trait]
impl TextGenerator for BackgroundCall<'_> {
    /// Errors: `quota_exceeded` and `shutting_down` before anything is sent, and errors of the
    /// provider.
    async fn generate_text(&self, prompt: &Prompt) -> Result<String> {
        self.chat.check_session_quotas(self.payer, self.session, clock::now()).await?;
        // A title stays the first line, and the next turn writes the summary.
        if self.chat.is_draining() {
            return Err(shutting_down_error());
        }
        let call_id = TurnId::generate();
        let aborted = self.chat.calls_aborted.cancelled();
        let completion = complete_text(&*self.chat.provider, prompt, aborted).await;
        // Failed calls are recorded as well: the provider may have charged for part of the text.
        self.record_usage(call_id, prompt, &completion).await;
        let TextCompletion { text, finish_reason, error, .. } = completion;
        match (error, finish_reason) {
            (Some(error), _) => Err(error.into()),
            // Titles and summaries are shown or remembered as they are, so a part is of no use.
            (None, Some(FinishReason::Stop)) if !text.trim().is_empty() => Ok(text),
            (None, reason) => {
                let reason = reason.map_or("none", FinishReason::as_str);
                let message =
                    format!("the provider's text is empty or incomplete, finish reason: {reason}");
                Err(Error::new(ErrorKind::ProviderError, message))
            }
        }
    }
}

impl BackgroundCall<'_> {
    async fn record_usage(&self, call_id: TurnId, prompt: &Prompt, completion: &TextCompletion) {
        let is_unsent = completion.error.as_ref().is_some_and(|error| error.is_unsent);
        let usage = match completion.usage {
            Some(usage) => usage,
            // The request never reached the provider, so it cost nothing.
            None if is_unsent => Usage::default(),
            None => estimate_usage(prompt, &completion.text).await,
        };
        let model = completion.model.as_ref().unwrap_or(&prompt.model);
        let entry = LedgerEntry {
            turn_id: call_id,
            kind: self.kind,
            session_id: self.session.id.clone(),
            owner: self.session.owner.clone(),
            project_id: self.session.project_id.clone(),
            payer: self.payer.clone(),
            model: Some(model.clone()),
            status: if completion.error.is_some() { Status::Failed } else { Status::Complete },
            usage,
            cost: compute_cost(&self.chat.usage_policy.prices, model, &usage),
            ended_at: clock::now(),
        };
        if let Err(error) = self.chat.store.record_usage(entry).await {
            let kind = self.kind.as_str();
            tracing::error!(session.id = %self.session.id, call.kind = kind, error = %error.chain(), "recording usage of a background call failed");
        }
    }
}

/// Estimated usage when the provider reports none.
async fn estimate_usage(prompt: &Prompt, text: &str) -> Usage {
    let mut prompt_tokens = 0;
    for message in &prompt.messages {
        prompt_tokens += u64::from(tokens::count_tokens_async(&message.content).await);
    }
    let completion_tokens = u64::from(tokens::count_tokens_async(text).await);
    Usage { prompt_tokens, completion_tokens, estimated: true, ..Usage::default() }
}
