//! Database failures in the middle of an operation: closed connections, primaries that step down,
//! majorities that do not acknowledge. No message is lost or duplicated.

use crate::support::mongo::MongoServer;
use crate::support::paced::{PacedProvider, answer};
use crate::support::server::fetch;
use crate::support::sse::text_of;
use crate::support::{FrameReader, Server, within_deadline};
use mongodb::bson::{Document, doc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::{Value, json};

/// `NotWritablePrimary`: a replica set is electing another primary.
const STEPPED_DOWN: i32 = 10107;
/// `WriteConcernTimeout`: the write happened, but its acknowledgement by a majority is missing.
const NO_MAJORITY: i32 = 64;

fn round_count() -> usize {
    std::env::var("ECHOIC_FAILPOINT_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

/// Each kind of failure: the commands it applies to, and the failpoint's data.
fn failure_kinds() -> Vec<(&'static [&'static str], Document)> {
    let retryable = vec!["RetryableWriteError"];
    let transient = vec!["TransientTransactionError"];
    let majority = doc! { "code": NO_MAJORITY, "errmsg": "waiting for replication timed out" };
    vec![
        (&["find"], doc! { "closeConnection": true }),
        (&["insert"], doc! { "closeConnection": true }),
        (&["update"], doc! { "closeConnection": true }),
        (&["aggregate"], doc! { "closeConnection": true }),
        (&["find"], doc! { "errorCode": STEPPED_DOWN }),
        (&["insert"], doc! { "errorCode": STEPPED_DOWN, "errorLabels": &transient }),
        (&["update"], doc! { "errorCode": STEPPED_DOWN, "errorLabels": &transient }),
        (&["update"], doc! { "errorCode": STEPPED_DOWN, "errorLabels": &retryable }),
        (&["update"], doc! { "writeConcernError": majority.clone() }),
        (&["insert"], doc! { "writeConcernError": majority }),
    ]
}

/// Sends a message, retrying like a client, until it is accepted. Returns the reply.
async fn send_until_accepted(server: &Server, body: &Value) -> String {
    loop {
        let request = server.request(Method::POST, "/api/chat").json(body);
        let response = within_deadline(request.send()).await.unwrap();
        if response.status() == 503 {
            continue;
        }
        assert_eq!(response.status(), 200);
        let frames = FrameReader::new(response).rest().await;
        let kinds: Vec<_> = frames.iter().map(|frame| frame.kind().to_owned()).collect();
        assert!(kinds.iter().any(|kind| kind == "finish"), "{kinds:?}");
        return text_of(&frames);
    }
}

#[tokio::test]
async fn database_failures_lose_and_duplicate_no_message() {
    let Some(mongo) = MongoServer::start(&["--enable-test-commands"]).await else { return };
    let upstream = PacedProvider::start().await;
    // A real server pushes the news that it is primary again; this one has to be polled, so poll
    // often.
    let url = format!("{}&heartbeatFrequencyMS=500", mongo.url("echoic"));
    let base = &upstream.base_url;
    let flags = [format!("--database-url={url}"), format!("--openai-base-url={base}")];
    let server = Server::with(&[&flags[0], &flags[1]]).await;
    let session = server.session().await;
    let mut runner = TestRunner::deterministic();
    let mut random = |most: usize| (0..most).new_tree(&mut runner).unwrap().current();
    let (failures, mut expected) = (failure_kinds(), Vec::new());
    for round in 0..round_count() {
        let (commands, how) = &failures[round % failures.len()];
        // The length of the reply decides where the failure hits: as the turn begins, while its log
        // is written, or as it ends.
        let words = [3, 40][random(2)];
        let skip = random(5);
        let question = format!("question {round} of words {words}");
        let body = json!({"sessionId": session, "message": question, "clientMessageId": format!("m{round}")});
        let skipping = doc! { "skip": skip as i32, "times": 1 + random(3) as i32 };
        mongo.set_failpoint(skipping, commands, how.clone()).await;
        assert_eq!(
            send_until_accepted(&server, &body).await,
            answer(&question),
            "round {round}: {commands:?} {how}"
        );
        mongo.clear_failpoint().await;
        expected.push(format!("user: {question}"));
        expected.push(format!("assistant: {}", answer(&question)));
        assert_eq!(
            send_until_accepted(&server, &body).await,
            answer(&question),
            "the same turn again"
        );
    }
    let path = format!("/api/chat-sessions/{session}/messages?limit=100&view=all");
    let mut stored = Vec::new();
    let mut before = String::new();
    loop {
        let page = fetch(server.request(Method::GET, &format!("{path}{before}"))).await.data();
        let messages = page["messages"].as_array().unwrap();
        let line = |message: &Value| {
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            format!("{}: {}", text("role"), text("content"))
        };
        stored.splice(0..0, messages.iter().map(line));
        if page["hasMore"] == json!(false) {
            break;
        }
        before = format!("&before={}", messages[0]["id"].as_str().unwrap());
    }
    assert_eq!(stored, expected);
    assert_eq!(upstream.calls(), round_count(), "each question was asked once");
}
