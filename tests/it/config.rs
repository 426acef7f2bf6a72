//! Configuration: the documentation matches the program, and bad values stop startup.

use crate::support::process::{ServerProcess, run};
use crate::support::server::fetch;
use echoic::config::{Config, ConfigError, list_variables};
use std::collections::HashMap;
use std::path::Path;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Name, default and description of each variable. A default that is not a plain value is part of
/// the description.
fn rows() -> Vec<(String, String, String)> {
    let row = |(name, default, help): (String, String, String)| match help.split_once(" [default: ")
    {
        Some((meaning, described)) => {
            (name, described.trim_end_matches(']').to_owned(), meaning.to_owned())
        }
        None if default.is_empty() => (name, String::new(), help),
        None => (name, format!("`{default}`"), help),
    };
    list_variables().into_iter().map(row).collect()
}

#[test]
fn readme_table_matches_the_configuration() {
    let rows: Vec<_> = rows()
        .iter()
        .map(|(name, default, meaning)| format!("| `{name}` | {default} | {meaning} |"))
        .collect();
    let readme = document("README.md");
    let table: Vec<_> = readme
        .lines()
        .skip_while(|line| !line.starts_with("| variable "))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(str::to_owned)
        .collect();
    assert_eq!(table, rows, "the table should be:\n{}", rows.join("\n"));
}

#[test]
fn example_file_lists_every_variable_with_its_default() {
    let entry = |(name, default, meaning): (String, String, String)| {
        let (value, described) = match default.strip_prefix('`') {
            Some(value) => (value.trim_end_matches('`').to_owned(), String::new()),
            None if default.is_empty() => (String::new(), String::new()),
            None => (String::new(), format!(" (default: {default})")),
        };
        format!("# {meaning}{described}\n#{name}={value}\n")
    };
    let expected: String = rows().into_iter().map(entry).collect::<Vec<_>>().join("\n");
    let example = document(".env.example");
    let entries = example.split_once("\n\n").unwrap().1;
    assert_eq!(entries, expected, "the file should go on, after its heading:\n\n{expected}");
}

#[tokio::test]
async fn help_lists_every_variable() {
    let folder = tempfile::tempdir().unwrap();
    let (code, help, _) = run(folder.path(), &HashMap::new(), &["serve", "--help"]).await;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, 0);
    for (name, _, _) in list_variables() {
        assert!(help.contains(&format!("[env: {name}]")), "{name} is missing in:\n{help}");
    }
    let (code, help, _) = run(folder.path(), &HashMap::new(), &["--help"]).await;
    assert!(code == 0 && help.contains("serve"), "{help}");
}

