//! `/api/export`: the exported file, and its import back.

use crate::support::server::fetch;
use crate::support::{Server, within_deadline};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use std::cell::Cell;

async fn export_text(server: &Server, path: &str) -> String {
    let response = within_deadline(server.request(Method::GET, path).send()).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    within_deadline(response.text()).await.unwrap()
}

async fn import_text(server: &Server, file: &str) -> Value {
    let request =
        server.request(Method::POST, "/api/import").header("content-type", "application/json");
    fetch(request.body(file.to_owned())).await.data()
}

/// The sessions of a file without the three fields that an import always sets itself.
fn comparable_sessions(file: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).unwrap();
    let mut sessions = file["sessions"].as_array().unwrap().clone();
    for session in &mut sessions {
        for field in ["version", "updatedAt", "activeTurn"] {
            assert!(session.as_object_mut().unwrap().remove(field).is_some(), "{field}");
        }
    }
    sessions
}

async fn post(server: &Server, session: &str, mut message: Value) -> String {
    message["chatSessionId"] = session.into();
    let posted = server.post("/api/chat-messages", message).await.data();
    posted["message"]["id"].as_str().unwrap().to_owned()
}

/// Fills an account with every kind of session and message.
async fn fill_account(server: &Server) {
    let full = json!({"sessionId": "full", "title": "Tëst \"1\"", "participants": ["bob"], "projectId": "p1",
        "meta": {"b": 1, "a": [null, 2.50]}, "userMeta": "{\"os\":\"x\"}", "theme": {"c": "red"},
        "settings": {"model": "m", "temperature": 0.5, "memory": {"strategy": "window", "lastMessages": 4}}});
    server.post("/api/chat-sessions", full).await.data();
    server.turn("full", "Hello?", "Hi\n\"you\" \u{1f600}").await;
    let (mut frames, mut call) = server.open_turn("full", "Think!").await;
    call.reasoning("reasoning_content", "Hm.");
    call.finish(json!({"prompt_tokens": 7, "completion_tokens": 2}));
    frames.until("[DONE]").await;
    let (mut frames, mut call) = server.open_turn("full", "Cut").await;
    call.text("half of ```\nit");
    call.end();
    frames.until("[DONE]").await;
    let (mut frames, call) = server.open_turn("full", "Fail").await;
    call.refuse(400, json!({"error": {"message": "no"}}));
    frames.until("[DONE]").await;

    let root =
        json!({"role": "user", "content": "root", "parentId": null, "clientMessageId": "c1"});
    let root = post(server, "full", root).await;
    let picture =
        json!([{"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="}]);
    post(server, "full", json!({"role": "assistant", "content": "", "type": "image", "parentId": root, "parts": picture})).await;
    post(
        server,
        "full",
        json!({"role": "system", "content": "Be brief.", "createdAt": "2001-02-03T04:05:06.789Z"}),
    )
    .await;
    post(server, "full", json!({"role": "tool", "content": "again", "parentId": root})).await;
    let put_away = json!({"status": "closed", "archived": true, "pinned": true});
    server.patch("/api/chat-sessions/full", put_away).await.data();

    server.post("/api/chat-sessions", json!({"sessionId": "empty"})).await.data();
    server.post("/api/chat-sessions", json!({"sessionId": "unnamed"})).await.data();
    server.turn("unnamed", "What is said first", "names it").await;
    server.put("/api/chat-sessions/unnamed/title", json!({"title": null})).await.data();
}

