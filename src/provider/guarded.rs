//! Patience with a provider: deadlines, and until the first delta also further tries and other
//! models. Once somebody has read a delta there is no way back: what fails then has failed.

use super::{Event, Events, Fault, Model, OwnAnswer, Prompt, Provider, ProviderError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// How often a call that failed in passing is repeated.
const REPEATS: u32 = 2;
/// A provider that wants to be left alone for longer than this is given up.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// How patient to be.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Until the first token, from the moment the provider is asked.
    pub first_token: Duration,
    /// From one token to the next.
    pub idle: Duration,
    /// For the whole reply, all tries included.
    pub turn: Duration,
    /// Before the first repetition; twice as long before the second.
    pub pause: Duration,
    /// Models to try when the one that was asked for fails.
    pub fallbacks: Vec<String>,
}

/// A provider with a patient caller in front of it.
pub struct Guarded {
    inner: Arc<dyn Provider>,
    patience: Patience,
}

impl Guarded {
    /// Puts patience around a provider.
    pub fn new(inner: Arc<dyn Provider>, patience: Patience) -> Self {
        Self { inner, patience }
    }

    /// Asks one model, again where the failure was in passing.
    async fn ask(&self, prompt: &Prompt, whole: Limit) -> Result<Events, ProviderError> {
        let (mut repeats, mut is_unsent) = (0, true);
        loop {
            let mut error = match self.attempt(prompt, whole).await {
                Ok(events) => return Ok(events),
                Err(error) => error,
            };
            // One try that was sent is enough.
            is_unsent &= error.is_unsent;
            error.is_unsent = is_unsent;
            let pause = error.retry_after.unwrap_or(self.patience.pause * 2u32.pow(repeats));
            if !error.is_passing || repeats == REPEATS || pause > LONGEST_PAUSE {
                return Err(error);
            }
            repeats += 1;
            tracing::warn!(model = prompt.model, %error, repeats, pause_ms = pause.as_millis(), "asking again");
            let paused = whole.wait(sleep(jittered(pause))).await;
            paused.map_err(|over| ProviderError { is_unsent, ..over })?;
        }
    }

    /// Asks once, and waits for the first delta: until then the call may fail without a trace.
    async fn attempt(&self, prompt: &Prompt, whole: Limit) -> Result<Events, ProviderError> {
        let first =
            Limit::until(Instant::now(), self.patience.first_token, "first token").sooner(whole);
        let mut events = first.wait(self.inner.stream(prompt)).await??;
        let mut begun = Vec::new();
        while !begun.iter().any(is_answer) {
            match first.wait(events.next()).await? {
                Some(batch) => begun.extend(batch?),
                // An end without a word is no answer.
                None => {
                    return Err(ProviderError::passing(Fault::Broken, "the provider sent nothing"));
                }
            }
        }
        let next = Limit::until(Instant::now(), self.patience.idle, "further token");
        let watch = Watch { events, next, whole, idle: self.patience.idle, is_over: false };
        Ok(stream::iter([Ok(begun)]).chain(stream::unfold(watch, Watch::next)).boxed())
    }
}

#[async_trait]
impl Provider for Guarded {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn models(&self) -> Result<Vec<Model>, ProviderError> {
        let limit = Limit::until(Instant::now(), self.patience.first_token, "list of models");
        limit.wait(self.inner.models()).await?
    }

