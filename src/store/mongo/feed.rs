//! The feed between instances: one document for each bundle of events, kept for some minutes.
//!
//! A life numbers what it tells and writes one document after the other, so a reader's place is one
//! number for each life: no clock is compared, and nothing that commits late can be passed over.

use super::MongoStore;
use crate::error::Result;
use crate::store::{EventBundle, FeedPosition, FeedStore};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, deserialize_from_document, doc};
use serde::Deserialize;

/// The most documents that are read at once.
const MAX_BUNDLES: i64 = 200;

#[derive(Debug, Deserialize)]
struct EventBundleDoc {
    boot: String,
    number: i64,
    news: String,
}

#[derive(Debug, Deserialize)]
struct FeedPositionDoc {
    #[serde(rename = "_id")]
    boot: String,
    number: i64,
}

fn to_bundle_number(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or(u32::MAX)
}

#[async_trait]
impl FeedStore for MongoStore {
    async fn publish_events(&self, told: &EventBundle) -> Result<()> {
        let EventBundle { boot, number, events } = told;
        // The name makes a repeat harmless; the database's clock says when it may go.
        let place = doc! { "_id": format!("{boot}:{number}") };
        let literal = |text: &str| doc! { "$literal": text };
        let set = doc! {
            "boot": literal(boot), "number": i64::from(*number), "news": literal(events), "at": "$$NOW",
        };
        self.collections.events.update_one(place, vec![doc! { "$set": set }]).upsert(true).await?;
        Ok(())
    }

    async fn feed_position(&self) -> Result<FeedPosition> {
        let last = doc! { "$group": { "_id": "$boot", "number": { "$max": "$number" } } };
        let mut found = self.collections.events.aggregate(vec![last]).await?;
        let mut heard = FeedPosition::new();
        while let Some(document) = found.try_next().await? {
            let FeedPositionDoc { boot, number: last } =
                deserialize_from_document(document).map_err(crate::error::Error::internal)?;
            heard.insert(boot, to_bundle_number(last));
        }
        Ok(heard)
    }

    async fn read_events_after(&self, heard: &FeedPosition, own: &str) -> Result<Vec<EventBundle>> {
        let others = heard.iter().filter(|(boot, _)| *boot != own);
        let mut behind: Vec<_> = others
            .map(|(boot, last)| doc! { "boot": boot, "number": { "$gt": i64::from(*last) } })
            .collect();
        let known = heard.keys().map(String::as_str).chain([own]).map(Bson::from);
        behind.push(doc! { "boot": { "$nin": known.collect::<Vec<_>>() } });
        let events = self.collections.events.clone_with_type::<EventBundleDoc>();
        let found = events.find(doc! { "$or": behind }).sort(doc! { "boot": 1, "number": 1 });
        let found: Vec<EventBundleDoc> = found.limit(MAX_BUNDLES).await?.try_collect().await?;
        let told = |told: EventBundleDoc| EventBundle {
            boot: told.boot,
            number: to_bundle_number(told.number),
            events: told.news,
        };
        Ok(found.into_iter().map(told).collect())
    }
}
