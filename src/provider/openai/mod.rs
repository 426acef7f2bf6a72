//! Any endpoint that speaks OpenAI's Chat Completions: OpenAI itself, Azure, vLLM, Ollama,
//! llama.cpp, LM Studio, Groq, OpenRouter and others.
//!
//! Calls that are not streamed use async-openai, whose types stay in this folder. Replies are read
//! with reqwest instead, because async-openai's stream takes a lost connection or a JSON error with
//! status 200 for a normal end, rejects unknown values, has no timeouts, and buffers without bound.
//! Protocol: <https://platform.openai.com/docs/api-reference/chat-streaming>.

mod call_parser;
mod reasoning_details;
mod reply;
mod request;
mod thoughts;

use super::http::{self, errors};
use super::{
    ModelInfo, Prompt, Provider, ProviderError, ProviderErrorKind, ProviderEvents, RawResponse,
};
use async_openai::Client as OpenAi;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_trait::async_trait;
use bytes::Bytes;
use reply::OpenAiStreamParser;
pub use reply::find_usage;
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;

const PROVIDER_NAME: &str = "openai";
/// Base URL of OpenAI's own API.
pub const OFFICIAL_BASE_URL: &str = "https://api.openai.com/v1";
const OFFICIAL_HOST: &str = "api.openai.com";
/// Model that the official endpoint uses if none is configured.
pub const DEFAULT_MODEL: &str = "gpt-5-mini";

pub struct OpenAiProvider {
    http: reqwest::Client,
    api_client: OpenAi<OpenAIConfig>,
    chat_url: String,
    endpoint: String,
    authorization: Option<HeaderValue>,
    key: Option<String>,
    is_official: bool,
    sends_cache_key: bool,
}

impl OpenAiProvider {
    /// `base_url` is like `…/v1`; `key` is optional. Errors: a sentence for the operator if the URL
    /// is invalid or the key cannot be sent in a header.
    pub fn new(base_url: &str, key: Option<&str>) -> Result<Self, String> {
        let base_url = base_url.trim_end_matches('/');
        let parsed = http::parse_base_url("OPENAI_BASE_URL", base_url)?;
        let authorization = http::encode_bearer("OPENAI_API_KEY", key)?;
        let http = http::build_client()?;
        let config =
            OpenAIConfig::new().with_api_base(base_url).with_api_key(key.unwrap_or_default());
        // Regional endpoints are subdomains of the official host.
        let is_official = parsed
            .host_str()
            .is_some_and(|host| host == OFFICIAL_HOST || host.ends_with(".api.openai.com"));
        Ok(Self {
            api_client: OpenAi::build(http.clone(), config),
            http,
            chat_url: format!("{base_url}/chat/completions"),
            endpoint: http::name_endpoint(PROVIDER_NAME, &parsed, OFFICIAL_HOST),
            authorization,
            key: key.map(str::to_owned),
            is_official,
            // Some other servers reject unknown fields.
            sends_cache_key: is_official,
        })
    }

    /// Overrides whether `prompt_cache_key` is sent; by default only OpenAI gets it.
    #[must_use]
    pub fn with_cache_key(self, sends_cache_key: bool) -> Self {
        Self { sends_cache_key, ..self }
    }
}

impl OpenAiProvider {
    fn build_request(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.http.post(&self.chat_url).body(body);
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization.clone()),
            None => request,
        }
    }
}

#[async_trait]
impl Provider for OpenAiProvider {
    fn name(&self) -> &'static str {
        PROVIDER_NAME
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError> {
        // Only the id is read; the other fields differ between servers.
        #[derive(Deserialize)]
        struct OpenAiModelList {
            data: Vec<OpenAiModelEntry>,
        }
        #[derive(Deserialize)]
        struct OpenAiModelEntry {
            id: String,
        }
        let list: OpenAiModelList =
            self.api_client.models().list_byot().await.map_err(|error| map_client_error(&error))?;
        let model = |entry: OpenAiModelEntry| ModelInfo {
            id: entry.id,
            provider: self.name().to_owned(),
            context_window: None,
        };
        Ok(list.data.into_iter().map(model).collect())
    }

    async fn forward_request(
        &self,
        body: Bytes,
        _: bool,
    ) -> Result<Option<RawResponse>, ProviderError> {
        http::forward_request(self.build_request(body), self.key.as_deref()).await.map(Some)
    }

    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError> {
        let body =
            request::encode_request(prompt, &self.endpoint, self.is_official, self.sends_cache_key);
        http::open_reply_stream(
            self.build_request(body),
            OpenAiStreamParser::default(),
            self.key.clone(),
        )
        .await
    }
}

/// Maps an error of async-openai. The details may contain secrets, so only the log gets them.
fn map_client_error(error: &OpenAIError) -> ProviderError {
    match error {
        OpenAIError::Reqwest(error) => errors::connection_error(error),
        other => {
            tracing::debug!(error = %other, "provider call failed");
            ProviderError::new(
                ProviderErrorKind::BadResponse,
                "the list of models could not be read from the provider",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_named_by_its_address() {
        for (url, name) in [
            (OFFICIAL_BASE_URL, "openai"),
            ("https://api.openai.com/v1/", "openai"),
            ("https://eu.api.openai.com/v1", "openai:09fc10813a27"),
            ("https://user:word@API.groq.com/openai/v1/", "openai:eac552239348"),
            ("https://api.groq.com/openai/v1", "openai:eac552239348"),
            ("http://127.0.0.1:11434/v1", "openai:ceb4b2ec4180"),
        ] {
            assert_eq!(OpenAiProvider::new(url, None).unwrap().endpoint(), name);
        }
    }

    #[test]
    fn cache_key_is_sent_to_openai_only_by_default() {
        let endpoint = |url| OpenAiProvider::new(url, None).unwrap();
        for (url, sends) in [
            (OFFICIAL_BASE_URL, true),
            ("https://eu.api.openai.com/v1", true),
            ("https://api.openai.com.example.com/v1", false),
            ("https://notapi.openai.com/v1", false),
            ("http://127.0.0.1:11434/v1", false),
        ] {
            assert_eq!(endpoint(url).sends_cache_key, sends, "{url}");
            assert!(endpoint(url).with_cache_key(true).sends_cache_key);
        }
        assert!(!endpoint(OFFICIAL_BASE_URL).with_cache_key(false).sends_cache_key);
    }
}
