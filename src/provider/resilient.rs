//! Patience with a provider: deadlines, and until the first delta also further tries and other
//! models. Once somebody has read a delta there is no way back: what fails then has failed.

use super::{
    ModelInfo, Prompt, Provider, ProviderError, ProviderErrorKind, ProviderEvent, ProviderEvents,
    RawResponse,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// How often a call that failed in passing is repeated.
const MAX_RETRIES: u32 = 2;
/// A provider that wants to be left alone for longer than this is given up.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(20);

/// How patient to be.
#[derive(Debug, Clone)]
pub struct ResiliencePolicy {
    /// Until the first token, from the moment the provider is asked.
    pub first_token_timeout: Duration,
    /// From one token to the next.
    pub idle_timeout: Duration,
    /// For the whole reply, all tries included.
    pub turn_timeout: Duration,
    /// Before the first repetition; twice as long before the second.
    pub retry_delay: Duration,
    /// Models to try when the one that was asked for fails.
    pub fallback_models: Vec<String>,
}

/// A provider with a patient caller in front of it.
pub struct ResilientProvider {
    inner: Arc<dyn Provider>,
    policy: ResiliencePolicy,
}

impl ResilientProvider {
    /// Puts patience around a provider.
    pub fn new(inner: Arc<dyn Provider>, patience: ResiliencePolicy) -> Self {
        Self { inner, policy: patience }
    }

    /// Asks one model, again where the failure was in passing.
    async fn request_with_retries(
        &self,
        prompt: &Prompt,
        whole: Deadline,
    ) -> Result<ProviderEvents, ProviderError> {
        let (mut repeats, mut is_unsent) = (0, true);
        loop {
            let mut error = match self.attempt_request(prompt, whole).await {
                Ok(events) => return Ok(events),
                Err(error) => error,
            };
            // One try that was sent is enough.
            is_unsent &= error.is_unsent;
            error.is_unsent = is_unsent;
            let pause = error.retry_after.unwrap_or(self.policy.retry_delay * 2u32.pow(repeats));
            if !error.is_retryable || repeats == MAX_RETRIES || pause > MAX_RETRY_DELAY {
                return Err(error);
            }
            repeats += 1;
            tracing::warn!(model = prompt.model, %error, repeats, pause_ms = pause.as_millis(), "asking again");
            let paused = whole.wait_for(sleep(add_jitter(pause))).await;
            paused.map_err(|over| ProviderError { is_unsent, ..over })?;
        }
    }

    /// Asks once, and waits for the first delta: until then the call may fail without a trace.
    async fn attempt_request(
        &self,
        prompt: &Prompt,
        whole: Deadline,
    ) -> Result<ProviderEvents, ProviderError> {
        let first = Deadline::new(Instant::now(), self.policy.first_token_timeout, "first token")
            .earlier_of(whole);
        let mut events = first.wait_for(self.inner.open_stream(prompt)).await??;
        let mut begun = Vec::new();
        while !begun.iter().any(is_reply_event) {
            match first.wait_for(events.next()).await? {
                Some(batch) => begun.extend(batch?),
                // An end without a word is no answer.
                None => {
                    return Err(ProviderError::retryable(
                        ProviderErrorKind::ConnectionFailed,
                        "the provider sent nothing",
                    ));
                }
            }
        }
        let next = Deadline::new(Instant::now(), self.policy.idle_timeout, "further token");
        let watch = DeadlineStream {
            events,
            next_deadline: next,
            turn_deadline: whole,
            idle_timeout: self.policy.idle_timeout,
            is_done: false,
        };
        Ok(stream::iter([Ok(begun)])
            .chain(stream::unfold(watch, DeadlineStream::next_batch))
            .boxed())
    }
}

#[async_trait]
impl Provider for ResilientProvider {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError> {
        let limit =
            Deadline::new(Instant::now(), self.policy.first_token_timeout, "list of models");
        limit.wait_for(self.inner.list_models()).await?
    }

    /// Once, and by nobody else: who speaks to an endpoint in its own words hears its own answer, and
    /// repeats by itself.
    async fn forward_request(
        &self,
        body: Bytes,
        is_stream: bool,
    ) -> Result<Option<RawResponse>, ProviderError> {
        let whole = Deadline::new(Instant::now(), self.policy.turn_timeout, "end of the reply");
        let first = Deadline::new(Instant::now(), self.policy.first_token_timeout, "first token");
        let first = if is_stream { first.earlier_of(whole) } else { whole };
        let Some(answer) = first.wait_for(self.inner.forward_request(body, is_stream)).await??
        else {
            return Ok(None);
        };
        let idle = if is_stream { self.policy.idle_timeout } else { self.policy.turn_timeout };
        let watched = stream::unfold(Some(answer.body), move |body| async move {
            let mut body = body?;
            let next = Deadline::new(Instant::now(), idle, "further token").earlier_of(whole);
            match next.wait_for(body.next()).await {
                Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
                Ok(None) => None,
                Ok(Some(Err(error))) | Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Some(RawResponse { body: watched.boxed(), ..answer }))
    }

    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError> {
        let whole = Deadline::new(Instant::now(), self.policy.turn_timeout, "end of the reply");
        let mut error = match self.request_with_retries(prompt, whole).await {
            Err(error) if error.kind != ProviderErrorKind::ContextTooLong => error,
            answered => return answered,
        };
        for model in self.policy.fallback_models.iter().filter(|model| **model != prompt.model) {
            tracing::warn!(model = prompt.model, %error, fallback = model, "asking another model");
            let prompt = Prompt { model: model.clone(), ..prompt.clone() };
            match self.request_with_retries(&prompt, whole).await {
                Ok(events) => {
                    let answering = stream::iter([Ok(vec![ProviderEvent::Model(model.clone())])]);
                    return Ok(answering.chain(events).boxed());
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

/// A pause and up to a quarter of it more: many callers do not come back at once, and none before
/// the time that the endpoint named.
fn add_jitter(pause: Duration) -> Duration {
    let random = Uuid::now_v7().as_u128() as u8;
    pause * (256 + u32::from(random) / 4) / 256
}

/// A point in time and what was to have come by then.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    timeout: Duration,
    awaited: &'static str,
}

impl Deadline {
    fn new(from: Instant, after: Duration, what: &'static str) -> Self {
        Self { at: from + after, timeout: after, awaited: what }
    }

    fn earlier_of(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    async fn wait_for<T>(self, future: impl Future<Output = T>) -> Result<T, ProviderError> {
        timeout_at(self.at, future).await.map_err(|_| {
            let Self { timeout: after, awaited: what, .. } = self;
            ProviderError::new(
                ProviderErrorKind::Timeout,
                format!("the provider sent no {what} within {after:?}"),
            )
        })
    }
}

struct DeadlineStream {
    events: ProviderEvents,
    /// For the next delta; what is none, such as a comment, does not move it.
    next_deadline: Deadline,
    turn_deadline: Deadline,
    idle_timeout: Duration,
    is_done: bool,
}

impl DeadlineStream {
    async fn next_batch(mut self) -> Option<(Result<Vec<ProviderEvent>, ProviderError>, Self)> {
        if self.is_done {
            return None;
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
            Ok(events) if !events.is_empty() => {
                self.next_deadline.at = Instant::now() + self.idle_timeout
            }
            Ok(_) => {}
            Err(_) => self.is_done = true,
        }
        Some((batch, self))
    }
}

/// Whether the model has begun, or is done already.
const fn is_reply_event(event: &ProviderEvent) -> bool {
    use ProviderEvent::{Finish, Reasoning, Text, ToolCall, ToolInput};
    matches!(event, Text(_) | Reasoning(_) | ToolCall { .. } | ToolInput { .. } | Finish(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Usage;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers each call by the script, told the call's number and the model.
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
        let patience = ResiliencePolicy {
            first_token_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            turn_timeout: Duration::from_secs(100),
            retry_delay: Duration::from_secs(1),
            fallback_models: vec!["first".to_owned(), "second".to_owned()],
        };
        let inner = Arc::new(ScriptedProvider { script, calls: AtomicUsize::new(0) });
        let guarded = ResilientProvider::new(inner.clone(), patience);
        let prompt =
            Prompt { model: "first".to_owned(), messages: Vec::new(), ..Prompt::default() };
        (guarded, inner, prompt)
    }

    async fn run_script(script: ReplyScript) -> (StreamOutcome, usize, Duration) {
        let (guarded, inner, prompt) = scripted_provider(script);
        let started = Instant::now();
        let told = match guarded.open_stream(&prompt).await {
            Ok(events) => Ok(events
                .map(|batch| batch.map_err(|error| error.message))
                .take(100)
                .collect()
                .await),
            Err(error) => Err(error.message),
        };
        (told, inner.calls.load(Ordering::Relaxed), started.elapsed())
    }

    fn text_batch() -> Result<Vec<ProviderEvent>, ProviderError> {
        Ok(vec![ProviderEvent::Text("w".to_owned())])
    }

    fn busy_error() -> ProviderError {
        ProviderError::retryable(ProviderErrorKind::BadResponse, "busy")
    }

    // The clock of these tests stands still and jumps to the next deadline when nothing else can
    // happen, so they wait for nothing.
    #[tokio::test(start_paused = true)]
    async fn silent_provider_hits_first_token_timeout() {
        let (told, calls, took) = run_script(|_, _| Ok(stream::pending().boxed())).await;
        // The second model gets what is left of the turn.
        assert_eq!(told, Err("the provider sent no end of the reply within 100s".to_owned()));
        assert_eq!((calls, took.as_secs()), (2, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_stream_hits_idle_timeout_despite_comments() {
        let (told, calls, took) = run_script(|_, _| {
            let comment = |()| async {
                sleep(Duration::from_secs(7)).await;
                Some((Ok(Vec::new()), ()))
            };
            Ok(stream::iter([text_batch()]).chain(stream::unfold((), comment)).boxed())
        })
        .await;
        let told = told.unwrap();
        assert_eq!(
            told.last(),
            Some(&Err("the provider sent no further token within 30s".to_owned()))
        );
        assert_eq!((calls, took.as_secs()), (1, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn endless_stream_hits_turn_timeout() {
        let (told, ..) = run_script(|_, _| {
            let tick = |()| async {
                sleep(Duration::from_secs(20)).await;
                Some((text_batch(), ()))
            };
            Ok(stream::unfold((), tick).boxed())
        })
        .await;
        let end = Err("the provider sent no end of the reply within 100s".to_owned());
        assert_eq!(told.unwrap().last(), Some(&end));
    }

    #[tokio::test(start_paused = true)]
    async fn retryable_failure_before_first_delta_is_retried() {
        let (told, calls, _) = run_script(|call, _| match call {
            0 => Err(busy_error()),
            1 => Ok(stream::iter([Ok(vec![ProviderEvent::Usage(Usage::default())])]).boxed()),
            _ => Ok(stream::iter([text_batch()]).boxed()),
        })
        .await;
        assert_eq!((told, calls), (Ok(vec![Ok(vec![ProviderEvent::Text("w".to_owned())])]), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honored() {
        let (told, calls, took) = run_script(|call, _| match call {
            0 => Err(ProviderError { retry_after: Some(Duration::from_secs(8)), ..busy_error() }),
            _ => Ok(stream::iter([text_batch()]).boxed()),
        })
        .await;
        assert!(told.is_ok() && calls == 2 && (8..=10).contains(&took.as_secs()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn fallback_model_answers_and_is_reported() {
        let (told, calls, _) = run_script(|_, model| match model {
            "first" => Err(ProviderError::new(ProviderErrorKind::BadResponse, "no such model")),
            _ => Ok(stream::iter([text_batch()]).boxed()),
        })
        .await;
        let answered = vec![
            Ok(vec![ProviderEvent::Model("second".to_owned())]),
            Ok(vec![ProviderEvent::Text("w".to_owned())]),
        ];
        assert_eq!((told, calls), (Ok(answered), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn started_reply_and_long_prompt_are_not_retried() {
        let (told, calls, _) =
            run_script(|_, _| Ok(stream::iter([text_batch(), Err(busy_error())]).boxed())).await;
        assert_eq!((told.unwrap()[1].clone(), calls), (Err("busy".to_owned()), 1));
        let (told, calls, _) = run_script(|_, _| {
            Err(ProviderError::new(ProviderErrorKind::ContextTooLong, "too long"))
        })
        .await;
        assert_eq!((told, calls), (Err("too long".to_owned()), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn call_is_unsent_only_if_all_attempts_are() {
        let scripts: [(ReplyScript, bool); 3] = [
            (|_, _| Err(ProviderError { is_unsent: true, ..busy_error() }), true),
            (|call, _| Err(ProviderError { is_unsent: call != 0, ..busy_error() }), false),
            (|call, _| Err(ProviderError { is_unsent: call != 5, ..busy_error() }), false),
        ];
        for (script, is_unsent) in scripts {
            let (guarded, inner, prompt) = scripted_provider(script);
            let error = guarded.open_stream(&prompt).await.err().unwrap();
            assert_eq!(error, ProviderError { is_unsent, ..busy_error() });
            assert_eq!(inner.calls.load(Ordering::Relaxed), 6, "two models, three tries each");
        }
    }
}
