//! `/api/chat-sessions`: create, list, read, change, delete.

use crate::support::Server;
use crate::support::server::fetch;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn created_session_has_all_its_fields() {
    let server = Server::start().await;
    let created = server.post("/api/chat-sessions", json!({})).await;
    assert_eq!(
        (created.status, created.body["message"].as_str().unwrap()),
        (201, "Session created successfully")
    );
    assert_eq!(created.header("etag"), "\"1\"");
    let session = created.data();
    let (id, at) = (session["sessionId"].clone(), session["createdAt"].clone());
    assert_eq!(
        session,
        json!({
            "sessionId": id, "userId": "local", "projectId": null, "title": "New Chat", "titleSource": "default",
            "participants": ["local"], "invited": [], "status": "active", "archived": false, "pinned": false, "meta": {},
            "userMeta": {}, "theme": {}, "settings": {}, "version": 1, "messagesCount": 0, "headId": null,
            "activeTurn": null, "lastMessage": null, "lastMessageAt": null, "lastSeen": null, "startTime": at,
            "createdAt": at, "updatedAt": at, "nodes": []
        })
    );
    let read = server.get(&format!("/api/chat-sessions/{}", id.as_str().unwrap())).await;
    assert_eq!(read.body["message"], "Session retrieved successfully");
    assert_eq!(read.data(), session);
}

#[tokio::test]
async fn client_fields_are_kept_and_json_strings_become_objects() {
    let server = Server::start().await;
    let given = json!({
        "name": " My Plant Chat ", "sessionId": "s_1763614351136", "projectId": "p1", "participants": ["bob", "ann smith"],
        "meta": {"plantType": "indoor", "nested": {"a": [1, 2.5, null]}}, "userMeta": "{\"browser\":\"Chrome\"}",
        "theme": "{}", "settings": {"model": "m", "memory": {"strategy": "window", "lastMessages": 4}}
    });
    let session = server.post("/api/chat-sessions", given).await.data();
    assert_eq!(
        (&session["title"], &session["titleSource"]),
        (&json!("My Plant Chat"), &json!("user"))
    );
    assert_eq!(session["participants"], json!(["local", "bob", "ann smith"]));
    assert_eq!(session["meta"], json!({"plantType": "indoor", "nested": {"a": [1, 2.5, null]}}));
    assert_eq!(
        (&session["userMeta"], &session["theme"]),
        (&json!({"browser": "Chrome"}), &json!({}))
    );
    assert_eq!(
        session["settings"],
        json!({"model": "m", "memory": {"strategy": "window", "lastMessages": 4}})
    );
    assert_eq!(
        (&session["sessionId"], &session["projectId"]),
        (&json!("s_1763614351136"), &json!("p1"))
    );
}

#[tokio::test]
async fn repeated_creation_returns_the_same_session() {
    let server = Server::start().await;
    let first = server
        .post("/api/chat-sessions", json!({"sessionId": "mine", "title": "one"}))
        .await
        .data();
    let second =
        server.post("/api/chat-sessions", json!({"sessionId": "mine", "title": "two"})).await;
    assert_eq!(second.status, 200);
    assert_eq!(second.data(), first);
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 1);
}

#[tokio::test]
async fn first_user_message_titles_a_session_without_a_title() {
    let server = Server::start().await;
    let session = server.session().await;
    let path = format!("/api/chat-sessions/{session}");
    server
        .turn(
            &session,
            "\n  Create a dashboard   with charts and tables and filters for my shop\nplease",
            "ok",
        )
        .await;
    let named = server.get(&path).await.data();
    assert_eq!(named["title"], "Create a dashboard with charts and tables and filters for my…");
    assert_eq!(named["titleSource"], "auto");

    let renamed = server.put(&format!("{path}/title"), json!({"title": " Shop "})).await;
    assert_eq!(renamed.body["message"], "Session updated successfully");
    assert_eq!(renamed.data()["title"], "Shop");
    server.turn(&session, "more", "ok").await;
    assert_eq!(server.get(&path).await.data()["titleSource"], "user");
    let reset = server.put(&format!("{path}/title"), json!({"title": null})).await.data();
    assert_eq!((&reset["title"], &reset["titleSource"]), (&json!("New Chat"), &json!("default")));
}

