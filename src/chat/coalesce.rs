//! Events that are ready together, taken together.

use crate::provider::{ProviderError, ProviderEvent, ProviderEvents};
use futures::{FutureExt, StreamExt};
use std::time::{Duration, Instant};

/// Deltas are gathered into one frame for at most this long while more keep arriving.
const COALESCE_WINDOW: Duration = Duration::from_millis(1);

/// Events that were ready together, and the end if it was among them.
pub(super) struct EventBatch {
    pub(super) events: Vec<ProviderEvent>,
    pub(super) end: Option<Result<(), ProviderError>>,
}

/// What the provider sent, or its end.
pub(super) type PolledEvents = Option<Result<Vec<ProviderEvent>, ProviderError>>;

/// Takes along what arrives right behind the first events, so that a burst becomes one frame and
/// one write to each reader. The very first delta goes out by itself: somebody waits. Events that
/// were taken are gone if this is not awaited to its end, which is near.
pub(super) async fn coalesce_events(
    first: PolledEvents,
    events: &mut ProviderEvents,
    is_first: bool,
) -> EventBatch {
    let mut batch = EventBatch { events: Vec::new(), end: None };
    let mut next = first;
    let started = Instant::now();
    loop {
        match next {
            None => batch.end = Some(Ok(())),
            Some(Err(error)) => batch.end = Some(Err(error)),
            Some(Ok(more)) => merge_events(&mut batch.events, more),
        }
        let is_enough = is_first && !batch.events.is_empty();
        if is_enough || batch.end.is_some() || started.elapsed() > COALESCE_WINDOW {
            return batch;
        }
        next = match events.next().now_or_never() {
            Some(next) => next,
            None => {
                // The connection's own task may be about to hand over more: let it run once.
                tokio::task::yield_now().await;
                match events.next().now_or_never() {
                    Some(next) => next,
                    None => return batch,
                }
            }
        };
    }
}

/// Adjacent deltas become one.
fn merge_events(events: &mut Vec<ProviderEvent>, more: Vec<ProviderEvent>) {
    for event in more {
        match (events.last_mut(), event) {
            (Some(ProviderEvent::Text(so_far)), ProviderEvent::Text(delta))
            | (Some(ProviderEvent::Reasoning(so_far)), ProviderEvent::Reasoning(delta)) => {
                so_far.push_str(&delta)
            }
            (
                Some(ProviderEvent::ToolInput { index: call, delta: so_far }),
                ProviderEvent::ToolInput { index, delta },
            ) if *call == index => so_far.push_str(&delta),
            (_, event) => events.push(event),
        }
    }
}
