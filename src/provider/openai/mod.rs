//! Any endpoint that speaks OpenAI's Chat Completions: OpenAI itself, Azure, vLLM, Ollama,
//! llama.cpp, LM Studio, Groq, OpenRouter …
//!
//! Plain calls go through async-openai, whose types stay in this folder. Replies are read as bytes
//! with reqwest: async-openai's stream takes a cut connection and a 200 with a JSON error for a
//! normal end, refuses values it does not know, has no deadlines and an unbounded queue.
//! Protocol: <https://platform.openai.com/docs/api-reference/chat-streaming>.

mod failure;
mod sse;
mod surrogates;
mod wire;

use super::{Event, Events, Fault, Model, Prompt, Provider, ProviderError};
use crate::domain::text::first_characters;
use async_openai::Client as OpenAi;
use async_openai::config::OpenAIConfig;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use sse::Decoder;
use std::time::Duration;
use surrogates::Halves;

/// Where OpenAI itself answers.
pub const OFFICIAL: &str = "https://api.openai.com/v1";
const OFFICIAL_HOST: &str = "api.openai.com";
/// The model that is used there unless another is asked for.
pub const OFFICIAL_MODEL: &str = "gpt-5-mini";
/// What stands behind the last event.
const DONE: &[u8] = b"[DONE]";
/// The most bytes of a body that is not a stream.
const MAX_BODY: usize = 4 << 20;
/// How much of a body is kept to see what it was, if it turns out to be no stream.
const MAX_HEAD: usize = 64 << 10;

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
        let parsed = reqwest::Url::parse(base_url)
            .map_err(|error| format!("OPENAI_BASE_URL={base_url}: {error}"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(format!("OPENAI_BASE_URL={base_url}: must begin with http:// or https://"));
        }
        let bearer = |key: &str| HeaderValue::from_str(&format!("Bearer {key}"));
        let authorization = key
            .map(bearer)
            .transpose()
            .map_err(|_| "OPENAI_API_KEY must be visible ASCII characters")?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("echoic/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .build()
            .map_err(|error| error.to_string())?;
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
        let listed: Listed = self
            .plain
            .models()
            .list_byot()
            .await
            .map_err(|error| failure::of_plain_call(&error))?;
        let model = |entry: Entry| Model {
            id: entry.id,
            provider: self.name().to_owned(),
            context_window: None,
        };
        Ok(listed.data.into_iter().map(model).collect())
    }

    async fn stream(&self, prompt: &Prompt) -> Result<Events, ProviderError> {
        let body = wire::request(prompt, self.is_official, self.sends_cache_key);
        let mut request = self
            .http
            .post(&self.chat_url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream")
            .body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(|error| failure::of_connection(&error))?;
        let status = response.status();
        if !status.is_success() {
            let pause = retry_after(response.headers());
            let body = whole_body(response).await?;
            return Err(failure::of_status(status.as_u16(), pause, &body, self.key.as_deref()));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| kind.starts_with("application/json")) {
            let body = whole_body(response).await?;
            return Ok(stream::iter([wire::whole_reply(&body, self.key.as_deref())]).boxed());
        }
        let bytes = response
            .bytes_stream()
            .map(|piece| piece.map_err(|error| failure::of_connection(&error)));
        let reply = Reply {
            bytes: bytes.boxed(),
            decoder: Decoder::default(),
            halves: Halves::default(),
            key: self.key.clone(),
            head: Vec::new(),
            has_events: false,
            is_over: false,
        };
        Ok(stream::unfold(reply, Reply::next).boxed())
    }
}

/// How long the endpoint wants to be left alone: `retry-after-ms`, or `retry-after` in seconds or as
/// a date, counted from the answer's own date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    let date = |name: &str| httpdate::parse_http_date(text(name)?).ok();
    let seconds =
        number("retry-after-ms").map(|millis| millis / 1000.0).or_else(|| number("retry-after"));
    match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => Some(date("retry-after")?.duration_since(date("date")?).unwrap_or_default()),
    }
}

