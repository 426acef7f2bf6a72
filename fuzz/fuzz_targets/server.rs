//! A whole server in this process, for targets that send requests. Loopback only.

use echoic::app::{App, TimingOptions};
use echoic::config::Config;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// No answer takes as long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The beginning of an answer that is kept.
const ANSWER_BYTES: u64 = 1 << 20;

pub struct RunningServer {
    address: SocketAddr,
    _runtime: Runtime,
    _folder: TempDir,
}

impl RunningServer {
    /// Starts a server on an empty database.
    pub fn start(flags: &[String]) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let database = format!("--database-url=sqlite://{}/echoic.db", folder.path().display());
        let flags: Vec<String> =
            [database, "--port=0".to_owned()].into_iter().chain(flags.iter().cloned()).collect();
        let config = Config::from_flags(flags).unwrap();
        let timing =
            TimingOptions { provider_retry_delay: Duration::ZERO, ..TimingOptions::default() };
        let app = runtime.block_on(App::start(config, timing)).unwrap();
        let address = app.address();
        runtime.spawn(app.serve(CancellationToken::new()));
        Self { address, _runtime: runtime, _folder: folder }
    }

    /// Sends a request and returns the beginning of the answer, which is not a 5xx.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> String {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).unwrap();
        // A refusal may end the connection before the body is sent.
        let _ = connection.write_all(body);
        let mut answer = Vec::new();
        connection.take(ANSWER_BYTES).read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 "), "{method} {path}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 5"), "{method} {path}: {answer}");
        answer
    }
}
