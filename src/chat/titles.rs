//! Generated titles: once per session, alongside its first turn, never replacing a title set by a
//! user.

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

/// Characters of the first message in the prompt.
const MAX_MESSAGE_CHARS: usize = 2000;
/// Enough for models that reason before they answer.
const MAX_TITLE_TOKENS: u32 = 1000;

impl ChatService {
    /// Starts generating a title if this is the first turn of a session and a title model is
    /// configured. On failure the title taken from the message stays.
    pub(super) fn spawn_title(self: &Arc<Self>, started: &StartedTurn) -> PendingTitle {
        let model = self.title_model.clone()?;
        // A title set by the user is not `Auto`; a regenerated first reply has more than one
        // message.
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
        self.spawn_background(&started.session, async move {
            let call = chat.background_call(CallKind::Title, &session, &payer);
            let title = chat.generate_title(&call, model, &message).await;
            let session = &session.id;
            match title {
                Ok(Some(title)) => {
                    match chat.store.set_generated_title(session, title.clone()).await {
                        // Sending fails if the stream has ended; the event still reaches other
                        // clients.
                        Ok(true) => {
                            chat.events.publish(session, SessionEventKind::Changed);
                            drop(sender.send(title.text));
                        }
                        Ok(false) => {}
                        Err(error) => {
                            tracing::warn!(error = %error.chain(), "storing a title failed")
                        }
                    }
                }
                Ok(None) => {
                    tracing::warn!(session.id = %session, "title generation returned no usable title")
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "title generation failed")
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
