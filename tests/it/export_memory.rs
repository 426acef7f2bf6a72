//! Export and import of a large account, which never is in the server's memory as a whole.

use crate::support::process::ServerProcess;
use crate::support::within_deadline;
use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::{Body, Client, Response};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;

/// Number of sessions, each with a message of one MiB.
const SESSIONS: usize = 56;
/// Memory that a server may need on top of its baseline, in KiB: for chunks and caches, much less
/// than the account.
const MAX_EXPORT_KIB: u64 = 28 << 10;
const MAX_IMPORT_KIB: u64 = 44 << 10;

fn id(session: usize) -> String {
    format!("s{session:03}")
}

/// The import file, produced session by session so that the test does not hold it either.
fn file() -> Body {
    let picture = format!("data:image/png;base64,{}", "A".repeat(1 << 20));
    let session = move |number: usize| {
        let parts = json!([{"type": "file", "mediaType": "image/png", "url": picture}]);
        let message = json!({"id": "m", "role": "user", "content": "Look", "parts": parts});
        let session = json!({"sessionId": id(number), "messages": [message]});
        Ok::<_, Infallible>(Bytes::from(format!("{session}\n")))
    };
    Body::wrap_stream(stream::iter(0..SESSIONS).map(session))
}

/// Reads an export as it arrives. Returns its size and the session ids in it.
async fn read_export(mut response: Response) -> (usize, Vec<String>) {
    let (mut size, mut ids, mut rest) = (0, Vec::new(), String::new());
    while let Some(bytes) = within_deadline(response.chunk()).await.unwrap() {
        size += bytes.len();
        rest.push_str(std::str::from_utf8(&bytes).unwrap());
        while let Some((_, after)) = rest.split_once("\"sessionId\":\"") {
            let Some((id, after)) = after.split_once('"') else { break };
            ids.push(id.to_owned());
            rest = after.to_owned();
        }
        let keep = rest.len().saturating_sub(64);
        rest.drain(..keep);
    }
    (size, ids)
}

#[tokio::test]
async fn large_account_transfers_with_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let variables =
        HashMap::from([("PORT", "0".to_owned()), ("ECHOIC_PROVIDER", "demo".to_owned())]);
    let server = ServerProcess::start(folder.path(), &variables).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let before = server.peak_memory();
    let request = client
        .post(format!("{}/api/import", server.base))
        .header("content-type", "application/json");
    let report: Value =
        within_deadline(within_deadline(request.body(file()).send()).await.unwrap().json())
            .await
            .unwrap();
    assert_eq!(report["data"]["sessions"].as_array().unwrap().len(), SESSIONS);
    let to_import = server.peak_memory() - before;
    assert_eq!(server.terminate().await.0, 0);

    let server = ServerProcess::start(folder.path(), &variables).await;
    let before = server.peak_memory();
    let (size, ids) = read_export(
        within_deadline(client.get(format!("{}/api/export", server.base)).send()).await.unwrap(),
    )
    .await;
    assert!(size > SESSIONS << 20, "{size}");
    assert_eq!(ids, (0..SESSIONS).map(id).collect::<Vec<_>>());
    let to_export = server.peak_memory() - before;
    let needed = format!("export {to_export} KiB, import {to_import} KiB");
    assert!(to_export < MAX_EXPORT_KIB && to_import < MAX_IMPORT_KIB, "{needed}");
}
