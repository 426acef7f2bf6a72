//! The code-generation tool over HTTP, from an empty project to its deletion: opening a project
//! creates no session, sessions get their titles from the first message, the model reads the files,
//! and deleted data is gone.

use crate::support::Server;
use serde_json::{Value, json};

#[tokio::test]
async fn project_is_built_in_sessions_and_deleted_with_them() {
    let server = Server::start().await;

    // The project is created and its chat panel opens: the list of sessions is empty and stays
    // empty.
    let new = json!({"name": "E-commerce Website", "description": "A shop for plants",
        "systemPrompt": "Answer with whole files."});
    let project = server.post("/api/projects", new).await.data();
    assert_eq!((&project["version"], &project["generationStatus"]), (&json!(1), &json!("idle")));
    let path = format!("/api/projects/{}", project["projectId"].as_str().unwrap());
    let sessions = format!("{path}/chat-sessions");
    for _ in 0..3 {
        assert_eq!(server.get(&path).await.data(), project, "a refresh changes nothing");
        let list = server.get(&sessions).await.data();
        assert_eq!((&list["sessions"], &list["pagination"]["total"]), (&json!([]), &json!(0)));
    }

    // The "Create New Chat" button.
    let body = json!({"projectId": project["projectId"]});
    let catalog = server.post("/api/chat-sessions", body.clone()).await.data();
    assert_eq!(
        (&catalog["title"], &catalog["projectId"]),
        (&json!("New Chat"), &body["projectId"])
    );
    let catalog = catalog["sessionId"].as_str().unwrap();

    // The first message becomes the title; the prompt describes the project.
    let first = "Create product catalog with filters";
    let (mut frames, mut call) = server.open_turn(catalog, first).await;
    let generating = server.patch(&path, json!({"generationStatus": "generating"})).await.data();
    assert_eq!(generating["generationStatus"], "generating");
    let prompt = call.prompt();
    assert!(prompt[1].contains("A shop for plants"), "{prompt:?}");
    assert!(prompt[1].contains("Answer with whole files."), "{prompt:?}");
    call.text("Here's the code ");
    call.text("for the catalog.");
    call.finish(json!({}));
    frames.until("[DONE]").await;
    assert_eq!(server.get(&sessions).await.data()["sessions"][0]["title"], first);

    // The application stores the generated file. A write with a stale version is rejected, so two
    // windows cannot overwrite each other.
    let file = format!("{path}/files/src/catalog.tsx");
    let code = json!({"content": "export const Catalog = () => null\n", "language": "tsx"});
    assert_eq!(server.put(&file, code).await.status, 201);
    let other = server.put(&format!("{path}/files/package.json"), json!({"content": "{}"})).await;
    let version = other.header("etag").to_owned();
    assert_eq!(server.patch(&path, json!({"generationStatus": "completed"})).await.status, 200);
    let lost = server.request(reqwest::Method::PUT, &file).header("if-match", version);
    let lost = crate::support::server::fetch(lost.json(&json!({"content": "lost"}))).await;
    assert_eq!(lost.failure(), (412, "version_conflict"));

    // Every later turn, in any session of the project, reads the files in their current state.
    let prompt = server.turn(catalog, "Add pagination", "I've added pagination.").await;
    assert!(prompt[1].contains("export const Catalog"), "{prompt:?}");
    assert_eq!(
        prompt[2..],
        [
            format!("user: {first}"),
            "assistant: Here's the code for the catalog.".to_owned(),
            "user: Add pagination".to_owned(),
        ]
    );
    let mut frames = server
        .chat(json!({"projectId": project["projectId"], "message": "Implement shopping cart"}))
        .await;
    let call = server.upstream.call().await;
    assert!(call.prompt()[1].contains("export const Catalog"));
    call.reply("Here's the cart.");
    frames.until("[DONE]").await;

    // Switching between sessions, renaming one and deleting one leaves the others unchanged.
    let list = server.get(&sessions).await.data();
    let titles: Vec<&Value> =
        list["sessions"].as_array().unwrap().iter().map(|one| &one["title"]).collect();
    assert_eq!(titles, ["Implement shopping cart", first]);
    let cart = list["sessions"][0]["sessionId"].as_str().unwrap();
    let renamed =
        server.patch(&format!("/api/chat-sessions/{cart}"), json!({"name": "Cart"})).await;
    assert_eq!(renamed.data()["title"], "Cart");
    assert_eq!(server.transcript(catalog).await.len(), 4);

    // The project is deleted while a reply runs, and its sessions and files with it.
    let (mut frames, mut call) = server.open_turn(cart, "Add quantity controls").await;
    call.text("Quantity ");
    frames.until("text-delta").await;
    let deleted = server.delete(&path).await.data();
    assert_eq!(deleted, json!({"deletedSessions": 2, "deletedMessages": 7}));
    frames.until("[DONE]").await;
    call.disconnected().await;
    assert_eq!(server.get(&path).await.failure(), (404, "project_not_found"));
    assert_eq!(server.get(&file).await.failure(), (404, "project_not_found"));
    assert_eq!(server.get("/api/chat-sessions").await.data()["pagination"]["total"], 0);
    assert_eq!(server.get("/api/projects").await.data()["projects"], json!([]));
}