    /// Once, and by nobody else: who speaks to an endpoint in its own words hears its own answer, and
    /// repeats by itself.
    async fn pass(&self, body: Bytes, is_stream: bool) -> Result<Option<OwnAnswer>, ProviderError> {
        let whole = Limit::until(Instant::now(), self.patience.turn, "end of the reply");
        let first = Limit::until(Instant::now(), self.patience.first_token, "first token");
        let first = if is_stream { first.sooner(whole) } else { whole };
        let Some(answer) = first.wait(self.inner.pass(body, is_stream)).await?? else {
            return Ok(None);
        };
        let idle = if is_stream { self.patience.idle } else { self.patience.turn };
        let watched = stream::unfold(Some(answer.body), move |body| async move {
            let mut body = body?;
            let next = Limit::until(Instant::now(), idle, "further token").sooner(whole);
            match next.wait(body.next()).await {
                Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
                Ok(None) => None,
                Ok(Some(Err(error))) | Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Some(OwnAnswer { body: watched.boxed(), ..answer }))
    }

    async fn stream(&self, prompt: &Prompt) -> Result<Events, ProviderError> {
        let whole = Limit::until(Instant::now(), self.patience.turn, "end of the reply");
        let mut error = match self.ask(prompt, whole).await {
            Err(error) if error.fault != Fault::ContextTooLong => error,
            answered => return answered,
        };
        for model in self.patience.fallbacks.iter().filter(|model| **model != prompt.model) {
            tracing::warn!(model = prompt.model, %error, fallback = model, "asking another model");
            let prompt = Prompt { model: model.clone(), ..prompt.clone() };
            match self.ask(&prompt, whole).await {
                Ok(events) => {
                    let answering = stream::iter([Ok(vec![Event::Model(model.clone())])]);
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
fn jittered(pause: Duration) -> Duration {
    let random = Uuid::now_v7().as_u128() as u8;
    pause * (256 + u32::from(random) / 4) / 256
}

/// A point in time and what was to have come by then.
#[derive(Clone, Copy)]
struct Limit {
    at: Instant,
    after: Duration,
    what: &'static str,
}

impl Limit {
    fn until(from: Instant, after: Duration, what: &'static str) -> Self {
        Self { at: from + after, after, what }
    }

    fn sooner(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    async fn wait<T>(self, future: impl Future<Output = T>) -> Result<T, ProviderError> {
        timeout_at(self.at, future).await.map_err(|_| {
            let Self { after, what, .. } = self;
            ProviderError::new(
                Fault::Timeout,
                format!("the provider sent no {what} within {after:?}"),
            )
        })
    }
}

struct Watch {
    events: Events,
    /// For the next delta; what is none, such as a comment, does not move it.
    next: Limit,
    whole: Limit,
    idle: Duration,
    is_over: bool,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Vec<Event>, ProviderError>, Self)> {
        if self.is_over {
            return None;
        }
        let batch = match self.next.sooner(self.whole).wait(self.events.next()).await {
            Ok(batch) => batch?,
            Err(timeout) => Err(timeout),
        };
        match &batch {
            Ok(events) if !events.is_empty() => self.next.at = Instant::now() + self.idle,
            Ok(_) => {}
            Err(_) => self.is_over = true,
        }
        Some((batch, self))
    }
}

/// Whether the model has begun, or is done already.
const fn is_answer(event: &Event) -> bool {
    use Event::{Finish, Reasoning, Text, ToolCall, ToolInput};
    matches!(event, Text(_) | Reasoning(_) | ToolCall { .. } | ToolInput { .. } | Finish(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Usage;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers each call by the script, told the call's number and the model.
    struct Scripted {
        script: Script,
        calls: AtomicUsize,
    }

    #[async_trait]
    impl Provider for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        async fn models(&self) -> Result<Vec<Model>, ProviderError> {
            futures::future::pending().await
        }

        async fn stream(&self, prompt: &Prompt) -> Result<Events, ProviderError> {
            (self.script)(self.calls.fetch_add(1, Ordering::Relaxed), &prompt.model)
        }
    }

    type Told = Result<Vec<Result<Vec<Event>, String>>, String>;

    type Script = fn(usize, &str) -> Result<Events, ProviderError>;

    fn guarded(script: Script) -> (Guarded, Arc<Scripted>, Prompt) {
        let patience = Patience {
            first_token: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            turn: Duration::from_secs(100),
            pause: Duration::from_secs(1),
            fallbacks: vec!["first".to_owned(), "second".to_owned()],
        };
        let inner = Arc::new(Scripted { script, calls: AtomicUsize::new(0) });
        let guarded = Guarded::new(inner.clone(), patience);
        let prompt =
            Prompt { model: "first".to_owned(), messages: Vec::new(), ..Prompt::default() };
        (guarded, inner, prompt)
    }

    async fn outcome(script: Script) -> (Told, usize, Duration) {
        let (guarded, inner, prompt) = guarded(script);
        let started = Instant::now();
        let told = match guarded.stream(&prompt).await {
            Ok(events) => Ok(events
                .map(|batch| batch.map_err(|error| error.message))
                .take(100)
                .collect()
                .await),
            Err(error) => Err(error.message),
        };
        (told, inner.calls.load(Ordering::Relaxed), started.elapsed())
    }

    fn text() -> Result<Vec<Event>, ProviderError> {
        Ok(vec![Event::Text("w".to_owned())])
    }

    fn passing() -> ProviderError {
        ProviderError::passing(Fault::Refused, "busy")
    }

    // The clock of these tests stands still and jumps to the next deadline when nothing else can
    // happen, so they wait for nothing.
    #[tokio::test(start_paused = true)]
    async fn a_provider_that_never_begins_is_given_up_after_the_first_token_deadline() {
        let (told, calls, took) = outcome(|_, _| Ok(stream::pending().boxed())).await;
        // The second model gets what is left of the turn.
        assert_eq!(told, Err("the provider sent no end of the reply within 100s".to_owned()));
        assert_eq!((calls, took.as_secs()), (2, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_falls_silent_is_given_up_after_the_idle_deadline_comments_or_not() {
        let (told, calls, took) = outcome(|_, _| {
            let comment = |()| async {
                sleep(Duration::from_secs(7)).await;
                Some((Ok(Vec::new()), ()))
            };
            Ok(stream::iter([text()]).chain(stream::unfold((), comment)).boxed())
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
    async fn a_provider_that_never_ends_is_given_up_after_the_turn_deadline() {
        let (told, ..) = outcome(|_, _| {
            let tick = |()| async {
                sleep(Duration::from_secs(20)).await;
                Some((text(), ()))
            };
            Ok(stream::unfold((), tick).boxed())
        })
        .await;
        let end = Err("the provider sent no end of the reply within 100s".to_owned());
        assert_eq!(told.unwrap().last(), Some(&end));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_in_passing_before_the_first_delta_is_asked_again() {
        let (told, calls, _) = outcome(|call, _| match call {
            0 => Err(passing()),
            1 => Ok(stream::iter([Ok(vec![Event::Usage(Usage::default())])]).boxed()),
            _ => Ok(stream::iter([text()]).boxed()),
        })
        .await;
        assert_eq!((told, calls), (Ok(vec![Ok(vec![Event::Text("w".to_owned())])]), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_says_when_to_come_back_is_obeyed() {
        let (told, calls, took) = outcome(|call, _| match call {
            0 => Err(ProviderError { retry_after: Some(Duration::from_secs(8)), ..passing() }),
            _ => Ok(stream::iter([text()]).boxed()),
        })
        .await;
        assert!(told.is_ok() && calls == 2 && (8..=10).contains(&took.as_secs()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_model_answers_where_the_first_does_not_and_says_so() {
        let (told, calls, _) = outcome(|_, model| match model {
            "first" => Err(ProviderError::new(Fault::Refused, "no such model")),
            _ => Ok(stream::iter([text()]).boxed()),
        })
        .await;
        let answered = vec![
            Ok(vec![Event::Model("second".to_owned())]),
            Ok(vec![Event::Text("w".to_owned())]),
        ];
        assert_eq!((told, calls), (Ok(answered), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_delta_and_for_a_prompt_that_is_too_long_nothing_is_asked_again() {
        let (told, calls, _) =
            outcome(|_, _| Ok(stream::iter([text(), Err(passing())]).boxed())).await;
        assert_eq!((told.unwrap()[1].clone(), calls), (Err("busy".to_owned()), 1));
        let (told, calls, _) =
            outcome(|_, _| Err(ProviderError::new(Fault::ContextTooLong, "too long"))).await;
        assert_eq!((told, calls), (Err("too long".to_owned()), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_unsent_as_long_as_none_of_its_tries_was_sent() {
        let scripts: [(Script, bool); 3] = [
            (|_, _| Err(ProviderError { is_unsent: true, ..passing() }), true),
            (|call, _| Err(ProviderError { is_unsent: call != 0, ..passing() }), false),
            (|call, _| Err(ProviderError { is_unsent: call != 5, ..passing() }), false),
        ];
        for (script, is_unsent) in scripts {
            let (guarded, inner, prompt) = guarded(script);
            let error = guarded.stream(&prompt).await.err().unwrap();
            assert_eq!(error, ProviderError { is_unsent, ..passing() });
            assert_eq!(inner.calls.load(Ordering::Relaxed), 6, "two models, three tries each");
        }
    }
}
