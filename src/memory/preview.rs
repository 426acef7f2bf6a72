//! The prompt that a session's next turn would send, without sending it. Asked for over HTTP and on
//! the command line.

use super::{Assembled, Incoming, Memory, NewMessage, tokens};
use crate::domain::memory::MemoryOptions;
use crate::domain::session::SessionSettings;
use crate::domain::{Session, Timestamp};
use crate::error::Result;
use std::sync::Arc;

impl Memory {
    /// The prompt with this new message, or the path alone; `options` win over the session's own.
    /// Errors: `context_too_long`.
    pub async fn preview(
        self: &Arc<Self>,
        session: &Session,
        options: MemoryOptions,
        message: Option<String>,
        now: Timestamp,
    ) -> Result<Assembled> {
        let asked = SessionSettings { memory: options, ..SessionSettings::default() };
        let settings = asked.with_defaults(session.settings.clone());
        let (mut plan, new) = match message {
            None => (self.plan(&settings, None)?, None),
            Some(text) => {
                let tokens = tokens::count_long(&text).await;
                let incoming = Incoming { text: &text, tokens, images: &[], beside: 0 };
                let plan = self.plan_turn(&settings, incoming).await?;
                (plan, Some(NewMessage::said(text, now)))
            }
        };
        // Whoever looks waits for what is recalled.
        plan.patience = None;
        self.assemble(session, plan, session.head_id.as_ref(), new).await
    }
}
