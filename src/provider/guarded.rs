//! Deadlines around a provider: for the first token, between tokens, for the whole reply.

use super::{Event, Events, Fault, Model, Prompt, Provider, ProviderError};
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a provider may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Until the first token, from the moment it is asked.
    pub first_token: Duration,
    /// From one token to the next.
    pub idle: Duration,
    /// For the whole reply.
    pub turn: Duration,
}

/// A provider that is not waited for longer than its deadlines.
pub struct Guarded {
    inner: Arc<dyn Provider>,
    deadlines: Deadlines,
}

impl Guarded {
    /// Puts deadlines around a provider.
    pub fn new(inner: Arc<dyn Provider>, deadlines: Deadlines) -> Self {
        Self { inner, deadlines }
    }
}

#[async_trait]
impl Provider for Guarded {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn models(&self) -> Result<Vec<Model>, ProviderError> {
        let limit = Limit::until(Instant::now(), self.deadlines.first_token, "list of models");
        limit.wait(self.inner.models()).await?
    }

    async fn stream(&self, prompt: &Prompt) -> Result<Events, ProviderError> {
        let started = Instant::now();
        let first = Limit::until(started, self.deadlines.first_token, "first token");
        let whole = Limit::until(started, self.deadlines.turn, "end of the reply");
        let events = first.sooner(whole).wait(self.inner.stream(prompt)).await??;
        let watch =
            Watch { events, first: Some(first), whole, idle: self.deadlines.idle, is_over: false };
        Ok(stream::unfold(watch, Watch::next).boxed())
    }
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
    /// Until the first delta has come.
    first: Option<Limit>,
    whole: Limit,
    idle: Duration,
    is_over: bool,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Vec<Event>, ProviderError>, Self)> {
        if self.is_over {
            return None;
        }
        let next = match self.first {
            Some(first) => first,
            None => Limit::until(Instant::now(), self.idle, "further token"),
        };
        let batch = match next.sooner(self.whole).wait(self.events.next()).await {
            Ok(batch) => batch?,
            Err(timeout) => Err(timeout),
        };
        match &batch {
            Ok(events) if events.iter().any(is_delta) => self.first = None,
            Ok(_) => {}
            Err(_) => self.is_over = true,
        }
        Some((batch, self))
    }
}

const fn is_delta(event: &Event) -> bool {
    matches!(event, Event::Text(_) | Event::Reasoning(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted(fn() -> Events);

    #[async_trait]
    impl Provider for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        async fn models(&self) -> Result<Vec<Model>, ProviderError> {
            futures::future::pending().await
        }

        async fn stream(&self, _: &Prompt) -> Result<Events, ProviderError> {
            Ok(self.0())
        }
    }

    async fn outcome(script: fn() -> Events) -> Vec<Result<Vec<Event>, String>> {
        let deadlines = Deadlines {
            first_token: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            turn: Duration::from_secs(100),
        };
        let guarded = Guarded::new(Arc::new(Scripted(script)), deadlines);
        let prompt = Prompt {
            model: String::new(),
            messages: Vec::new(),
            temperature: None,
            top_p: None,
            max_output_tokens: None,
        };
        let events = guarded.stream(&prompt).await.unwrap();
        events.map(|batch| batch.map_err(|error| error.message)).take(100).collect().await
    }

    fn text() -> Result<Vec<Event>, ProviderError> {
        Ok(vec![Event::Text("w".to_owned())])
    }

    // The clock of these tests stands still and jumps to the next deadline when nothing else can
    // happen, so they wait for nothing.
    #[tokio::test(start_paused = true)]
    async fn a_provider_that_never_begins_is_given_up_after_the_first_token_deadline() {
        let told = outcome(|| stream::pending().boxed()).await;
        assert_eq!(told, [Err("the provider sent no first token within 60s".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_falls_silent_is_given_up_after_the_idle_deadline() {
        let told = outcome(|| stream::iter([text()]).chain(stream::pending()).boxed()).await;
        assert_eq!(told[1], Err("the provider sent no further token within 30s".to_owned()));
        assert_eq!(told.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_never_ends_is_given_up_after_the_turn_deadline() {
        let told = outcome(|| {
            let tick = |()| async {
                tokio::time::timeout(Duration::from_secs(20), futures::future::pending::<()>())
                    .await
                    .ok();
                Some((text(), ()))
            };
            stream::unfold((), tick).boxed()
        })
        .await;
        assert_eq!(
            told.last().unwrap(),
            &Err("the provider sent no end of the reply within 100s".to_owned())
        );
    }
}
