//! API keys: stored, listed, touched, revoked.

use super::at;
use echoic::domain::UserId;
use echoic::domain::key::{ApiKey, AuthScope, KeyId};
use echoic::error::ErrorKind;
use echoic::store::{Store, StoredKey};
use std::sync::Arc;

fn key(id: &str, user: &str, millis: i64) -> StoredKey {
    let key = ApiKey {
        id: KeyId::new_unchecked(id),
        name: Some("a laptop".to_owned()),
        user: UserId::new_unchecked(user),
        scope: AuthScope::Read,
        created_at: at(millis),
        expires_at: Some(at(9000)),
        last_used_at: None,
    };
    StoredKey { key, digest: [millis as u8; 32] }
}

pub(super) async fn key_is_kept_unchanged_until_revoked(store: &Arc<dyn Store>) {
    let second = key("00000000000b", "bob", 2);
    let first = StoredKey {
        key: ApiKey {
            name: None,
            scope: AuthScope::Admin,
            expires_at: None,
            ..key("00000000000c", "ada", 1).key
        },
        digest: [1; 32],
    };
    for one in [&second, &first] {
        store.add_key(one.clone()).await.unwrap();
    }
    assert_eq!(store.list_keys().await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.find_key(&first.key.id).await.unwrap(), Some(first.clone()));

    let taken = store.add_key(StoredKey { digest: [7; 32], ..first.clone() }).await.unwrap_err();
    assert_eq!(taken.kind, ErrorKind::IdConflict);
    assert_eq!(store.find_key(&first.key.id).await.unwrap(), Some(first.clone()));

    assert!(store.revoke_key(&first.key.id).await.unwrap());
    assert!(!store.revoke_key(&first.key.id).await.unwrap());
    assert_eq!(store.find_key(&first.key.id).await.unwrap(), None);
    assert_eq!(store.list_keys().await.unwrap(), [second]);
}

pub(super) async fn last_use_of_a_key_only_advances(store: &Arc<dyn Store>) {
    let one = key("00000000000a", "ada", 1);
    let gone = KeyId::new_unchecked("00000000000f");
    store.add_key(one.clone()).await.unwrap();
    let used = async || store.find_key(&one.key.id).await.unwrap().unwrap().key.last_used_at;
    for (touched, is) in [(5, 5), (3, 5), (8, 8)] {
        let uses = vec![(one.key.id.clone(), at(touched)), (gone.clone(), at(touched))];
        store.record_key_uses(uses).await.unwrap();
        assert_eq!(used().await, Some(at(is)));
    }
    assert_eq!(store.find_key(&gone).await.unwrap(), None, "a use makes no key");
}
