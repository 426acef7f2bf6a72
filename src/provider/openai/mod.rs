//! Any endpoint that speaks OpenAI's Chat Completions: OpenAI itself, Azure, vLLM, Ollama,
//! llama.cpp, LM Studio, Groq, OpenRouter …
//!
//! Plain calls go through async-openai, whose types stay in this folder. Replies are read as bytes
//! with reqwest: async-openai's stream takes a cut connection and a 200 with a JSON error for a
//! normal end, refuses values it does not know, has no deadlines and an unbounded queue.
//! Protocol: <https://platform.openai.com/docs/api-reference/chat-streaming>.

mod reply;
mod request;

use super::remote::{self, failure};
use super::{Events, Fault, Model, OwnAnswer, Prompt, Provider, ProviderError};
use async_openai::Client as OpenAi;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_trait::async_trait;
use bytes::Bytes;
use reply::ChatCompletions;
pub use reply::usage_in;
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;

/// Where OpenAI itself answers.
pub const OFFICIAL: &str = "https://api.openai.com/v1";
const OFFICIAL_HOST: &str = "api.openai.com";
/// The model that is used there unless another is asked for.
pub const OFFICIAL_MODEL: &str = "gpt-5-mini";

/// An OpenAI-compatible endpoint.
pub struct Endpoint {
    http: reqwest::Client,
    plain: OpenAi<OpenAIConfig>,
    chat_url: String,
    authorization: Option<HeaderValue>,
    key: Option<String>,
    is_official: bool,
    sends_cache_key: bool,
}

impl Endpoint {
    /// An endpoint at a base URL (`…/v1`), with a key if it wants one. Fails with a sentence if the
    /// key cannot stand in a header, or the URL is none.
    pub fn new(base_url: &str, key: Option<&str>) -> Result<Self, String> {
        let base_url = base_url.trim_end_matches('/');
        let parsed = remote::url("OPENAI_BASE_URL", base_url)?;
        let bearer = |key: &str| HeaderValue::from_str(&format!("Bearer {key}"));
        let authorization = key
            .map(bearer)
            .transpose()
            .map_err(|_| "OPENAI_API_KEY must be visible ASCII characters")?;
        let http = remote::client()?;
        let config =
            OpenAIConfig::new().with_api_base(base_url).with_api_key(key.unwrap_or_default());
        // Some regions have hosts of their own below this one.
        let is_official = parsed
            .host_str()
            .is_some_and(|host| host == OFFICIAL_HOST || host.ends_with(".api.openai.com"));
        Ok(Self {
            plain: OpenAi::build(http.clone(), config),
            http,
            chat_url: format!("{base_url}/chat/completions"),
            authorization,
            key: key.map(str::to_owned),
            is_official,
            // Others refuse fields that they do not know.
            sends_cache_key: is_official,
        })
    }

    /// Sends `prompt_cache_key`, or does not; without this only OpenAI gets it.
    #[must_use]
    pub fn sending_cache_key(self, sends_cache_key: bool) -> Self {
        Self { sends_cache_key, ..self }
    }
}

impl Endpoint {
    fn ask(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.http.post(&self.chat_url).body(body);
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization.clone()),
            None => request,
        }
    }
}

#[async_trait]
impl Provider for Endpoint {
    fn name(&self) -> &'static str {
        "openai"
    }

    async fn models(&self) -> Result<Vec<Model>, ProviderError> {
        /// All that is read; other fields differ from server to server.
        #[derive(Deserialize)]
        struct Listed {
            data: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            id: String,
        }
        let listed: Listed =
            self.plain.models().list_byot().await.map_err(|error| of_plain_call(&error))?;
        let model = |entry: Entry| Model {
            id: entry.id,
            provider: self.name().to_owned(),
            context_window: None,
        };
        Ok(listed.data.into_iter().map(model).collect())
    }

    async fn pass(&self, body: Bytes, _: bool) -> Result<Option<OwnAnswer>, ProviderError> {
        remote::own_answer(self.ask(body), self.key.as_deref()).await.map(Some)
    }

    async fn stream(&self, prompt: &Prompt) -> Result<Events, ProviderError> {
        let body = request::body(prompt, self.is_official, self.sends_cache_key);
        remote::reply(self.ask(body), ChatCompletions::default(), self.key.clone()).await
    }
}

/// A plain call that failed.
fn of_plain_call(error: &OpenAIError) -> ProviderError {
    match error {
        OpenAIError::Reqwest(error) => failure::of_connection(error),
        other => {
            tracing::debug!(error = %other, "provider call failed");
            ProviderError::new(Fault::Refused, "the provider did not list its models")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_key_goes_to_openai_alone_unless_told_otherwise() {
        let endpoint = |url| Endpoint::new(url, None).unwrap();
        for (url, sends) in [
            (OFFICIAL, true),
            ("https://eu.api.openai.com/v1", true),
            ("https://api.openai.com.example.com/v1", false),
            ("https://notapi.openai.com/v1", false),
            ("http://127.0.0.1:11434/v1", false),
        ] {
            assert_eq!(endpoint(url).sends_cache_key, sends, "{url}");
            assert!(endpoint(url).sending_cache_key(true).sends_cache_key);
        }
        assert!(!endpoint(OFFICIAL).sending_cache_key(false).sends_cache_key);
    }
}
