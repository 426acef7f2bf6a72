//! Arbitrary input in the shapes of each dialect: chat bodies, exports of ChatGPT, streams of
//! Anthropic, tickets and cursors.

use crate::fuzz::{any_json, check_response, sample, text};
use crate::support::{Server, within_deadline};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::Duration;

/// Sends a request while the provider answers whatever arrives, since `/v1` waits for it.
async fn check_answered(server: &Server, request: RequestBuilder, what: &Value) -> u16 {
    let answers = async {
        loop {
            if server.upstream.is_idle().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            } else {
                server.upstream.call().await.reply("ok");
            }
        }
    };
    tokio::select! {
        status = check_response(request, what) => status,
        () = answers => unreachable!(),
    }
}

/// `/v1` has errors in OpenAI's form.
async fn check_v1(server: &Server, path: &str, body: &Value) {
    let answers = async {
        loop {
            if server.upstream.is_idle().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            } else {
                server.upstream.call().await.reply("ok");
            }
        }
    };
    let answer = async {
        let request = server.request(Method::POST, path).json(body);
        let answer = within_deadline(request.send()).await.unwrap();
        let status = answer.status().as_u16();
        assert!(status < 500, "{status} for {path} {body}");
        if status >= 400 {
            let error: Value = within_deadline(answer.json()).await.unwrap();
            assert!(error["error"]["message"].is_string(), "{path} {body}: {error}");
        }
    };
    tokio::select! {
        () = answer => {},
        () = answers => unreachable!(),
    }
}

#[tokio::test]
async fn arbitrary_chat_bodies_of_each_dialect_are_answered() {
    let server = Server::start().await;
    let parts = || vec(prop_oneof![1 => any_json(), 2 => ui_part()], 0..5);
    let ui = (text(), parts()).prop_map(|(id, parts)| {
        json!({"id": "ui", "messages": [{"id": id, "role": "user", "parts": parts}], "onBusy": "reject"})
    });
    for body in sample(60, ui) {
        let request = server.request(Method::POST, "/api/chat").json(&body);
        check_answered(&server, request, &body).await;
    }
    let role = || select(vec!["user", "assistant", "system", "developer", "tool", "x"]);
    let message = || {
        (role(), any_json(), any_json()).prop_map(
            |(role, content, calls)| json!({"role": role, "content": content, "tool_calls": calls}),
        )
    };
    let item_type =
        select(vec!["message", "function_call", "function_call_output", "reasoning", "x"]);
    let item = (item_type, message(), any_json()).prop_map(|(kind, mut item, output)| {
        item["type"] = json!(kind);
        item["call_id"] = json!("c");
        item["output"] = output;
        item
    });
    let bodies = (vec(message(), 0..4), vec(item, 0..4), any_json(), any::<bool>());
    for (messages, items, other, streams) in sample(50, bodies) {
        let chat = json!({"model": "m", "messages": messages, "tools": other, "stream": streams});
        check_v1(&server, "/v1/chat/completions", &chat).await;
        let response = json!({"model": "m", "input": items, "tools": other, "stream": streams});
        check_v1(&server, "/v1/responses", &response).await;
        check_v1(&server, "/v1/conversations", &json!({"items": items, "metadata": other})).await;
    }
    assert_eq!(server.get("/health/ready").await.status, 200);
}

fn ui_part() -> impl Strategy<Value = Value> {
    let kind =
        select(vec!["text", "file", "reasoning", "tool-x", "dynamic-tool", "data-x", "step-start"]);
    (kind, any_json(), text()).prop_map(|(kind, content, id)| {
        json!({"type": kind, "text": content, "url": content, "data": content, "toolCallId": id, "state": "output-available", "output": content, "input": content})
    })
}

