//! Anthropic's Messages API, natively: it marks prompts for caching and separates reasoning from
//! text.
//!
//! Protocol: <https://platform.claude.com/docs/en/api/messages>, streams
//! <https://platform.claude.com/docs/en/build-with-claude/streaming>.

mod blocks;
mod reply;
mod request;
mod tools;

use super::http;
use super::{ModelInfo, Prompt, Provider, ProviderError, ProviderEvents};
use async_trait::async_trait;
use reply::AnthropicStreamParser;
use reqwest::RequestBuilder;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;

const PROVIDER_NAME: &str = "anthropic";
/// Base URL of Anthropic's own API.
pub const OFFICIAL_BASE_URL: &str = "https://api.anthropic.com";
const OFFICIAL_HOST: &str = "api.anthropic.com";
/// Model that the official endpoint uses if none is configured.
pub const DEFAULT_MODEL: &str = "claude-sonnet-5-5";
/// Version of the API that this client implements.
const VERSION_HEADER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01"));
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

pub struct AnthropicProvider {
    http: reqwest::Client,
    messages_url: String,
    models_url: String,
    endpoint: String,
    authorization: Option<HeaderValue>,
    key: Option<String>,
}

impl AnthropicProvider {
    /// `key` is optional. Errors: a sentence for the operator if the URL is invalid or the key
    /// cannot be sent in a header.
    pub fn new(base_url: &str, key: Option<&str>) -> Result<Self, String> {
        // The official SDKs expect the URL without `/v1`, but some configurations include it.
        let base_url = base_url.trim_end_matches('/');
        let base_url = base_url.strip_suffix("/v1").unwrap_or(base_url);
        let parsed = http::parse_base_url("ANTHROPIC_BASE_URL", base_url)?;
        let authorization =
            key.map(|key| http::encode_key_header("ANTHROPIC_API_KEY", key)).transpose()?;
        Ok(Self {
            http: http::build_client()?,
            messages_url: format!("{base_url}/v1/messages"),
            models_url: format!("{base_url}/v1/models?limit=1000"),
            endpoint: http::name_endpoint(PROVIDER_NAME, &parsed, OFFICIAL_HOST),
            authorization,
            key: key.map(str::to_owned),
        })
    }

    fn authenticate_request(&self, request: RequestBuilder) -> RequestBuilder {
        let (name, version) = VERSION_HEADER;
        let request = request.header(name, version);
        match &self.authorization {
            Some(key) => request.header(KEY_HEADER, key.clone()),
            None => request,
        }
    }
}

#[async_trait]
impl Provider for AnthropicProvider {
    fn name(&self) -> &'static str {
        PROVIDER_NAME
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError> {
        #[derive(Deserialize)]
        struct AnthropicModelList {
            data: Vec<AnthropicModelEntry>,
        }
        #[derive(Deserialize)]
        struct AnthropicModelEntry {
            id: String,
            #[serde(default)]
            max_input_tokens: Option<u32>,
        }
        let request = self.authenticate_request(self.http.get(&self.models_url));
        let list: AnthropicModelList = http::fetch_model_list(request, self.key.as_deref()).await?;
        let model = |entry: AnthropicModelEntry| ModelInfo {
            id: entry.id,
            provider: self.name().to_owned(),
            context_window: entry.max_input_tokens,
        };
        Ok(list.data.into_iter().map(model).collect())
    }

    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError> {
        let request = self
            .authenticate_request(self.http.post(&self.messages_url))
            .body(request::encode_request(prompt, &self.endpoint));
        http::open_reply_stream(request, AnthropicStreamParser::default(), self.key.clone()).await
    }
}
