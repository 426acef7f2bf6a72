//! The OpenAPI document: complete, and changed only on purpose.

use crate::support::Server;
use serde_json::Value;

#[tokio::test]
async fn document_matches_the_snapshot() {
    let server = Server::start().await;
    let document = server.get("/api/openapi.json").await;
    assert_eq!(document.status, 200);
    insta::assert_json_snapshot!(document.body);
}

#[tokio::test]
async fn every_documented_route_is_served() {
    let server = Server::start().await;
    let document = server.get("/api/openapi.json").await.body;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{sessionId}", "nowhere").replace("{messageId}", "nothing");
        // With an unknown session the route answers 404; otherwise the stream would never end.
        let path = path.replace("/api/events", "/api/events?sessionId=nowhere");
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            let reply = crate::support::server::fetch(server.request(method, &path)).await;
            let code = reply.body["error"]["code"].as_str().unwrap_or_default();
            assert!(
                !matches!(code, "route_not_found" | "method_not_allowed"),
                "{path}: {}",
                reply.body
            );
        }
    }
}

#[tokio::test]
async fn every_error_code_is_documented() {
    let server = Server::start().await;
    let document = server.get("/api/openapi.json").await.body;
    let listed = document["components"]["schemas"]["ErrorObject"]["properties"]["code"]["enum"]
        .as_array()
        .unwrap();
    let codes: Vec<Value> =
        echoic::error::ErrorKind::ALL.iter().map(|kind| Value::from(kind.code())).collect();
    assert_eq!(*listed, codes);
}
