//! MongoDB for tests: a server shared by all of them, each with its own database, or a private
//! server for tests that break it.
//!
//! `tests/run` starts the shared server and sets `ECHOIC_TEST_MONGODB` to its address and
//! `ECHOIC_TEST_MONGOD` to the program. Without them tests of MongoDB are skipped, unless
//! `REQUIRE_MONGO` is set.

use super::within_deadline;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use std::path::PathBuf;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use uuid::Uuid;

/// The connection string of a new database on the shared server; `None` without one.
pub fn database() -> Option<String> {
    let server = wanted("ECHOIC_TEST_MONGODB")?;
    let (server, options) = server.split_once("/?").expect("mongodb://HOST:PORT/?OPTIONS");
    Some(format!("{server}/test_{}?{options}", Uuid::now_v7().simple()))
}

fn wanted(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    assert!(
        value.is_some() || std::env::var_os("REQUIRE_MONGO").is_none(),
        "{variable} is not set: run tests/run, which starts MongoDB"
    );
    value
}

/// A private server.
pub struct MongoServer {
    pub port: u16,
    folder: TempDir,
    child: Child,
}

impl MongoServer {
    /// Starts a server with additional arguments; `None` without the program.
    pub async fn start(arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port().await;
        let child = spawn(&folder, port, arguments).await?;
        Some(Self { port, folder, child })
    }

    /// The connection string of a database.
    pub fn url(&self, database: &str) -> String {
        format!("mongodb://127.0.0.1:{}/{database}?replicaSet=secantus", self.port)
    }

    pub async fn client(&self) -> Client {
        Client::with_uri_str(self.url("admin")).await.unwrap()
    }

    /// Runs an admin command.
    pub async fn admin(&self, command: Document) -> Document {
        let client = self.client().await;
        within_deadline(async { client.database("admin").run_command(command).await })
            .await
            .unwrap()
    }

    /// Sets a failpoint for these commands: `when` is its mode, `how` the kind of failure.
    pub async fn set_failpoint(&self, when: Document, commands: &[&str], how: Document) {
        let mut data = doc! { "failCommands": commands };
        data.extend(how);
        self.admin(doc! { "configureFailPoint": "failCommand", "mode": when, "data": data }).await;
    }

    /// Removes the failpoint.
    pub async fn clear_failpoint(&self) {
        self.admin(doc! { "configureFailPoint": "failCommand", "mode": "off" }).await;
    }

    /// Stops the server; its data stays.
    pub async fn stop(&mut self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(
            within_deadline(Command::new("kill").args(["-TERM", &pid]).status())
                .await
                .unwrap()
                .success()
        );
        within_deadline(self.child.wait()).await.unwrap();
    }

    /// Kills the server without a chance to clean up, like a power cut; its data stays.
    pub async fn kill(&mut self) {
        within_deadline(self.child.kill()).await.unwrap();
    }

    /// Starts it again with the same port and data.
    pub async fn start_again(&mut self, arguments: &[&str]) {
        self.child = spawn(&self.folder, self.port, arguments).await.unwrap();
    }
}

async fn spawn(folder: &TempDir, port: u16, arguments: &[&str]) -> Option<Child> {
    let program = PathBuf::from(wanted("ECHOIC_TEST_MONGOD")?);
    let child = Command::new(program)
        .args(["--port", &port.to_string(), "--log-level", "ERROR", "--storage-path"])
        .arg(folder.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let listening = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within_deadline(listening).await;
    Some(child)
}

/// A port that was free a moment ago.
pub async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}
