//! `/api/import`: sessions are imported one by one, each stored or rejected on its own.

use crate::support::Server;
use crate::support::server::fetch;
use crate::support::sse::text_of;
use reqwest::Method;
use serde_json::{Value, json};

fn file() -> Value {
    json!({"format": "echoic", "version": 1, "sessions": [{
        "sessionId": "old", "title": "Old chat", "createdAt": "2024-05-06T07:08:09.000Z", "pinned": true,
        "status": "waiting", "meta": {"k": 1}, "settings": {"model": "m"}, "lastSeen": "2024-05-06T08:00:00.000Z",
        "headId": "m2", "messages": [
            {"id": "m1", "role": "user", "senderId": "Caroline", "content": "Hi", "createdAt": "2024-05-06T07:08:10.000Z"},
            {"id": "m2", "role": "assistant", "content": "Hello", "parentId": "m1", "model": "m", "finishReason": "length",
             "usage": {"promptTokens": 3, "completionTokens": 1}, "createdAt": "2024-05-06T07:08:11.000Z"},
            {"id": "m3", "role": "assistant", "content": "", "parentId": "m1", "status": "failed",
             "error": {"code": "provider_error", "message": "no"}, "createdAt": "2024-05-06T07:08:12.000Z"}]}]})
}

#[tokio::test]
async fn imported_session_matches_the_file() {
    let server = Server::start().await;
    let report = server.post("/api/import", file()).await.data();
    let sessions = json!([{"sessionId": "old", "sourceId": "old", "title": "Old chat", "messages": 3, "leftOut": [], "mended": []}]);
    assert_eq!(report, json!({"sessions": sessions, "skipped": []}));
    let session = server.get("/api/chat-sessions/old").await.data();
    assert_eq!(session["createdAt"], "2024-05-06T07:08:09.000Z");
    assert_eq!((&session["headId"], &session["messagesCount"]), (&json!("m2"), &json!(3)));
    assert_eq!((&session["pinned"], &session["status"]), (&json!(true), &json!("waiting")));
    assert_eq!(session["lastSeen"], "2024-05-06T08:00:00.000Z");
    let data = server.get("/api/chat-sessions/old/messages").await.data();
    let messages = data["messages"].as_array().unwrap();
    assert_eq!(
        (&messages[0]["senderId"], &messages[1]["senderId"]),
        (&json!("Caroline"), &json!("assistant"))
    );
    assert_eq!(
        (&messages[1]["finishReason"], &messages[1]["usage"]["promptTokens"]),
        (&json!("length"), &json!(3))
    );
    assert_eq!(messages[1]["siblingIds"], json!(["m2", "m3"]));
    let failed = server.get("/api/chat-sessions/old/messages/m3").await.data();
    assert_eq!(failed["error"], json!({"code": "provider_error", "message": "no"}));
}

#[tokio::test]
async fn importing_twice_changes_nothing() {
    let server = Server::start().await;
    let nameless = json!({"sessions": [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]});
    for file in [file(), nameless] {
        let first = server.post("/api/import", file.clone()).await.data();
        let id = first["sessions"][0]["sessionId"].as_str().unwrap();
        let before = server.get(&format!("/api/chat-sessions/{id}")).await.data();
        let second = server.post("/api/import", file).await.data();
        assert_eq!(
            (&second["sessions"][0]["sessionId"], &second["sessions"][0]["messages"]),
            (&json!(id), &json!(0))
        );
        assert_eq!(server.get(&format!("/api/chat-sessions/{id}")).await.data(), before);
    }
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 2);
}

#[tokio::test]
async fn longer_file_adds_only_new_messages() {
    let server = Server::start().await;
    server.post("/api/import", file()).await.data();
    let more = json!({"sessions": [{"sessionId": "old", "messages": [
        {"id": "m2", "role": "assistant", "content": "Hello", "parentId": "m1"},
        {"id": "m4", "role": "user", "content": "Still there?"}]}]});
    assert_eq!(server.post("/api/import", more).await.data()["sessions"][0]["messages"], 1);
    assert_eq!(
        server.transcript("old").await,
        ["user: Hi", "assistant: Hello", "user: Still there?"]
    );
}