#[tokio::test]
async fn arbitrary_chatgpt_trees_import_whole_or_not_at_all() {
    let server = Server::start().await;
    let node = (
        0..9_usize,
        vec(0..9_usize, 0..4),
        any_json(),
        select(vec!["user", "assistant", "tool", "system"]),
    );
    let kind = select(vec!["text", "thoughts", "code", "multimodal_text", "reasoning_recap"]);
    let tree = vec((node, kind), 1..9);
    for (number, nodes) in sample(120, tree).into_iter().enumerate() {
        let mapping = nodes.iter().enumerate().map(|(index, ((parent, children, content, role), kind))| {
            let content = match index % 3 {
                0 => json!({"content_type": kind, "parts": [content]}),
                1 => json!({"content_type": kind, "thoughts": [{"summary": content, "content": content}], "text": content}),
                _ => content.clone(),
            };
            let children: Vec<String> = children.iter().map(|child| format!("n{child}")).collect();
            let node = json!({"id": format!("n{index}"), "parent": format!("n{parent}"), "children": children,
                "message": {"id": format!("m{index}"), "author": {"role": role}, "content": content, "create_time": content}});
            (format!("n{index}"), node)
        });
        let mapping: serde_json::Map<String, Value> = mapping.collect();
        let body = json!([{"conversation_id": format!("tree-{number}"), "title": "t", "current_node": "n1", "mapping": mapping}]);
        let request = server.request(Method::POST, "/api/import").json(&body);
        let status = check_response(request, &body).await;
        assert!(matches!(status, 200 | 400), "{status} for {body}");
    }
    let sessions = server.get("/api/chat-sessions?limit=100&archived=all").await.data();
    for session in sessions["sessions"].as_array().unwrap() {
        let id = session["sessionId"].as_str().unwrap();
        let pages = server.get(&format!("/api/chat-sessions/{id}/messages?view=all")).await.data();
        let messages = pages["messages"].as_array().unwrap();
        assert_eq!(session["messagesCount"], messages.len(), "{session}");
    }
}

#[tokio::test]
async fn arbitrary_anthropic_streams_end_the_turn() {
    let upstream = crate::support::Upstream::start().await;
    let url = upstream.base_url.trim_end_matches("/v1").to_owned();
    let provider = [
        "--provider=anthropic".to_owned(),
        format!("--anthropic-base-url={url}"),
        "--anthropic-api-key=sk-ant-tests".to_owned(),
    ];
    let flags: Vec<&str> = provider.iter().map(String::as_str).collect();
    let server = Server::with(&flags).await;
    let kind = select(vec![
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
        "ping",
    ]);
    let event = (kind, any_json(), 0..3_u32).prop_map(|(kind, content, index)| {
        let data = json!({"type": kind, "index": index, "delta": content, "message": content, "content_block": content, "usage": content});
        format!("event: {kind}\ndata: {data}\n\n").into_bytes()
    });
    let piece = prop_oneof![4 => event, 1 => vec(any::<u8>(), 0..40)];
    for (number, pieces) in sample(40, vec(piece, 0..8)).into_iter().enumerate() {
        let session = format!("s{number}");
        let message = json!({"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]});
        let mut frames = server.chat(json!({"id": session, "message": message})).await;
        let mut call = upstream.call().await;
        for piece in pieces {
            call.raw(piece);
        }
        call.end();
        // A stream that breaks before its first token is retried; every retry gets an empty stream.
        let again = async {
            loop {
                upstream.call().await.end();
            }
        };
        tokio::select! { _ = frames.until("[DONE]") => {}, () = again => {} }
        let left = server.get(&format!("/api/chat-sessions/{session}")).await.data();
        assert_eq!((&left["activeTurn"], &left["messagesCount"]), (&Value::Null, &json!(2)));
    }
}

#[tokio::test]
async fn arbitrary_tickets_and_list_cursors_are_refused() {
    let server = Server::with(&["--auth=keys"]).await;
    let key = server.key("ann", echoic::domain::key::AuthScope::Chat).await;
    let own = server.with_key(&key);
    for number in 0..3 {
        own.post("/api/chat-sessions", json!({"sessionId": format!("s{number}")})).await.data();
    }
    let page = own.get("/api/chat-sessions?limit=1").await.data();
    let real = page["nextCursor"].as_str().unwrap_or_default().to_owned();
    let cut = (any::<prop::sample::Index>(), any::<char>()).prop_map(move |(at, inserted)| {
        let mut cursor: Vec<char> = real.chars().collect();
        let at = at.index(cursor.len() + 1);
        cursor.insert(at, inserted);
        cursor.into_iter().collect::<String>()
    });
    let value = prop_oneof![cut, text(), "[A-Za-z0-9_-]{0,80}"];
    for value in sample(150, value) {
        let spelled: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for path in ["/api/chat-sessions?cursor=", "/api/search?q=x&cursor="] {
            let request = own.request(Method::GET, &format!("{path}{spelled}"));
            let status = check_response(request, &(path, &value)).await;
            assert!(matches!(status, 200 | 400 | 429), "{status} for {path}{value:?}");
        }
        let ticket = server.request(Method::GET, &format!("/api/events?ticket={spelled}"));
        let status = check_response(ticket, &value).await;
        assert!(matches!(status, 400 | 401 | 429), "{status} for the ticket {value:?}");
    }
}
