//! The event feed between instances: one document per bundle of events, deleted after a few
//! minutes.
//!
//! Each run of an instance numbers its bundles and writes them one after the other. The position of
//! a reader is therefore one number per run: no clocks are compared, and a bundle that is committed
//! late cannot be skipped.

use super::MongoStore;
use crate::error::Result;
use crate::store::{EventBundle, FeedPosition, FeedStore};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, deserialize_from_document, doc};
use serde::Deserialize;

/// Bundles read per poll.
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
    async fn publish_events(&self, bundle: &EventBundle) -> Result<()> {
        let EventBundle { boot, number, events } = bundle;
        // The fixed id makes a repeat harmless. `$$NOW` is the clock of the database, by which the
        // TTL index deletes.
        let id = doc! { "_id": format!("{boot}:{number}") };
        let literal = |text: &str| doc! { "$literal": text };
        let set = doc! {
            "boot": literal(boot), "number": i64::from(*number), "news": literal(events), "at": "$$NOW",
        };
        self.collections.events.update_one(id, vec![doc! { "$set": set }]).upsert(true).await?;
        Ok(())
    }

    async fn feed_position(&self) -> Result<FeedPosition> {
        let last = doc! { "$group": { "_id": "$boot", "number": { "$max": "$number" } } };
        let mut found = self.collections.events.aggregate(vec![last]).await?;
        let mut position = FeedPosition::new();
        while let Some(document) = found.try_next().await? {
            let FeedPositionDoc { boot, number: last } =
                deserialize_from_document(document).map_err(crate::error::Error::internal)?;
            position.insert(boot, to_bundle_number(last));
        }
        Ok(position)
    }

    async fn read_events_after(
        &self,
        position: &FeedPosition,
        own_boot: &str,
    ) -> Result<Vec<EventBundle>> {
        let others = position.iter().filter(|(boot, _)| *boot != own_boot);
        let mut unread: Vec<_> = others
            .map(|(boot, last)| doc! { "boot": boot, "number": { "$gt": i64::from(*last) } })
            .collect();
        // Runs that started since the last poll are read from their first bundle.
        let known = position.keys().map(String::as_str).chain([own_boot]).map(Bson::from);
        unread.push(doc! { "boot": { "$nin": known.collect::<Vec<_>>() } });
        let events = self.collections.events.clone_with_type::<EventBundleDoc>();
        let found = events.find(doc! { "$or": unread }).sort(doc! { "boot": 1, "number": 1 });
        let found: Vec<EventBundleDoc> = found.limit(MAX_BUNDLES).await?.try_collect().await?;
        let bundle = |doc: EventBundleDoc| EventBundle {
            boot: doc.boot,
            number: to_bundle_number(doc.number),
            events: doc.news,
        };
        Ok(found.into_iter().map(bundle).collect())
    }
}
