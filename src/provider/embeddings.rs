//! Any endpoint that speaks OpenAI's Embeddings: texts in, vectors out, whose directions are near
//! where meanings are.
//!
//! Protocol: <https://platform.openai.com/docs/api-reference/embeddings/create>.

use super::{ProviderError, ProviderErrorKind};
use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long an endpoint may take for a batch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes vectors of texts.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// The model that makes them: vectors of different models have nothing to do with each other.
    fn model(&self) -> &str;

    /// A vector for each text, in their order, all of one length and none of them zero.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, ProviderError>;
}

/// An OpenAI-compatible endpoint.
pub struct OpenAiEmbedder {
    http: reqwest::Client,
    url: String,
    model: String,
    authorization: Option<HeaderValue>,
}

#[derive(Serialize)]
struct EmbeddingsRequest<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'static str,
}

#[derive(Deserialize)]
struct EmbeddingsResponse {
    data: Vec<EmbeddingEntry>,
}

#[derive(Deserialize)]
struct EmbeddingEntry {
    index: usize,
    embedding: Vec<f32>,
}

impl OpenAiEmbedder {
    /// An endpoint at a base URL (`…/v1`), with a key if it wants one. Fails with a sentence if the
    /// key cannot stand in a header, or the URL is none.
    pub fn new(base_url: &str, model: &str, key: Option<&str>) -> Result<Self, String> {
        let base_url = base_url.trim_end_matches('/');
        let parsed = reqwest::Url::parse(base_url)
            .map_err(|error| format!("ECHOIC_EMBEDDINGS_URL is no URL: {error}"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err("ECHOIC_EMBEDDINGS_URL must begin with http:// or https://".to_owned());
        }
        let bearer = |key: &str| HeaderValue::from_str(&format!("Bearer {key}"));
        let authorization = key
            .map(bearer)
            .transpose()
            .map_err(|_| "ECHOIC_EMBEDDINGS_KEY must be visible ASCII characters")?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("echoic/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        let url = match base_url.ends_with("/embeddings") {
            true => base_url.to_owned(),
            false => format!("{base_url}/embeddings"),
        };
        Ok(Self { http, url, model: model.to_owned(), authorization })
    }
}

#[async_trait]
impl Embedder for OpenAiEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, ProviderError> {
        let body = EmbeddingsRequest { model: &self.model, input: texts, encoding_format: "float" };
        let mut request = self.http.post(&self.url).json(&body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(|error| map_request_error(&error))?;
        let status = response.status();
        if !status.is_success() {
            let message = format!("the embeddings endpoint answered {}", status.as_u16());
            return Err(ProviderError::new(ProviderErrorKind::BadResponse, message));
        }
        let EmbeddingsResponse { data } =
            response.json().await.map_err(|error| map_request_error(&error))?;
        order_embeddings(data, texts.len()).ok_or_else(|| {
            let message = "the embeddings endpoint did not give one vector for each text";
            ProviderError::new(ProviderErrorKind::BadResponse, message)
        })
    }
}

fn map_request_error(error: &reqwest::Error) -> ProviderError {
    let (fault, what) = match () {
        () if error.is_timeout() => (ProviderErrorKind::Timeout, "took too long"),
        () if error.is_decode() => (ProviderErrorKind::BadResponse, "gave something unreadable"),
        () => (ProviderErrorKind::ConnectionFailed, "could not be reached"),
    };
    ProviderError::retryable(fault, format!("the embeddings endpoint {what}"))
}

/// The vectors in the order of their texts, if there is a sound one for each.
fn order_embeddings(mut data: Vec<EmbeddingEntry>, count: usize) -> Option<Vec<Vec<f32>>> {
    data.sort_by_key(|entry| entry.index);
    let length = data.first().map_or(0, |first| first.embedding.len());
    let is_sound = |(at, entry): (usize, &EmbeddingEntry)| {
        entry.index == at
            && entry.embedding.len() == length
            && entry.embedding.iter().all(|number| number.is_finite())
            && entry.embedding.iter().any(|number| *number != 0.0)
    };
    let are_sound = data.len() == count && data.iter().enumerate().all(is_sound);
    are_sound.then(|| data.into_iter().map(|entry| entry.embedding).collect())
}
