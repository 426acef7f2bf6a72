//! The project section of a session's prompt.

use crate::support::Server;
use crate::support::server::fetch;
use reqwest::Method;
use serde_json::{Value, json};

/// Creates a project with a session. Returns the session's and the project's id.
async fn create_session_in(server: &Server, project: Value) -> (String, String) {
    let project = server.post("/api/projects", project).await.data()["projectId"].clone();
    let session = server.post("/api/chat-sessions", json!({"projectId": project})).await.data();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&session["sessionId"]), text(&project))
}

async fn preview(server: &Server, session: &str, query: &[(&str, &str)]) -> Value {
    let path = format!("/api/chat-sessions/{session}/memory");
    fetch(server.request(Method::GET, &path).query(query)).await.data()
}

fn project_text(shown: &Value) -> &str {
    let pieces = shown["pieces"].as_array().unwrap();
    let piece = pieces.iter().find(|piece| piece["kind"] == "project");
    piece.map_or("", |piece| piece["text"].as_str().unwrap())
}

/// A file of about 110 tokens.
fn file(path: &str) -> Value {
    json!({"path": path, "content": format!("{}\n", "one two three four five ".repeat(20))})
}

#[tokio::test]
async fn small_project_follows_the_system_prompt_in_full() {
    let server = Server::start().await;
    let (session, _) = create_session_in(
        &server,
        json!({
            "name": "E-commerce Website", "description": "Sells plants.", "systemPrompt": "Write TypeScript.",
            "files": [
                {"path": "src/cart.ts", "content": "export const cart = []\n", "language": "typescript"},
                {"path": "README.md", "content": "# Shop\n```sh\nnpm start\n```", "language": "markdown"},
            ],
        }),
    )
    .await;
    let shown = preview(&server, &session, &[("message", "add a button")]).await;
    insta::assert_snapshot!(project_text(&shown));
    let kinds: Vec<_> =
        shown["pieces"].as_array().unwrap().iter().map(|piece| piece["kind"].clone()).collect();
    assert_eq!(kinds, ["system", "project", "new"]);
    assert_eq!(shown["project"]["files"], json!(["README.md", "src/cart.ts"]));
    assert_eq!(shown["project"]["omittedFiles"], json!([]));
    assert_eq!(shown["project"]["omittedFields"], json!([]));

    let pieces = shown["pieces"].as_array().unwrap().iter().map(|piece| {
        format!("{}: {}", piece["role"].as_str().unwrap(), piece["text"].as_str().unwrap())
    });
    let pieces: Vec<_> = pieces.collect();
    assert_eq!(server.turn(&session, "add a button", "done").await, pieces);
}

#[tokio::test]
async fn prompt_prefix_is_stable_until_the_project_changes() {
    let server = Server::start().await;
    let project =
        json!({"name": "P", "systemPrompt": "Be brief.", "files": [file("b"), file("a")]});
    let (session, project) = create_session_in(&server, project).await;
    let first = server.turn(&session, "what is in b?", "words").await;
    let shown = preview(&server, &session, &[("message", "and a?")]).await;
    assert!(shown["cacheablePrefixTokens"] == shown["promptTokens"].as_u64().unwrap() - 3);
    let second = server.turn(&session, "and a?", "the same").await;
    assert_eq!(second[..first.len()], first);
    let path = format!("/api/projects/{project}/files/a");
    server.put(&path, file("a")).await.data();
    let third = server.turn(&session, "sure?", "yes").await;
    assert_eq!(third[..second.len()], second, "the same content again changes nothing");
    server.put(&path, json!({"content": "new words"})).await.data();
    let fourth = server.turn(&session, "and now?", "new words").await;
    assert!(fourth[1].contains("new words") && fourth[0] == first[0]);
}

