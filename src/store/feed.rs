//! Operations of a shared store that distribute events between instances.
//!
//! The default implementations are for stores that only one process can open.

use crate::error::Result;
use async_trait::async_trait;
use std::collections::HashMap;

/// A few events of one instance, published together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBundle {
    /// Start of the instance, as in [`LeaseHolder`](super::LeaseHolder).
    pub boot: String,
    /// Position among the bundles of this boot, from 0 without gaps.
    pub number: u32,
    /// Events in the encoding of their publisher.
    pub events: String,
}

/// Number of the last bundle that was read, for each boot.
pub type FeedPosition = HashMap<String, u32>;

/// The event feed between instances. Events remain readable for some minutes.
#[async_trait]
pub trait FeedStore: Send + Sync {
    /// Publishes a bundle. Publishing the same number again has no effect.
    async fn publish_events(&self, _bundle: &EventBundle) -> Result<()> {
        Ok(())
    }

    /// Returns the current end of the feed.
    async fn feed_position(&self) -> Result<FeedPosition> {
        Ok(FeedPosition::new())
    }

    /// Returns bundles of other boots after a position, in order within each boot, a limited
    /// number per call.
    async fn read_events_after(
        &self,
        _position: &FeedPosition,
        _own_boot: &str,
    ) -> Result<Vec<EventBundle>> {
        Ok(Vec::new())
    }
}
