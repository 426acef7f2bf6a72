//! MongoDB for tests: a server that is shared by all of them, each in a database of its own, or a
//! server of the test's own where it breaks things.
//!
//! `tests/run` starts the shared server and says where it is, and where the program is that serves.
//! Without that, tests of MongoDB are passed over, unless `REQUIRE_MONGO` wants them.

use super::soon;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use std::path::PathBuf;
use std::process::Stdio;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use uuid::Uuid;

/// A connection string for a database that nobody else uses, on the shared server. `None` if there
/// is none here.
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

/// A server of the test's own.
pub struct Mongo {
    pub port: u16,
    folder: TempDir,
    child: Child,
}

impl Mongo {
    /// Starts a server, with these arguments beside the usual ones. `None` if there is none here.
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

    /// A client of the test's own.
    pub async fn client(&self) -> Client {
        Client::with_uri_str(self.url("admin")).await.unwrap()
    }

    /// Runs a command of the administrator's.
    pub async fn admin(&self, command: Document) -> Document {
        let client = self.client().await;
        soon(async { client.database("admin").run_command(command).await }).await.unwrap()
    }

    /// Lets commands with these names fail: `when` says which of them, `how` in which way.
    pub async fn fail(&self, when: Document, commands: &[&str], how: Document) {
        let mut data = doc! { "failCommands": commands };
        data.extend(how);
        self.admin(doc! { "configureFailPoint": "failCommand", "mode": when, "data": data }).await;
    }

    /// Lets nothing fail any more.
    pub async fn mend(&self) {
        self.admin(doc! { "configureFailPoint": "failCommand", "mode": "off" }).await;
    }

    /// Ends the server; what it holds stays.
    pub async fn stop(&mut self) {
        let pid = self.child.id().unwrap().to_string();
        assert!(soon(Command::new("kill").args(["-TERM", &pid]).status()).await.unwrap().success());
        soon(self.child.wait()).await.unwrap();
    }

    /// Starts it again on the same port and data.
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
    soon(listening).await;
    Some(child)
}

/// A port that was free a moment ago.
pub async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}
