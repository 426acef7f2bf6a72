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
    let sessions =
        json!([{"sessionId": "old", "sourceId": "old", "title": "Old chat", "messages": 3, "leftOut": [], "mended": []}]);
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
async fn bad_session_is_skipped_whole_and_others_are_imported() {
    let server = Server::start().await;
    let good = |id: &str| json!({"sessionId": id, "messages": [{"role": "user", "content": "x"}]});
    let bad = [
        json!({"sessionId": "b1", "messages": [{"role": "user", "content": "ok"}, {"role": "robot", "content": "x"}]}),
        json!({"sessionId": "b2", "messages": [{"id": "m", "role": "user", "content": "x"}, {"id": "m", "role": "user", "content": "y"}]}),
        json!({"sessionId": "b3", "messages": [{"role": "user", "content": "x", "parentId": "nobody"}]}),
        json!({"sessionId": "b4", "messages": [{"role": "user", "content": ""}]}),
        json!({"sessionId": "b 5", "messages": []}),
        json!({"sessionId": "b6", "headId": "nobody", "messages": [{"role": "user", "content": "x"}]}),
        json!({"sessionId": "b7", "messages": [{"role": "user", "content": "y".repeat(300_000)}]}),
    ];
    let mut sessions = vec![good("g1")];
    sessions.extend(bad);
    sessions.push(good("g2"));
    let report = server.post("/api/import", json!({"sessions": sessions})).await.data();
    let imported: Vec<_> =
        report["sessions"].as_array().unwrap().iter().map(|s| s["sessionId"].clone()).collect();
    assert_eq!(imported, ["g1", "g2"]);
    let skipped: Vec<_> = report["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["index"].clone(), s["sessionId"].clone()))
        .collect();
    let expected: Vec<_> = ["b1", "b2", "b3", "b4", "b 5", "b6", "b7"]
        .iter()
        .enumerate()
        .map(|(index, id)| (json!(index + 1), json!(id)))
        .collect();
    assert_eq!(skipped, expected);
    let reason = report["skipped"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("messages[1].role") && reason.contains("robot"), "{reason}");
    let total = server.get("/api/chat-sessions").await.data()["pagination"]["total"].clone();
    assert_eq!(total, 2);
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
async fn bad_message_rejects_its_whole_session_new_or_known() {
    let server = Server::start().await;
    let good = json!({"id": "m1", "role": "user", "content": "one"});
    let known = json!({"sessions": [{"sessionId": "known", "title": "t", "messages": [good]}]});
    server.post("/api/import", known).await.data();
    let before = server.get("/api/chat-sessions/known").await.data();
    let reply = |field: &str, value: Value| json!({"id": "m3", "role": "assistant", "content": "x", field: value});
    for (bad, named) in [
        (json!({"id": "m3", "role": "user", "content": "a\u{0}b"}), "content"),
        (json!({"id": "m3", "role": "user", "content": ""}), "content"),
        (json!({"id": "m3", "role": "user", "content": " \n"}), "content"),
        (json!({"id": "m3", "role": "user"}), "content"),
        (json!({"id": "m3", "role": "user", "content": "x", "parentId": "nobody"}), "parentId"),
        (json!({"id": "m 3", "role": "user", "content": "x"}), "messages[2].id"),
        (json!({"id": "m2", "role": "user", "content": "x"}), "messages[2].id"),
        (reply("senderId", json!("a\u{0}")), "messages[2].senderId"),
        (reply("parts", json!([{"type": "text", "text": "\u{0}"}])), "messages[2].parts"),
        (reply("model", json!("m\u{0}")), "messages[2].model"),
        (reply("error", json!({"code": "c\u{0}", "message": "m"})), "messages[2].error"),
        (reply("error", json!({"code": "c", "message": "m\u{0}"})), "messages[2].error"),
    ] {
        let messages = json!([good, {"id": "m2", "role": "user", "content": "two"}, bad]);
        let session = |id: &str| json!({"sessionId": id, "messages": messages});
        let file = json!({"sessions": [session("known"), session("new")]});
        let report = server.post("/api/import", file).await.data();
        assert_eq!(report["sessions"], json!([]), "{bad}");
        for index in 0..2 {
            let reason = report["skipped"][index]["reason"].as_str().unwrap();
            assert!(reason.contains(named), "{bad}: {reason}");
        }
        assert_eq!(server.get("/api/chat-sessions/known").await.data(), before, "{bad}");
        assert_eq!(server.get("/api/chat-sessions/new").await.status, 404, "{bad}");
    }
    assert_eq!(server.transcript("known").await, ["user: one"]);
}

#[tokio::test]
async fn cycles_and_duplicates_are_reported_with_their_position() {
    let server = Server::start().await;
    let message = |id: &str, parent: &str| json!({"id": id, "role": "user", "content": id, "parentId": parent});
    let session = |id: &str, messages: Value| json!({"sessionId": id, "messages": messages});
    let good = json!([{"id": "a", "role": "user", "content": "x"}]);
    let marked =
        |user: &str, id: &str| json!({"sessionId": "m", "messages": good, "readMarks": {user: id}});
    let cases = [
        (
            session("c1", json!([message("a", "b"), message("b", "a")])),
            "messages[0].parentId must name an earlier message; b is not one",
        ),
        (
            session("c2", json!([good[0], message("b", "b")])),
            "messages[1].parentId must name an earlier message; b is not one",
        ),
        (
            session("c3", json!([good[0], message("b", "z")])),
            "messages[1].parentId must name a message of the session, z does not",
        ),
        (
            session("c4", json!([good[0], message("a", "a")])),
            "messages[1].id must be unique within the session",
        ),
        (
            session("kept", good.clone()),
            "sessionId must be unique within the file: sessions[0] has the same",
        ),
        (marked("bob", "z"), "readMarks.bob must name a message of the session; z is not one"),
        (marked(" ", "a"), "readMarks must be 1 to 256 characters"),
        (
            json!({"sessionId": "p", "participants": vec!["x"; 101]}),
            "participants must be at most 100 users",
        ),
        (
            json!({"sessionId": "q", "settings": {"temperature": 9}}),
            "settings.temperature must be a number from 0 to 2",
        ),
    ];
    let mut sessions = vec![session("kept", good.clone())];
    sessions.extend(cases.iter().map(|(session, _)| session.clone()));
    let report = server.post("/api/import", json!({"sessions": sessions})).await.data();
    assert_eq!(report["sessions"].as_array().unwrap().len(), 1);
    for ((_, wanted), skipped) in cases.iter().zip(report["skipped"].as_array().unwrap()) {
        let reason = skipped["reason"].as_str().unwrap();
        assert!(reason.starts_with(wanted), "{wanted}: {reason}");
    }
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 1);
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
