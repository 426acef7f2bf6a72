//! Invitations over HTTP: the routes, the setting and the events.

use crate::support::events::EventListener;
use crate::support::server::fetch;
use crate::support::{Server, within_deadline};
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};

async fn list(server: &Server, key: &str, query: &str) -> Vec<Value> {
    let page = server.with_key(key).get(&format!("/api/chat-sessions{query}")).await.data();
    page["sessions"].as_array().unwrap().clone()
}

async fn listen(server: &Server, key: &str) -> EventListener {
    let request = server.with_key(key).request(Method::GET, "/api/events");
    EventListener::opened(within_deadline(request.send()).await.unwrap()).await
}

#[tokio::test]
async fn invited_user_accepts_and_leaves_over_http() {
    let server = Server::with(&["--auth=keys"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let pat = server.key("pat", AuthScope::Chat).await;
    let new = json!({"sessionId": "s", "title": "Plans", "participants": ["pat"],
        "settings": {"systemPrompt": "secret"}, "meta": {"note": "secret"}});
    let made = server.with_key(&ann).post("/api/chat-sessions", new).await.data();
    assert_eq!((&made["participants"], &made["invited"]), (&json!(["ann"]), &json!(["pat"])));
    let said = json!({"chatSessionId": "s", "role": "user", "content": "a secret"});
    server.with_key(&ann).post("/api/chat-messages", said).await.data();

    assert!(list(&server, &pat, "").await.is_empty());
    let invited = list(&server, &pat, "?invited=true").await;
    assert_eq!((&invited[0]["userId"], &invited[0]["title"]), (&json!("ann"), &json!("Plans")));
    assert!(!invited[0].to_string().contains("secret"), "{}", invited[0]);
    let hidden = server.with_key(&pat).get("/api/chat-sessions/s").await;
    let missing = server.with_key(&pat).get("/api/chat-sessions/missing").await;
    assert_eq!(hidden.failure(), missing.failure());

    let accepted = server.with_key(&pat).post("/api/chat-sessions/s/accept", json!({})).await;
    assert_eq!(accepted.body["message"], "Invitation accepted successfully");
    assert_eq!(accepted.data()["participants"], json!(["ann", "pat"]));
    assert_eq!(list(&server, &pat, "").await.len(), 1);
    let pinned = server.with_key(&pat).request(Method::PATCH, "/api/chat-sessions/s");
    let pinned = fetch(pinned.json(&json!({"pinned": true, "archived": true}))).await.data();
    assert_eq!((&pinned["pinned"], &pinned["archived"]), (&json!(true), &json!(true)));
    assert_eq!(list(&server, &ann, "").await[0]["pinned"], false);
    let title = server.with_key(&pat).request(Method::PATCH, "/api/chat-sessions/s");
    assert_eq!(fetch(title.json(&json!({"title": "x"}))).await.failure(), (403, "forbidden"));

    let left = server.with_key(&pat).post("/api/chat-sessions/s/leave", json!({})).await.data();
    assert_eq!(left, json!({"sessionId": "s"}));
    let again = server.with_key(&pat).post("/api/chat-sessions/s/leave", json!({})).await;
    assert_eq!(again.failure(), (404, "session_not_found"));
    let owner = server.with_key(&ann).post("/api/chat-sessions/s/leave", json!({})).await;
    assert_eq!(owner.failure(), (403, "forbidden"));
    assert!(owner.body["message"].as_str().unwrap().contains("owner cannot leave"));
}

#[tokio::test]
async fn invitations_can_be_switched_off() {
    let server = Server::with(&["--auth=keys", "--invitations=off"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let pat = server.key("pat", AuthScope::Chat).await;
    let new = json!({"sessionId": "s", "participants": ["pat"]});
    let made = server.with_key(&ann).post("/api/chat-sessions", new).await.data();
    assert_eq!((&made["participants"], &made["invited"]), (&json!(["ann", "pat"]), &json!([])));
    assert_eq!(list(&server, &pat, "").await.len(), 1);
    assert!(list(&server, &pat, "?invited=true").await.is_empty());
}

#[tokio::test]
async fn events_tell_of_invitations_and_departures_only() {
    let server = Server::with(&["--auth=keys"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let pat = server.key("pat", AuthScope::Chat).await;
    let mut seen_by_pat = listen(&server, &pat).await;
    let mut seen_by_ann = listen(&server, &ann).await;
    let new = json!({"sessionId": "s", "participants": ["pat"], "meta": {"note": "secret"}});
    server.with_key(&ann).post("/api/chat-sessions", new).await.data();
    let invited = seen_by_pat.next().await;
    assert_eq!((&invited["action"], &invited["sessionId"]), (&json!("invited"), &json!("s")));
    assert!(!invited.to_string().contains("secret"));
    assert_eq!(seen_by_ann.next_kinds(1).await, ["session created"]);

    // Until pat accepts, pat learns of nothing else.
    let said = json!({"chatSessionId": "s", "role": "user", "content": "a secret"});
    server.with_key(&ann).post("/api/chat-messages", said).await.data();
    assert_eq!(seen_by_ann.next().await["type"], "message");
    server.with_key(&pat).post("/api/chat-sessions/s/accept", json!({})).await.data();
    let joined = seen_by_pat.next().await;
    assert_eq!(
        (&joined["action"], &joined["session"]["messagesCount"]),
        (&json!("changed"), &json!(1))
    );

    // A pin is told to the user's own clients, and others see theirs.
    let pin = server.with_key(&pat).request(Method::PATCH, "/api/chat-sessions/s");
    fetch(pin.json(&json!({"pinned": true}))).await.data();
    assert_eq!(seen_by_pat.next().await["session"]["pinned"], true);
    let rename = server.with_key(&ann).request(Method::PATCH, "/api/chat-sessions/s");
    fetch(rename.json(&json!({"title": "New"}))).await.data();
    let renamed = seen_by_pat.next().await;
    assert_eq!(
        (&renamed["session"]["title"], &renamed["session"]["pinned"]),
        (&json!("New"), &json!(true))
    );
    server.with_key(&pat).post("/api/chat-sessions/s/leave", json!({})).await.data();
    assert_eq!(seen_by_pat.next_kinds(1).await, ["session left"]);
    let mut last = seen_by_ann.next().await;
    while last["session"]["participants"] != json!(["ann"]) || last["session"]["title"] != "New" {
        assert_eq!(last["session"]["pinned"], false, "{last}");
        last = seen_by_ann.next().await;
    }
}

#[tokio::test]
async fn admins_import_invites_unless_the_file_says_who_accepted() {
    let server = Server::with(&["--auth=keys"]).await;
    let root = server.key("root", AuthScope::Admin).await;
    let pat = server.key("pat", AuthScope::Chat).await;
    let file = json!({"sessions": [
        {"sessionId": "old", "participants": ["pat"]},
        {"sessionId": "new", "participants": ["pat"], "invited": []},
    ]});
    server.with_key(&root).post("/api/import", file.clone()).await.data();
    assert_eq!(list(&server, &pat, "").await[0]["sessionId"], "new");
    assert_eq!(list(&server, &pat, "?invited=true").await[0]["sessionId"], "old");
    // A user's own file invites no one.
    let ann = server.key("ann", AuthScope::Chat).await;
    server.with_key(&ann).post("/api/import", file).await.data();
    assert_eq!(list(&server, &pat, "?archived=all").await.len(), 1);
    assert_eq!(list(&server, &pat, "?invited=true").await.len(), 1);
}
