//! Requests to a server with the demo provider: chat bodies of each dialect, exports, ChatGPT's
//! trees, tickets and cursors. No answer is a 5xx.
#![no_main]

mod server;

use libfuzzer_sys::fuzz_target;
use server::RunningServer;
use std::sync::LazyLock;

/// Routes that take a body.
const BODIES: &[&str] = &[
    "/api/chat",
    "/api/chat-sessions",
    "/api/chat-messages",
    "/api/import",
    "/api/projects",
    "/api/render",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/conversations",
];
/// Routes that take a value in their query.
const QUERIES: &[&str] = &[
    "/api/chat-sessions?cursor=",
    "/api/search?q=word&cursor=",
    "/api/search?q=",
    "/api/chat-sessions/absent/messages?before=",
    "/api/me?ticket=",
];
/// Longer values are refused with the head of the request.
const MAX_VALUE: usize = 1_000;

static SERVER: LazyLock<RunningServer> =
    LazyLock::new(|| RunningServer::start(&["--provider=demo".to_owned()]));

// The first byte chooses the route.
fuzz_target!(|input: &[u8]| {
    let Some((&route, value)) = input.split_first() else { return };
    let route = usize::from(route) % (BODIES.len() + QUERIES.len());
    if let Some(path) = BODIES.get(route) {
        SERVER.send("POST", path, value);
    } else {
        let value = value.iter().take(MAX_VALUE).map(|byte| format!("%{byte:02x}"));
        let path = QUERIES[route - BODIES.len()].to_owned() + &value.collect::<String>();
        SERVER.send("GET", &path, b"");
    }
});