#[tokio::test]
async fn exported_account_is_imported_unchanged() {
    let (server, other) = (Server::start().await, Server::start().await);
    fill_account(&server).await;
    let file = export_text(&server, "/api/export").await;
    let report = import_text(&other, &file).await;
    assert_eq!(report["skipped"], json!([]));
    let again = export_text(&other, "/api/export").await;
    assert_eq!(comparable_sessions(&again), comparable_sessions(&file));

    // The imported sessions are also equal when read over the API.
    for id in ["full", "empty", "unnamed"] {
        for view in ["path", "all"] {
            let path = format!("/api/chat-sessions/{id}/messages?view={view}");
            let mut copy = other.get(&path).await.data();
            for message in copy["messages"].as_array_mut().unwrap() {
                let mark = message.as_object_mut().unwrap().remove("imported");
                assert_eq!(mark, Some(json!(true)), "{message}");
            }
            assert_eq!(copy, server.get(&path).await.data(), "{path}");
        }
        let path = format!("/api/chat-sessions/{id}");
        let (copy, original) = (other.get(&path).await.data(), server.get(&path).await.data());
        for (field, value) in original.as_object().unwrap() {
            if field != "version" && field != "updatedAt" {
                assert_eq!(copy[field], *value, "{id}.{field}");
            }
        }
    }
    // A second import changes nothing.
    let counts = |report: &Value| {
        let sessions = report["sessions"].as_array().unwrap();
        sessions.iter().map(|session| session["messages"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((counts(&report), counts(&import_text(&other, &file).await)), (14, 0));
    assert_eq!(export_text(&other, "/api/export").await, again);
}

#[tokio::test]
async fn jsonl_export_has_one_session_per_line_and_is_importable() {
    let (server, other) = (Server::start().await, Server::start().await);
    fill_account(&server).await;
    let lines = export_text(&server, "/api/export?format=jsonl").await;
    let ids: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["sessionId"].clone())
        .collect();
    assert_eq!(ids, ["empty", "full", "unnamed"]);
    assert_eq!(import_text(&other, &lines).await["skipped"], json!([]));
    let both =
        (export_text(&other, "/api/export").await, export_text(&server, "/api/export").await);
    assert_eq!(comparable_sessions(&both.0), comparable_sessions(&both.1));
}

#[tokio::test]
async fn reply_with_nul_is_exported_and_imported() {
    let (server, other) = (Server::start().await, Server::start().await);
    server.post("/api/chat-sessions", json!({"sessionId": "s"})).await.data();
    server.turn("s", "Print it.", "a\0b").await;
    assert_eq!(server.last_message("s").await["content"], "a\u{fffd}b");
    let file = export_text(&server, "/api/export").await;
    let report = import_text(&other, &file).await;
    assert_eq!((&report["skipped"], &report["sessions"][0]["mended"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn export_applies_filters_and_names_its_format() {
    let server = Server::start().await;
    fill_account(&server).await;
    let ids = async |query: &str| -> Vec<Value> {
        let file: Value = serde_json::from_str(&export_text(&server, query).await).unwrap();
        assert_eq!((&file["format"], &file["version"]), (&json!("echoic"), &json!(1)));
        let sessions = file["sessions"].as_array().unwrap();
        sessions.iter().map(|session| session["sessionId"].clone()).collect()
    };
    assert_eq!(ids("/api/export?sessionId=empty").await, ["empty"]);
    assert_eq!(ids("/api/export?projectId=p1&format=json").await, ["full"]);
    assert_eq!(ids("/api/export?projectId=p2").await, Vec::<Value>::new());
    for (format, kind, extension) in [
        ("json", "application/json", "json"),
        ("jsonl", "application/x-ndjson", "jsonl"),
        ("markdown", "text/markdown; charset=utf-8", "md"),
    ] {
        let reply = server.get(&format!("/api/export?format={format}")).await;
        assert_eq!(reply.header("content-type"), kind);
        let name = reply.header("content-disposition");
        assert!(name.starts_with("attachment; filename=\"echoic-2"), "{name}");
        assert!(name.ends_with(&format!(".{extension}\"")), "{name}");
    }
    for (query, field) in [
        ("format=xml", "format"),
        ("sessionId=a%20b", "sessionId"),
        ("sessionId=full&projectId=p1", "projectId"),
        ("session=full", "session"),
    ] {
        let refused = server.get(&format!("/api/export?{query}")).await;
        assert_eq!(refused.failure(), (400, "invalid_request"), "{query}");
        assert!(refused.body["error"]["details"][field].is_string(), "{query}");
    }
    let absent = server.get("/api/export?sessionId=nobody").await;
    assert_eq!(absent.failure(), (404, "session_not_found"));
}

#[tokio::test]
async fn empty_account_exports_an_empty_file() {
    let server = Server::start().await;
    let file = export_text(&server, "/api/export").await;
    let expected = json!({"format": "echoic", "version": 1, "sessions": []});
    assert_eq!(serde_json::from_str::<Value>(&file).unwrap(), expected);
    assert_eq!(import_text(&server, &file).await, json!({"sessions": [], "skipped": []}));
    for format in ["jsonl", "markdown"] {
        assert_eq!(export_text(&server, &format!("/api/export?format={format}")).await, "");
    }
}

#[tokio::test]
async fn exported_messages_have_the_fields_of_the_api() {
    let server = Server::start().await;
    fill_account(&server).await;
    let file: Value =
        serde_json::from_str(&export_text(&server, "/api/export?sessionId=full").await).unwrap();
    let data = server.get("/api/chat-sessions/full/messages?view=all").await.data();
    let from_api = data["messages"].as_array().unwrap();
    let written = file["sessions"][0]["messages"].as_array().unwrap();
    assert_eq!(written.len(), from_api.len());
    for (written, from_api) in written.iter().zip(from_api) {
        let left_out = from_api.as_object().unwrap().iter().filter(|(field, value)| {
            let follows = ["sessionId", "seq", "siblingIds", "siblingCount", "siblingIndex"]
                .contains(&field.as_str());
            let is_empty = value.is_null() && *field != "parentId" || **value == json!([]);
            follows || is_empty
        });
        let mut expected = from_api.clone();
        for (field, _) in left_out {
            expected.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(*written, expected);
    }
}

#[tokio::test]
async fn markdown_export_contains_the_active_path() {
    let server = Server::start().await;
    let message = |role: &str, content: &str| json!({"role": role, "content": content, "createdAt": "2024-05-06T07:08:09Z"});
    let with = |mut message: Value, field: &str, value: Value| {
        message[field] = value;
        message
    };
    let reply = with(message("assistant", "```rust\nfn"), "status", json!("interrupted"));
    let reply = with(
        with(reply, "model", json!("m1")),
        "parts",
        json!([{"type": "reasoning", "text": "Hm."}]),
    );
    let failed = with(message("assistant", ""), "status", json!("failed"));
    let failed =
        with(failed, "error", json!({"code": "provider_error", "message": "the provider said no"}));
    let cut_off = with(message("assistant", "Well"), "status", json!("interrupted"));
    let cut_off =
        with(cut_off, "error", json!({"code": "provider_error", "message": "the stream ended"}));
    let picture = json!([{"type": "file", "mediaType": "image/png", "filename": "a.png", "url": "https://a.b/c"}]);
    let file = json!({"sessions": [
        {"sessionId": "a", "title": "Rust\n& I", "createdAt": "2024-05-06T07:00:00Z", "messages": [
            with(message("user", "Hi"), "id", json!("q")), message("assistant", "first"),
            with(reply, "parentId", json!("q")), with(message("user", "Look"), "parts", picture),
            failed, cut_off, with(message("user", "I, too"), "senderId", json!("Bob"))]},
        {"sessionId": "b", "createdAt": "2024-05-06T07:00:00Z", "messages": []}]});
    server.post("/api/import", file).await.data();
    let expected = "\
# Rust & I

*Session `a`, started 2024-05-06 07:00 UTC*

## User · 2024-05-06 07:08 UTC

Hi

## Assistant (m1) · 2024-05-06 07:08 UTC · version 2 of 2

<details><summary>Reasoning</summary>

Hm.

</details>

```rust
fn
```

*(interrupted)*

## User · 2024-05-06 07:08 UTC

Look

[a.png](<https://a.b/c>)

## Assistant · 2024-05-06 07:08 UTC

*(failed: the provider said no)*

## Assistant · 2024-05-06 07:08 UTC

Well

*(interrupted: the stream ended)*

## Bob · 2024-05-06 07:08 UTC

I, too

---

# New Chat

*Session `b`, started 2024-05-06 07:00 UTC*

";
    assert_eq!(export_text(&server, "/api/export?format=markdown").await, expected);
}

#[tokio::test]
async fn multi_chunk_session_is_exported_whole_and_in_order() {
    let (server, other) = (Server::start().await, Server::start().await);
    // More messages than fit into a chunk, and some that fill a chunk alone.
    let content = |number: usize| match number % 500 {
        0 => format!("{number} {}", "x".repeat(200_000)),
        _ => format!("{number}"),
    };
    let messages: Vec<Value> = (0..2503)
        .map(|number| json!({"id": format!("m{number}"), "role": "user", "content": content(number)}))
        .chain([json!({"id": "aside", "role": "user", "content": "aside", "parentId": "m7"})])
        .collect();
    let session = json!({"sessionId": "long", "headId": "m2502", "messages": messages});
    server.post("/api/import", json!({"sessions": [session]})).await.data();
    let file = export_text(&server, "/api/export").await;
    let sessions = comparable_sessions(&file);
    let ids =
        sessions[0]["messages"].as_array().unwrap().iter().map(|message| message["id"].clone());
    let expected = (0..2503).map(|number| json!(format!("m{number}"))).chain([json!("aside")]);
    assert!(ids.eq(expected));
    import_text(&other, &file).await;
    assert_eq!(comparable_sessions(&export_text(&other, "/api/export").await), sessions);

    let markdown = export_text(&server, "/api/export?format=markdown").await;
    let said = markdown.split("\n## ").skip(1).map(|said| {
        let (_, content) = said.split_once("\n\n").unwrap();
        content.split([' ', '\n']).next().unwrap()
    });
    assert!(said.eq((0..2503).map(|number| number.to_string())));
}

/// The parent of each message of a tree: an earlier message, or none.
fn message_tree() -> impl Strategy<Value = Vec<Option<usize>>> {
    let parent = (any::<prop::sample::Index>(), 0..5u8);
    prop::collection::vec(parent, 1..14).prop_map(|picks| {
        let place = |(index, (pick, kind)): (usize, (prop::sample::Index, u8))| match kind {
            _ if index == 0 => None,
            0 => None,
            1 | 2 => Some(index - 1),
            _ => Some(pick.index(index)),
        };
        picks.into_iter().enumerate().map(place).collect()
    })
}

#[test]
fn any_message_tree_survives_export_and_import() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, other) =
        runtime.block_on(async { (Server::start().await, Server::start().await) });
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let number = Cell::new(0);
    let roles = prop::sample::select(vec!["user", "assistant", "system", "tool"]);
    let said = prop::collection::vec(
        (roles, "[^\0]{1,12}".prop_filter("blank", |text| !text.trim().is_empty())),
        14,
    );
    let case = (message_tree(), said, any::<prop::sample::Index>());
    let outcome = runner.run(&case, |(tree, said, turned_to)| {
        number.set(number.get() + 1);
        let session = format!("s{}", number.get());
        runtime.block_on(async {
            server.post("/api/chat-sessions", json!({"sessionId": session})).await.data();
            let mut ids: Vec<String> = Vec::new();
            for (parent, (role, content)) in tree.iter().zip(&said) {
                let parent = parent.map(|place| ids[place].clone());
                let message = json!({"role": role, "content": content, "parentId": parent});
                ids.push(post(&server, &session, message).await);
            }
            // Posting leaves the head at the newest message; an import may set it to any message.
            let path = format!("/api/export?sessionId={session}");
            let mut file: Value = serde_json::from_str(&export_text(&server, &path).await).unwrap();
            file["sessions"][0]["headId"] = turned_to.get(&ids).as_str().into();
            let file = file.to_string();
            let report = import_text(&other, &file).await;
            assert_eq!(report["sessions"][0]["messages"], ids.len());
            assert_eq!(
                comparable_sessions(&export_text(&other, &path).await),
                comparable_sessions(&file)
            );
            // Nodes are not part of the file. The import assigns messages to nodes again, with the
            // same result.
            let own = format!("/api/chat-sessions/{session}");
            let (copy, original) = (other.get(&own).await.data(), server.get(&own).await.data());
            assert_eq!(copy["nodes"], original["nodes"]);
        });
        Ok(())
    });
    outcome.unwrap();
}
