//! Streams of a provider, in OpenAI's dialect and in Anthropic's: whatever it sends, the turn ends,
//! and so does the client's stream.
#![no_main]

mod server;

use libfuzzer_sys::fuzz_target;
use server::RunningServer;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex};

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// The next reply of the provider.
static REPLY: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static SERVERS: LazyLock<[RunningServer; 2]> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().flatten().for_each(|one| answer(one)));
    ["openai", "anthropic"].map(|dialect| {
        RunningServer::start(&[
            format!("--provider={dialect}"),
            format!("--{dialect}-base-url={address}"),
            format!("--{dialect}-api-key=key"),
            "--model=any".to_owned(),
        ])
    })
});

/// Reads a request and sends the reply. A server that has read enough may close the connection.
fn answer(connection: TcpStream) {
    let mut request = BufReader::new(connection);
    let (mut line, mut length) = (String::new(), 0);
    while request.read_line(&mut line).is_ok_and(|read| read > 2) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let _ = std::io::copy(&mut request.by_ref().take(length), &mut std::io::sink());
    let mut connection = request.into_inner();
    let reply = REPLY.lock().unwrap().clone();
    let _ = connection.write_all(HEAD).and_then(|()| connection.write_all(&reply));
}

// The first byte chooses the dialect.
fuzz_target!(|input: &[u8]| {
    let Some((&dialect, reply)) = input.split_first() else { return };
    reply.clone_into(&mut REPLY.lock().unwrap());
    let server = &SERVERS[usize::from(dialect) % SERVERS.len()];
    let answer = server.send("POST", "/api/chat", br#"{"message":"hello"}"#);
    assert!(answer.contains("data: [DONE]"), "{answer}");
});
