//! The console's files, as the server serves them.

use crate::support::Server;
use crate::support::server::fetch;
use reqwest::{Method, StatusCode};
use std::path::Path;

/// The scripts that the page loads on first use.
const LATER: [&str; 5] = [
    "js/panel/memory.js",
    "js/panel/people.js",
    "js/panel/settings.js",
    "js/projects/page.js",
    "js/sessions/invitations.js",
];

#[tokio::test]
async fn page_policy_allows_only_own_scripts_and_resources() {
    let server = Server::start().await;
    let page = server.get("/").await;
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self';"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let html = page.body.as_str().unwrap().to_owned();
    assert!(!html.contains(" style=") && !html.contains(" onclick="));
}

#[tokio::test]
async fn page_references_every_script_and_only_existing_files() {
    let server = Server::start().await;
    let html = server.get("/").await.body.as_str().unwrap().to_owned();
    let named: Vec<&str> =
        html.split("=\"/assets/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    for path in &named {
        let response =
            server.request(Method::GET, &format!("/assets/{path}")).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let expected = match path.rsplit_once('.').unwrap().1 {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(kind, expected);
    }
    // The page preloads its scripts, because the browser would otherwise discover them one import
    // at a time. Scripts that many users never need are left out.
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
    for script in scripts(&web.join("js")) {
        let path = script.strip_prefix(&web).unwrap().to_str().unwrap().to_owned();
        let is_now = !LATER.contains(&path.as_str());
        assert_eq!(named.contains(&path.as_str()), is_now, "web/index.html preloads {path}");
    }
}

fn scripts(folder: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { scripts(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn unchanged_file_is_not_sent_again() {
    let server = Server::start().await;
    let path = "/assets/css/base.css";
    let first = server.request(Method::GET, path).send().await.unwrap();
    let etag = first.headers()["etag"].clone();
    let again =
        server.request(Method::GET, path).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(again.headers()["etag"], etag);
    let packed = server
        .request(Method::GET, path)
        .header("accept-encoding", "br, gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.bytes().await.unwrap().len() < first.bytes().await.unwrap().len() / 2);
}

#[tokio::test]
async fn only_console_files_are_served() {
    let server = Server::start().await;
    for path in [
        "/assets/",
        "/assets/nothing.js",
        "/assets/../Cargo.toml",
        "/assets/..%2fCargo.toml",
        "/assets/%2e%2e/Cargo.toml",
        "/assets//etc/passwd",
        "/assets/js",
        "/assets/index.html%00.css",
    ] {
        let answer = fetch(server.request(Method::GET, path)).await;
        assert_eq!(answer.failure(), (404, "route_not_found"), "{path}");
    }
}
