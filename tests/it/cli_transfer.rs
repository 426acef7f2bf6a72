//! `echoic export` and `echoic import`, run as separate processes.

use crate::support::process::{ServerProcess, command, run};
use crate::support::within_deadline;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

fn variables() -> HashMap<&'static str, String> {
    HashMap::from([("PORT", "0".to_owned()), ("ECHOIC_PROVIDER", "demo".to_owned())])
}

/// Runs a command in the folder, with the default database in it.
async fn run_echoic(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    run(folder, &HashMap::new(), arguments).await
}

fn file() -> Value {
    let messages = json!([{"id": "q", "role": "user", "content": "Hello"}, {"id": "r", "role": "assistant", "content": "Hi"}]);
    json!({"sessions": [
        {"sessionId": "a", "title": "First", "participants": ["bob"], "messages": messages},
        {"sessionId": "b", "title": "Second", "messages": messages}]})
}

fn ids(file: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).unwrap();
    let sessions = file["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["sessionId"].clone()).collect()
}

#[tokio::test]
async fn export_is_readable_by_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("in.json"), file().to_string()).unwrap();
    run_echoic(at, &["import", "in.json"]).await;
    // An older export that everyone can read, and a link that an interrupted one seems to have
    // left.
    for name in ["out.json", "elsewhere"] {
        std::fs::write(at.join(name), "older").unwrap();
        std::fs::set_permissions(at.join(name), Permissions::from_mode(0o666)).unwrap();
    }
    std::os::unix::fs::symlink("elsewhere", at.join("out.json.part")).unwrap();
    let (code, _, stderr) = run_echoic(at, &["export", "-o", "out.json"]).await;
    assert_eq!(code, 0, "{stderr}");
    let mode = std::fs::metadata(at.join("out.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!at.join("out.json").is_symlink());
    assert_eq!(std::fs::read_to_string(at.join("elsewhere")).unwrap(), "older");
}

#[tokio::test]
async fn imported_sessions_are_exported_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("in.json"), file().to_string()).unwrap();
    let done = run_echoic(at, &["import", "in.json"]).await;
    assert_eq!(done, (0, "2 sessions imported, 4 new messages\n".to_owned(), String::new()));
    let again = run_echoic(at, &["import", "in.json"]).await;
    assert_eq!(again, (0, "2 sessions imported, 0 new messages\n".to_owned(), String::new()));

    let (code, exported, stderr) = run_echoic(at, &["export"]).await;
    assert_eq!((code, stderr.as_str(), ids(&exported)), (0, "", vec![json!("a"), json!("b")]));
    let first: Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(first["sessions"][0]["participants"], json!(["local", "bob"]));
    for name in ["out.json", "out.json.part"] {
        std::fs::write(at.join(name), "an older export").unwrap();
        std::fs::set_permissions(at.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    let done = run_echoic(at, &["export", "-o", "out.json"]).await;
    assert_eq!(done, (0, String::new(), "2 sessions written to out.json\n".to_owned()));
    assert_eq!(std::fs::read_to_string(at.join("out.json")).unwrap(), exported);
    assert_eq!(at.join("out.json").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!at.join("out.json.part").exists());
    let (_, one, _) = run_echoic(at, &["export", "--session", "b", "--format", "markdown"]).await;
    assert!(one.starts_with("# Second\n"), "{one}");
    let (_, lines, _) = run_echoic(at, &["export", "--format=jsonl"]).await;
    assert_eq!(lines.lines().count(), 2);

    // Import into another database, from standard input.
    let moved = HashMap::from([("DATABASE_URL", "sqlite://other.db".to_owned())]);
    let mut child = command(at, &moved, &["import", "-", "--user", "ada"]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
    assert!(within_deadline(child.wait_with_output()).await.unwrap().status.success());
    let (_, exported, _) = run(at, &moved, &["export", "--user", "ada"]).await;
    assert_eq!(ids(&exported), ["a", "b"]);
    let (code, nothing, stderr) = run(at, &moved, &["export", "-o", "nothing.json"]).await;
    assert_eq!((code, nothing.as_str()), (0, ""));
    assert!(
        stderr.contains("user local has nothing to export; choose another user with --user"),
        "{stderr}"
    );
}

#[tokio::test]
async fn running_server_allows_export_and_refuses_import() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let server = ServerProcess::start(at, &variables()).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/api/import", server.base);
    assert!(
        within_deadline(client.post(url).json(&file()).send()).await.unwrap().status().is_success()
    );
    let (code, exported, stderr) = run_echoic(at, &["export"]).await;
    assert_eq!((code, stderr.as_str(), ids(&exported)), (0, "", vec![json!("a"), json!("b")]));
    let served =
        within_deadline(client.get(format!("{}/api/export", server.base)).send()).await.unwrap();
    assert_eq!(within_deadline(served.text()).await.unwrap(), exported);

    std::fs::write(at.join("in.json"), file().to_string()).unwrap();
    let (code, out, stderr) = run_echoic(at, &["import", "in.json"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(stderr.contains("data/echoic.db is served by another Echoic"), "{stderr}");
    assert!(stderr.contains("curl --data-binary @in.json"), "{stderr}");
    assert_eq!(server.terminate().await.0, 0);
    // The export of the file is the same after the server has stopped.
    assert_eq!(run_echoic(at, &["export"]).await, (0, exported, String::new()));
}

#[tokio::test]
async fn failed_transfer_is_reported_and_leaves_nothing_partial() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (code, out, stderr) = run_echoic(at, &["export", "-o", "out.json"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(stderr.contains("there is no data/echoic.db"), "{stderr}");
    assert!(!at.join("data").exists() && !at.join("out.json.part").exists());

    let whole = file().to_string();
    std::fs::write(at.join("half.json"), &whole[..whole.len() - 5]).unwrap();
    std::fs::write(at.join("export.zip"), b"PK\x03\x04...").unwrap();
    std::fs::write(at.join("bad.json"), r#"[{"mapping":1},{"sessionId":"b","messages":1},7]"#)
        .unwrap();
    for (arguments, code, sentence) in [
        (
            vec!["import", "half.json"],
            1,
            "half.json: must be {\"sessions\": […]}, one session per line",
        ),
        (vec!["import", "half.json"], 1, "sessions imported before that: 1"),
        (vec!["import", "export.zip"], 1, "export.zip: is not a readable ZIP archive"),
        (vec!["import", "absent.json"], 1, "cannot read absent.json"),
        (vec!["import", "bad.json"], 1, "skipped sessions[1] (b): messages must be a list"),
        (vec!["import", "bad.json"], 1, "3 of 3 sessions were skipped"),
        (vec!["import"], 2, "<FILE>"),
        (vec!["export", "--session", "nobody"], 1, "there is no such session"),
        (vec!["export", "--session", "a b"], 2, "must be 1 to 128 characters"),
        (vec!["export", "--session", "a", "--project", "b"], 2, "cannot be used with"),
        (vec!["export", "--format", "xml"], 2, "json, jsonl, markdown"),
        (vec!["export", "-o", "absent/out.json"], 1, "cannot write absent/out.json.part"),
    ] {
        let (ended, _, stderr) = run_echoic(at, &arguments).await;
        assert!(ended == code && stderr.contains(sentence), "{arguments:?}: {ended} {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    let (_, exported, _) = run_echoic(at, &["export"]).await;
    assert_eq!(ids(&exported), ["a"]);
}

#[tokio::test]
async fn files_folders_and_archives_are_imported_in_one_go() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir_all(at.join("chats/deep/.hidden")).unwrap();
    let session = |id: &str| json!({"sessionId": id, "messages": []}).to_string();
    std::fs::write(at.join("chats/a.json"), session("a")).unwrap();
    std::fs::write(at.join("chats/deep/b"), session("b")).unwrap();
    std::fs::write(at.join("chats/deep/.hidden/x.json"), session("x")).unwrap();
    std::fs::write(at.join("chats/notes.txt"), "nothing").unwrap();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(at.join("chats/c.zip")).unwrap());
    zip.start_file("conversations.json", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut zip, session("c").as_bytes()).unwrap();
    zip.finish().unwrap();
    std::fs::write(at.join("d.json"), session("d")).unwrap();

    let (code, out, stderr) = run_echoic(at, &["import", "d.json", "chats"]).await;
    assert_eq!((code, out.as_str()), (0, "4 sessions imported, 0 new messages\n"), "{stderr}");
    assert_eq!(stderr, "not imported: chats/notes.txt: is not JSON\n");
    let (_, exported, _) = run_echoic(at, &["export"]).await;
    let mut found = ids(&exported);
    found.sort_by_key(ToString::to_string);
    assert_eq!(found, ["a", "b", "c", "d"]);

    // A file that was named has to be an export, and so does one of another product.
    std::fs::write(at.join("chats/studio"), r#"{"chunkedPrompt": {}}"#).unwrap();
    for (arguments, words) in [
        (vec!["import", "chats/notes.txt", "d.json"], "chats/notes.txt: is not JSON"),
        (vec!["import", "chats"], "looks like an export of Google AI Studio"),
    ] {
        let (code, _, stderr) = run_echoic(at, &arguments).await;
        assert!(code == 1 && stderr.contains(words), "{arguments:?}: {stderr}");
        assert!(stderr.contains("1 files could not be imported"), "{stderr}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn unread_parts_of_a_folder_are_named_and_do_not_stop() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir_all(at.join("chats/closed")).unwrap();
    std::fs::write(at.join("chats/a.json"), r#"{"sessionId":"a","messages":[]}"#).unwrap();
    std::fs::write(at.join("b.json"), r#"{"sessionId":"b","messages":[]}"#).unwrap();
    symlink("../b.json", at.join("chats/b.json")).unwrap();
    let (code, out, stderr) = run_echoic(at, &["import", "chats"]).await;
    assert_eq!((code, out.as_str()), (0, "1 sessions imported, 0 new messages\n"), "{stderr}");
    assert!(stderr.starts_with("not imported: chats/b.json: is a symbolic link"), "{stderr}");
    let (code, out, _) = run_echoic(at, &["import", "chats/b.json"]).await;
    assert_eq!((code, out.as_str()), (0, "1 sessions imported, 0 new messages\n"));

    let deep = "d/".repeat(33);
    std::fs::create_dir_all(at.join("deep").join(&deep)).unwrap();
    let (code, out, stderr) = run_echoic(at, &["import", "chats/a.json", "deep"]).await;
    assert_eq!((code, out.as_str()), (1, "1 sessions imported, 0 new messages\n"), "{stderr}");
    assert!(stderr.contains("/d: is more than 32 folders deep"), "{stderr}");

    let closed = at.join("chats/closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Nothing is closed to root.
    if std::fs::read_dir(&closed).is_err() {
        let (code, out, stderr) = run_echoic(at, &["import", "chats"]).await;
        assert_eq!((code, out.as_str()), (1, "1 sessions imported, 0 new messages\n"), "{stderr}");
        assert!(stderr.contains("not imported: chats/closed: cannot be read"), "{stderr}");
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn json_and_archives_are_imported_from_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("conversations.json", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut zip, file().to_string().as_bytes()).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    for content in [file().to_string().into_bytes(), zip] {
        let mut child = command(at, &HashMap::new(), &["import", "/dev/stdin"]);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&content).await.unwrap();
        let done = within_deadline(child.wait_with_output()).await.unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && done.stdout.starts_with(b"2 sessions"), "{stderr}");
    }
}

#[tokio::test]
async fn help_explains_each_command_with_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let help = async |command: &'static str| {
        let (code, help, _) = run_echoic(folder.path(), &[command, "--help"]).await;
        assert_eq!(code, 0);
        help.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (export, import) = (help("export").await, help("import").await);
    assert!(export.contains("works while a server is running"), "{export}");
    assert!(
        import.contains("while a server is running, send the file to POST /api/import instead"),
        "{import}"
    );
    for help in [export, import] {
        assert!(help.contains("[env: DATABASE_URL]"), "{help}");
    }
}
