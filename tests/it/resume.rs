//! `GET /api/chat/:id/stream`: any number of readers, from any frame, get the same bytes.

use crate::support::server::tuning;
use crate::support::sse::text_of;
use crate::support::{FrameReader, Server, within_deadline};
use echoic::app::TimingOptions;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A turn that has sent three words and is still running.
async fn begin_turn(server: &Server, session: &str) -> (FrameReader, crate::support::ProviderCall) {
    let (mut frames, mut call) = server.open_turn(session, "count").await;
    for word in ["one ", "two ", "three "] {
        call.text(word);
        frames.until("text-delta").await;
    }
    (frames, call)
}

#[tokio::test]
async fn late_reader_gets_the_same_bytes_from_the_first_frame() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, call) = begin_turn(&server, &session).await;
    let mut late = server.join(&session, None).await.unwrap();
    late.until("start").await;
    call.reply("four");
    first.rest().await;
    late.rest().await;
    assert_eq!(first.bytes, late.bytes);
    assert!(first.bytes.contains("[DONE]"));
}

#[tokio::test]
async fn returning_reader_gets_only_the_missed_frames() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, call) = begin_turn(&server, &session).await;
    let had = first.bytes.clone();
    let last_id = had.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let mut resumed = server.join(&session, Some(&last_id)).await.unwrap();
    call.reply("four");
    let rest = resumed.rest().await;
    first.rest().await;
    assert_eq!(text_of(&rest), "four");
    assert_eq!(had + &resumed.bytes, first.bytes);
}

#[tokio::test]
async fn last_event_id_header_overrides_the_parameter() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, call) = begin_turn(&server, &session).await;
    let turn =
        first.bytes.lines().next().unwrap()["id: ".len()..].rsplit_once(':').unwrap().0.to_owned();
    let path = format!("/api/chat/{session}/stream?lastEventId={turn}:5");
    let join = |header: Option<String>| {
        let request = server.request(Method::GET, &path);
        match header {
            Some(id) => request.header("last-event-id", id),
            None => request,
        }
    };
    let mut by_parameter = FrameReader::new(join(None).send().await.unwrap());
    let mut by_header = FrameReader::new(join(Some(format!("{turn}:6"))).send().await.unwrap());
    call.reply("four");
    first.rest().await;
    assert_eq!(by_parameter.next().await.unwrap().id, format!("{turn}:6"));
    assert_eq!(by_header.next().await.unwrap().id, format!("{turn}:7"));
    assert_eq!(
        server.get(&format!("/api/chat/{session}/stream?last=1")).await.failure(),
        (400, "invalid_request")
    );
}

#[tokio::test]
async fn unknown_cursor_reads_a_running_turn_from_the_start() {
    let server = Server::start().await;
    let session = server.session().await;
    server.turn(&session, "earlier", "one").await;
    let (first, call) = begin_turn(&server, &session).await;
    let turn =
        first.bytes.lines().next().unwrap()["id: ".len()..].rsplit_once(':').unwrap().0.to_owned();
    let future = format!("{turn}:99");
    for cursor in
        ["garbage", "another-turn:3", ":", "5", &format!("{turn}:0"), &format!("{turn}:x"), &future]
    {
        let mut frames = server.join(&session, Some(cursor)).await.unwrap();
        assert_eq!(frames.next().await.unwrap().kind(), "start", "{cursor}");
    }
    call.reply("four");
}

#[tokio::test]
async fn idle_session_streams_only_the_rest_of_its_last_turn() {
    let server = Server::start().await;
    let session = server.session().await;
    assert!(server.join(&session, None).await.is_none());
    let (mut first, call) = begin_turn(&server, &session).await;
    call.reply("four");
    first.rest().await;
    let ids: Vec<&str> = first.bytes.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    let (last, terminal) = (ids.len() - 1, ids.len() - 2);

    assert!(server.join(&session, None).await.is_none());
    let mut rest = server.join(&session, Some(ids[5])).await.unwrap();
    rest.rest().await;
    let at = first.bytes.find(&format!("id: {}", ids[6])).unwrap();
    assert_eq!(rest.bytes, first.bytes[at..]);
    let mut rest = server.join(&session, Some(ids[terminal - 1])).await.unwrap();
    assert_eq!(rest.next().await.unwrap().kind(), "finish");
    let future = format!("{}9", ids[last]);
    for past in [ids[terminal], ids[last], &future, "garbage", "another:1"] {
        assert!(server.join(&session, Some(past)).await.is_none(), "{past}");
    }
    let other = server.session().await;
    assert!(
        server.join(&other, Some(ids[5])).await.is_none(),
        "a cursor is good in its own session only"
    );
    assert_eq!(server.get("/api/chat/nowhere/stream").await.failure(), (404, "session_not_found"));
}

