//! `ECHOIC_AUTH=proxy`: the user header of a trusted proxy, and of no other address.

use crate::support::Server;
use crate::support::server::fetch;
use echoic::domain::key::AuthScope;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn trusted_proxy_names_the_user() {
    let server = Server::with(&["--auth=proxy", "--trusted-proxies=10.0.0.7,127.0.0.0/8"]).await;
    let from = |user: &str, method: Method, path: &str| {
        server.request(method, path).header("x-forwarded-user", user)
    };
    let made = from("alice", Method::POST, "/api/chat-sessions").json(&json!({"sessionId": "a"}));
    assert_eq!(fetch(made).await.data()["userId"], "alice");
    let own = from("alice", Method::GET, "/api/chat-sessions/a");
    assert_eq!(fetch(own).await.status, 200);
    let others = from("bob", Method::GET, "/api/chat-sessions/a");
    assert_eq!(fetch(others).await.failure(), (404, "session_not_found"));
    let named = from("Zoë Müller", Method::POST, "/api/chat-sessions").json(&json!({}));
    assert_eq!(fetch(named).await.data()["userId"], "Zoë Müller");

    let list = || server.request(Method::GET, "/api/chat-sessions");
    for odd in [
        list(),
        from("", Method::GET, "/api/chat-sessions"),
        from("assistant", Method::GET, "/api/chat-sessions"),
        from("a\tb", Method::GET, "/api/chat-sessions"),
        list().header("x-forwarded-user", "alice").header("x-forwarded-user", "bob"),
        list().header("x-forwarded-user", &b"\xff\xfe"[..]),
        list().bearer_auth("alice"),
    ] {
        assert_eq!(fetch(odd).await.failure(), (401, "unauthenticated"));
    }
}

#[tokio::test]
async fn forged_header_from_untrusted_address_is_rejected() {
    let server = Server::with(&["--auth=proxy", "--trusted-proxies=10.0.0.0/8,::2"]).await;
    for (header, value) in [
        ("x-forwarded-user", "alice"),
        ("x-forwarded-for", "10.0.0.7"),
        ("forwarded", "for=10.0.0.7"),
        ("x-real-ip", "10.0.0.7"),
    ] {
        let forged = server
            .request(Method::GET, "/api/chat-sessions")
            .header("x-forwarded-user", "alice")
            .header(header, value);
        assert_eq!(fetch(forged).await.failure(), (401, "unauthenticated"), "{header}");
    }
}

#[tokio::test]
async fn rebound_host_name_is_rejected() {
    let server = Server::with(&["--auth=proxy", "--trusted-proxies=127.0.0.1"]).await;
    let rebound = server
        .request(Method::GET, "/api/chat-sessions")
        .header("host", "rebound.example")
        .header("x-forwarded-user", "alice");
    assert_eq!(fetch(rebound).await.failure(), (403, "forbidden_host"));
}

#[tokio::test]
async fn header_of_another_auth_mode_is_ignored() {
    let basic = ("authorization", "Basic YWxpY2U6cGFzc3dvcmQ=");
    let open = Server::start().await;
    let reply = fetch(open.request(Method::GET, "/api/me").header(basic.0, basic.1)).await;
    assert_eq!(reply.data()["userId"], "local");

    // A proxy with its own password check may pass the `Authorization` header on.
    let proxied = Server::with(&["--auth=proxy", "--trusted-proxies=127.0.0.1"]).await;
    let asked = proxied.request(Method::GET, "/api/me").header("x-forwarded-user", "alice");
    assert_eq!(fetch(asked.header(basic.0, basic.1)).await.data()["userId"], "alice");

    let keys = Server::with(&["--auth=keys"]).await;
    let key = keys.key("ann", AuthScope::Chat).await;
    let named = keys.with_key(&key).request(Method::GET, "/api/me");
    let named = named.header("x-forwarded-user", "bob").header("x-forwarded-user", &b"\xff"[..]);
    assert_eq!(fetch(named).await.data()["userId"], "ann");
    let wrong = keys.request(Method::GET, "/api/me").header(basic.0, basic.1);
    assert_eq!(fetch(wrong).await.failure(), (401, "unauthenticated"));
}
