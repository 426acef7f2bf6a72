//! Previews the prompt of a session's next turn without sending it, for the HTTP API and the CLI.

use super::{AssembledPrompt, Memory, PlanInput, PromptInput, tokens};
use crate::domain::memory::MemoryOptions;
use crate::domain::session::SessionSettings;
use crate::domain::{Session, Timestamp};
use crate::error::Result;
use std::sync::Arc;

impl Memory {
    /// Builds the prompt with this new message, or of the path alone. `options` override the
    /// session's own. Errors: `context_too_long`.
    pub async fn preview_prompt(
        self: &Arc<Self>,
        session: &Session,
        options: MemoryOptions,
        message: Option<String>,
        now: Timestamp,
    ) -> Result<AssembledPrompt> {
        let overrides = SessionSettings { memory: options, ..SessionSettings::default() };
        let settings = overrides.with_defaults(session.settings.clone());
        let (mut budget, new) = match message {
            None => (self.plan_prompt(&settings, None)?, None),
            Some(text) => {
                let tokens = tokens::count_tokens_async(&text).await;
                let input = PlanInput { text: &text, tokens, images: &[], extra_tokens: 0 };
                let budget = self.plan_turn(&settings, input).await?;
                (budget, Some(PromptInput::from_user(text, now)))
            }
        };
        // Turns go on without recall after a timeout. A preview waits, so that it shows the same
        // prompt however busy the server is.
        budget.recall_timeout = None;
        self.assemble_prompt(session, budget, session.head_id.as_ref(), new).await
    }
}
