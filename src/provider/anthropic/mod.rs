//! Anthropic, natively: the Messages API, so that prompts are cached and thoughts are told apart.
//!
//! Protocol: <https://platform.claude.com/docs/en/api/messages>, streams
//! <https://platform.claude.com/docs/en/build-with-claude/streaming>.

mod models;
mod reply;
mod request;
mod tools;

use super::remote::{self, failure};
use super::{Events, Fault, Model, Prompt, Provider, ProviderError};
use async_trait::async_trait;
use reply::Messages;
use reqwest::RequestBuilder;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;

/// Where Anthropic itself answers.
pub const OFFICIAL: &str = "https://api.anthropic.com";
/// The model that is used there unless another is asked for.
pub const OFFICIAL_MODEL: &str = "claude-sonnet-5-5";
/// The version of the API that is spoken.
const VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01"));
const KEY: HeaderName = HeaderName::from_static("x-api-key");

/// An endpoint that speaks the Messages API.
pub struct Anthropic {
    http: reqwest::Client,
    messages_url: String,
    models_url: String,
    authorization: Option<HeaderValue>,
    key: Option<String>,
}

impl Anthropic {
    /// An endpoint at a base URL, with a key if it wants one. Fails with a sentence if the key
    /// cannot stand in a header, or the URL is none.
    pub fn new(base_url: &str, key: Option<&str>) -> Result<Self, String> {
        // The official SDKs take it without `/v1`; some people write it all the same.
        let base_url = base_url.trim_end_matches('/');
        let base_url = base_url.strip_suffix("/v1").unwrap_or(base_url);
        remote::url("ANTHROPIC_BASE_URL", base_url)?;
        let header = |key: &str| {
            let mut value = HeaderValue::from_str(key)?;
            value.set_sensitive(true);
            Ok::<_, reqwest::header::InvalidHeaderValue>(value)
        };
        let authorization = key
            .map(header)
            .transpose()
            .map_err(|_| "ANTHROPIC_API_KEY must be visible ASCII characters")?;
        Ok(Self {
            http: remote::client()?,
            messages_url: format!("{base_url}/v1/messages"),
            models_url: format!("{base_url}/v1/models?limit=1000"),
            authorization,
            key: key.map(str::to_owned),
        })
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        let (name, version) = VERSION;
        let request = request.header(name, version);
        match &self.authorization {
            Some(key) => request.header(KEY, key.clone()),
            None => request,
        }
    }
}

#[async_trait]
impl Provider for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    async fn models(&self) -> Result<Vec<Model>, ProviderError> {
        /// All that is read of it.
        #[derive(Deserialize)]
        struct Listed {
            data: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            id: String,
            #[serde(default)]
            max_input_tokens: Option<u32>,
        }
        let response = self.signed(self.http.get(&self.models_url)).send().await;
        let response = response.map_err(|error| failure::of_connection(&error))?;
        let (status, pause) = (response.status(), remote::retry_after(response.headers()));
        let body = remote::whole_body(response).await?;
        if !status.is_success() {
            return Err(failure::of_status(status.as_u16(), pause, &body, self.key.as_deref()));
        }
        let listed: Listed = serde_json::from_slice(&body).map_err(|_| {
            ProviderError::new(Fault::Refused, "the provider did not list its models")
        })?;
        let model = |entry: Entry| Model {
            id: entry.id,
            provider: self.name().to_owned(),
            context_window: entry.max_input_tokens,
        };
        Ok(listed.data.into_iter().map(model).collect())
    }

    async fn stream(&self, prompt: &Prompt) -> Result<Events, ProviderError> {
        let request = self.signed(self.http.post(&self.messages_url)).body(request::body(prompt));
        remote::reply(request, Messages::default(), self.key.clone()).await
    }
}
