//! Adds timeouts and a maximum size to a provider's replies and, until the first delta, retries and
//! fallback models. After a delta was passed on, a failure ends the reply: a second attempt would
//! repeat or contradict it.

use super::{
    MAX_REPLY_BYTES, ModelInfo, Prompt, Provider, ProviderError, ProviderErrorKind, ProviderEvent,
    ProviderEvents, RawResponse,
};
use crate::domain::message::FinishReason;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Retries per model after a retryable failure.
const MAX_RETRIES: u32 = 2;
/// Events before the first delta of a reply, such as usage. A server that sends more is broken.
const MAX_EARLY_EVENTS: usize = 10_000;
/// If an endpoint asks for a longer delay, the call fails at once.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(20);

/// Timeouts, retry delay and fallback models of a provider.
#[derive(Debug, Clone)]
pub struct ResiliencePolicy {
    /// From the request to the first token.
    pub first_token_timeout: Duration,
    /// Between two tokens.
    pub idle_timeout: Duration,
    /// For the whole reply, all attempts included.
    pub turn_timeout: Duration,
    /// Before the first retry; doubled before each further one.
    pub retry_delay: Duration,
    /// Models to try in this order if the requested one fails.
    pub fallback_models: Vec<String>,
}

/// Decorates a provider with a [`ResiliencePolicy`].
pub struct ResilientProvider {
    inner: Arc<dyn Provider>,
    policy: ResiliencePolicy,
}

impl ResilientProvider {
    pub fn new(inner: Arc<dyn Provider>, policy: ResiliencePolicy) -> Self {
        Self { inner, policy }
    }

    /// Requests a reply from one model, with retries.
    async fn request_with_retries(
        &self,
        prompt: &Prompt,
        turn_deadline: Deadline,
    ) -> Result<ProviderEvents, ProviderError> {
        let (mut repeats, mut is_unsent) = (0, true);
        loop {
            let mut error = match self.attempt_request(prompt, turn_deadline).await {
                Ok(events) => return Ok(events),
                Err(error) => error,
            };
            // A call is free only if no attempt sent the prompt: a timed-out one may have been
            // billed.
            is_unsent &= error.is_unsent;
            error.is_unsent = is_unsent;
            let pause = error.retry_after.unwrap_or(self.policy.retry_delay * 2u32.pow(repeats));
            if !error.is_retryable || repeats == MAX_RETRIES || pause > MAX_RETRY_DELAY {
                return Err(error);
            }
            repeats += 1;
            tracing::warn!(model = prompt.model, %error, repeats, pause_ms = pause.as_millis(), "provider call failed; retrying");
            // The pause counts toward the turn, so retries never extend its deadline.
            let paused = turn_deadline.wait_for(sleep(add_jitter(pause))).await;
            paused.map_err(|timeout| ProviderError { is_unsent, ..timeout })?;
        }
    }

    /// Makes one attempt and waits for the first delta. Nothing was passed on until then, so a
    /// failed attempt can be repeated.
    async fn attempt_request(
        &self,
        prompt: &Prompt,
        turn_deadline: Deadline,
    ) -> Result<ProviderEvents, ProviderError> {
        let first_token =
            Deadline::new(Instant::now(), self.policy.first_token_timeout, "first token")
                .earlier_of(turn_deadline);
        let mut events = first_token.wait_for(self.inner.open_stream(prompt)).await??;
        let mut head = Vec::new();
        let mut head_bytes = 0;
        // Usage may come before any text, and a server may answer 200 and then fail.
        while !head.iter().any(is_reply_event) {
            match first_token.wait_for(events.next()).await? {
                Some(_) if head.len() > MAX_EARLY_EVENTS || head_bytes > MAX_REPLY_BYTES => {
                    return Err(ProviderError::new(
                        ProviderErrorKind::BadResponse,
                        "the provider sent too many events without a reply",
                    ));
                }
                Some(batch) => {
                    let batch = batch?;
                    head_bytes += batch.iter().map(ProviderEvent::held_bytes).sum::<usize>();
                    head.extend(batch);
                }
                None => {
                    return Err(ProviderError::retryable(
                        ProviderErrorKind::ConnectionFailed,
                        "the provider closed the connection without a reply",
                    ));
                }
            }
        }
        let next_deadline =
            Deadline::new(Instant::now(), self.policy.idle_timeout, "further token");
        let reply_bytes = head.iter().map(ProviderEvent::reply_bytes).sum();
        let rest = DeadlineStream {
            events,
            reply_bytes,
            next_deadline,
            turn_deadline,
            idle_timeout: self.policy.idle_timeout,
            is_done: false,
        };
        Ok(stream::iter([Ok(head)]).chain(stream::unfold(rest, DeadlineStream::next_batch)).boxed())
    }
}