#[tokio::test]
async fn entry_without_a_session_is_skipped_and_others_are_imported() {
    let server = Server::start().await;
    let good = |id: &str| json!({"sessionId": id, "messages": [{"role": "user", "content": "x"}]});
    let bad = [
        (json!(7), "entry must be an object"),
        (json!({"sessionId": "b1", "messages": {"m": 1}}), "messages must be a list"),
        (json!({"sessionId": "b2", "mapping": []}), "mapping must be an object of nodes"),
        (good("g1"), "sessionId must be unique within the file: sessions[0] has the same"),
    ];
    let mut sessions = vec![good("g1")];
    sessions.extend(bad.iter().map(|(entry, _)| entry.clone()));
    sessions.push(good("g2"));
    let report = server.post("/api/import", json!({"sessions": sessions})).await.data();
    let imported: Vec<_> =
        report["sessions"].as_array().unwrap().iter().map(|s| s["sessionId"].clone()).collect();
    assert_eq!(imported, ["g1", "g2"]);
    for (index, (entry, wanted)) in bad.iter().enumerate() {
        let skipped = &report["skipped"][index];
        assert_eq!(skipped["index"], index + 1);
        let reason = skipped["reason"].as_str().unwrap();
        assert!(reason.starts_with(wanted), "{entry}: {reason}");
    }
    let total = server.get("/api/chat-sessions").await.data()["pagination"]["total"].clone();
    assert_eq!(total, 2);
}

#[tokio::test]
async fn odd_entry_of_a_list_does_not_end_the_import() {
    let server = Server::start().await;
    let import = async |body: &str| {
        let request =
            server.request(Method::POST, "/api/import").header("content-type", "application/json");
        fetch(request.body(body.to_owned())).await
    };
    let session = |id: &str| json!({"sessionId": id, "messages": []}).to_string();
    let shell = r#"{"title":"shell","conversation_id":"c"}"#;
    for (case, body) in [
        format!("\u{feff}[{},{shell},null,{}]", session("a0"), session("b0")),
        format!("[{shell},7,{},{}]", session("a1"), session("b1")),
        format!("{}\n{shell}\n[]\n{}\n", session("a2"), session("b2")),
    ]
    .iter()
    .enumerate()
    {
        let report = import(body).await.data();
        assert_eq!(report["sessions"][0]["sessionId"], format!("a{case}"));
        assert_eq!(report["sessions"][1]["sessionId"], format!("b{case}"));
        let skipped = report["skipped"].as_array().unwrap();
        assert_eq!(skipped.len(), 2, "{report}");
        assert!(skipped[0]["reason"].as_str().unwrap().contains("is not a conversation"));
    }
    for body in ["[]", "[{}]", "[7,8]", "{}"] {
        assert_eq!(import(body).await.failure(), (400, "invalid_request"), "{body}");
    }
}

#[tokio::test]
async fn list_of_skipped_entries_is_bounded_and_the_rest_counted() {
    let server = Server::start().await;
    let session = |id: &str| json!({"sessionId": id, "messages": []}).to_string();
    let numbers = "7,".repeat(1500);
    for (case, body) in [
        format!("[{},{numbers}{}]", session("a0"), session("b0")),
        format!("{{\"sessions\":[{},{numbers}{}]}}", session("a1"), session("b1")),
    ]
    .into_iter()
    .enumerate()
    {
        let request =
            server.request(Method::POST, "/api/import").header("content-type", "application/json");
        let report = fetch(request.body(body)).await.data();
        assert_eq!(report["sessions"][1]["sessionId"], format!("b{case}"));
        let skipped = report["skipped"].as_array().unwrap();
        assert_eq!((skipped.len(), &skipped[999]["index"]), (1000, &json!(1000)));
        assert_eq!(report["moreSkipped"], 500);
    }
}

#[tokio::test]
async fn long_model_and_error_are_shortened() {
    let server = Server::start().await;
    let long = "x".repeat(100_000);
    let file = json!({"sessions": [{"sessionId": "s", "messages": [{"id": "m", "role": "assistant", "content": "",
        "status": "failed", "model": long, "error": {"code": long, "message": long}}]}]});
    let report = server.post("/api/import", file).await.data();
    let mended = json!([
        {"kind": "model", "count": 1, "first": "messages[0].model"}, {"kind": "error", "count": 2, "first": "messages[0].error"}]);
    assert_eq!(report["sessions"][0]["mended"], mended);
    let message = server.get("/api/chat-sessions/s/messages/m").await.data();
    assert_eq!(message["model"].as_str().unwrap().len(), 1000);
    assert_eq!(message["error"]["message"].as_str().unwrap().len(), 10_000);
}

#[tokio::test]
async fn truncated_file_reports_what_was_imported() {
    let server = Server::start().await;
    let whole = json!({"sessions": [{"sessionId": "a", "messages": []}, {"sessionId": "b", "messages": []}]}).to_string();
    let half = &whole[..whole.len() - 10];
    let request =
        server.request(Method::POST, "/api/import").header("content-type", "application/json");
    let refused = fetch(request.body(half.to_owned())).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    assert_eq!(refused.body["error"]["details"]["imported"], 1);
    assert_eq!(server.get("/api/chat-sessions/a").await.status, 200);
}

