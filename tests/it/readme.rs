//! The tour in README.md, run as a reader would run it.

use crate::support::process::ServerProcess;
use crate::support::within_deadline;
use std::collections::HashMap;
use std::path::Path;
use tokio::process::Command;

/// A command of the tour, and the lines that its output must contain.
struct TourStep {
    command: String,
    shows: Vec<String>,
}

fn tour_steps() -> Vec<TourStep> {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("\n## A tour\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut steps: Vec<TourStep> = Vec::new();
    for (index, block) in section.split("```").enumerate().filter(|(index, _)| index % 2 == 1) {
        let (language, text) = block.split_once('\n').unwrap();
        match language {
            "sh" => steps.push(TourStep { command: text.to_owned(), shows: Vec::new() }),
            "text" => {
                let lines = text.lines().filter(|line| *line != "…").map(str::to_owned);
                steps.last_mut().unwrap().shows.extend(lines);
            }
            other => panic!("block {index} of the tour is {other}"),
        }
    }
    steps
}

#[tokio::test]
async fn readme_tour_prints_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    let variables =
        HashMap::from([("PORT", "0".to_owned()), ("ECHOIC_PROVIDER", "demo".to_owned())]);
    let server = ServerProcess::start(folder.path(), &variables).await;
    let host = server.base.strip_prefix("http://").unwrap().to_owned();
    let steps = tour_steps();
    assert!(steps.len() >= 5, "the tour is short");
    for TourStep { command, shows } in steps {
        let script = command.replace("localhost:8080", &host);
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(folder.path())
            .kill_on_drop(true);
        let output = within_deadline(shell.output()).await.unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{command}\n{stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for line in shows {
            // The README shows an ellipsis in place of output that differs between runs.
            let mut rest = stdout.as_str();
            for piece in line.split('…').filter(|piece| !piece.is_empty()) {
                let at = rest
                    .find(piece)
                    .unwrap_or_else(|| panic!("{command}\nshould show {piece:?}:\n{stdout}"));
                rest = &rest[at + piece.len()..];
            }
        }
    }
    assert_eq!(server.terminate().await.0, 0);
}
