//! The prompt that a session's next turn would send, without sending it. Asked for over HTTP and on
//! the command line.

use super::{AssembledPrompt, Memory, PlanInput, PromptInput, tokens};
use crate::domain::memory::MemoryOptions;
use crate::domain::session::SessionSettings;
use crate::domain::{Session, Timestamp};
use crate::error::Result;
use std::sync::Arc;

impl Memory {
    /// The prompt with this new message, or the path alone; `options` win over the session's own.
    /// Errors: `context_too_long`.
    pub async fn preview_prompt(
        self: &Arc<Self>,
        session: &Session,
        options: MemoryOptions,
        message: Option<String>,
        now: Timestamp,
    ) -> Result<AssembledPrompt> {
        let asked = SessionSettings { memory: options, ..SessionSettings::default() };
        let settings = asked.with_defaults(session.settings.clone());
        let (mut plan, new) = match message {
            None => (self.plan_prompt(&settings, None)?, None),
            Some(text) => {
                let tokens = tokens::count_tokens_async(&text).await;
                let incoming = PlanInput { text: &text, tokens, images: &[], extra_tokens: 0 };
                let plan = self.plan_turn(&settings, incoming).await?;
                (plan, Some(PromptInput::from_user(text, now)))
            }
        };
        // Whoever looks waits for what is recalled.
        plan.recall_timeout = None;
        self.assemble_prompt(session, plan, session.head_id.as_ref(), new).await
    }
}
