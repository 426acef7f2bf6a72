//! API keys and tickets in MongoDB.

use super::MongoStore;
use super::documents::{IdDoc, to_bson_date, to_document, to_timestamp};
use super::errors::is_duplicate_key;
use super::turn_log::with_timeout;
use crate::domain::key::{ApiKey, AuthScope, KeyId};
use crate::domain::{Timestamp, UserId};
use crate::error::Result;
use crate::store::keys::key_exists;
use crate::store::stored_values::{decode_name, unreadable_value};
use crate::store::{KeyStore, StoredKey, StoredTicket};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, doc};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiKeyDoc {
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
        let key = to_document(&to_key_doc(key))?;
        with_timeout(async {
            match self.collections.keys.insert_one(key).await {
                Ok(_) => Ok(()),
                Err(error) if is_duplicate_key(&error) => Err(key_exists()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn find_key(&self, id: &KeyId) -> Result<Option<StoredKey>> {
        let keys = self.collections.keys.clone_with_type::<ApiKeyDoc>();
        let found =
            with_timeout(async { Ok(keys.find_one(doc! { "_id": id.as_str() }).await?) }).await?;
        found.map(ApiKeyDoc::into_stored_key).transpose()
    }

    async fn find_existing_keys(&self, ids: Vec<KeyId>) -> Result<HashSet<KeyId>> {
        let keys = self.collections.keys.clone_with_type::<IdDoc>();
        let ids: Vec<&str> = ids.iter().map(KeyId::as_str).collect();
        let filter = doc! { "_id": { "$in": ids } };
        let found = with_timeout(async {
            let found = keys.find(filter).projection(doc! { "_id": 1 }).await?;
            Ok(found.try_collect::<Vec<_>>().await?)
        });
        Ok(found.await?.into_iter().map(|key| KeyId::new_unchecked(key.id)).collect())
    }

    async fn list_keys(&self) -> Result<Vec<StoredKey>> {
        let keys = self.collections.keys.clone_with_type::<ApiKeyDoc>();
        let found = with_timeout(async {
            let order = doc! { "createdAt": 1, "_id": 1 };
            Ok(keys.find(doc! {}).sort(order).await?.try_collect::<Vec<_>>().await?)
        });
        found.await?.into_iter().map(ApiKeyDoc::into_stored_key).collect()
    }

    async fn revoke_key(&self, id: &KeyId) -> Result<bool> {
        let revoked = self.collections.keys.delete_one(doc! { "_id": id.as_str() });
        with_timeout(async { Ok(revoked.await?.deleted_count == 1) }).await
    }

    async fn record_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<()> {
        for (id, at) in uses {
            // `$max`, because instances report uses in any order and the time must not go back.
            let later = doc! { "$max": { "lastUsedAt": to_bson_date(at) } };
            let touched = self.collections.keys.update_one(doc! { "_id": id.as_str() }, later);
            with_timeout(async { Ok(touched.await?) }).await?;
        }
        Ok(())
    }

    async fn add_ticket(&self, ticket: StoredTicket, _: Timestamp) -> Result<()> {
        let StoredTicket { digest, owner, expires_at } = ticket;
        let ticket = doc! { "_id": digest, "holder": owner, "expiresAt": to_bson_date(expires_at) };
        with_timeout(async { Ok(self.collections.tickets.insert_one(ticket).await.map(|_| ())?) })
            .await
    }

    async fn redeem_ticket(&self, digest: &str) -> Result<Option<StoredTicket>> {
        let tickets = self.collections.tickets.clone_with_type::<TicketDoc>();
        // Read and delete in one operation: a ticket can be redeemed once, at one instance.
        let taken = tickets.find_one_and_delete(doc! { "_id": digest });
        let taken = with_timeout(async { Ok(taken.await?) }).await?;
        Ok(taken.map(|ticket| StoredTicket {
            digest: ticket.id,
            owner: ticket.holder,
            expires_at: to_timestamp(ticket.expires_at),
        }))
    }
}

fn to_key_doc(stored: StoredKey) -> ApiKeyDoc {
    let StoredKey { key, digest } = stored;
    ApiKeyDoc {
        id: key.id.to_string(),
        digest: Binary { subtype: BinarySubtype::Generic, bytes: digest.to_vec() },
        name: key.name,
        user_id: key.user.to_string(),
        scope: key.scope.as_str().to_owned(),
        created_at: to_bson_date(key.created_at),
        expires_at: key.expires_at.map(to_bson_date),
        last_used_at: key.last_used_at.map(to_bson_date),
    }
}

impl ApiKeyDoc {
    fn into_stored_key(self) -> Result<StoredKey> {
        let digest =
            self.digest.bytes.try_into().map_err(|_| unreadable_value("a key's digest"))?;
        let scope = decode_name(AuthScope::from_name, &self.scope)?;
        let key = ApiKey {
            id: KeyId::new_unchecked(self.id),
            name: self.name,
            user: UserId::new_unchecked(self.user_id),
            scope,
            created_at: to_timestamp(self.created_at),
            expires_at: self.expires_at.map(to_timestamp),
            last_used_at: self.last_used_at.map(to_timestamp),
        };
        Ok(StoredKey { key, digest })
    }
}