#[tokio::test]
async fn counters_follow_the_messages() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "question", &"x".repeat(300)).await;
    let read = server.get(&format!("/api/chat-sessions/{session}")).await.data();
    let last = server.last_message(&session).await;
    assert_eq!(read["messagesCount"], 2);
    assert_eq!(read["headId"], last["id"]);
    assert_eq!(read["lastMessageAt"], last["createdAt"]);
    assert_eq!(read["lastMessage"], "x".repeat(200));
    assert_eq!(read["nodes"], json!([format!("chat_{session}_1")]));
    assert!(read["lastSeen"].as_str().unwrap() <= read["lastMessageAt"].as_str().unwrap());
}

#[tokio::test]
async fn patch_changes_only_the_fields_it_names() {
    let server = Server::start().await;
    let created =
        json!({"title": "t", "meta": {"a": 1, "b": 2}, "theme": {"c": 3}, "projectId": "p"});
    let before = server.post("/api/chat-sessions", created).await.data();
    let path = format!("/api/chat-sessions/{}", before["sessionId"].as_str().unwrap());
    let patch = json!({"meta": {"a": 5}, "pinned": true, "archived": true, "projectId": null, "participants": ["eve"],
        "settings": {"systemPrompt": "be kind"}});
    let after = server.patch(&path, patch).await.data();
    assert_eq!(after["meta"], json!({"a": 5}));
    assert_eq!((&after["pinned"], &after["archived"]), (&json!(true), &json!(true)));
    assert_eq!(
        (&after["projectId"], &after["participants"]),
        (&Value::Null, &json!(["local", "eve"]))
    );
    assert_eq!((&after["theme"], &after["title"]), (&before["theme"], &before["title"]));
    assert_eq!(after["version"], 2);
    let meta = server.put(&format!("{path}/meta"), json!({"meta": {}})).await.data();
    assert_eq!((&meta["meta"], &meta["version"]), (&json!({}), &json!(3)));
}

#[tokio::test]
async fn change_with_a_stale_version_is_rejected() {
    let server = Server::start().await;
    let session = server.session().await;
    let change = |version: &'static str| {
        server
            .request(Method::PATCH, &format!("/api/chat-sessions/{session}"))
            .header("if-match", version)
            .json(&json!({"pinned": true}))
    };
    let first = fetch(change("\"1\"")).await;
    assert_eq!((first.status, first.header("etag")), (200, "\"2\""));
    assert_eq!(fetch(change("\"1\"")).await.failure(), (412, "version_conflict"));
    assert_eq!(fetch(change("*")).await.status, 200);
    assert_eq!(fetch(change("\"soon\"")).await.failure(), (400, "invalid_request"));
}

