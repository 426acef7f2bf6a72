//! Administration: statistics of users, deletion of idle sessions, tickets.

use super::{at, begin, begin_running, create, id, message, post, user};
use echoic::domain::Role;
use echoic::store::{MessageParent, Store, StoredTicket};
use futures::future::join_all;
use std::sync::Arc;

pub(super) async fn users_are_listed_with_their_totals(store: &Arc<dyn Store>) {
    let (ada, bob) = (user("ada"), user("bob"));
    for (who, session) in [(&bob, "b"), (&ada, "a1"), (&ada, "a2")] {
        create(store, who, session).await;
    }
    post(store, &ada, "a2", message("ada", Role::User, "x", 7), MessageParent::Head).await;
    let page = store.list_user_stats(1, 10).await.unwrap();
    let users: Vec<_> = page
        .users
        .iter()
        .map(|owner| (owner.user.as_str(), owner.sessions, owner.messages, owner.last_active_at))
        .collect();
    assert_eq!(users, [("ada", 2, 1, at(7)), ("bob", 1, 0, at(0))]);
    let second = store.list_user_stats(2, 1).await.unwrap();
    assert_eq!((second.users[0].user.as_str(), second.pagination.total), ("bob", 2));
    assert!(store.list_user_stats(9, 10).await.unwrap().users.is_empty());
}

pub(super) async fn only_sessions_still_idle_are_deleted(store: &Arc<dyn Store>) {
    let ada = user("ada");
    for session in ["idle", "used", "busy"] {
        create(store, &ada, session).await;
    }
    begin_running(store, begin(&ada, "busy", "x")).await;
    let mut idle = store.list_inactive_sessions(at(5), 10).await.unwrap();
    idle.sort();
    assert_eq!(idle, ["busy", "idle", "used"].map(id));
    // A message arrives between the listing and the deletion.
    post(store, &ada, "used", message("ada", Role::User, "x", 6), MessageParent::Head).await;
    let mut gone = Vec::new();
    for session in idle {
        gone.push(
            store.delete_if_inactive(&session, at(5)).await.unwrap().map(|gone| gone.sessions),
        );
    }
    assert_eq!(gone, [None, Some(1), None]);
    assert_eq!(store.delete_if_inactive(&id("idle"), at(5)).await.unwrap(), None);
}

pub(super) async fn ticket_is_redeemed_only_once(store: &Arc<dyn Store>) {
    let ticket = StoredTicket {
        digest: "d1".to_owned(),
        owner: "{}".to_owned(),
        expires_at: at(100_000_000_000),
    };
    store.add_ticket(ticket.clone(), at(0)).await.unwrap();
    let taken = join_all((0..8).map(|_| store.redeem_ticket("d1"))).await;
    let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(taken, [ticket]);
    assert_eq!(store.redeem_ticket("d2").await.unwrap(), None);
}
