//! What the tests stand on: a real server on a free port, a provider that does nothing until it is
//! told, and readers of what comes back. Nothing here waits by the clock; every wait has a
//! deadline that only a broken server reaches.

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

pub use events::Events;
pub use server::Server;
pub use sse::Frames;
pub use upstream::{Call, Upstream};

use std::future::Future;
use std::time::Duration;

/// How long a wait may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for what must happen; fails the test if it does not.
#[track_caller]
pub fn soon<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(value) => value,
            Err(_) => panic!("what was waited for at {caller} did not happen within {DEADLINE:?}"),
        }
    }
}