#[async_trait]
impl Provider for ResilientProvider {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError> {
        let deadline =
            Deadline::new(Instant::now(), self.policy.first_token_timeout, "list of models");
        deadline.wait_for(self.inner.list_models()).await?
    }

    /// Adds timeouts only. A client that speaks to the endpoint directly gets the endpoint's own
    /// response and retries by itself.
    async fn forward_request(
        &self,
        body: Bytes,
        is_stream: bool,
    ) -> Result<Option<RawResponse>, ProviderError> {
        let turn = Deadline::new(Instant::now(), self.policy.turn_timeout, "complete reply");
        let first = Deadline::new(Instant::now(), self.policy.first_token_timeout, "first token");
        // A response that is not streamed arrives as a whole, after the model has written all of
        // it.
        let first = if is_stream { first.earlier_of(turn) } else { turn };
        let Some(response) = first.wait_for(self.inner.forward_request(body, is_stream)).await??
        else {
            return Ok(None);
        };
        let idle = if is_stream { self.policy.idle_timeout } else { self.policy.turn_timeout };
        let watched = stream::unfold(Some(response.body), move |body| async move {
            let mut body = body?;
            let next = Deadline::new(Instant::now(), idle, "further token").earlier_of(turn);
            match next.wait_for(body.next()).await {
                Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
                Ok(None) => None,
                Ok(Some(Err(error))) | Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Some(RawResponse { body: watched.boxed(), ..response }))
    }

    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError> {
        let turn = Deadline::new(Instant::now(), self.policy.turn_timeout, "complete reply");
        let mut error = match self.request_with_retries(prompt, turn).await {
            // A prompt that is too long is shortened by the caller, not sent to another model.
            Err(error) if error.kind != ProviderErrorKind::ContextTooLong => error,
            result => return result,
        };
        for model in self.policy.fallback_models.iter().filter(|model| **model != prompt.model) {
            tracing::warn!(model = prompt.model, %error, fallback = model, "provider call failed; retrying with a fallback model");
            let prompt = Prompt { model: model.clone(), ..prompt.clone() };
            match self.request_with_retries(&prompt, turn).await {
                Ok(events) => {
                    // Reported first, so that the reply is stored and billed under this model.
                    let switched = stream::iter([Ok(vec![ProviderEvent::Model(model.clone())])]);
                    return Ok(switched.chain(events).boxed());
                }
                Err(other) => {
                    let is_unsent = error.is_unsent && other.is_unsent;
                    error = ProviderError { is_unsent, ..other };
                }
            }
        }
        Err(error)
    }
}

/// Adds up to a quarter to a delay, so that many callers do not retry at once. Never shortens it:
/// the endpoint may have asked for it.
fn add_jitter(delay: Duration) -> Duration {
    delay + delay.mul_f64(fastrand::f64() / 4.0)
}

/// A point in time, with what is awaited until then for the error message.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    timeout: Duration,
    awaited: &'static str,
}

impl Deadline {
    fn new(start: Instant, timeout: Duration, awaited: &'static str) -> Self {
        Self { at: start + timeout, timeout, awaited }
    }