#[tokio::test]
async fn cut_turn_can_still_be_read_after_restart() {
    let mut server = Server::on_file(&["--shutdown-grace=1ms"]).await;
    let session = server.session().await;
    let (mut first, _call) = begin_turn(&server, &session).await;
    let had = first.bytes.clone();
    // The log is written in the background while the turn runs; wait until its first rows are
    // there.
    let database = rusqlite::Connection::open(server.database()).unwrap();
    within_deadline(async {
        while database
            .query_row("SELECT count(*) FROM turn_log", [], |row| row.get::<_, i64>(0))
            .unwrap()
            == 0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.restart().await;
    first.rest().await;
    let last_id = had.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let mut rest = server.join(&session, Some(last_id)).await.unwrap();
    let kinds: Vec<_> = rest.rest().await.iter().map(|frame| frame.kind().to_owned()).collect();
    assert_eq!(kinds, ["text-end", "abort", "[DONE]"]);
    assert_eq!(had + &rest.bytes, first.bytes);
}

#[tokio::test]
async fn hundred_reconnecting_readers_get_identical_bytes() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, mut call) = server.open_turn(&session, "a long story").await;
    let mut runner = TestRunner::deterministic();
    let mut random = move |most: usize| (0..most).new_tree(&mut runner).unwrap().current();
    let mut readers = Vec::new();
    for word in 0..60 {
        call.text(&format!("word {word} "));
        first.until("text-delta").await;
        for _ in 0..2 {
            let frames = server.join(&session, None).await.unwrap();
            readers.push(frames);
        }
        // Some readers lose their connection and resume from the id of their last whole frame.
        for _ in 0..3 {
            let index = random(readers.len());
            let mut reader = readers.swap_remove(index);
            for _ in 0..random(4) + 1 {
                if reader.bytes.matches("text-delta").count() > word {
                    break;
                }
                reader.next().await.unwrap();
            }
            let whole = reader.bytes.rfind("\n\n").map_or(0, |end| end + 2);
            let had = reader.bytes[..whole].to_owned();
            let last_id =
                had.lines().rev().find_map(|line| line.strip_prefix("id: ")).map(str::to_owned);
            let mut resumed = server.join(&session, last_id.as_deref()).await.unwrap();
            resumed.bytes = had;
            readers.push(resumed);
        }
    }
    call.reply("the end");
    first.rest().await;
    assert_eq!(readers.len(), 120);
    for mut reader in readers {
        reader.rest().await;
        assert!(reader.bytes == first.bytes, "a reader read something else");
    }
}

#[tokio::test]
async fn stalled_reader_is_disconnected_and_can_resume() {
    let tuning = TimingOptions { write_timeout: Duration::from_millis(50), ..tuning() };
    let server = Server::tuned(&[], tuning).await;
    let session = server.session().await;
    let (mut first, mut call) = server.open_turn(&session, "pour").await;
    let mut hanging = raw_reader(&server, &session).await;
    // Almost the longest reply that is accepted. In frames, each quotation mark takes two bytes, so
    // that they are more than the system buffers for a connection.
    let line = "\"".repeat(98_000);
    for _ in 0..40 {
        call.text(&line);
        first.until("text-delta").await;
    }
    // The reader did not read while 7.8 MB were sent. The server has closed the connection after
    // the data that fitted the socket buffers.
    let mut taken = Vec::new();
    let ended = within_deadline(hanging.read_to_end(&mut taken)).await;
    assert!(taken.len() < 7_800_000, "{} bytes", taken.len());
    drop(ended);
    let text = String::from_utf8_lossy(&taken);
    let last_whole = text[..text.rfind("\n\n").unwrap()].rfind("id: ").unwrap();
    let last_id = text[last_whole + 4..].lines().next().unwrap().to_owned();
    call.reply("the end");
    let rest = read_to_end(&server, &session, last_id).await;
    assert!(rest.contains("the end") && rest.ends_with("[DONE]\n\n"));
    first.rest().await;
    assert!(first.bytes.ends_with(&rest));
}

/// Reads from a frame to the end of the turn, and resumes whenever the server closes the
/// connection. With such a short reader timeout that may happen on a busy machine.
async fn read_to_end(server: &Server, session: &str, mut last_id: String) -> String {
    let mut had = Vec::new();
    loop {
        let request = server.request(Method::GET, &format!("/api/chat/{session}/stream"));
        let mut stream =
            within_deadline(request.header("last-event-id", &last_id).send()).await.unwrap();
        assert_eq!(stream.status(), 200);
        while let Ok(Some(bytes)) = within_deadline(stream.chunk()).await {
            had.extend_from_slice(&bytes);
        }
        let mut text = String::from_utf8(had).unwrap();
        text.truncate(text.rfind("\n\n").map_or(0, |end| end + 2));
        if text.ends_with("[DONE]\n\n") {
            return text;
        }
        let mut ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        last_id = ids.next_back().unwrap_or(&last_id).to_owned();
        had = text.into_bytes();
    }
}

/// A reader with a small receive buffer that sends the request and then reads nothing.
async fn raw_reader(server: &Server, session: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let address = server.base.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET /api/chat/{session}/stream HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn stop_reaches_every_reader() {
    let server = Server::start().await;
    let session = server.session().await;
    let (mut first, _call) = begin_turn(&server, &session).await;
    let mut late = server.join(&session, None).await.unwrap();
    server.post(&format!("/api/chat/{session}/stop"), json!({})).await.data();
    first.rest().await;
    late.rest().await;
    assert_eq!(first.bytes, late.bytes);
    assert!(first.bytes.contains("\"abort\""));
}
