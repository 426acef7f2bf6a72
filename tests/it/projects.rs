//! Projects over HTTP: routes, versions, and rejected input.

use crate::support::Server;
use crate::support::server::{ApiResponse, fetch};
use reqwest::Method;
use serde_json::{Value, json};

async fn create(server: &Server, body: Value) -> Value {
    server.post("/api/projects", body).await.data()
}

/// Creates a project with these files and returns its path.
async fn create_project(server: &Server, files: Value) -> String {
    let made = create(server, json!({"name": "Shop", "files": files})).await;
    format!("/api/projects/{}", made["projectId"].as_str().unwrap())
}

/// Sends a request with an `If-Match` version.
async fn request_with_version(
    server: &Server,
    method: Method,
    path: &str,
    version: &str,
    body: Option<Value>,
) -> ApiResponse {
    let mut request = server.request(method, path).header("if-match", version);
    if let Some(body) = body {
        request = request.json(&body);
    }
    fetch(request).await
}

#[tokio::test]
async fn project_is_created_with_files_and_read_without_contents() {
    let server = Server::start().await;
    let body = json!({
        "name": " E-commerce Website ", "description": "Sells plants", "systemPrompt": "Write TypeScript.",
        "files": [
            {"path": "src/app.ts", "content": "let a = 'ä'", "language": "typescript"},
            {"path": "README.md", "content": ""},
        ],
    });
    let created = server.post("/api/projects", body).await;
    assert_eq!((created.status, created.header("etag")), (201, "\"1\""));
    assert_eq!(created.body["message"], "Project created successfully");
    let made = created.data();
    let at = &made["createdAt"];
    let expected = json!({
        "projectId": made["projectId"], "name": "E-commerce Website", "description": "Sells plants",
        "systemPrompt": "Write TypeScript.", "version": 1, "generationStatus": "idle",
        "files": [
            {"path": "README.md", "size": 0, "updatedAt": at},
            {"path": "src/app.ts", "size": 12, "language": "typescript", "updatedAt": at},
        ],
        "createdAt": at, "updatedAt": at,
    });
    assert_eq!(made, expected);
    let path = format!("/api/projects/{}", made["projectId"].as_str().unwrap());
    let read = server.get(&path).await;
    assert_eq!((read.status, read.header("etag")), (200, "\"1\""));
    assert_eq!(read.data(), expected);

    let bare = create(&server, json!({"name": "Bare", "description": null, "files": null})).await;
    assert_eq!((&bare["description"], &bare["files"]), (&json!(""), &json!([])));
    assert!(bare.get("systemPrompt").is_none());
    let list = server.get("/api/projects").await;
    assert_eq!(list.body["message"], "Projects retrieved successfully");
    assert_eq!(
        list.data(),
        json!({"projects": [bare, made], "pagination": {"page": 1, "limit": 20, "total": 2, "pages": 1}})
    );
    let second = server.get("/api/projects?page=2&limit=1").await.data();
    assert_eq!(second["projects"], json!([made]));
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 0);
}

#[tokio::test]
async fn project_update_requires_the_current_version() {
    let server = Server::start().await;
    let path = create_project(&server, json!([])).await;
    let change = json!({"name": "Market", "description": "Sells all", "systemPrompt": "Be brief.",
        "generationStatus": "generating"});
    let changed = request_with_version(&server, Method::PATCH, &path, "\"1\"", Some(change)).await;
    assert_eq!((changed.status, changed.header("etag")), (200, "\"2\""));
    let changed = changed.data();
    assert_eq!(
        (&changed["name"], &changed["description"]),
        (&json!("Market"), &json!("Sells all"))
    );
    assert_eq!(changed["systemPrompt"], "Be brief.");
    assert_eq!(changed["generationStatus"], "generating");

    let stale = json!({"name": "Lost"});
    let refused = request_with_version(&server, Method::PATCH, &path, "\"1\"", Some(stale)).await;
    assert_eq!(refused.failure(), (412, "version_conflict"));
    let details = &refused.body["error"]["details"];
    assert_eq!(
        *details,
        json!({"version": 2, "If-Match": "must name the project's version, \"2\""})
    );
    for (method, path) in
        [(Method::DELETE, path.clone()), (Method::DELETE, format!("{path}/files/a"))]
    {
        let refused = request_with_version(&server, method, &path, "\"1\"", None).await;
        assert_eq!(refused.failure(), (412, "version_conflict"), "{path}");
    }
    assert_eq!(server.get(&path).await.data(), changed);

    for status in ["completed", "failed", "idle"] {
        let set = server.patch(&path, json!({"generationStatus": status})).await.data();
        assert_eq!(set["generationStatus"], status);
    }
    let emptied = server.patch(&path, json!({"description": null, "systemPrompt": null})).await;
    let emptied = emptied.data();
    assert_eq!((&emptied["description"], &emptied["version"]), (&json!(""), &json!(6)));
    assert!(emptied.get("systemPrompt").is_none());
    assert_eq!(server.patch(&path, json!({})).await.data(), emptied, "nothing changes nothing");
}