    fn earlier_of(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    async fn wait_for<T>(self, future: impl Future<Output = T>) -> Result<T, ProviderError> {
        timeout_at(self.at, future).await.map_err(|_| {
            let Self { timeout, awaited, .. } = self;
            ProviderError::new(
                ProviderErrorKind::Timeout,
                format!("the provider sent no {awaited} within {timeout:?}"),
            )
        })
    }
}

/// The rest of a reply after its first delta, with the deadlines applied to it.
struct DeadlineStream {
    events: ProviderEvents,
    /// Deadline for the next delta. Empty batches, which SSE comments cause, do not extend it, nor
    /// does usage: an endpoint may keep the connection open while its model is stuck.
    next_deadline: Deadline,
    turn_deadline: Deadline,
    idle_timeout: Duration,
    /// Bytes of the reply so far.
    reply_bytes: usize,
    is_done: bool,
}

impl DeadlineStream {
    async fn next_batch(mut self) -> Option<(Result<Vec<ProviderEvent>, ProviderError>, Self)> {
        if self.is_done {
            return None;
        }
        if self.reply_bytes >= MAX_REPLY_BYTES {
            self.is_done = true;
            return Some((Ok(vec![ProviderEvent::Finish(FinishReason::Length)]), self));
        }
        let batch = match self
            .next_deadline
            .earlier_of(self.turn_deadline)
            .wait_for(self.events.next())
            .await
        {
            Ok(batch) => batch?,
            Err(timeout) => Err(timeout),
        };
        match &batch {
            Ok(events) => {
                self.reply_bytes += events.iter().map(ProviderEvent::reply_bytes).sum::<usize>();
                if events.iter().any(is_reply_event) {
                    self.next_deadline.at = Instant::now() + self.idle_timeout;
                }
            }
            Err(_) => self.is_done = true,
        }
        Some((batch, self))
    }
}

/// Whether the event shows that the model has started to answer or has finished.
const fn is_reply_event(event: &ProviderEvent) -> bool {
    use ProviderEvent::{Finish, Reasoning, Text, ToolCall, ToolInput};
    matches!(event, Text(_) | Reasoning(_) | ToolCall { .. } | ToolInput { .. } | Finish(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Usage;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Runs the script for each call, with the number of the call and the model.
    struct ScriptedProvider {
        script: ReplyScript,
        calls: AtomicUsize,
    }

    #[async_trait]
    impl Provider for ScriptedProvider {
        fn name(&self) -> &'static str {
            "scripted"
        }

        async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError> {
            futures::future::pending().await
        }

        async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError> {
            (self.script)(self.calls.fetch_add(1, Ordering::Relaxed), &prompt.model)
        }
    }

    type StreamOutcome = Result<Vec<Result<Vec<ProviderEvent>, String>>, String>;

    type ReplyScript = fn(usize, &str) -> Result<ProviderEvents, ProviderError>;

    fn scripted_provider(
        script: ReplyScript,
    ) -> (ResilientProvider, Arc<ScriptedProvider>, Prompt) {
        let policy = ResiliencePolicy {
            first_token_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            turn_timeout: Duration::from_secs(100),
            retry_delay: Duration::from_secs(1),
            fallback_models: vec!["first".to_owned(), "second".to_owned()],
        };
        let inner = Arc::new(ScriptedProvider { script, calls: AtomicUsize::new(0) });
        let resilient = ResilientProvider::new(inner.clone(), policy);
        let prompt =
            Prompt { model: "first".to_owned(), messages: Vec::new(), ..Prompt::default() };
        (resilient, inner, prompt)
    }

    async fn run_script(script: ReplyScript) -> (StreamOutcome, usize, Duration) {
        let (resilient, inner, prompt) = scripted_provider(script);
        let started = Instant::now();
        let outcome = match resilient.open_stream(&prompt).await {
            Ok(events) => Ok(events
                .map(|batch| batch.map_err(|error| error.message))
                .take(100)
                .collect()
                .await),
            Err(error) => Err(error.message),
        };
        (outcome, inner.calls.load(Ordering::Relaxed), started.elapsed())
    }

    fn text_batch() -> Result<Vec<ProviderEvent>, ProviderError> {
        Ok(vec![ProviderEvent::Text("w".to_owned())])
    }

    fn busy_error() -> ProviderError {
        ProviderError::retryable(ProviderErrorKind::BadResponse, "busy")
    }

    // The paused clock of these tests jumps to the next deadline when nothing else can run, so they
    // take no real time.
    #[tokio::test(start_paused = true)]
    async fn silent_provider_hits_first_token_timeout() {
        let (outcome, calls, took) = run_script(|_, _| Ok(stream::pending().boxed())).await;
        // The fallback model gets the rest of the turn.
        assert_eq!(outcome, Err("the provider sent no complete reply within 100s".to_owned()));
        assert_eq!((calls, took.as_secs()), (2, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_stream_hits_idle_timeout_despite_comments() {
        let (outcome, calls, took) = run_script(|_, _| {
            let comment = |()| async {
                sleep(Duration::from_secs(7)).await;
                Some((Ok(Vec::new()), ()))
            };
            Ok(stream::iter([text_batch()]).chain(stream::unfold((), comment)).boxed())
        })
        .await;
        let batches = outcome.unwrap();
        assert_eq!(
            batches.last(),
            Some(&Err("the provider sent no further token within 30s".to_owned()))
        );
        assert_eq!((calls, took.as_secs()), (1, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn usage_alone_does_not_extend_the_idle_timeout() {
        let (outcome, _, took) = run_script(|_, _| {
            let usage = |()| async {
                sleep(Duration::from_secs(7)).await;
                Some((Ok(vec![ProviderEvent::Usage(Usage::default())]), ()))
            };
            Ok(stream::iter([text_batch()]).chain(stream::unfold((), usage)).boxed())
        })
        .await;
        let end = Err("the provider sent no further token within 30s".to_owned());
        assert_eq!((outcome.unwrap().last(), took.as_secs()), (Some(&end), 30));
    }

    #[tokio::test(start_paused = true)]
    async fn reply_of_maximum_size_ends_with_length() {
        let (outcome, ..) = run_script(|_, _| {
            let source = |at: usize| ProviderEvent::Source {
                url: format!("https://example.com/{at}"),
                title: None,
            };
            let sources = move |batch: usize| Ok((0..1_000).map(|at| source(batch + at)).collect());
            Ok(stream::iter([text_batch()]).chain(stream::iter((0..).map(sources))).boxed())
        })
        .await;
        let batches = outcome.unwrap();
        assert_eq!(batches.len(), 18, "of about 280 KB each");
        let end = Ok(vec![ProviderEvent::Finish(FinishReason::Length)]);
        assert_eq!(batches.last(), Some(&end));
    }

    #[tokio::test(start_paused = true)]
    async fn endless_stream_hits_turn_timeout() {
        let (outcome, ..) = run_script(|_, _| {
            let tick = |()| async {
                sleep(Duration::from_secs(20)).await;
                Some((text_batch(), ()))
            };
            Ok(stream::unfold((), tick).boxed())
        })
        .await;
        let end = Err("the provider sent no complete reply within 100s".to_owned());
        assert_eq!(outcome.unwrap().last(), Some(&end));
    }

    #[tokio::test(start_paused = true)]
    async fn retryable_failure_before_first_delta_is_retried() {
        let (outcome, calls, _) = run_script(|call, _| match call {
            0 => Err(busy_error()),
            1 => Ok(stream::iter([Ok(vec![ProviderEvent::Usage(Usage::default())])]).boxed()),
            _ => Ok(stream::iter([text_batch()]).boxed()),
        })
        .await;
        assert_eq!((outcome, calls), (Ok(vec![Ok(vec![ProviderEvent::Text("w".to_owned())])]), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honored() {
        let (outcome, calls, took) = run_script(|call, _| match call {
            0 => Err(ProviderError { retry_after: Some(Duration::from_secs(8)), ..busy_error() }),
            _ => Ok(stream::iter([text_batch()]).boxed()),
        })
        .await;
        assert!(outcome.is_ok() && calls == 2 && (8..=10).contains(&took.as_secs()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn fallback_model_answers_and_is_reported() {
        let (outcome, calls, _) = run_script(|_, model| match model {
            "first" => Err(ProviderError::new(ProviderErrorKind::BadResponse, "no such model")),
            _ => Ok(stream::iter([text_batch()]).boxed()),
        })
        .await;
        let answered = vec![
            Ok(vec![ProviderEvent::Model("second".to_owned())]),
            Ok(vec![ProviderEvent::Text("w".to_owned())]),
        ];
        assert_eq!((outcome, calls), (Ok(answered), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn started_reply_and_long_prompt_are_not_retried() {
        let (outcome, calls, _) =
            run_script(|_, _| Ok(stream::iter([text_batch(), Err(busy_error())]).boxed())).await;
        assert_eq!((outcome.unwrap()[1].clone(), calls), (Err("busy".to_owned()), 1));
        let (outcome, calls, _) = run_script(|_, _| {
            Err(ProviderError::new(ProviderErrorKind::ContextTooLong, "too long"))
        })
        .await;
        assert_eq!((outcome, calls), (Err("too long".to_owned()), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn call_is_unsent_only_if_all_attempts_are() {
        let scripts: [(ReplyScript, bool); 3] = [
            (|_, _| Err(ProviderError { is_unsent: true, ..busy_error() }), true),
            (|call, _| Err(ProviderError { is_unsent: call != 0, ..busy_error() }), false),
            (|call, _| Err(ProviderError { is_unsent: call != 5, ..busy_error() }), false),
        ];
        for (script, is_unsent) in scripts {
            let (resilient, inner, prompt) = scripted_provider(script);
            let error = resilient.open_stream(&prompt).await.err().unwrap();
            assert_eq!(error, ProviderError { is_unsent, ..busy_error() });
            assert_eq!(inner.calls.load(Ordering::Relaxed), 6, "two models, three attempts each");
        }
    }
}
