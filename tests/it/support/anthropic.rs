//! Events of Anthropic's Messages API, sent by the scripted provider.

use super::ProviderCall;
use serde_json::{Value, json};

/// Sends an event, named by its type.
pub fn event(call: &mut ProviderCall, event: &Value) {
    call.raw(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()));
}

/// Starts the message with its usage so far.
pub fn begin(call: &mut ProviderCall, usage: Value) {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m",
        "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    event(call, &json!({"type": "message_start", "message": message}));
    event(call, &json!({"type": "ping"}));
}

/// Sends a block of reasoning and its signature.
pub fn thinking(call: &mut ProviderCall, pieces: &[&str]) {
    let block = json!({"type": "thinking", "thinking": "", "signature": ""});
    event(call, &json!({"type": "content_block_start", "index": 0, "content_block": block}));
    for thinking in pieces {
        let delta = json!({"type": "thinking_delta", "thinking": thinking});
        event(call, &json!({"type": "content_block_delta", "index": 0, "delta": delta}));
    }
    let delta = json!({"type": "signature_delta", "signature": "c2ln"});
    event(call, &json!({"type": "content_block_delta", "index": 0, "delta": delta}));
    event(call, &json!({"type": "content_block_stop", "index": 0}));
}

/// Starts a text block.
pub fn text_begins(call: &mut ProviderCall) {
    let block = json!({"type": "text", "text": ""});
    event(call, &json!({"type": "content_block_start", "index": 1, "content_block": block}));
}

/// Sends a text delta.
pub fn text(call: &mut ProviderCall, text: &str) {
    let delta = json!({"type": "text_delta", "text": text});
    event(call, &json!({"type": "content_block_delta", "index": 1, "delta": delta}));
}

/// Ends the text block and the message.
pub fn finish(call: &mut ProviderCall, stop_reason: &str, usage: Value) {
    event(call, &json!({"type": "content_block_stop", "index": 1}));
    let delta = json!({"stop_reason": stop_reason, "stop_sequence": null});
    event(call, &json!({"type": "message_delta", "delta": delta, "usage": usage}));
    event(call, &json!({"type": "message_stop"}));
}

/// Sends a whole reply.
pub fn reply(call: &mut ProviderCall, answer: &str) {
    begin(call, json!({"input_tokens": 7, "output_tokens": 1}));
    text_begins(call);
    text(call, answer);
    finish(call, "end_turn", json!({"output_tokens": 2}));
}
