//! Test fixtures: a real server on a free port, a provider that does nothing until a test triggers
//! it, and readers of streams. No fixture sleeps; every wait has a deadline that only a broken
//! server reaches.
//!
//! Tests order events with gates. `Upstream::call` returns once a request has reached the provider,
//! which holds it until the test answers; `FrameReader::until` returns once a frame has been
//! published to readers. A step that depends on an earlier one waits for its visible effect first:
//! a test reads a delta before it stops the turn, so that the stored reply must contain it.

pub mod anthropic;
pub mod chat_core;
pub mod events;
pub mod key_client;
pub mod mongo;
pub mod paced;
pub mod process;
pub mod server;
pub mod sse;
pub mod upstream;
pub mod word_examples;

pub use events::EventListener;
pub use server::Server;
pub use sse::FrameReader;
pub use upstream::{ProviderCall, Upstream};

use std::future::Future;
use std::time::Duration;

/// Maximum duration of a wait; a longer one fails the test. A busy machine with two cores needs a
/// third of it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a future that must complete within [`DEADLINE`], and names the caller if it does not.
#[track_caller]
pub fn within_deadline<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(value) => value,
            Err(_) => panic!("what was waited for at {caller} did not happen within {DEADLINE:?}"),
        }
    }
}
