//! Keys of the API in MongoDB.

use super::MongoStore;
use super::documents::{date, document, time, unreadable};
use super::failures::is_duplicate;
use super::log::in_time;
use crate::domain::key::{ApiKey, AuthScope, KeyId};
use crate::domain::{Timestamp, UserId};
use crate::error::{Error, Kind, Result};
use crate::store::{KeyStore, StoredKey, StoredTicket};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, doc};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyDoc {
    #[serde(rename = "_id")]
    id: String,
    digest: Binary,
    name: Option<String>,
    user_id: String,
    scope: String,
    created_at: DateTime,
    expires_at: Option<DateTime>,
    last_used_at: Option<DateTime>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TicketDoc {
    #[serde(rename = "_id")]
    id: String,
    holder: String,
    expires_at: DateTime,
}

#[async_trait]
impl KeyStore for MongoStore {
    async fn add_key(&self, key: StoredKey) -> Result<()> {
        let key = document(&key_doc(key))?;
        in_time(async {
            match self.tables.keys.insert_one(key).await {
                Ok(_) => Ok(()),
                Err(error) if is_duplicate(&error) => {
                    Err(Error::new(Kind::IdTaken, "there is a key with this id"))
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn key(&self, id: &KeyId) -> Result<Option<StoredKey>> {
        let keys = self.tables.keys.clone_with_type::<KeyDoc>();
        let found =
            in_time(async { Ok(keys.find_one(doc! { "_id": id.as_str() }).await?) }).await?;
        found.map(KeyDoc::into_key).transpose()
    }

    async fn keys(&self) -> Result<Vec<StoredKey>> {
        let keys = self.tables.keys.clone_with_type::<KeyDoc>();
        let found = in_time(async {
            let order = doc! { "createdAt": 1, "_id": 1 };
            Ok(keys.find(doc! {}).sort(order).await?.try_collect::<Vec<_>>().await?)
        });
        found.await?.into_iter().map(KeyDoc::into_key).collect()
    }

    async fn revoke_key(&self, id: &KeyId) -> Result<bool> {
        let revoked = self.tables.keys.delete_one(doc! { "_id": id.as_str() });
        in_time(async { Ok(revoked.await?.deleted_count == 1) }).await
    }

    async fn touch_keys(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<()> {
        for (id, at) in uses {
            let later = doc! { "$max": { "lastUsedAt": date(at) } };
            let touched = self.tables.keys.update_one(doc! { "_id": id.as_str() }, later);
            in_time(async { Ok(touched.await?) }).await?;
        }
        Ok(())
    }

    async fn add_ticket(&self, ticket: StoredTicket, _: Timestamp) -> Result<()> {
        let StoredTicket { digest, holder, expires_at } = ticket;
        let ticket = doc! { "_id": digest, "holder": holder, "expiresAt": date(expires_at) };
        in_time(async { Ok(self.tables.tickets.insert_one(ticket).await.map(|_| ())?) }).await
    }

    async fn take_ticket(&self, digest: &str) -> Result<Option<StoredTicket>> {
        let tickets = self.tables.tickets.clone_with_type::<TicketDoc>();
        let taken = tickets.find_one_and_delete(doc! { "_id": digest });
        let taken = in_time(async { Ok(taken.await?) }).await?;
        Ok(taken.map(|ticket| StoredTicket {
            digest: ticket.id,
            holder: ticket.holder,
            expires_at: time(ticket.expires_at),
        }))
    }
}

fn key_doc(stored: StoredKey) -> KeyDoc {
    let StoredKey { key, digest } = stored;
    KeyDoc {
        id: key.id.to_string(),
        digest: Binary { subtype: BinarySubtype::Generic, bytes: digest.to_vec() },
        name: key.name,
        user_id: key.user.to_string(),
        scope: key.scope.as_str().to_owned(),
        created_at: date(key.created_at),
        expires_at: key.expires_at.map(date),
        last_used_at: key.last_used_at.map(date),
    }
}

impl KeyDoc {
    fn into_key(self) -> Result<StoredKey> {
        let digest = self.digest.bytes.try_into().map_err(|_| unreadable("a key's digest"))?;
        let scope = AuthScope::from_name(&self.scope).ok_or_else(|| unreadable(&self.scope))?;
        let key = ApiKey {
            id: KeyId::new_unchecked(self.id),
            name: self.name,
            user: UserId::trusted(self.user_id),
            scope,
            created_at: time(self.created_at),
            expires_at: self.expires_at.map(time),
            last_used_at: self.last_used_at.map(time),
        };
        Ok(StoredKey { key, digest })
    }
}