#[tokio::test]
async fn file_changes_require_the_current_project_version() {
    let server = Server::start().await;
    let project = create_project(&server, json!([])).await;
    let path = format!("{project}/files/app/(shop)/[id]/caf%C3%A9%20page.tsx");
    assert_eq!(server.get(&path).await.failure(), (404, "file_not_found"));

    let body = json!({"content": "export {}\n", "language": "tsx"});
    let put = server.put(&path, body.clone()).await;
    assert_eq!((put.status, put.header("etag")), (201, "\"2\""));
    let file = put.data();
    assert_eq!(
        file,
        json!({"path": "app/(shop)/[id]/café page.tsx", "content": "export {}\n", "language": "tsx",
            "size": 10, "updatedAt": file["updatedAt"]})
    );
    let read = server.get(&path).await;
    assert_eq!((read.header("etag"), &read.body["data"]), ("\"2\"", &file));
    let again = server.put(&path, body).await;
    assert_eq!((again.status, again.header("etag"), &again.body["data"]), (200, "\"2\"", &file));

    let new = json!({"content": "v2"});
    let stale = request_with_version(&server, Method::PUT, &path, "\"1\"", Some(new.clone())).await;
    assert_eq!(stale.failure(), (412, "version_conflict"));
    let put = request_with_version(&server, Method::PUT, &path, "\"7\", \"2\"", Some(new)).await;
    assert_eq!((put.status, put.header("etag")), (200, "\"3\""));
    let file = put.data();
    assert_eq!((&file["content"], file.get("language")), (&json!("v2"), None));
    let entries = server.get(&project).await.data()["files"].clone();
    assert_eq!(entries[0]["size"], 2);

    let deleted = request_with_version(&server, Method::DELETE, &path, "\"3\"", None).await;
    assert_eq!((deleted.status, deleted.header("etag")), (200, "\"4\""));
    assert_eq!(deleted.data(), json!({"path": "app/(shop)/[id]/café page.tsx"}));
    assert_eq!(server.delete(&path).await.failure(), (404, "file_not_found"));
    assert_eq!(server.get(&project).await.data()["files"], json!([]));
}

