//! The real program as a separate process, for tests that kill it, set its environment or read its
//! output.

use super::within_deadline;
use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// A running `echoic serve`.
pub struct ServerProcess {
    pub base: String,
    pub first_line: String,
    child: Child,
    /// Reads the rest of the log, so that the program never blocks on a full pipe.
    log: JoinHandle<String>,
}

/// The program with a clean environment.
pub fn command(folder: &Path, variables: &HashMap<&str, String>, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echoic"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs the program to its end: exit code, standard output, standard error.
pub async fn run(
    folder: &Path,
    variables: &HashMap<&str, String>,
    arguments: &[&str],
) -> (i32, String, String) {
    let output = within_deadline(command(folder, variables, arguments).output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

impl ServerProcess {
    /// Starts the program and waits until it logs its address.
    pub async fn start(folder: &Path, variables: &HashMap<&str, String>) -> Self {
        Self::spawn(command(folder, variables, &[])).await
    }

    /// Starts a prepared command and waits until it logs its address.
    pub async fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        loop {
            let Some(line) = within_deadline(log.next_line()).await.unwrap() else {
                panic!("the program ended before it was ready: {seen:#?}");
            };
            if let Some((_, summary)) = line.split_once("Echoic is ready: ") {
                let base = summary.split(',').next().unwrap().to_owned();
                let mut log = log.into_inner();
                let log = tokio::spawn(async move {
                    let mut rest = String::new();
                    log.read_to_string(&mut rest).await.unwrap();
                    rest
                });
                return Self { base, first_line: line, child, log };
            }
            seen.push(line);
        }
    }

    /// Peak memory so far, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Kills the process without a chance to clean up, like a power cut.
    pub async fn kill(&mut self) {
        within_deadline(self.child.kill()).await.unwrap();
    }

    /// Sends SIGTERM and waits. Returns the exit code and the rest of the log.
    pub async fn terminate(mut self) -> (i32, String) {
        let pid = self.child.id().unwrap().to_string();
        assert!(
            within_deadline(Command::new("kill").args(["-TERM", &pid]).status())
                .await
                .unwrap()
                .success()
        );
        let code = within_deadline(self.child.wait()).await.unwrap().code().unwrap();
        (code, within_deadline(self.log).await.unwrap())
    }
}