async fn whole_body(response: reqwest::Response) -> Result<Vec<u8>, ProviderError> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece.map_err(|error| failure::of_connection(&error))?);
        if body.len() > MAX_BODY {
            return Err(ProviderError::new(Fault::Refused, "the provider's answer is too large"));
        }
    }
    Ok(body)
}

/// A reply as its bytes arrive.
struct Reply {
    bytes: BoxStream<'static, Result<Bytes, ProviderError>>,
    decoder: Decoder,
    halves: Halves,
    key: Option<String>,
    /// The beginning of the body, kept until the first event is seen.
    head: Vec<u8>,
    has_events: bool,
    is_over: bool,
}

impl Reply {
    async fn next(mut self) -> Option<(Result<Vec<Event>, ProviderError>, Self)> {
        if self.is_over {
            return None;
        }
        let batch = match self.bytes.next().await {
            Some(Ok(bytes)) => self.read(&bytes),
            Some(Err(error)) => Err(error),
            None => {
                self.is_over = true;
                self.end()?
            }
        };
        self.is_over |= batch.is_err();
        Some((batch, self))
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ProviderError> {
        let mut events = Vec::new();
        let (mut broken, mut is_done) = (None, false);
        let (key, halves, has_events) =
            (self.key.as_deref(), &mut self.halves, &mut self.has_events);
        let fits = self.decoder.push(bytes, |name, data| {
            *has_events = true;
            if data == DONE {
                is_done = true;
            } else if broken.is_none() && !is_done {
                broken = wire::read_event(name, &halves.mend(data), key, &mut events).err();
            }
        });
        if !self.has_events {
            let room = MAX_HEAD.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        // The connection may stay open, or break, behind the end: that is no matter of ours.
        self.is_over |= is_done;
        match broken {
            // What came before the error counts; the error comes next.
            Some(error) if events.is_empty() => Err(error),
            Some(error) => {
                self.bytes = stream::iter([Err(error)]).boxed();
                Ok(events)
            }
            None if fits => Ok(events),
            None => Err(ProviderError::new(
                Fault::Refused,
                "the provider sent an event that is too large",
            )),
        }
    }

    /// Some servers send an error as bare JSON, whatever they said of the content type.
    fn end(&self) -> Option<Result<Vec<Event>, ProviderError>> {
        if self.has_events || self.head.is_empty() {
            return None;
        }
        Some(wire::whole_reply(&self.head, self.key.as_deref()))
    }
}

/// At most 300 characters of a provider's sentence, without control characters and secrets.
fn safe_sentence(text: &str, key: Option<&str>) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some(key) = key.filter(|key| !key.is_empty()) {
        text = text.replace(key, "[key]");
    }
    let hidden = |word: &str| word.starts_with("sk-") || word.contains("://");
    let words: Vec<&str> =
        text.split_whitespace().map(|word| if hidden(word) { "[…]" } else { word }).collect();
    first_characters(&words.join(" "), 300).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderName;

    fn asked(headers: &[(&'static str, &str)]) -> Option<u128> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        retry_after(&headers.collect()).map(|pause| pause.as_millis())
    }

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

    #[test]
    fn the_pause_is_read_in_all_its_forms() {
        let date = ("date", "Sat, 21 Nov 2026 12:00:00 GMT");
        assert_eq!(asked(&[("retry-after-ms", "1500")]), Some(1500));
        assert_eq!(asked(&[("retry-after", "2")]), Some(2000));
        assert_eq!(asked(&[("retry-after", "Sat, 21 Nov 2026 12:00:30 GMT"), date]), Some(30_000));
        assert_eq!(asked(&[("retry-after", "Sat, 21 Nov 2026 11:00:00 GMT"), date]), Some(0));
        assert_eq!(asked(&[("retry-after", "soon"), date]), None);
        assert_eq!(asked(&[("retry-after", "-1")]), None);
        assert_eq!(asked(&[]), None);
    }
}