#[tokio::test]
async fn project_sessions_are_listed_and_deleted_with_it() {
    let server = Server::start().await;
    let (shop, blog) =
        (create_project(&server, json!([])).await, create_project(&server, json!([])).await);
    let id = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    for (session, project) in [("s1", &shop), ("s2", &shop), ("b1", &blog)] {
        let new = json!({"sessionId": session, "projectId": id(project)});
        server.post("/api/chat-sessions", new).await.data();
    }
    server.turn("s1", "Create product catalog with filters", "Here is the code.").await;
    server.patch("/api/chat-sessions/s2", json!({"archived": true})).await.data();
    let listed = async |query: &str| {
        let data = server.get(&format!("{shop}/chat-sessions{query}")).await.data();
        let sessions = data["sessions"].as_array().unwrap().clone();
        sessions.iter().map(|one| one["sessionId"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["s1"]);
    assert_eq!(listed("?archived=all&sort=createdAt").await, ["s1", "s2"]);
    assert_eq!(listed("?archived=all&limit=1&page=2&sort=createdAt").await, ["s2"]);
    assert_eq!(listed("?search=catalog").await, ["s1"]);
    let foreign = server.get(&format!("{shop}/chat-sessions?projectId=x")).await;
    assert_eq!(foreign.failure(), (400, "invalid_request"));

    // A reply is running in one of the sessions.
    let (mut frames, mut call) = server.open_turn("s2", "Go on").await;
    call.text("On and ");
    frames.until("text-delta").await;
    let deleted = server.delete(&shop).await;
    assert_eq!(deleted.body["message"], "Project deleted successfully");
    assert_eq!(deleted.data(), json!({"deletedSessions": 2, "deletedMessages": 3}));
    frames.until("[DONE]").await;
    call.disconnected().await;

    for path in [shop.clone(), format!("{shop}/chat-sessions"), format!("{shop}/files/a")] {
        assert_eq!(server.get(&path).await.failure(), (404, "project_not_found"), "{path}");
    }
    assert_eq!(server.delete(&shop).await.failure(), (404, "project_not_found"));
    assert_eq!(server.get("/api/chat-sessions/s1").await.failure(), (404, "session_not_found"));
    let left = server.get("/api/chat-sessions").await.data();
    assert_eq!(left["sessions"][0]["sessionId"], "b1");
}

#[tokio::test]
async fn invalid_project_is_rejected_naming_the_field() {
    let server = Server::start().await;
    let path = create_project(&server, json!([{"path": "a", "content": "A"}])).await;
    let before = server.get(&path).await.body;
    let large = "x".repeat(5 << 20);
    let file = |path: &str| json!({"name": "P", "files": [{"path": "ok", "content": ""}, {"path": path, "content": ""}]});
    let full: Vec<_> = (0..17)
        .map(|number| json!({"path": format!("{number}"), "content": "x".repeat(1 << 20)}))
        .collect();
    let many: Vec<_> =
        (0..2001).map(|number| json!({"path": format!("{number}"), "content": ""})).collect();
    for (body, status, field) in [
        (json!({}), 400, "name"),
        (json!({"name": " "}), 400, "name"),
        (json!({"name": "x".repeat(201)}), 400, "name"),
        (json!({"name": "P", "description": "x".repeat(16 * 1024 + 1)}), 400, "description"),
        (json!({"name": "P", "systemPrompt": "\0"}), 400, "systemPrompt"),
        (json!({"name": "P", "systemPrompt": "x".repeat(300 << 10)}), 400, "systemPrompt"),
        (json!({"name": "P", "generationStatus": "busy"}), 400, "generationStatus"),
        (json!({"name": "P", "files": {}}), 400, "files"),
        (json!({"name": "P", "files": [{"path": "a"}]}), 400, "files[0].content"),
        (json!({"name": "P", "files": [{"path": "a", "content": 7}]}), 400, "files[0].content"),
        (file("../../etc/passwd"), 400, "files[1].path"),
        (file("/etc/passwd"), 400, "files[1].path"),
        (file("a\\b"), 400, "files[1].path"),
        (file("ok"), 400, "files[1].path"),
        (json!({"name": "P", "files": [{"path": "a", "content": large}]}), 413, "files[0].content"),
        (json!({"name": "P", "files": full}), 413, "files"),
        (json!({"name": "P", "files": many}), 400, "files"),
    ] {
        let reply = server.post("/api/projects", body).await;
        assert_eq!(reply.status, status, "{field}: {}", reply.body);
        assert!(reply.body["error"]["details"].get(field).is_some(), "{field}: {}", reply.body);
    }
    for (file, body, status, field) in [
        ("..%2F..%2Fetc%2Fpasswd", json!({"content": ""}), 400, "path"),
        ("a%2F%2E%2E%2Fb", json!({"content": ""}), 400, "path"),
        ("a%00", json!({"content": ""}), 400, "path"),
        ("a//b", json!({"content": ""}), 400, "path"),
        ("%2Fa", json!({"content": ""}), 400, "path"),
        (&"x".repeat(513), json!({"content": ""}), 400, "path"),
        ("a", json!({}), 400, "content"),
        ("a", json!({"content": "\0"}), 400, "content"),
        ("a", json!({"content": "", "language": "a b"}), 400, "language"),
        ("a", json!({"content": large}), 413, "content"),
        ("a", json!({"content": "x".repeat(9 << 20)}), 413, "body"),
    ] {
        let reply = server.put(&format!("{path}/files/{file}"), body).await;
        assert_eq!(reply.status, status, "{file}: {}", reply.body);
        assert!(reply.body["error"]["details"].get(field).is_some(), "{file}: {}", reply.body);
    }
    for (body, field) in [
        (json!({"name": ""}), "name"),
        (json!({"generationStatus": "Idle"}), "generationStatus"),
        (json!({"files": []}), "files"),
    ] {
        let reply = server.patch(&path, body).await;
        assert_eq!(reply.failure(), (400, "invalid_request"));
        assert!(reply.body["error"]["details"].get(field).is_some(), "{field}: {}", reply.body);
    }
    let refused =
        request_with_version(&server, Method::PATCH, &path, "soon", Some(json!({}))).await;
    assert_eq!(refused.failure(), (400, "invalid_request"));
    assert_eq!(server.get("/api/projects?limit=101").await.failure(), (400, "invalid_request"));
    assert_eq!(server.get("/api/projects/a%20b").await.failure(), (400, "invalid_request"));
    assert_eq!(server.get(&path).await.body, before);
    assert_eq!(server.get("/api/projects").await.data()["pagination"]["total"], 1);
}