#[tokio::test]
async fn bad_value_stops_startup_naming_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, wants) in [
        ("PORT", "70000", "PORT=70000"),
        ("ECHOIC_ALLOWED_HOSTS", "https://chat.example.com", "without https://"),
        ("ECHOIC_ALLOWED_HOSTS", "a.example.com,,b.example.com", "such as chat.example.com"),
        ("ECHOIC_ALLOWED_HOSTS", "a.example.com:port", "chat.example.com:8443"),
        ("ECHOIC_RETENTION", "90", "such as 90d"),
        ("ECHOIC_QUOTA_COST", "20", "ECHOIC_PRICES"),
        ("HOST", "everywhere", "IP address"),
        ("HOST", "0.0.0.0", "ECHOIC_ALLOW_UNAUTHENTICATED=true"),
        ("DATABASE_URL", "postgres://x", "sqlite://PATH"),
        ("DATABASE_URL", "mongodb://", "mongodb://HOST:PORT/DATABASE"),
        ("ECHOIC_SQLITE_SYNC", "off", "full, normal"),
        ("ECHOIC_PROVIDER", "azure", "auto, openai, anthropic, demo"),
        ("ECHOIC_PROMPT_CACHE_KEY", "true", "auto, always, never"),
        ("OPENAI_BASE_URL", "ftp://x", "http:// or https://"),
        ("ECHOIC_IDLE_TIMEOUT", "soon", "250ms, 30s or 10m"),
        ("ECHOIC_TURN_TIMEOUT", "0s", "from 1ms"),
        ("ECHOIC_CONTEXT_WINDOW", "12", "12"),
        ("ECHOIC_CONTEXT_WINDOWS", "llama3.2", "MODEL=TOKENS"),
        ("ECHOIC_MEMORY_STRATEGY", "everything", "auto, buffer, window, token, summary, recall"),
        ("ECHOIC_MAX_BODY", "2MX", "2MiB"),
        ("ECHOIC_AUTH", "ldap", "none, proxy, keys, jwt"),
        ("ECHOIC_AUTH", "proxy", "ECHOIC_TRUSTED_PROXIES"),
        ("ECHOIC_AUTH", "jwt", "JWT_SECRET or JWT_JWKS_URL"),
        ("ECHOIC_TRUSTED_PROXIES", "proxy.example", "10.0.0.0/8"),
        ("ECHOIC_CORS_ORIGINS", "chat.example.com", "https://chat.example.com"),
        ("ECHOIC_LOG_FORMAT", "xml", "text, json"),
        ("ECHOIC_PROMPTS_DIR", "/dev/null/x", "ECHOIC_PROMPTS_DIR"),
        ("RUST_LOG", "loud=very", "RUST_LOG"),
    ] {
        let others = [("PORT", "0"), ("ECHOIC_SHUTDOWN_GRACE", "1s")];
        let all = others.into_iter().chain([(name, value)]);
        let variables = all.map(|(name, value)| (name, value.to_owned())).collect();
        let (code, _, stderr) = run(folder.path(), &variables, &["serve"]).await;
        assert!(matches!(code, 1 | 2), "{name}={value}: {code} {stderr}");
        assert!(stderr.contains(name) && stderr.contains(wants), "{name}={value}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[tokio::test]
async fn unusable_values_that_may_be_secret_are_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let none = HashMap::new();
    for (line, position) in [
        ("OPENAI_API_KEY=hunter2 and more", "line 1 "),
        ("PORT=0\nhunter2\n", "line 2 "),
        ("PORT=0\n\nJWT_SECRET='hunter2\n", "line 3 "),
        ("hunter2 hunter2=hunter2 hunter2", "line 1 "),
    ] {
        std::fs::write(folder.path().join(".env"), line).unwrap();
        let (code, _, stderr) = run(folder.path(), &none, &["serve"]).await;
        assert!(
            code == 2 && stderr.contains(position) && !stderr.contains("hunter2"),
            "{line}: {stderr}"
        );
    }
    std::fs::remove_file(folder.path().join(".env")).unwrap();
    let (odd, broken) = ("postgres://me:hunter2@db/echoic", "http://me:hunter2@db:port/v1");
    let names = ["DATABASE_URL", "OPENAI_BASE_URL", "ECHOIC_EMBEDDINGS_URL"];
    for (name, url) in names.into_iter().flat_map(|name| [(name, odd), (name, broken)]) {
        let model = ("ECHOIC_EMBEDDINGS_MODEL", "m".to_owned());
        let variables = HashMap::from([(name, url.to_owned()), model]);
        let (code, _, stderr) = run(folder.path(), &variables, &["serve", "--port=0"]).await;
        assert!(code != 0 && stderr.contains(name) && !stderr.contains("hunter2"), "{stderr}");
    }
    let flag = ["serve", "--database-url=postgres://me:hunter2@db/echoic"];
    let (code, _, stderr) = run(folder.path(), &none, &flag).await;
    assert!(
        code == 2 && stderr.contains("--database-url must be") && !stderr.contains("hunter2"),
        "{stderr}"
    );
    let migrate = ["migrate", "--from=sqlite://a.db", "--to=postgres://me:hunter2@db/echoic"];
    let (code, _, stderr) = run(folder.path(), &none, &migrate).await;
    assert!(code == 2 && stderr.contains("--to") && !stderr.contains("hunter2"), "{stderr}");
}

#[tokio::test]
async fn cost_quota_requires_a_price_for_each_configured_model() {
    let folder = tempfile::tempdir().unwrap();
    let with = |more: &[(&'static str, &str)]| {
        let own = [("PORT", "0"), ("ECHOIC_PROVIDER", "demo"), ("ECHOIC_QUOTA_COST", "20")];
        let all = own.iter().chain(more);
        all.map(|(name, value)| (*name, (*value).to_owned())).collect::<HashMap<_, _>>()
    };
    for (more, model) in [
        (&[("ECHOIC_PRICES", "gpt=1/2")][..], "demo"),
        (&[("ECHOIC_PRICES", "demo=1/2"), ("ECHOIC_FALLBACK_MODELS", "demo, other")], "other"),
        (
            &[
                ("ECHOIC_PRICES", "demo=1/2"),
                ("ECHOIC_TITLES", "model"),
                ("ECHOIC_SMALL_MODEL", "tiny"),
            ],
            "tiny",
        ),
    ] {
        let (code, _, stderr) = run(folder.path(), &with(more), &[]).await;
        assert!(
            code == 1 && stderr.contains(&format!("the model {model} has no price")),
            "{stderr}"
        );
        assert!(stderr.contains("*=PROMPT/COMPLETION"), "{stderr}");
    }
    let priced = with(&[("ECHOIC_PRICES", "gpt=1/2,*=0/0"), ("HOST", "localhost")]);
    let server = ServerProcess::start(folder.path(), &priced).await;
    assert!(server.base.starts_with("http://127.0.0.1:"), "{}", server.base);
    assert_eq!(server.terminate().await.0, 0);
}

#[tokio::test]
async fn non_loopback_without_auth_requires_explicit_consent() {
    let folder = tempfile::tempdir().unwrap();
    let open = |allow: &str| {
        HashMap::from([
            ("HOST", "0.0.0.0".to_owned()),
            ("PORT", "0".to_owned()),
            ("ECHOIC_PROVIDER", "demo".to_owned()),
            ("ECHOIC_ALLOW_UNAUTHENTICATED", allow.to_owned()),
            ("ECHOIC_ALLOWED_HOSTS", "other.example.com:8443, chat.example.com".to_owned()),
        ])
    };
    for no in ["", "false"] {
        let (code, out, stderr) = run(folder.path(), &open(no), &[]).await;
        let sentence = "echoic: HOST=0.0.0.0: without authentication the server listens on loopback only; set \
                        ECHOIC_ALLOW_UNAUTHENTICATED=true if everyone who can reach it may read and write every conversation\n";
        assert_eq!((code, out.as_str(), stderr.as_str()), (2, "", sentence), "{no:?}");
    }
    assert!(!folder.path().join("data").exists(), "a refused start touches nothing");

    let server = ServerProcess::start(folder.path(), &open("true")).await;
    let port = server.base.strip_prefix("http://0.0.0.0:").expect("it says where it listens");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |host: &'static str| {
        let url = format!("http://127.0.0.1:{port}/api/chat-sessions");
        fetch(client.get(url).header("host", host))
    };
    // The host check holds without authentication, too: it is the defense against DNS rebinding.
    for (host, status) in [("localhost", 200), ("chat.example.com", 200), ("rebound.example", 403)]
    {
        assert_eq!(ask(host).await.status, status, "{host}");
    }
    assert_eq!(server.terminate().await.0, 0);

    let flag = ["serve", "--host=0.0.0.0", "--allow-unauthenticated"];
    let server = ServerProcess::spawn(crate::support::process::command(
        folder.path(),
        &open("false"),
        &flag,
    ))
    .await;
    assert!(server.base.starts_with("http://0.0.0.0:"), "a flag wins: {}", server.base);
    assert_eq!(server.terminate().await.0, 0);
}

#[test]
fn bad_flag_is_reported_by_its_flag_name() {
    let Err(ConfigError::Usage(error)) = Config::from_flags(["--idle-timeout=soon"]) else {
        panic!("it should be refused");
    };
    assert!(error.to_string().contains("--idle-timeout"), "{error}");
}

#[test]
fn token_settings_without_tokens_are_noted() {
    let secret = format!("--jwt-secret={}", "x".repeat(32));
    for (auth, has_note) in [("none", true), ("keys", true), ("jwt", false)] {
        let config = Config::from_flags([format!("--auth={auth}"), secret.clone()]).unwrap();
        assert_eq!(config.access.describe_unused().is_some(), has_note, "{auth}");
    }
    assert_eq!(Config::from_flags(["--auth=keys"]).unwrap().access.describe_unused(), None);
}

#[tokio::test]
async fn flags_override_environment_and_file_and_empty_is_unset() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(".env"),
        "ECHOIC_MODEL=first\nECHOIC_MODEL=from-file\nPORT=1\nDATABASE_URL=sqlite://file.db\n\
         ECHOIC_CONTEXT_WINDOW=invalid\n",
    )
    .unwrap();
    let variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
        ("ECHOIC_CONTEXT_WINDOW", String::new()),
        ("DATABASE_URL", "sqlite://environment.db".to_owned()),
        ("ECHOIC_IDLE_TIMEOUT", "invalid".to_owned()),
    ]);
    let arguments = ["serve", "--database-url=sqlite://flag.db", "--idle-timeout=30s"];
    let server = ServerProcess::spawn(crate::support::process::command(
        folder.path(),
        &variables,
        &arguments,
    ))
    .await;
    let line = &server.first_line;
    assert!(line.contains("store sqlite flag.db, provider demo, model from-file"), "{line}");
    assert!(!server.base.ends_with(":0"), "port 0 picks a free one and prints it: {line}");
    assert_eq!(server.terminate().await.0, 0);
}

#[tokio::test]
async fn ineffective_variables_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let variables = HashMap::from([
        ("PORT", "0".to_owned()),
        ("ECHOIC_PROVIDER", "demo".to_owned()),
        ("ECHOIC_COLOUR", "red".to_owned()),
        ("ECHOIC_SHAPE", "round".to_owned()),
    ]);
    let (code, log) = ServerProcess::start(folder.path(), &variables).await.terminate().await;
    assert_eq!(code, 0);
    for name in ["ECHOIC_COLOUR", "ECHOIC_SHAPE"] {
        assert!(log.contains(&format!("{name} is set but unknown to this version")), "{log}");
    }
    assert!(!log.contains("secret"), "{log}");
}