#[tokio::test]
async fn session_of_10_000_messages_is_imported() {
    let server = Server::start().await;
    let messages: Vec<Value> = (0..10_000)
        .map(|number| json!({"role": if number % 2 == 0 { "user" } else { "assistant" }, "content": format!("message {number}")}))
        .collect();
    let report = server
        .post("/api/import", json!({"sessions": [{"sessionId": "long", "messages": messages}]}))
        .await
        .data();
    assert_eq!(report["sessions"][0]["messages"], 10_000);
    assert_eq!(server.get("/api/chat-sessions/long").await.data()["messagesCount"], 10_000);
    let prompt = server.turn("long", "and?", "ok").await;
    assert_eq!(prompt[prompt.len() - 2..], ["assistant: message 9999", "user: and?"]);
}

#[tokio::test]
async fn client_message_ids_are_kept_and_resolve() {
    let server = Server::start().await;
    let file = json!({"sessions": [{"sessionId": "s", "messages": [
        {"id": "m1", "clientMessageId": "c1", "role": "user", "content": "Hi"},
        {"id": "m2", "role": "assistant", "content": "Hello"},
        {"clientMessageId": "c3", "role": "user", "content": "And?"}]}]});
    assert_eq!(server.post("/api/import", file.clone()).await.data()["sessions"][0]["messages"], 3);
    let get_message =
        async |id: &str| server.get(&format!("/api/chat-sessions/s/messages/{id}")).await.data();
    let (first, third) = (get_message("c1").await, get_message("c3").await);
    assert_eq!((&first["id"], &first["clientMessageId"]), (&json!("m1"), &json!("c1")));
    assert_eq!(first, get_message("m1").await);
    assert_eq!((&third["content"], &third["parentId"]), (&json!("And?"), &json!("m2")));
    assert_eq!(server.post("/api/import", file).await.data()["sessions"][0]["messages"], 0);

    // A client may still use its own id for an imported message: one that was answered, or one that
    // waits for its answer.
    let ask = |id: &str, text: &str| json!({"id": "s", "message": {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}});
    let repeated = server.chat(ask("c1", "Hi")).await.rest().await;
    assert_eq!(
        (text_of(&repeated), &repeated[0].data["messageId"]),
        ("Hello".to_owned(), &json!("m2"))
    );
    let mut frames = server.chat(ask("c3", "And?")).await;
    server.upstream.call().await.reply("That is all.");
    frames.until("[DONE]").await;
    assert_eq!(
        server.transcript("s").await,
        ["user: Hi", "assistant: Hello", "user: And?", "assistant: That is all."]
    );
}

#[tokio::test]
async fn closed_session_is_imported_closed_and_accepts_no_more() {
    let server = Server::start().await;
    let message = |text: &str| json!({"id": text, "role": "user", "content": text});
    let session =
        |messages: Value| json!({"sessionId": "s", "status": "closed", "messages": messages});
    let import = async |sessions: Value| {
        server.post("/api/import", json!({"sessions": sessions})).await.data()
    };
    let report = import(json!([session(json!([message("one"), message("two")]))])).await;
    assert_eq!(report["sessions"][0]["messages"], 2);
    assert_eq!(server.get("/api/chat-sessions/s").await.data()["status"], "closed");
    let refused = server.post("/api/chat", json!({"sessionId": "s", "message": "three"})).await;
    assert_eq!(refused.failure(), (409, "session_closed"));

    let longer = session(json!([message("one"), message("two"), message("three")]));
    let report = import(json!([longer, {"sessionId": "t", "messages": [message("x")]}])).await;
    assert_eq!(report["sessions"][0]["sessionId"], "t");
    let skipped = &report["skipped"][0];
    assert_eq!((&skipped["index"], &skipped["sessionId"]), (&json!(0), &json!("s")));
    assert!(skipped["reason"].as_str().unwrap().contains("closed"), "{skipped}");
    assert_eq!(server.transcript("s").await, ["user: one", "user: two"]);
    server.patch("/api/chat-sessions/s", json!({"status": "active"})).await.data();
    assert_eq!(import(json!([longer])).await["sessions"][0]["messages"], 1);
    assert_eq!(server.transcript("s").await, ["user: one", "user: two", "user: three"]);
}

