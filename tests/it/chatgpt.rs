//! Import of ChatGPT's `conversations.json`, with its branches.

use crate::support::Server;
use crate::support::server::fetch;
use reqwest::Method;
use serde_json::{Value, json};

async fn import(server: &Server, file: &Value) -> Value {
    server.post("/api/import", file.clone()).await.data()
}

fn node(id: &str, parent: Option<&str>, children: &[&str], message: Value) -> (String, Value) {
    (id.to_owned(), json!({"id": id, "parent": parent, "children": children, "message": message}))
}

fn message(id: &str, role: &str, time: f64, content: Value, more: Value) -> Value {
    let mut message = json!({"id": id, "author": {"role": role, "name": null, "metadata": {}}, "create_time": time,
        "update_time": null, "content": content, "status": "finished_successfully", "end_turn": null, "weight": 1.0,
        "metadata": {}, "recipient": "all"});
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    message
}

fn text_content(text: &str) -> Value {
    json!({"content_type": "text", "parts": [text]})
}

/// A conversation as ChatGPT exports it: hidden nodes at the root, an edited question, a
/// regenerated answer, a tool call, reasoning, and an image.
fn conversation() -> Value {
    let plain = |id: &str, role: &str, time: f64, text: &str| {
        message(id, role, time, text_content(text), json!({}))
    };
    let model = json!({"metadata": {"model_slug": "gpt-4o", "finish_details": {"type": "stop", "stop_tokens": [200002]}}});
    let hidden = json!({"metadata": {"is_visually_hidden_from_conversation": true}});
    let thoughts = json!({"content_type": "thoughts", "thoughts": [{"summary": "Planning", "content": "Count first."}]});
    let picture = json!({"content_type": "multimodal_text", "parts": [
        {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-9xY", "width": 4, "height": 4}, "What is this?"]});
    let code = json!({"content_type": "code", "language": "python", "text": "print(1 + 1)"});
    let output = json!({"content_type": "execution_output", "text": "2\n"});
    let mapping: serde_json::Map<String, Value> = [
        node("client-created-root", None, &["sys"], Value::Null),
        node("sys", Some("client-created-root"), &["ctx"], message("sys", "system", 1.0, text_content(""), hidden.clone())),
        node("ctx", Some("sys"), &["q1", "q1b"], message("ctx", "user", 1.0,
            json!({"content_type": "user_editable_context", "user_profile": "I am Ada"}), hidden)),
        node("q1", Some("ctx"), &["a1"], plain("q1", "user", 1_700_000_000.123_456, "What is 1 + 2?")),
        node("a1", Some("q1"), &[], plain("a1", "assistant", 1_700_000_001.0, "3")),
        node("q1b", Some("ctx"), &["call"], plain("q1b", "user", 1_700_000_010.5, "What is 1 + 1?")),
        node("call", Some("q1b"), &["out"], message("call", "assistant", 1_700_000_011.0, code, json!({"recipient": "python"}))),
        node("out", Some("call"), &["a2", "t"], message("out", "tool", 1_700_000_012.0, output, json!({}))),
        node("a2", Some("out"), &[], message("a2", "assistant", 1_700_000_013.0, text_content("It is"),
            json!({"metadata": {"model_slug": "gpt-4", "finish_details": {"type": "interrupted"}}}))),
        node("t", Some("out"), &["r"], message("t", "assistant", 1_700_000_014.0, thoughts, json!({}))),
        node("r", Some("t"), &["a3"], message("r", "assistant", 1_700_000_015.0,
            json!({"content_type": "reasoning_recap", "content": "Thought for 2s"}), json!({}))),
        node("a3", Some("r"), &["q2"], message("a3", "assistant", 1_700_000_016.0,
            text_content("It is 2.\u{e200}cite\u{e202}turn0\u{e201}"), model)),
        node("q2", Some("a3"), &[], message("q2", "user", 1_700_000_017.0, picture, json!({}))),
    ].into_iter().collect();
    json!({"title": "Sums", "create_time": 1_699_999_999.5, "update_time": 1_700_000_020.0, "mapping": mapping,
        "moderation_results": [], "current_node": "q2", "plugin_ids": null, "conversation_id": "67a1b2c3-0000-8000-9000-0123456789ab",
        "id": "67a1b2c3-0000-8000-9000-0123456789ab", "is_archived": true, "is_starred": null, "default_model_slug": "gpt-4o"})
}

const ID: &str = "67a1b2c3-0000-8000-9000-0123456789ab";

#[tokio::test]
async fn conversation_is_imported_with_its_branches() {
    let server = Server::start().await;
    let report = import(&server, &json!([conversation()])).await;
    let imported = json!([{"sessionId": ID, "sourceId": ID, "title": "Sums", "messages": 9, "mended": [], "leftOut": [
        {"kind": "reasoning_recap", "count": 1, "first": "mapping.r.message"},
        {"kind": "cite", "count": 1, "first": "mapping.a3.message"}]}]);
    assert_eq!(report, json!({"sessions": imported, "skipped": []}));

    let session = server.get(&format!("/api/chat-sessions/{ID}")).await.data();
    assert_eq!((&session["title"], &session["titleSource"]), (&json!("Sums"), &json!("user")));
    assert_eq!((&session["archived"], &session["pinned"]), (&json!(true), &json!(false)));
    assert_eq!(session["createdAt"], "2023-11-14T22:13:19.500Z");
    assert_eq!(
        (&session["headId"], &session["lastSeen"]),
        (&json!("q2"), &json!("2023-11-14T22:13:37.000Z"))
    );
    assert_eq!(
        server.transcript(ID).await,
        [
            "user: What is 1 + 1?",
            "assistant: ```python\nprint(1 + 1)\n```",
            "tool: ```\n2\n```",
            "assistant: ",
            "assistant: It is 2.",
            "user: [image: file-9xY]\n\nWhat is this?",
        ]
    );
    let get_message =
        async |id: &str| server.get(&format!("/api/chat-sessions/{ID}/messages/{id}")).await.data();
    let (edited, first) = (get_message("q1b").await, get_message("q1").await);
    assert_eq!((&edited["parentId"], &edited["siblingIds"]), (&Value::Null, &json!(["q1", "q1b"])));
    assert_eq!(
        (&first["createdAt"], &first["senderId"]),
        (&json!("2023-11-14T22:13:20.123Z"), &json!("local"))
    );
    let (answer, cut) = (get_message("a3").await, get_message("a2").await);
    assert_eq!((&answer["parentId"], &answer["siblingIds"]), (&json!("t"), &json!(["a3"])));
    assert_eq!((&answer["model"], &answer["finishReason"]), (&json!("gpt-4o"), &json!("stop")));
    let thoughts = get_message("t").await;
    assert_eq!(
        thoughts["parts"],
        json!([{"type": "reasoning", "text": "Planning\n\nCount first."}])
    );
    assert_eq!(thoughts["siblingIds"], json!(["a2", "t"]));
    assert_eq!(
        (&cut["status"], &cut["model"], &cut["parts"]),
        (&json!("interrupted"), &json!("gpt-4"), &json!([]))
    );

    // The head is the node that was current in ChatGPT, so the next turn continues there.
    let prompt = server.turn(ID, "A cat?", "Yes.").await;
    assert_eq!(
        prompt[prompt.len() - 2..],
        ["user: [image: file-9xY]\n\nWhat is this?", "user: A cat?"]
    );
}

#[tokio::test]
async fn repeated_import_adds_only_new_messages() {
    let server = Server::start().await;
    import(&server, &json!([conversation()])).await;
    let path = format!("/api/chat-sessions/{ID}");
    let before = server.get(&path).await.data();
    let again = import(&server, &json!([conversation()])).await;
    assert_eq!(again["sessions"][0]["messages"], 0);
    assert_eq!(server.get(&path).await.data(), before);

    let mut longer = conversation();
    longer["mapping"]["q2"]["children"] = json!(["a4"]);
    let (id, added) = node(
        "a4",
        Some("q2"),
        &[],
        message("a4", "assistant", 1_700_000_018.0, text_content("A cat."), json!({})),
    );
    longer["mapping"][id] = added;
    longer["current_node"] = "a4".into();
    assert_eq!(import(&server, &json!([longer])).await["sessions"][0]["messages"], 1);
    assert_eq!(server.last_message(ID).await["content"], "A cat.");
}

#[tokio::test]
async fn conversation_without_metadata_is_imported_once() {
    let server = Server::start().await;
    let mut bare = conversation();
    let fields = bare.as_object_mut().unwrap();
    fields.retain(|name, _| name == "mapping");
    for node in bare["mapping"].as_object_mut().unwrap().values_mut() {
        if let Some(message) = node["message"].as_object_mut() {
            message.remove("create_time");
        }
    }
    let report = import(&server, &bare).await;
    let id = report["sessions"][0]["sessionId"].as_str().unwrap().to_owned();
    assert_eq!(report["sessions"][0]["title"], "What is 1 + 2?");
    assert_eq!(import(&server, &json!([bare])).await["sessions"][0]["sessionId"], json!(id));
    assert_eq!(
        server.get("/api/chat-sessions?archived=all").await.data()["pagination"]["total"],
        1
    );
}

#[tokio::test]
async fn odd_value_of_a_conversation_is_mended_and_told() {
    let server = Server::start().await;
    let cases = [
        ("/mapping/q1b/parent", json!("q2"), "mended", "parent"),
        ("/mapping/q1b/parent", json!("q1b"), "mended", "parent"),
        ("/mapping/q1b/parent", json!("gone"), "mended", "parent"),
        ("/mapping/q1b/parent", json!(7), "mended", "parent"),
        ("/mapping/a1/message/author/role", json!("robot"), "mended", "role"),
        ("/mapping/a1/message/author/role", json!("developer"), "mended", "role"),
        ("/mapping/a1/message/author", json!({}), "mended", "role"),
        ("/mapping/a1/message/create_time", json!(1e300), "mended", "create_time"),
        ("/mapping/a1/message/create_time", json!("now"), "mended", "create_time"),
        ("/mapping/a1/message/create_time", json!(1_700_000_001_000_u64), "mended", "create_time"),
        ("/mapping/a1", json!(["a1"]), "leftOut", "node"),
        ("/mapping/a1/message", json!("a1"), "leftOut", "message"),
        ("/mapping/a1/message/content", text_content(""), "leftOut", "text"),
        ("/current_node", json!("gone"), "mended", "current_node"),
        ("/create_time", json!(-1.0), "mended", "create_time"),
        ("/create_time", json!("2025-09-04T15:33:20Z"), "mended", "create_time"),
        ("/title", json!("t".repeat(500)), "mended", "title"),
    ];
    for (number, (pointer, value, list, kind)) in cases.iter().enumerate() {
        let mut odd = conversation();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        odd.pointer_mut(parent).unwrap()[field] = value.clone();
        odd["conversation_id"] = format!("c{number}").into();
        let report = import(&server, &json!([odd])).await;
        assert_eq!(report["skipped"], json!([]), "{pointer}");
        let session = &report["sessions"][0];
        let told = session[list].as_array().unwrap();
        assert!(told.iter().any(|note| note["kind"] == *kind), "{pointer}: {report}");
        let lost = usize::from(*list == "leftOut");
        assert_eq!(session["messages"], 9 - lost, "{pointer}");
        let again = import(&server, &json!([odd])).await;
        assert_eq!(again["sessions"][0]["messages"], 0, "{pointer}");
    }
    // Values that need no note.
    for (pointer, value) in [
        ("/mapping/q1/children", Value::Null),
        ("/mapping/a1/message/create_time", Value::Null),
        ("/mapping/q1/message/content", text_content(&"x".repeat(300_000))),
        ("/mapping/out/message/content/text", "x".repeat(300_000).into()),
    ] {
        let mut odd = conversation();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        odd.pointer_mut(parent).unwrap()[field] = value;
        odd["conversation_id"] = pointer.replace('/', "-").into();
        let report = import(&server, &json!([odd])).await;
        assert_eq!(report["sessions"][0]["messages"], 9, "{pointer}: {report}");
        assert_eq!(report["sessions"][0]["mended"], json!([]), "{pointer}");
    }
}

#[tokio::test]
async fn half_an_emoji_and_an_odd_id_are_replaced() {
    let server = Server::start().await;
    let odd = json!([conversation()])
        .to_string()
        .replace(ID, "no/slash")
        .replace("What is 1 + 2?", "cut \\ud83d");
    let request =
        server.request(Method::POST, "/api/import").header("content-type", "application/json");
    let report = fetch(request.body(odd)).await.data();
    let session = &report["sessions"][0];
    assert_eq!(session["sourceId"], "no/slash");
    let kinds: Vec<_> =
        session["mended"].as_array().unwrap().iter().map(|note| note["kind"].clone()).collect();
    assert_eq!(kinds, ["sessionId", "character"]);
    let path = format!("/api/chat-sessions/{}/messages/q1", session["sessionId"].as_str().unwrap());
    assert_eq!(server.get(&path).await.data()["content"], "cut \u{fffd}");
}

#[tokio::test]
async fn repeated_node_is_kept_under_an_id_of_its_own() {
    let server = Server::start().await;
    let twice = conversation().to_string().replace("\"a1\":{", "\"q1\":{");
    for messages in [9, 0] {
        let request =
            server.request(Method::POST, "/api/import").header("content-type", "application/json");
        let report = fetch(request.body(format!("[{twice}]"))).await.data();
        let session = &report["sessions"][0];
        assert_eq!((&session["messages"], &report["skipped"]), (&json!(messages), &json!([])));
        assert_eq!(session["mended"][0], json!({"kind": "id", "count": 1, "first": "mapping.q1"}));
    }
}

#[tokio::test]
async fn truncated_list_reports_the_imported_conversations() {
    let server = Server::start().await;
    let whole = json!([conversation(), conversation()]).to_string();
    let request =
        server.request(Method::POST, "/api/import").header("content-type", "application/json");
    let refused = fetch(request.body(whole[..whole.len() - 100].to_owned())).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    assert_eq!(refused.body["error"]["details"]["imported"], 1);
    assert_eq!(server.transcript(ID).await.len(), 6);
}

#[tokio::test]
async fn conversation_of_10_000_messages_is_imported() {
    let server = Server::start().await;
    let name = |number: usize| format!("n{number}");
    let mapping: serde_json::Map<String, Value> = (0..10_000_usize)
        .map(|number| {
            let parent = number.checked_sub(1).map(name);
            let role = if number % 2 == 0 { "user" } else { "assistant" };
            let message = message(
                &name(number),
                role,
                1_700_000_000.0,
                text_content(&format!("message {number}")),
                json!({}),
            );
            node(&name(number), parent.as_deref(), &[&name(number + 1)], message)
        })
        .collect();
    let deep = json!([{"conversation_id": "deep", "mapping": mapping, "current_node": "n9999"}]);
    assert_eq!(import(&server, &deep).await["sessions"][0]["messages"], 10_000);
    assert_eq!(server.last_message("deep").await["content"], "message 9999");
}
