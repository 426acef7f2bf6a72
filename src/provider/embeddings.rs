//! Embeddings from any endpoint that speaks OpenAI's Embeddings API: each text becomes a vector,
//! and texts with similar meanings have vectors with similar directions.
//!
//! Protocol: <https://platform.openai.com/docs/api-reference/embeddings/create>.

use super::{ProviderError, ProviderErrorKind, http};
use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest vector. Those of known models have at most half as many numbers.
const MAX_DIMENSIONS: usize = 8_192;
/// Longest form of a number in a response, with the comma or line break after it.
const MAX_NUMBER_BYTES: usize = 32;
/// Bytes of a response in addition to its vectors.
const RESPONSE_OVERHEAD_BYTES: usize = 256 << 10;
/// Timeout of one batch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Computes embeddings of texts.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// Name of the model. Vectors of different models cannot be compared.
    fn model(&self) -> &str;

    /// Returns a vector for each text, in the order of the texts. All have the same length. The
    /// vector of a text that the model cannot place is zero.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, ProviderError>;
}

pub struct OpenAiEmbedder {
    http: reqwest::Client,
    url: String,
    model: String,
    key: Option<String>,
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
    /// The position of the text. Some servers leave it out and keep the order of the texts.
    index: Option<usize>,
    /// Some servers send null for numbers that are not finite.
    embedding: Vec<Option<f32>>,
}

impl OpenAiEmbedder {
    /// `base_url` is like `…/v1`; `key` is optional. Errors: a sentence for the operator if the URL
    /// is invalid or the key cannot be sent in a header.
    pub fn new(base_url: &str, model: &str, key: Option<&str>) -> Result<Self, String> {
        let base_url = base_url.trim_end_matches('/');
        http::parse_base_url("ECHOIC_EMBEDDINGS_URL", base_url)?;
        let authorization = http::encode_bearer("ECHOIC_EMBEDDINGS_KEY", key)?;
        let client = http::client_builder().timeout(REQUEST_TIMEOUT);
        let http = client.build().map_err(|error| error.to_string())?;
        // The full URL of the endpoint is accepted, too.
        let url = match base_url.ends_with("/embeddings") {
            true => base_url.to_owned(),
            false => format!("{base_url}/embeddings"),
        };
        let key = key.map(ToOwned::to_owned);
        Ok(Self { http, url, model: model.to_owned(), key, authorization })
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
            let body = http::read_body(response).await.map_err(name_endpoint)?;
            let error =
                http::errors::status_error(status.as_u16(), None, &body, self.key.as_deref());
            return Err(name_endpoint(error));
        }
        let max_bytes = texts.len() * MAX_DIMENSIONS * MAX_NUMBER_BYTES + RESPONSE_OVERHEAD_BYTES;
        let body = http::read_body_within(response, max_bytes).await.map_err(name_endpoint)?;
        let bad_response = |what: &str| {
            let message = format!("the embeddings endpoint {what}");
            ProviderError::new(ProviderErrorKind::BadResponse, message)
        };
        let EmbeddingsResponse { data } = serde_json::from_slice(&body)
            .map_err(|_| bad_response("sent a response that could not be parsed"))?;
        order_embeddings(data, texts.len())
            .ok_or_else(|| bad_response("did not return one valid vector for each text"))
    }
}

/// The error of an endpoint that is not the provider of replies.
fn name_endpoint(error: ProviderError) -> ProviderError {
    let message = error.message.replacen("the provider", "the embeddings endpoint", 1);
    ProviderError { message, ..error }
}

fn map_request_error(error: &reqwest::Error) -> ProviderError {
    let (kind, what) = match error.is_timeout() {
        true => (ProviderErrorKind::Timeout, "timed out"),
        false => (ProviderErrorKind::ConnectionFailed, "could not be reached"),
    };
    ProviderError::retryable(kind, format!("the embeddings endpoint {what}"))
}

/// Sorts the vectors into the order of their texts. `None` unless there is exactly one vector for
/// each text, all of the same length, at most [`MAX_DIMENSIONS`].
fn order_embeddings(mut data: Vec<EmbeddingEntry>, count: usize) -> Option<Vec<Vec<f32>>> {
    data.sort_by_key(|entry| entry.index);
    let length = data.first().map_or(0, |first| first.embedding.len());
    let is_valid = |(at, entry): (usize, &EmbeddingEntry)| {
        entry.index.is_none_or(|index| index == at) && entry.embedding.len() == length
    };
    let is_length_valid = (1..=MAX_DIMENSIONS).contains(&length);
    let are_valid = is_length_valid && data.len() == count && data.iter().enumerate().all(is_valid);
    are_valid.then(|| data.into_iter().map(|entry| to_vector(&entry.embedding)).collect())
}

/// A vector with a number that is not finite has no direction, like one of zeros.
fn to_vector(numbers: &[Option<f32>]) -> Vec<f32> {
    let finite = |number: &Option<f32>| number.filter(|number| number.is_finite());
    let vector: Option<Vec<f32>> = numbers.iter().map(finite).collect();
    vector.unwrap_or_else(|| vec![0.0; numbers.len()])
}