#[tokio::test]
async fn overflowing_files_are_picked_by_mention_then_by_recency() {
    let server = Server::start().await;
    let files: Vec<_> = (0..9).map(|number| file(&format!("src/{number}.txt"))).collect();
    let (session, project) = create_session_in(
        &server,
        json!({"name": "P", "systemPrompt": "Be brief.", "files": files}),
    )
    .await;
    // Changed in this order, so `7` is the newest.
    for name in ["3", "7"] {
        let changed =
            json!({"content": format!("{} changed", "one two three four five ".repeat(20))});
        let path = format!("/api/projects/{project}/files/src/{name}.txt");
        server.put(&path, changed).await.data();
    }
    // Half of this budget holds the instructions and two files.
    let budget = ("maxTokens", "760");
    let shown = preview(&server, &session, &[budget]).await;
    assert_eq!(shown["project"]["files"], json!(["src/3.txt", "src/7.txt"]));
    assert_eq!(shown["project"]["omittedFiles"].as_array().unwrap().len(), 7);
    assert_eq!(shown["project"]["omittedFiles"][0], "src/0.txt");
    assert!(shown["cacheablePrefixTokens"].as_u64().unwrap() < 60, "{shown}");
    assert!(project_text(&shown).contains("Be brief."));

    let message = ("message", "Compare src/1.txt with 8.txt, please.");
    let shown = preview(&server, &session, &[budget, message]).await;
    assert_eq!(shown["project"]["files"], json!(["src/1.txt", "src/8.txt"]));
    let (first, second) = ("### src/1.txt", "### src/8.txt");
    let text = project_text(&shown);
    assert!(text.find(first).unwrap() < text.find(second).unwrap(), "by path: {text}");
    assert!(text.contains("not shown"), "the model knows that there is more: {text}");
}

#[tokio::test]
async fn project_leaves_half_of_the_budget_to_the_messages() {
    let server = Server::start().await;
    let files: Vec<_> = (0..40).map(|number| file(&format!("{number:02}"))).collect();
    let (session, _) = create_session_in(&server, json!({"name": "P", "files": files})).await;
    let line = json!({"role": "user", "content": "words ".repeat(50)});
    let past = json!({"sessions": [{"sessionId": session, "messages": vec![line; 60]}]});
    server.post("/api/import", past).await.data();
    for (query, most) in [
        (vec![("maxTokens", "2000")], 2000),
        (vec![("maxTokens", "2000"), ("strategy", "buffer")], 2000),
        (vec![("maxTokens", "0")], 0),
        (vec![("maxTokens", "9")], 9),
    ] {
        let shown = preview(&server, &session, &query).await;
        let tokens = |kind: &str| {
            let pieces = shown["pieces"].as_array().unwrap().iter();
            let own = pieces.filter(|piece| piece["kind"] == kind);
            own.map(|piece| piece["tokens"].as_u64().unwrap() + 4).sum::<u64>()
        };
        let (project, recent) = (tokens("project"), tokens("recent"));
        assert!(project <= most / 2 && project + recent <= most, "{project} + {recent}: {query:?}");
        assert!(most < 100 || (project > 700 && recent > 350), "{project} + {recent}: {query:?}");
        let left_out = shown["project"]["omittedFiles"].as_array().unwrap().len();
        assert_eq!(left_out + shown["project"]["files"].as_array().unwrap().len(), 40);
    }
}

#[tokio::test]
async fn overlong_project_fields_are_omitted_and_reported() {
    let server = Server::start().await;
    let words = |count: usize| "word ".repeat(count);
    let project = json!({"name": "P", "description": words(300), "systemPrompt": words(300),
        "files": [file("a")]});
    let (session, _) = create_session_in(&server, project).await;
    let shown = async |budget: &str| {
        preview(&server, &session, &[("maxTokens", budget)]).await["project"].clone()
    };
    for (budget, fields, files) in [
        ("2000", json!([]), 1),
        ("1300", json!([]), 0),
        ("900", json!(["description"]), 0),
        ("400", json!(["description", "systemPrompt"]), 0),
    ] {
        let shown = shown(budget).await;
        assert_eq!(shown["omittedFields"], fields, "{budget}: {shown}");
        assert_eq!(shown["files"].as_array().unwrap().len(), files, "{budget}: {shown}");
    }
}

#[tokio::test]
async fn empty_or_missing_project_leaves_the_prompt_unchanged() {
    let server = Server::start().await;
    let (session, project) = create_session_in(&server, json!({"name": "Empty"})).await;
    let shown = preview(&server, &session, &[("message", "hi")]).await;
    assert_eq!(shown["pieces"].as_array().unwrap().len(), 2);
    assert_eq!(shown["project"]["projectId"], project);

    let label = json!({"sessionId": "labelled", "projectId": "just-a-label"});
    server.post("/api/chat-sessions", label).await.data();
    let shown = preview(&server, "labelled", &[("message", "hi")]).await;
    assert_eq!((shown["pieces"].as_array().unwrap().len(), shown.get("project")), (2, None));
    assert_eq!(server.turn("labelled", "hi", "hello").await.len(), 2);
}
