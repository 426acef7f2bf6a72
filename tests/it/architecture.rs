//! The layering rules of docs/ARCHITECTURE.md, checked against the sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module and the modules of this crate that it may import. `app` may import all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &["json"]),
    ("clock", &["domain"]),
    ("json", &[]),
    ("markup", &[]),
    ("error", &["domain"]),
    ("prompts", &["error"]),
    ("store", &["domain", "error"]),
    ("provider", &["domain", "error"]),
    ("auth", &["domain", "error", "clock", "store"]),
    ("memory", &["domain", "error", "store", "provider", "prompts"]),
    ("transfer", &["domain", "error", "clock", "json", "store", "memory"]),
    ("chat", &["domain", "error", "clock", "store", "provider", "memory", "prompts"]),
    (
        "http",
        &[
            "domain", "error", "clock", "json", "markup", "store", "memory", "auth", "chat",
            "transfer",
        ],
    ),
    ("config", &["domain", "auth"]),
    ("telemetry", &["config"]),
    (
        "cli",
        &[
            "app",
            "config",
            "telemetry",
            "domain",
            "error",
            "clock",
            "store",
            "memory",
            "auth",
            "chat",
            "transfer",
        ],
    ),
];

/// Each vendor crate and the places that may name it.
const LIVES_IN: &[(&str, &[&str])] = &[
    ("axum", &["http/"]),
    ("tower_http", &["http/"]),
    ("async_openai", &["provider/openai/"]),
    ("reqwest", &["provider/", "auth/jwks.rs"]),
    ("jsonwebtoken", &["auth/jwt.rs", "auth/jwks.rs"]),
    ("hyper", &["http/serve.rs"]),
    ("hyper_util", &["http/serve.rs"]),
    ("tower", &["http/serve.rs"]),
    ("governor", &["http/rate_limit.rs"]),
    ("rusqlite", &["store/sqlite/"]),
    ("mongodb", &["store/mongo/"]),
    ("comfy_table", &["cli/"]),
    ("terminal_size", &["cli/"]),
    ("minijinja", &["prompts.rs"]),
    ("tiktoken_rs", &["memory/tokens.rs"]),
    ("rust_stemmers", &["memory/rank/"]),
    ("imagesize", &["memory/image_tokens.rs"]),
    ("clap", &["config.rs", "config/"]),
    ("indicatif", &["cli/progress.rs"]),
    ("pulldown_cmark", &["markup/"]),
    ("ammonia", &["markup/"]),
    ("syntect", &["markup/"]),
    ("rust_embed", &["http/"]),
    ("dotenvy", &["config.rs"]),
    ("std::env", &["config.rs"]),
    ("tracing_subscriber", &["telemetry.rs"]),
];

/// The Rust files below a folder of the project: path within the folder, and text.
fn files(folder: &str) -> Vec<(String, String)> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// The sources without their inline tests, which may import anything.
fn sources() -> Vec<(String, String)> {
    let code = |text: String| text.split("#[cfg(test)]").next().unwrap().to_owned();
    files("src").into_iter().map(|(name, text)| (name, code(text))).collect()
}

/// The lines that are code rather than comment.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn modules_import_only_lower_layers() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            assert!(
                matches!(module, "main" | "lib" | "app"),
                "{file} belongs to a module without a rule"
            );
            continue;
        };
        for line in code(&text) {
            for rest in line.split("crate::").skip(1) {
                let named =
                    rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                if named != module && !named.is_empty() && !allowed.contains(&named) {
                    wrong.push(format!("{file}: {}", line.trim()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn vendor_crates_are_used_only_in_their_modules() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (vendor, places) in LIVES_IN {
            let names = |line: &str| {
                let at = line.find(&format!("{vendor}::"));
                at.is_some_and(|at| {
                    !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                })
            };
            let is_home = places.iter().any(|place| file.starts_with(place));
            wrong.extend(
                code(&text)
                    .filter(|line| !is_home && names(line))
                    .map(|line| format!("{file}: {}", line.trim())),
            );
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn concrete_stores_and_providers_are_named_only_in_app() {
    let concrete = ["SqliteStore", "MongoStore", "openai::", "anthropic::", "demo::"];
    let mut wrong = BTreeSet::new();
    for (file, text) in sources() {
        let is_home = ["app.rs", "store/", "provider/"].iter().any(|place| file.starts_with(place));
        for line in code(&text).filter(|_| !is_home) {
            wrong.extend(
                concrete
                    .iter()
                    .filter(|name| line.contains(*name))
                    .map(|name| format!("{file}: {name}")),
            );
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn architecture_names_every_file_of_the_large_modules() {
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    let map = std::fs::read_to_string(map).unwrap();
    let mut unnamed = Vec::new();
    for module in ["chat", "memory", "provider", "store", "http"] {
        let (_, section) = map.split_once(&format!("\n**`{module}/`**")).unwrap();
        let section = section.split("\n**`").next().unwrap().split("\n## ").next().unwrap();
        for (file, _) in files(&format!("src/{module}")) {
            // The files of a subfolder are covered by its name.
            let name = match file.split_once('/') {
                Some((folder, _)) => format!("`{folder}/`"),
                None => format!("`{file}`"),
            };
            if file != "mod.rs" && !section.contains(&name) {
                unnamed.push(format!("{module}/{file}"));
            }
        }
    }
    assert_eq!(unnamed, Vec::<String>::new(), "add them to the code map of docs/ARCHITECTURE.md");
}

#[test]
fn no_file_exceeds_800_lines() {
    let long: Vec<_> = ["src", "tests/it"]
        .into_iter()
        .flat_map(files)
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > 800)
        .collect();
    assert_eq!(long, []);
}
