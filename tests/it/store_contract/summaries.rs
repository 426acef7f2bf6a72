//! Summaries: found on the paths that contain their last message.

use super::{create, id, message, post, user};
use echoic::domain::{MessageId, Role};
use echoic::store::{MessageParent, PathSummary, Store};
use std::sync::Arc;

async fn post_text(store: &Arc<dyn Store>, text: &str, parent: MessageParent) -> MessageId {
    post(store, &user("ada"), "s", message("ada", Role::User, text, 1), parent).await.id
}

fn summary(first: &MessageId, last: &MessageId, text: &str) -> PathSummary {
    let (first, last) = (first.clone(), last.clone());
    let (tokens_before, path_tokens, model) = (0, 7, "m".to_owned());
    PathSummary {
        first_message: first,
        last_message: last,
        tokens_before,
        path_tokens,
        text: text.to_owned(),
        model,
    }
}

pub async fn summary_is_found_on_paths_with_its_last_message(store: &Arc<dyn Store>) {
    create(store, &user("ada"), "s").await;
    let mut path = Vec::new();
    for number in 0..6 {
        // Large enough for a node of its own.
        path.push(
            post_text(store, &format!("{number}{}", "x".repeat(70_000)), MessageParent::Head).await,
        );
    }
    let branch = post_text(store, "branch", MessageParent::Message(path[2].clone())).await;
    let twig = post_text(store, "twig", MessageParent::Head).await;
    let found = async |up_to: &MessageId| {
        let found = store.find_summary(&id("s"), up_to).await.unwrap();
        found.map(|found| found.text)
    };
    assert_eq!(found(&path[5]).await, None);
    for (last, text) in [(1, "up to 1"), (4, "up to 4")] {
        store.save_summary(&id("s"), &summary(&path[0], &path[last], text)).await.unwrap();
    }
    store.save_summary(&id("s"), &summary(&path[0], &branch, "branch")).await.unwrap();
    let texts = |text: &str| Some(text.to_owned());
    assert_eq!(found(&path[0]).await, None);
    assert_eq!(found(&path[1]).await, texts("up to 1"));
    assert_eq!(found(&path[3]).await, texts("up to 1"));
    assert_eq!(found(&path[4]).await, texts("up to 4"));
    assert_eq!(found(&path[5]).await, texts("up to 4"));
    assert_eq!(found(&branch).await, texts("branch"));
    assert_eq!(found(&twig).await, texts("branch"));

    let again =
        PathSummary { tokens_before: 1, path_tokens: 9, ..summary(&path[1], &path[4], "again") };
    store.save_summary(&id("s"), &again).await.unwrap();
    assert_eq!(store.find_summary(&id("s"), &path[5]).await.unwrap(), Some(again));

    // A later session with the same id has no summary, and none can be stored for deleted messages.
    store.delete_session(&user("ada"), &id("s")).await.unwrap();
    assert_eq!(found(&path[5]).await, None);
    store.save_summary(&id("s"), &summary(&path[0], &path[5], "late")).await.unwrap();
    create(store, &user("ada"), "s").await;
    assert_eq!(found(&path[5]).await, None);
    store.save_summary(&id("s"), &summary(&path[0], &path[5], "late")).await.unwrap();
    assert_eq!(found(&path[5]).await, None);
}
