//! What is asked of a store that several instances share, so that each hears what the others do.
//!
//! A store that only one process can open keeps the answers given here.

use crate::error::Result;
use async_trait::async_trait;
use std::collections::HashMap;

/// What happened at an instance, a few events at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBundle {
    /// The life of the instance.
    pub boot: String,
    /// Its place among what this life told, from 0 without a gap.
    pub number: u32,
    /// The events, as whoever told them wrote them.
    pub events: String,
}

/// Of each life, the number of what was heard last.
pub type FeedPosition = HashMap<String, u32>;

/// The feed between instances. What was told can be heard for some minutes.
#[async_trait]
pub trait FeedStore: Send + Sync {
    /// Tells the others. Told twice under one number is told once.
    async fn publish_events(&self, _bundle: &EventBundle) -> Result<()> {
        Ok(())
    }

    /// Where the feed ends now.
    async fn feed_position(&self) -> Result<FeedPosition> {
        Ok(FeedPosition::new())
    }

    /// What others than `own` told since, that of each life in its order; not too much at once.
    async fn read_events_after(
        &self,
        _position: &FeedPosition,
        _own_boot: &str,
    ) -> Result<Vec<EventBundle>> {
        Ok(Vec::new())
    }
}