#[tokio::test]
async fn file_of_a_careless_program_is_imported() {
    let server = Server::start().await;
    let import = async |body: Vec<u8>| {
        let request =
            server.request(Method::POST, "/api/import").header("content-type", "application/json");
        fetch(request.body(body)).await.data()
    };
    let file = b"\xef\xbb\xbf{\"sessions\":[{\"sessionId\":\"s\",\"messages\":[\
        {\"id\":\"m\",\"role\":\"user\",\"createdAt\":NaN,\"content\":\"caf\xe9\n\"}]}]}";
    let report = import(file.to_vec()).await;
    let mended = &report["sessions"][0]["mended"];
    assert_eq!(notes(mended), [("createdAt".to_owned(), 1), ("character".to_owned(), 1)]);
    assert_eq!(server.transcript("s").await, ["user: caf\u{fffd}\n"]);
}

/// Kinds and counts in a list of notes.
fn notes(list: &Value) -> Vec<(String, u64)> {
    let note =
        |note: &Value| (note["kind"].as_str().unwrap().to_owned(), note["count"].as_u64().unwrap());
    list.as_array().unwrap().iter().map(note).collect()
}

#[tokio::test]
async fn odd_value_of_a_message_is_mended_and_told() {
    let server = Server::start().await;
    let message = |field: &str, value: Value| {
        let mut message = json!({"id": "m2", "role": "user", "content": "x", "createdAt": "2026-01-02T00:00:00.000Z"});
        message[field] = value;
        message
    };
    let cases = [
        ("mended", "character", message("content", json!("a\u{0}b"))),
        ("mended", "blank content", message("content", json!(""))),
        ("mended", "blank content", message("content", json!(" \n"))),
        ("mended", "content", message("content", json!([{"type": "text", "text": "x"}, "y"]))),
        ("mended", "content", message("content", json!(7))),
        ("mended", "id", message("id", json!("no/slash"))),
        ("mended", "id", message("id", json!(7))),
        ("mended", "id", message("id", json!("m1"))),
        ("mended", "parentId", message("parentId", json!("nobody"))),
        ("mended", "parentId", message("parentId", json!("m2"))),
        ("mended", "role", message("role", json!("robot"))),
        ("mended", "role", message("role", json!("developer"))),
        ("mended", "role", message("role", json!(null))),
        ("mended", "senderId", message("senderId", json!(" "))),
        ("mended", "createdAt", message("createdAt", json!("yesterday"))),
        ("mended", "createdAt", message("createdAt", json!(1_757_000_000_000_u64))),
        ("mended", "createdAt", message("createdAt", json!(-5))),
        ("mended", "status", message("status", json!("done"))),
        ("mended", "type", message("type", json!("hologram"))),
        ("mended", "finishReason", message("finishReason", json!("bored"))),
        ("mended", "error", message("error", json!("no"))),
        ("mended", "usage", message("usage", json!({"promptTokens": -1}))),
        ("mended", "clientMessageId", message("clientMessageId", json!("a b"))),
        ("mended", "model", message("model", json!(7))),
        ("leftOut", "parts", message("parts", json!([{"type": "text", "text": "t"}, {"x": 1}]))),
        ("leftOut", "parts", message("parts", json!("p"))),
        ("leftOut", "message", json!("no object")),
    ];
    for (number, (list, kind, odd)) in cases.iter().enumerate() {
        let id = format!("s{number}");
        let messages = json!([{"id": "m1", "role": "user", "content": "first"}, odd,
            {"id": "m3", "role": "assistant", "content": "last", "parentId": "m1"}]);
        let file = json!({"sessions": [{"sessionId": id, "messages": messages}]});
        let report = server.post("/api/import", file.clone()).await.data();
        assert_eq!(report["skipped"], json!([]), "{kind}: {report}");
        let told = notes(&report["sessions"][0][list]);
        assert!(told.contains(&((*kind).to_owned(), 1)), "{kind}: {report}");
        let count = if *kind == "message" { 2 } else { 3 };
        assert_eq!(report["sessions"][0]["messages"], count, "{kind}");
        // Importing again finds the same ids.
        let again = server.post("/api/import", file).await.data();
        assert_eq!(again["sessions"][0]["messages"], 0, "{kind}");
    }
    let text_of = async |id: &str, message: &str| {
        let path = format!("/api/chat-sessions/{id}/messages/{message}");
        server.get(&path).await.data()["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(text_of("s0", "m2").await, "a\u{fffd}b");
    assert_eq!(text_of("s3", "m2").await, "x\n\ny");
    assert_eq!(text_of("s10", "m2").await, "[robot]\n\nx");
}

#[tokio::test]
async fn odd_value_of_a_session_is_mended_and_told() {
    let server = Server::start().await;
    let cases = [
        ("mended", "sessionId", json!({"sessionId": "b 5"})),
        ("mended", "title", json!({"title": "t".repeat(500)})),
        ("mended", "title", json!({"title": 7})),
        ("mended", "titleSource", json!({"titleSource": "guess"})),
        ("leftOut", "projectId", json!({"projectId": "no/slash"})),
        ("mended", "status", json!({"status": "Open!"})),
        ("mended", "archived", json!({"archived": "yes"})),
        ("leftOut", "meta", json!({"meta": [1]})),
        ("leftOut", "userMeta", json!({"userMeta": {"a": "x".repeat(20_000)}})),
        ("leftOut", "settings.temperature", json!({"settings": {"temperature": 9, "topP": 0.5}})),
        ("mended", "settings.topP", json!({"settings": {"temperature": 1, "topP": "much"}})),
        ("leftOut", "participants", json!({"participants": ["bob", " "]})),
        ("mended", "participants", json!({"participants": ["bob", 7]})),
        ("leftOut", "participants", json!({"participants": vec!["x"; 101]})),
        ("mended", "createdAt", json!({"createdAt": 1_757_000_000})),
        ("mended", "lastSeen", json!({"lastSeen": "never"})),
        ("mended", "headId", json!({"headId": "nobody"})),
        ("leftOut", "readMarks", json!({"readMarks": {"bob": "nobody", "eve": "m1"}})),
        ("leftOut", "readMarks", json!({"readMarks": {" ": "m1"}})),
    ];
    for (number, (list, kind, odd)) in cases.iter().enumerate() {
        let mut session = json!({"sessionId": format!("s{number}"),
            "messages": [{"id": "m1", "role": "user", "content": "x"}]});
        session.as_object_mut().unwrap().extend(odd.as_object().unwrap().clone());
        let file = json!({"sessions": [session]});
        let report = server.post("/api/import", file.clone()).await.data();
        assert_eq!(report["skipped"], json!([]), "{odd}: {report}");
        let told = notes(&report["sessions"][0][list]);
        assert_eq!(told, [((*kind).to_owned(), 1)], "{odd}: {report}");
        let again = server.post("/api/import", file).await.data();
        assert_eq!(again["sessions"][0]["messages"], 0, "{odd}");
    }
    let session = server.get("/api/chat-sessions/s9").await.data();
    assert_eq!(session["settings"], json!({"topP": 0.5}));
}

#[tokio::test]
async fn parents_may_follow_their_children_and_cycles_are_broken() {
    let server = Server::start().await;
    let message = |id: &str, parent: Value| json!({"id": id, "role": "user", "content": id, "parentId": parent});
    let import = async |id: &str, messages: Value| {
        let file = json!({"sessions": [{"sessionId": id, "messages": messages}]});
        server.post("/api/import", file).await.data()["sessions"][0].clone()
    };
    let listed = json!([
        message("c", json!("b")),
        message("b", json!("a")),
        message("a", json!(null)),
        message("d", json!("c"))
    ]);
    let report = import("late", listed).await;
    assert_eq!((&report["messages"], &report["mended"]), (&json!(4), &json!([])));
    assert_eq!(server.transcript("late").await, ["user: a", "user: b", "user: c", "user: d"]);

    let cycle =
        json!([message("a", json!("c")), message("b", json!("a")), message("c", json!("b"))]);
    let report = import("cycle", cycle).await;
    assert_eq!(notes(&report["mended"]), [("parentId".to_owned(), 1)]);
    assert_eq!(server.transcript("cycle").await, ["user: a", "user: b", "user: c"]);
}

#[tokio::test]
async fn parent_may_be_a_stored_message() {
    let server = Server::start().await;
    let message = |id: &str, parent: Value| json!({"id": id, "role": "user", "content": id, "parentId": parent});
    for (messages, mended) in [
        (json!([message("a", json!(null)), message("b", json!("a"))]), json!([])),
        (json!([message("c", json!("a"))]), json!([])),
    ] {
        let file = json!({"sessions": [{"sessionId": "s", "messages": messages}]});
        let report = server.post("/api/import", file).await.data();
        assert_eq!(report["sessions"][0]["mended"], mended);
    }
    assert_eq!(server.transcript("s").await, ["user: a", "user: c"]);
}

#[tokio::test]
async fn imported_reply_may_be_empty_or_exceed_the_message_limit() {
    let server = Server::start().await;
    let long = "x".repeat(300_000);
    let file = json!({"sessions": [{"sessionId": "s", "messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""},
        {"role": "assistant", "content": long}]}]});
    let report = server.post("/api/import", file).await.data();
    assert_eq!((&report["sessions"][0]["messages"], &report["skipped"]), (&json!(3), &json!([])));
}
