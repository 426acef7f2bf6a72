//! Demo provider for a server without a model, so that everything else can be tried out.
//!
//! It streams at the pace of a model, quotes the user messages of the prompt, and says what it is.

use super::{ModelInfo, Prompt, Provider, ProviderError, ProviderEvent, ProviderEvents};
use crate::domain::message::FinishReason;
use crate::domain::text::truncate_chars;
use crate::domain::{Role, Usage};
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use std::time::Duration;

pub const PROVIDER_NAME: &str = "demo";
/// The provider's only model.
pub const MODEL_NAME: &str = "demo";
/// Delay between words: the pace of a fast model.
const WORD_INTERVAL: Duration = Duration::from_millis(40);
/// Characters that are quoted of each message.
const MAX_QUOTED_CHARS: usize = 80;

pub struct DemoProvider {
    word_interval: Duration,
}

impl Default for DemoProvider {
    fn default() -> Self {
        Self { word_interval: WORD_INTERVAL }
    }
}

#[async_trait]
impl Provider for DemoProvider {
    fn name(&self) -> &'static str {
        PROVIDER_NAME
    }

    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError> {
        Ok(vec![ModelInfo {
            id: MODEL_NAME.to_owned(),
            provider: self.name().to_owned(),
            context_window: None,
        }])
    }

    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError> {
        let reply = build_reply(prompt);
        let words: Vec<String> = reply.split_inclusive(' ').map(str::to_owned).collect();
        let usage = Usage {
            prompt_tokens: prompt
                .messages
                .iter()
                .map(|message| count_words(&message.content))
                .sum(),
            completion_tokens: words.len() as u64,
            estimated: true,
            ..Usage::default()
        };
        let word_interval = self.word_interval;
        let paced = stream::iter(words).then(move |word| async move {
            tokio::time::sleep(word_interval).await;
            Ok(vec![ProviderEvent::Text(word)])
        });
        let end = Ok(vec![ProviderEvent::Usage(usage), ProviderEvent::Finish(FinishReason::Stop)]);
        Ok(paced.chain(stream::iter([end])).boxed())
    }
}

fn count_words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn build_reply(prompt: &Prompt) -> String {
    let user_messages: Vec<&str> = prompt
        .messages
        .iter()
        .filter(|message| message.role == Role::User)
        .map(|message| message.content.as_ref())
        .collect();
    let (newest, earlier) =
        user_messages.split_last().map_or(("", &[][..]), |(newest, earlier)| (*newest, earlier));
    let mut reply = format!(
        "I am Echoic's demo: no model, only an echo. You said: \u{201c}{}\u{201d}.",
        truncate_chars(newest, MAX_QUOTED_CHARS)
    );
    if earlier.is_empty() {
        reply.push_str(" This is the first thing I was shown of our conversation.");
    } else {
        reply.push_str(" From earlier in our conversation I was shown:");
        for (number, text) in earlier.iter().enumerate() {
            reply.push_str(&format!(
                "\n{}. {}",
                number + 1,
                truncate_chars(text, MAX_QUOTED_CHARS)
            ));
        }
    }
    reply.push_str(
        "\n\nSet OPENAI_API_KEY, OPENAI_BASE_URL or ANTHROPIC_API_KEY to talk to a real model.",
    );
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::PromptMessage;

    #[test]
    fn demo_names_itself_and_quotes_user_messages() {
        let message = PromptMessage::from_text;
        let prompt = Prompt {
            model: MODEL_NAME.to_owned(),
            messages: vec![
                message(Role::System, "be kind"),
                message(Role::User, "my name is Ada"),
                message(Role::Assistant, "hello Ada"),
                message(Role::User, "who am I?"),
            ],
            ..Prompt::default()
        };
        let reply = build_reply(&prompt);
        assert!(
            reply.contains("no model")
                && reply.contains("who am I?")
                && reply.contains("1. my name is Ada")
        );
        assert!(!reply.contains("be kind"));
    }
}
