//! Embeddings: stored by message and by the model that computed them.

use super::{create, id, message, post, user};
use echoic::domain::{MessageId, Role};
use echoic::store::{MessageEmbedding, MessageParent, Store};
use std::sync::Arc;

pub async fn embeddings_belong_to_messages_and_are_deleted_with_them(store: &Arc<dyn Store>) {
    create(store, &user("ada"), "s").await;
    let mut ids = Vec::new();
    for number in 0..4 {
        let said = message("ada", Role::User, &number.to_string(), number);
        ids.push(post(store, &user("ada"), "s", said, MessageParent::Head).await.id);
    }
    let embedding = |at: usize, vectors: &[u8]| MessageEmbedding {
        message_id: ids[at].clone(),
        vectors: vectors.to_vec(),
    };
    let found = async |model: &str, wanted: &[MessageId]| {
        let mut found = store.load_embeddings(&id("s"), model, wanted).await.unwrap();
        found.sort_by_key(|embedding| embedding.message_id.to_string());
        found
    };
    assert_eq!(found("small", &ids).await, []);
    let first = [embedding(0, &[1, 200, 3]), embedding(1, &[0; 700])];
    store.save_embeddings(&id("s"), "small", &first).await.unwrap();
    assert_eq!(found("small", &ids).await, first);
    assert_eq!(found("small", &ids[1..]).await, first[1..]);
    assert_eq!(found("large", &ids).await, []);
    // A vector of another model replaces the message's earlier one.
    let replacement = [embedding(1, &[9])];
    store.save_embeddings(&id("s"), "large", &replacement).await.unwrap();
    assert_eq!(found("large", &ids).await, replacement);
    assert_eq!(found("small", &ids).await, first[..1]);
    store.delete_session(&user("ada"), &id("s")).await.unwrap();
    assert_eq!(found("large", &ids).await, []);
    store.save_embeddings(&id("s"), "large", &replacement).await.unwrap();
    assert_eq!(found("large", &ids).await, []);
}
