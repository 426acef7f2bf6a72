//! Titles that a model writes: once per session, beside its first turn, never over a user's own.

use super::ChatService;
use super::events::SessionEventKind;
use super::run_turn::PendingTitle;
use crate::domain::text::truncate_chars;
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::{CallKind, Role};
use crate::error::Result;
use crate::provider::{Prompt, PromptMessage, TextGenerator};
use crate::store::StartedTurn;
use std::sync::Arc;
use tokio::sync::oneshot;

/// How much of the first message the model is shown, in characters.
const MAX_MESSAGE_CHARS: usize = 2000;
/// The most tokens it may spend; models that think first need some.
const MAX_TITLE_TOKENS: u32 = 1000;

impl ChatService {
    /// Sets a title going if the turn is a session's first and titles are written by a model. A
    /// failure leaves the title that was cut from the message.
    pub(super) fn spawn_title(self: &Arc<Self>, started: &StartedTurn) -> PendingTitle {
        let model = self.title_model.clone()?;
        let is_first = started.session.title_source == TitleSource::Auto
            && started.user_message.parent_id.is_none()
            && started.session.messages_count == 1;
        if !is_first {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let chat = self.clone();
        let session = started.session.clone();
        let payer = started.payer.clone();
        let message = started.user_message.content.clone();
        tokio::spawn(async move {
            let call = chat.background_call(CallKind::Title, &session, &payer);
            let title = chat.generate_title(&call, model, &message).await;
            let session = &session.id;
            match title {
                Ok(Some(title)) => {
                    match chat.store.set_generated_title(session, title.clone()).await {
                        // The stream may have ended meanwhile.
                        Ok(true) => {
                            chat.events.publish(session, SessionEventKind::Changed);
                            drop(sender.send(title.text));
                        }
                        Ok(false) => {}
                        Err(error) => {
                            tracing::warn!(error = %error.chain(), "a title could not be stored")
                        }
                    }
                }
                Ok(None) => tracing::warn!(session.id = %session, "the model wrote no title"),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "a title could not be written")
                }
            }
        });
        Some(receiver)
    }

    async fn generate_title(
        &self,
        generator: &dyn TextGenerator,
        model: String,
        message: &str,
    ) -> Result<Option<SessionTitle>> {
        let text = self.prompts.render_title(truncate_chars(message, MAX_MESSAGE_CHARS))?;
        let prompt = Prompt {
            model,
            messages: vec![PromptMessage::from_text(Role::User, text)],
            max_output_tokens: Some(MAX_TITLE_TOKENS),
            ..Prompt::default()
        };
        Ok(SessionTitle::from_model(&generator.generate_text(&prompt).await?))
    }
}
