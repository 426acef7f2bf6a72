//! Merges provider events that arrive together into one batch.

use crate::provider::{ProviderError, ProviderEvent, ProviderEvents};
use futures::{FutureExt, StreamExt};
use std::time::{Duration, Instant};

/// Longest time a batch keeps growing while more events are ready.
const COALESCE_WINDOW: Duration = Duration::from_millis(1);

/// Events received together, and the end of the stream if it was reached.
pub(super) struct EventBatch {
    pub(super) events: Vec<ProviderEvent>,
    pub(super) end: Option<Result<(), ProviderError>>,
}

/// One item polled from the provider; `None` is the end of the stream.
pub(super) type PolledEvents = Option<Result<Vec<ProviderEvent>, ProviderError>>;

/// Collects the events that are ready right after `first`, so that a burst becomes one frame and
/// one write per reader. The first delta of a reply is never held back.
///
/// Not cancel-safe: events taken from the stream are lost if the future is dropped. It completes
/// within about a millisecond.
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
        // A client measures time to first token, so the first batch with content goes out
        // immediately.
        let is_enough = is_first && !batch.events.is_empty();
        if is_enough || batch.end.is_some() || started.elapsed() > COALESCE_WINDOW {
            return batch;
        }
        next = match events.next().now_or_never() {
            Some(next) => next,
            None => {
                // The connection task may have more data ready: yield once so that it can run. This
                // turns bursts into one frame without adding latency when nothing is pending.
                tokio::task::yield_now().await;
                match events.next().now_or_never() {
                    Some(next) => next,
                    None => return batch,
                }
            }
        };
    }
}

/// Appends events, joining adjacent deltas of the same kind and tool call.
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
