//! `…/messages` and `/api/chat-messages`: stored without a model call, read page by page.

use crate::support::Server;
use crate::support::server::fetch;
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::{Value, json};

async fn post(server: &Server, body: Value) -> Value {
    let posted = server.post("/api/chat-messages", body).await;
    assert_eq!(posted.status, 201, "{}", posted.body);
    posted.data()
}

#[tokio::test]
async fn posted_message_is_returned_with_its_session() {
    let server = Server::start().await;
    let session = server.session().await;
    let data = post(
        &server,
        json!({"chatSessionId": session, "role": "user", "content": "Create a login form"}),
    )
    .await;
    let message = &data["message"];
    assert_eq!(
        *message,
        json!({
            "id": message["id"], "sessionId": session, "seq": 1, "parentId": null, "siblingIds": [message["id"]], "siblingCount": 1, "siblingIndex": 0,
            "role": "user", "senderId": "local", "type": "text", "content": "Create a login form", "parts": [],
            "status": "complete", "seen": false, "model": null, "finishReason": null, "clientMessageId": null,
            "error": null, "usage": null, "createdAt": message["createdAt"]
        })
    );
    assert_eq!(
        (&data["session"]["title"], &data["session"]["messagesCount"]),
        (&json!("Create a login form"), &json!(1))
    );
    assert_eq!(data["session"]["headId"], message["id"]);
    let path = format!("/api/chat-sessions/{session}/messages/{}", message["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.data(), *message);
    assert_eq!(server.get(&format!("{path}x")).await.failure(), (404, "message_not_found"));
}

#[tokio::test]
async fn all_roles_are_stored_and_system_messages_keep_their_place() {
    let server = Server::start().await;
    let session = server.session().await;
    let picture = json!([{"type": "file", "mediaType": "image/png", "url": "https://x.y/z.png"}]);
    post(&server, json!({"chatSessionId": session, "role": "user", "content": "first"})).await;
    post(
        &server,
        json!({"chatSessionId": session, "role": "system", "content": "Answer in French."}),
    )
    .await;
    post(
        &server,
        json!({"chatSessionId": session, "role": "assistant", "content": "oui", "type": "text"}),
    )
    .await;
    let image = json!({"chatSessionId": session, "role": "user", "content": "", "type": "image", "parts": picture,
        "createdAt": "2026-02-03T04:05:06.789+01:00"});
    let image = post(&server, image).await["message"].clone();
    assert_eq!((&image["type"], &image["parts"]), (&json!("image"), &picture));
    assert_eq!(image["createdAt"], "2026-02-03T03:05:06.789Z");
    let prompt = server.turn(&session, "next", "ok").await;
    assert_eq!(
        prompt[1..],
        [
            "user: first",
            "system: Answer in French.",
            "assistant: oui",
            "user: <https://x.y/z.png>",
            "user: next"
        ]
    );
}

#[tokio::test]
async fn repeated_post_returns_the_first_result() {
    let server = Server::start().await;
    let session = server.session().await;
    let body = json!({"chatSessionId": session, "role": "user", "content": "once", "clientMessageId": "c1"});
    let first = post(&server, body.clone()).await;
    assert_eq!(post(&server, body).await["message"], first["message"]);

    let keyed = |content: &str| {
        server
            .request(Method::POST, "/api/chat-messages")
            .header("idempotency-key", "k1")
            .json(&json!({"chatSessionId": session, "role": "user", "content": content}))
    };
    let second = fetch(keyed("twice")).await.data();
    assert_eq!(fetch(keyed("twice")).await.data()["message"], second["message"]);
    assert_eq!(fetch(keyed("other")).await.failure(), (422, "idempotency_key_reused"));
    assert_eq!(server.transcript(&session).await, ["user: once", "user: twice"]);
}

#[tokio::test]
async fn post_under_another_senders_message_id_is_refused() {
    let server = Server::with(&["--auth=keys", "--invitations=off"]).await;
    let ann = server.key("ann", AuthScope::Chat).await;
    let pat = server.key("pat", AuthScope::Chat).await;
    let (ann, pat) = (server.with_key(&ann), server.with_key(&pat));
    let body = json!({"sessionId": "s", "participants": ["pat"]});
    assert_eq!(ann.post("/api/chat-sessions", body).await.status, 201);
    let body = |id: &Value, content: &str| json!({"chatSessionId": "s", "role": "user", "content": content, "clientMessageId": id});
    let first = pat.post("/api/chat-messages", body(&json!("next"), "pat's")).await.data();
    for id in [&json!("next"), &first["message"]["id"]] {
        let refused = ann.post("/api/chat-messages", body(id, "ann's")).await;
        assert_eq!(refused.failure(), (422, "idempotency_key_reused"));
    }
    let repeated = pat.post("/api/chat-messages", body(&json!("next"), "pat's")).await.data();
    assert_eq!(repeated["message"], first["message"]);
}

async fn page(server: &Server, session: &str, query: &str) -> (String, bool) {
    let data = server.get(&format!("/api/chat-sessions/{session}/messages{query}")).await.data();
    let said = data["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].as_str().unwrap().to_owned());
    (said.collect::<Vec<_>>().join(""), data["hasMore"].as_bool().unwrap())
}

#[tokio::test]
async fn messages_are_paged_in_both_directions() {
    let server = Server::start().await;
    let session = server.session().await;
    let mut ids = Vec::new();
    for letter in "abcdefg".chars() {
        let body = json!({"chatSessionId": session, "role": "user", "content": letter.to_string()});
        ids.push(post(&server, body).await["message"]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(page(&server, &session, "").await, ("abcdefg".to_owned(), false));
    assert_eq!(page(&server, &session, "?limit=3").await, ("efg".to_owned(), true));
    assert_eq!(
        page(&server, &session, &format!("?limit=3&before={}", ids[4])).await,
        ("bcd".to_owned(), true)
    );
    assert_eq!(
        page(&server, &session, &format!("?limit=3&before={}", ids[2])).await,
        ("ab".to_owned(), false)
    );
    assert_eq!(
        page(&server, &session, &format!("?limit=3&after={}", ids[1])).await,
        ("cde".to_owned(), true)
    );
    assert_eq!(
        page(&server, &session, &format!("?limit=3&after={}", ids[4])).await,
        ("fg".to_owned(), false)
    );
    let unknown = server.get(&format!("/api/chat-sessions/{session}/messages?before=nope")).await;
    assert_eq!(unknown.failure(), (404, "message_not_found"));
}

#[tokio::test]
async fn active_path_omits_other_branches_and_view_all_has_them() {
    let server = Server::start().await;
    let session = server.session().await;
    let send = async |content: &str, parent: Value| {
        let mut body = json!({"chatSessionId": session, "role": "user", "content": content});
        if !parent.is_boolean() {
            body["parentId"] = parent;
        }
        post(&server, body).await["message"]["id"].clone()
    };
    let a = send("a", json!(true)).await;
    let b = send("b", json!(true)).await;
    let c = send("c", json!(true)).await;
    let d = send("d", a.clone()).await;
    let e = send("e", json!(true)).await;
    assert_eq!(page(&server, &session, "").await.0, "ade");
    assert_eq!(page(&server, &session, "?view=all").await.0, "abcde");
    assert_eq!(page(&server, &session, "?view=all&limit=2").await, ("de".to_owned(), true));
    let query = format!("?view=all&limit=2&after={}", b.as_str().unwrap());
    assert_eq!(page(&server, &session, &query).await, ("cd".to_owned(), true));
    let off_path = format!("?after={}", c.as_str().unwrap());
    let refused = server.get(&format!("/api/chat-sessions/{session}/messages{off_path}")).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    let query = format!("?before={}", c.as_str().unwrap());
    assert_eq!(page(&server, &session, &query).await.0, "ab", "a message comes after its own past");

    let f = send("f", b.clone()).await;
    let root = send("g", Value::Null).await;
    let data = server.get(&format!("/api/chat-sessions/{session}/messages?view=all")).await.data();
    let siblings: Vec<Value> =
        data["messages"].as_array().unwrap().iter().map(|m| m["siblingIds"].clone()).collect();
    assert_eq!(
        siblings,
        [
            json!([a, root]),
            json!([b, d]),
            json!([c, f]),
            json!([b, d]),
            json!([e]),
            json!([c, f]),
            json!([a, root])
        ]
    );
    let parents: Vec<Value> =
        data["messages"].as_array().unwrap().iter().map(|m| m["parentId"].clone()).collect();
    assert_eq!(parents, [Value::Null, a.clone(), b.clone(), a, d, b, Value::Null]);
}

#[tokio::test]
async fn history_is_returned_in_use_chat_format() {
    let server = Server::start().await;
    let session = server.session().await;
    let mut frames = server.chat(json!({"sessionId": session, "message": "why?"})).await;
    let mut call = server.upstream.call().await;
    call.reasoning("reasoning", "hm");
    call.reply("because");
    frames.until("[DONE]").await;
    let data = server.get(&format!("/api/chat-sessions/{session}/messages?format=ui")).await.data();
    let messages = data["messages"].as_array().unwrap();
    assert_eq!(messages[0]["parts"], json!([{"type": "text", "text": "why?"}]));
    assert_eq!(
        (&messages[1]["role"], &messages[1]["metadata"]["model"]),
        (&json!("assistant"), &json!("gated-1"))
    );
    let parts = json!([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "because"}]);
    assert_eq!(messages[1]["parts"], parts);
}

#[tokio::test]
async fn long_session_is_split_into_bounded_nodes() {
    let server = Server::start().await;
    let session = server.session().await;
    let messages: Vec<Value> = (0..300)
        .map(|number| json!({"role": "user", "content": format!("{number} {}", "x".repeat(1000))}))
        .collect();
    let file = json!({"sessions": [{"sessionId": session, "messages": messages}]});
    server.post("/api/import", file).await.data();
    let huge = "y".repeat(200 * 1024);
    post(&server, json!({"chatSessionId": session, "role": "user", "content": huge})).await;
    post(&server, json!({"chatSessionId": session, "role": "user", "content": "after"})).await;
    let nodes = server.get(&format!("/api/chat-sessions/{session}")).await.data()["nodes"].clone();
    // 102 messages of about 1,260 bytes fill a node of 128 KiB; the huge one gets its own node.
    let names: Vec<String> = (1..=5).map(|number| format!("chat_{session}_{number}")).collect();
    assert_eq!(nodes, json!(names));
    let data = server.get(&format!("/api/chat-sessions/{session}/messages?limit=100")).await.data();
    let said = data["messages"].as_array().unwrap();
    assert_eq!((said.len(), &said[99]["content"]), (100, &json!("after")));
    assert!(said[0]["content"].as_str().unwrap().starts_with("202 "));
}

#[tokio::test]
async fn message_among_many_siblings_names_the_nearest_ones() {
    let server = Server::start().await;
    let root = |number: usize| {
        json!({"id": format!("m{number:04}"), "parentId": null,
        "role": "user", "content": "x"})
    };
    let roots: Vec<Value> = (0..1000).map(root).collect();
    let session = json!({"sessionId": "s", "messages": roots});
    server.post("/api/import", json!({"sessions": [session]})).await.data();

    let path = "/api/chat-sessions/s/messages";
    let page = server.get(&format!("{path}?view=all&limit=100&before=m0500")).await.data();
    assert!(page.to_string().len() < 100_000, "{} bytes", page.to_string().len());
    let last = &page["messages"][99];
    assert_eq!((&last["siblingCount"], &last["siblingIndex"]), (&json!(1000), &json!(499)));
    let nearest: Vec<_> = (494..505).map(|number| format!("m{number:04}")).collect();
    assert_eq!(last["siblingIds"], json!(nearest));
    let first = server.get(&format!("{path}/m0000")).await.data();
    assert_eq!((&first["siblingIndex"], &first["siblingIds"][10]), (&json!(0), &json!("m0010")));
    let newest = server.get(&format!("{path}/m0999")).await.data();
    assert_eq!((&newest["siblingIndex"], &newest["siblingIds"][0]), (&json!(999), &json!("m0989")));

    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("{path}/m0500/siblings?limit=100{after}")).await.data();
        assert_eq!(page["siblingCount"], 1000);
        listed.extend(page["siblingIds"].as_array().unwrap().clone());
        if page["hasMore"] == false {
            break;
        }
        after = format!("&after={}", listed.last().unwrap().as_str().unwrap());
    }
    assert_eq!(listed.len(), 1000);
    let stranger = server.get(&format!("{path}/m0500/siblings?after=m9999")).await;
    assert_eq!(stranger.failure(), (400, "invalid_request"));
}
