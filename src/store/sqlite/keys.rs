//! API keys and tickets in SQLite.

use super::SqliteStore;
use super::rows::decode_word;
use crate::domain::key::{ApiKey, AuthScope, KeyId};
use crate::domain::{Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::keys::key_exists;
use crate::store::{KeyStore, StoredKey, StoredTicket};
use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, params};
use std::collections::HashSet;

/// Columns in the order in which [`decode_key`] reads them.
const SELECT_KEY: &str = "SELECT id, digest, name, user_id, scope, created_at, expires_at, last_used_at \
     FROM keys";

#[async_trait]
impl KeyStore for SqliteStore {
    async fn add_key(&self, stored: StoredKey) -> Result<()> {
        self.run_write(move |db| {
            let StoredKey { key, digest } = stored;
            // `OR IGNORE` turns a conflict of ids into a row count of 0.
            let sql = "INSERT OR IGNORE INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            let added = db.prepare_cached(sql)?.execute(params![
                key.id.as_str(),
                digest,
                key.name,
                key.user.as_str(),
                key.scope.as_str(),
                key.created_at.as_millis(),
                key.expires_at.map(Timestamp::as_millis),
                key.last_used_at.map(Timestamp::as_millis),
            ])?;
            match added {
                0 => Err(key_exists()),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn find_key(&self, id: &KeyId) -> Result<Option<StoredKey>> {
        let id = id.clone();
        self.run_urgent_read(move |db| {
            let mut statement = db.prepare_cached(&format!("{SELECT_KEY} WHERE id = ?1"))?;
            let mut rows = statement.query([id.as_str()])?;
            rows.next()?.map(decode_key).transpose()
        })
        .await
    }

    async fn find_existing_keys(&self, ids: Vec<KeyId>) -> Result<HashSet<KeyId>> {
        self.run_read(move |db| {
            let mut statement = db.prepare_cached("SELECT 1 FROM keys WHERE id = ?1")?;
            let mut existing = HashSet::new();
            for id in ids {
                if statement.exists([id.as_str()])? {
                    existing.insert(id);
                }
            }
            Ok(existing)
        })
        .await
    }

    async fn list_keys(&self) -> Result<Vec<StoredKey>> {
        self.run_read(|db| {
            let mut statement =
                db.prepare_cached(&format!("{SELECT_KEY} ORDER BY created_at, id"))?;
            let mut rows = statement.query([])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                keys.push(decode_key(row)?);
            }
            Ok(keys)
        })
        .await
    }

    async fn revoke_key(&self, id: &KeyId) -> Result<bool> {
        let id = id.clone();
        self.run_write(move |db| {
            let sql = "DELETE FROM keys WHERE id = ?1";
            Ok(db.prepare_cached(sql)?.execute([id.as_str()])? == 1)
        })
        .await
    }

    async fn record_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<()> {
        self.run_background_write(move |db| {
            // Uses are recorded in batches, which may arrive out of order.
            let sql = "UPDATE keys SET last_used_at = ?2 \
                       WHERE id = ?1 AND coalesce(last_used_at, 0) < ?2";
            let mut statement = db.prepare_cached(sql)?;
            for (id, at) in &uses {
                statement.execute(params![id.as_str(), at.as_millis()])?;
            }
            Ok(())
        })
        .await
    }

    async fn add_ticket(&self, ticket: StoredTicket, now: Timestamp) -> Result<()> {
        self.run_write(move |db| {
            // Tickets live for a minute; each new one clears away some expired ones.
            let sql = "DELETE FROM tickets WHERE digest IN \
                       (SELECT digest FROM tickets WHERE expires_at <= ?1 LIMIT 64)";
            db.prepare_cached(sql)?.execute([now.as_millis()])?;
            let StoredTicket { digest, owner, expires_at } = ticket;
            db.prepare_cached("INSERT INTO tickets VALUES (?1, ?2, ?3)")?.execute(params![
                digest,
                owner,
                expires_at.as_millis()
            ])?;
            Ok(())
        })
        .await
    }

    async fn redeem_ticket(&self, digest: &str) -> Result<Option<StoredTicket>> {
        let digest = digest.to_owned();
        self.run_write(move |db| {
            // Deleting and reading in one statement: of concurrent callers only one gets the row.
            let sql = "DELETE FROM tickets WHERE digest = ?1 RETURNING holder, expires_at";
            let redeemed = db.prepare_cached(sql)?.query_row([&digest], |row| {
                let holder = row.get(0)?;
                let expires_at = Timestamp::from_millis(row.get(1)?);
                Ok(StoredTicket { digest: digest.clone(), owner: holder, expires_at })
            });
            Ok(redeemed.optional()?)
        })
        .await
    }
}

fn decode_key(row: &Row<'_>) -> Result<StoredKey> {
    let time =
        |column| Ok::<_, Error>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis));
    let key = ApiKey {
        id: KeyId::new_unchecked(row.get::<_, String>(0)?),
        name: row.get(2)?,
        user: UserId::new_unchecked(row.get::<_, String>(3)?),
        scope: decode_word(AuthScope::from_name, row, 4)?,
        created_at: Timestamp::from_millis(row.get(5)?),
        expires_at: time(6)?,
        last_used_at: time(7)?,
    };
    Ok(StoredKey { key, digest: row.get(1)? })
}
