//! Shutdown while turns begin: each turn is either rejected with nothing stored or runs to an end
//! that is stored. No turn is left for the next start to recover.

use crate::support::sse::text_of;
use crate::support::{FrameReader, Server, within_deadline};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// The number of rows of a table in the server's database file.
fn count_rows(server: &Server, table: &str) -> i64 {
    let file = rusqlite::Connection::open(server.database()).unwrap();
    file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// A client's view of its turn.
enum ClientView {
    Refused,
    /// The text, and the type of the last frame before `[DONE]`.
    Stream(String, String),
    /// The connection was refused or closed without a response: the server was gone.
    Nothing,
}

async fn send_turn(request: reqwest::RequestBuilder) -> ClientView {
    let Ok(response) = within_deadline(request.send()).await else { return ClientView::Nothing };
    if response.status() == 503 {
        let body: Value = within_deadline(response.json()).await.unwrap();
        assert_eq!(body["error"]["code"], "shutting_down", "{body}");
        return ClientView::Refused;
    }
    assert_eq!(response.status(), 200);
    let frames = FrameReader::new(response).rest().await;
    let kinds: Vec<_> = frames.iter().map(|frame| frame.kind()).collect();
    assert_eq!(kinds.last(), Some(&"[DONE]"), "a stream that began ends: {kinds:?}");
    assert_eq!(kinds[..3], ["start", "data-session", "start-step"]);
    ClientView::Stream(text_of(&frames), kinds[kinds.len() - 2].to_owned())
}

/// A client that sends its own question to its own session.
fn spawn_client(server: &Server, number: usize) -> JoinHandle<ClientView> {
    let message = json!({"id": format!("q{number}"), "role": "user",
        "parts": [{"type": "text", "text": format!("question {number}")}]});
    let body = json!({"id": format!("s{number}"), "message": message});
    tokio::spawn(send_turn(server.request(Method::POST, "/api/chat").json(&body)))
}

/// Starts the server again and compares each client's view with the stored messages.
async fn check_stored_turns(mut server: Server, seen: Vec<ClientView>) {
    server.start_again().await;
    for (number, seen) in seen.into_iter().enumerate() {
        let session = format!("s{number}");
        let said = match server.get(&format!("/api/chat-sessions/{session}")).await.status {
            404 => Vec::new(),
            _ => server.transcript(&session).await,
        };
        match seen {
            ClientView::Refused => {
                assert_eq!(said, Vec::<String>::new(), "refused, and nothing stored")
            }
            ClientView::Nothing => assert!(matches!(said.len(), 0 | 2), "{said:?}"),
            ClientView::Stream(text, end) => {
                let question = format!("user: question {number}");
                assert_eq!(said, [question, format!("assistant: {text}")]);
                let status = match end.as_str() {
                    "finish" => "complete",
                    "abort" => "interrupted",
                    other => panic!("a stream ended with {other}"),
                };
                assert_eq!(server.last_message(&session).await["status"], status);
            }
        }
    }
}

/// Half of the clients send before the shutdown signal, half right after it. The signal is sent
/// once `reached` turns have arrived at the provider.
const CLIENTS: usize = 24;
const REACHED: [usize; 7] = [0, 0, 0, 1, 3, 6, CLIENTS / 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_begun_at_shutdown_are_rejected_or_finished() {
    for reached in REACHED {
        let mut server = Server::on_file(&["--shutdown-grace=15s"]).await;
        let held = server.session().await;
        // This turn is not answered until all clients have a result, so the server cannot exit
        // before then.
        let (mut held_frames, held_call) = server.open_turn(&held, "wait for me").await;
        let mut clients: Vec<_> =
            (0..CLIENTS / 2).map(|number| spawn_client(&server, number)).collect();
        let mut calls = Vec::new();
        for _ in 0..reached {
            calls.push(server.upstream.call().await);
        }
        // The signal is sent while requests are on their way, which is the race under test.
        server.terminate();
        clients.extend((CLIENTS / 2..CLIENTS).map(|number| spawn_client(&server, number)));
        within_deadline(async {
            while server.get("/health/ready").await.status == 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        clients.push(spawn_client(&server, CLIENTS));
        let answer = async {
            calls.into_iter().for_each(|call| call.reply("whole"));
            loop {
                server.upstream.call().await.reply("whole");
            }
        };
        let seen = tokio::select! {
            seen = join_all(clients) => seen,
            () = answer => unreachable!(),
        };
        held_call.reply("thanks");
        held_frames.until("finish").await;
        server.stop().await;
        assert_eq!(
            (count_rows(&server, "turns"), count_rows(&server, "queue")),
            (0, 0),
            "after {reached}"
        );

        let seen: Vec<ClientView> = seen.into_iter().map(Result::unwrap).collect();
        assert!(matches!(seen[CLIENTS], ClientView::Refused), "it asked when the end was known");
        for seen in &seen {
            match seen {
                ClientView::Refused => {}
                ClientView::Stream(text, end) => {
                    assert_eq!((text.as_str(), end.as_str()), ("whole", "finish"))
                }
                ClientView::Nothing => panic!("the server was there to answer"),
            }
        }
        check_stored_turns(server, seen).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_begun_at_shutdown_without_grace_are_cut_and_stored() {
    for reached in REACHED {
        let mut server = Server::on_file(&["--shutdown-grace=1ms"]).await;
        let mut clients: Vec<_> =
            (0..CLIENTS / 2).map(|number| spawn_client(&server, number)).collect();
        let mut open = Vec::new();
        for number in 0..reached {
            let mut call = server.upstream.call().await;
            match number % 3 {
                0 => call.reply("whole"),
                1 => {
                    call.text("half");
                    open.push(call);
                }
                _ => open.push(call),
            }
        }
        server.terminate();
        clients.extend((CLIENTS / 2..CLIENTS).map(|number| spawn_client(&server, number)));
        server.stop().await;
        assert_eq!(
            (count_rows(&server, "turns"), count_rows(&server, "queue")),
            (0, 0),
            "after {reached}"
        );
        let seen = join_all(clients).await.into_iter().map(Result::unwrap).collect();
        check_stored_turns(server, seen).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_turn_stays_queued_or_finishes_during_shutdown() {
    const SESSIONS: usize = 12;
    for _ in 0..4 {
        let mut server = Server::on_file(&["--shutdown-grace=1ms"]).await;
        let (mut calls, mut waiting) = (Vec::new(), Vec::new());
        for number in 0..SESSIONS {
            let body = json!({"id": format!("s{number}"), "message": {"id": "q", "role": "user",
                "parts": [{"type": "text", "text": "first"}]}});
            server.chat(body).await;
            calls.push(server.upstream.call().await);
            let body =
                json!({"sessionId": format!("s{number}"), "message": "second", "onBusy": "queue"});
            waiting.push(server.chat(body).await);
        }
        calls.into_iter().for_each(|call| call.reply("one"));
        server.stop().await;
        assert_eq!(count_rows(&server, "turns"), 0);
        let queued = count_rows(&server, "queue");
        for frames in &mut waiting {
            let kinds: Vec<_> = frames.rest().await.iter().map(|f| f.kind().to_owned()).collect();
            assert!(kinds.is_empty() || kinds.last().unwrap() == "[DONE]", "{kinds:?}");
        }

        server.start_again().await;
        for _ in 0..queued {
            server.upstream.call().await.reply("two");
        }
        let mut late = 0;
        for number in 0..SESSIONS {
            let session = format!("s{number}");
            if let Some(mut frames) = server.join(&session, None).await {
                frames.until("[DONE]").await;
            }
            let said = server.transcript(&session).await;
            assert_eq!((said[0].as_str(), said[2].as_str()), ("user: first", "user: second"));
            assert_eq!(said.len(), 4, "{said:?}");
            late += i64::from(said[3] == "assistant: two");
        }
        assert_eq!(late, queued, "what waited is answered once, at the next start");
    }
}

#[tokio::test]
async fn queued_turn_starts_only_after_the_next_start() {
    // With this lease the watcher that starts queued turns of idle sessions runs all the time, so a
    // turn started during shutdown would show.
    let mut server = Server::on_file(&["--instance-lease=1ms"]).await;
    let session = server.session().await;
    let (mut first, call) = server.open_turn(&session, "first").await;
    let waiting = json!({"sessionId": session, "message": "second", "onBusy": "queue"});
    let mut second = server.chat(waiting).await;
    // Another running turn keeps the server up after the first one ends: a wrongly started turn
    // would have time to begin.
    let other = server.session().await;
    let (mut other_frames, other_call) = server.open_turn(&other, "other").await;
    // The first turn ends only after the signal, at which point the queued one must not start.
    server.terminate();
    assert_eq!(second.rest().await, [], "its stream ends, and can be joined on the next start");
    call.reply("one");
    first.until("[DONE]").await;
    assert_eq!(
        server.get(&format!("/api/chat-sessions/{session}")).await.data()["activeTurn"],
        Value::Null
    );
    other_call.reply("other");
    other_frames.until("[DONE]").await;
    server.stop().await;
    assert!(server.upstream.is_idle().await, "a turn began at the end");
    assert_eq!((count_rows(&server, "turns"), count_rows(&server, "queue")), (0, 1));

    server.start_again().await;
    let call = server.upstream.call().await;
    assert_eq!(call.prompt()[1..], ["user: first", "assistant: one", "user: second"]);
    let mut joined = server.join(&session, None).await.unwrap();
    call.reply("two");
    assert_eq!(text_of(&joined.rest().await), "two");
}