#[tokio::test]
async fn if_match_accepts_several_versions_or_any() {
    let server = Server::start().await;
    let session = server.session().await;
    let path = format!("/api/chat-sessions/{session}");
    let change = |if_match: &str| {
        server
            .request(Method::PATCH, &path)
            .header("if-match", if_match)
            .json(&json!({"pinned": true}))
    };
    let mut version = 1;
    for fits in
        [r#""1""#, r#""7", "2""#, r#""3","9""#, r#"W/"4""#, r#"  "1" ,  "5"  "#, "6", "*", " * "]
    {
        let changed = fetch(change(fits)).await;
        version += 1;
        assert_eq!(
            (changed.status, changed.header("etag")),
            (200, &*format!("\"{version}\"")),
            "{fits}"
        );
    }
    for stale in [r#""1""#, r#""1", "2", "3""#, r#"W/"8""#, r#""10""#, "0"] {
        let refused = fetch(change(stale)).await;
        assert_eq!(refused.failure(), (412, "version_conflict"), "{stale}");
        assert_eq!(refused.body["error"]["details"]["version"], version, "{stale}");
    }
    for odd in ["", "abc", r#""9", abc"#, r#""9", *"#, "-1", r#""9;10""#] {
        let refused = fetch(change(odd)).await;
        assert_eq!(refused.failure(), (400, "invalid_request"), "{odd:?}");
        assert!(refused.body["error"]["details"]["If-Match"].is_string(), "{odd:?}");
    }
    // A list header may be split over several lines.
    let lines = change(r#""1""#).header("if-match", r#""9""#);
    assert_eq!(fetch(lines).await.header("etag"), r#""10""#);
    for (method, route, body) in [
        (Method::PUT, "/title", json!({"title": "t"})),
        (Method::PUT, "/meta", json!({"meta": {"a": 1}})),
        (Method::PATCH, "", json!({"archived": true})),
    ] {
        let request = |version: &str| {
            let path = format!("{path}{route}");
            server.request(method.clone(), &path).header("if-match", version.to_owned()).json(&body)
        };
        assert_eq!(fetch(request(r#""9", "1""#)).await.failure(), (412, "version_conflict"));
        version = fetch(request("*")).await.data()["version"].as_i64().unwrap();
    }
    assert_eq!(version, 13);
    let nowhere =
        server.request(Method::PATCH, "/api/chat-sessions/nowhere").header("if-match", "*");
    assert_eq!(fetch(nowhere.json(&json!({}))).await.failure(), (404, "session_not_found"));
}

#[tokio::test]
async fn empty_patch_changes_nothing() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "hi", "hello").await;
    let path = format!("/api/chat-sessions/{session}");
    let before = server.get(&path).await;
    let etag = before.header("etag").to_owned();
    let before = before.data();
    let patch = |body: Value| server.request(Method::PATCH, &path).json(&body);
    // Unknown and read-only fields are ignored.
    for nothing in [json!({}), json!({"colour": "red"}), json!({"version": 9, "messagesCount": 7})]
    {
        let reply = fetch(patch(nothing.clone()).header("if-match", &etag)).await;
        assert_eq!((reply.status, reply.header("etag")), (200, &*etag), "{nothing}");
        assert_eq!(reply.data(), before, "{nothing}");
        let stale = fetch(patch(nothing.clone()).header("if-match", "\"99\"")).await;
        assert_eq!(stale.failure(), (412, "version_conflict"), "{nothing}");
    }
    let read = server.get(&path).await;
    assert_eq!(read.header("etag"), etag);
    assert_eq!(read.data(), before);
}

#[tokio::test]
async fn lists_are_paged_filtered_and_ordered() {
    let server = Server::start().await;
    for (id, title) in
        [("a", "Café plans"), ("b", "Über boats"), ("c", "Cafeteria"), ("d", "zebra")]
    {
        server.post("/api/chat-sessions", json!({"sessionId": id, "title": title})).await.data();
    }
    for id in ["b", "a", "d", "c"] {
        server
            .post("/api/chat-messages", json!({"chatSessionId": id, "role": "user", "content": id}))
            .await
            .data();
    }
    server.patch("/api/chat-sessions/a", json!({"pinned": true})).await.data();
    server
        .patch("/api/chat-sessions/d", json!({"archived": true, "status": "waiting_room"}))
        .await
        .data();

    let ids = async |query: &str| {
        let list = server.get(&format!("/api/chat-sessions{query}")).await.data();
        let sessions = list["sessions"].as_array().unwrap().clone();
        let ids: String = sessions
            .iter()
            .map(|session| session["sessionId"].as_str().unwrap().to_owned())
            .collect();
        (ids, list["pagination"].clone())
    };
    let page = |page, limit, total, pages| json!({"page": page, "limit": limit, "total": total, "pages": pages});
    assert_eq!(ids("").await, ("acb".to_owned(), page(1, 20, 3, 1)));
    assert_eq!(ids("?archived=all").await.0, "acdb");
    assert_eq!(ids("?archived=true").await.0, "d");
    assert_eq!(ids("?sort=title&archived=all").await.0, "acbd");
    assert_eq!(ids("?sort=-title&archived=all").await.0, "adbc");
    assert_eq!(ids("?sort=createdAt").await.0, "abc");
    assert_eq!(ids("?sort=-lastMessageTime").await.0, "acb");
    assert_eq!(ids("?search=CAFE").await.0, "ac");
    assert_eq!(ids("?search=cafe%20pl").await.0, "a");
    assert_eq!(ids("?search=uber").await.0, "b");
    assert_eq!(ids("?search=lan").await.0, "");
    assert_eq!(ids("?search=%22%2A").await.0, "");
    assert_eq!(ids("?status=waiting_room&archived=all").await.0, "d");
    assert_eq!(ids("?limit=2&page=2").await, ("b".to_owned(), page(2, 2, 3, 2)));
    assert_eq!(ids("?page=9").await, (String::new(), page(9, 20, 3, 1)));
    let listed = server.get("/api/chat-sessions").await;
    assert_eq!(listed.body["message"], "Sessions retrieved successfully");
    assert!(listed.data()["sessions"][0].get("nodes").is_none());
}

#[tokio::test]
async fn cursor_keeps_its_position_while_sessions_arrive() {
    let server = Server::start().await;
    let create = async |number: usize| {
        let id = format!("s{number:02}");
        server.post("/api/chat-sessions", json!({"sessionId": id})).await.data();
        let message = json!({"chatSessionId": id, "role": "user", "content": "hi",
            "createdAt": format!("2026-01-01T00:00:{number:02}.000Z")});
        server.post("/api/chat-messages", message).await.data();
    };
    for number in 0..12 {
        create(number).await;
    }
    server.patch("/api/chat-sessions/s03", json!({"pinned": true})).await.data();
    let mut seen = Vec::new();
    let mut path = "/api/chat-sessions?limit=5".to_owned();
    for round in 0..10 {
        let list = server.get(&path).await.data();
        seen.extend(
            list["sessions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| s["sessionId"].as_str().unwrap().to_owned()),
        );
        create(20 + round).await;
        let Some(cursor) = list["nextCursor"].as_str() else { break };
        path = format!("/api/chat-sessions?limit=5&cursor={cursor}");
    }
    let expected =
        ["s03", "s11", "s10", "s09", "s08", "s07", "s06", "s05", "s04", "s02", "s01", "s00"];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn deleting_a_session_deletes_its_messages() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "a", "b").await;
    let path = format!("/api/chat-sessions/{session}");
    let deleted = server.delete(&path).await;
    assert_eq!(deleted.body["message"], "Session deleted successfully");
    assert_eq!(deleted.data(), json!({"sessionId": session, "deletedMessages": 2}));
    for gone in ["", "/messages", "/memory"] {
        assert_eq!(
            server.get(&format!("{path}{gone}")).await.failure(),
            (404, "session_not_found")
        );
    }
    assert_eq!(server.delete(&path).await.failure(), (404, "session_not_found"));
}

#[tokio::test]
async fn bulk_deletion_requires_a_project_or_an_age() {
    let server = Server::start().await;
    for (id, project, at) in
        [("a", "p", "2020"), ("b", "p", "2026"), ("c", "q", "2020"), ("d", "q", "2026")]
    {
        server
            .post("/api/chat-sessions", json!({"sessionId": id, "projectId": project}))
            .await
            .data();
        let message = json!({"chatSessionId": id, "role": "user", "content": "x",
            "createdAt": format!("{at}-01-01T00:00:00.000Z")});
        server.post("/api/chat-messages", message).await.data();
    }
    assert_eq!(server.delete("/api/chat-sessions").await.failure(), (400, "invalid_request"));
    assert_eq!(
        server.delete("/api/chat-sessions?user=local").await.failure(),
        (400, "invalid_request")
    );
    let by_project = server.delete("/api/chat-sessions?projectId=p").await.data();
    assert_eq!(by_project, json!({"deletedSessions": 2, "deletedMessages": 2}));
    let by_age = server.delete("/api/chat-sessions?before=2025-01-01T00:00:00Z").await.data();
    assert_eq!(by_age, json!({"deletedSessions": 1, "deletedMessages": 1}));
    assert_eq!(server.get("/api/chat-sessions").await.data()["sessions"][0]["sessionId"], "d");
}
