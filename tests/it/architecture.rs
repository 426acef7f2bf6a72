//! The layering rules of docs/ARCHITECTURE.md, checked against the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each module and the modules of this crate that it may import. `app` may import all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &["json"]),
    ("clock", &["domain"]),
    ("json", &[]),
    ("limits", &[]),
    ("fair_pool", &["domain"]),
    ("cpu_pool", &["error", "fair_pool"]),
    ("markup", &[]),
    ("error", &["domain"]),
    ("prompts", &["error"]),
    ("store", &["domain", "error", "limits", "fair_pool"]),
    ("provider", &["domain", "error", "limits", "json"]),
    ("auth", &["domain", "error", "limits", "clock", "store"]),
    (
        "memory",
        &["domain", "error", "limits", "fair_pool", "cpu_pool", "store", "provider", "prompts"],
    ),
    ("transfer", &["domain", "error", "limits", "cpu_pool", "clock", "json", "store", "memory"]),
    (
        "chat",
        &[
            "domain",
            "error",
            "limits",
            "fair_pool",
            "cpu_pool",
            "clock",
            "store",
            "provider",
            "memory",
            "prompts",
        ],
    ),
    (
        "http",
        &[
            "domain",
            "error",
            "limits",
            "fair_pool",
            "cpu_pool",
            "clock",
            "json",
            "markup",
            "store",
            "memory",
            "auth",
            "chat",
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
    ("walkdir", &["cli/import.rs"]),
    ("multer", &["http/import_body.rs"]),
    ("zip", &["transfer/import_files.rs"]),
    ("pulldown_cmark", &["markup/"]),
    ("ammonia", &["markup/"]),
    ("syntect", &["markup/"]),
    ("rust_embed", &["http/"]),
    ("dotenvy", &["config.rs"]),
    ("std::env", &["config.rs"]),
    ("metrics", &["limits.rs"]),
    ("metrics_exporter_prometheus", &["telemetry.rs"]),
    ("mimalloc", &["main.rs"]),
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

/// Files whose imports lead back to themselves. Parents and children of one module tree may name
/// each other: a `mod.rs` re-exports what lies below it.
#[test]
fn imports_between_files_form_no_cycle() {
    let sources = sources();
    let modules: BTreeMap<Vec<String>, &String> = sources
        .iter()
        .filter(|(file, _)| !matches!(file.as_str(), "lib.rs" | "main.rs"))
        .map(|(file, text)| (module_path(file), text))
        .collect();
    let mut imports: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = BTreeMap::new();
    for (module, text) in &modules {
        let code: String = code(text).collect::<Vec<_>>().join(" ");
        for statement in code.split("use ").skip(1) {
            let tree = statement.split(';').next().unwrap();
            for path in expand_use_tree(&tree.replace(' ', "")) {
                let Some(target) = resolve(module, &path) else { continue };
                let found = (1..=target.len())
                    .rev()
                    .find_map(|length| modules.get_key_value(&target[..length]));
                let Some((target, _)) = found else { continue };
                if !target.starts_with(module) && !module.starts_with(target) {
                    imports.entry(module).or_default().insert(target);
                }
            }
        }
    }
    let leads_back = |module: &&&Vec<String>| {
        let mut seen = BTreeSet::new();
        let mut pending: Vec<_> = imports[**module].iter().collect();
        while let Some(next) = pending.pop() {
            if seen.insert(*next) {
                pending.extend(imports.get(*next).into_iter().flatten());
            }
        }
        seen.contains(**module)
    };
    let cycles = imports.keys().filter(leads_back).map(|module| module.join("::"));
    assert_eq!(cycles.collect::<Vec<_>>(), Vec::<String>::new());
}

/// `store/mongo/mod.rs` is `[store, mongo]`.
fn module_path(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap();
    stem.strip_suffix("/mod").unwrap_or(stem).split('/').map(str::to_owned).collect()
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand_use_tree(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let mut depth = 1;
    let mut branch = String::new();
    let mut branches = Vec::new();
    for letter in rest.chars() {
        depth += match letter {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            break;
        }
        if letter == ',' && depth == 1 {
            branches.push(std::mem::take(&mut branch));
        } else {
            branch.push(letter);
        }
    }
    branches.push(branch);
    let branches = branches.iter().filter(|branch| !branch.is_empty());
    branches.flat_map(|branch| expand_use_tree(&format!("{prefix}{branch}"))).collect()
}

/// The absolute path of an import of our own; `None` for one of another crate.
fn resolve(module: &[String], path: &str) -> Option<Vec<String>> {
    let mut segments = path.split("::").peekable();
    let mut base = match *segments.peek()? {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    while let Some(step) =
        segments.next_if(|segment| matches!(*segment, "crate" | "self" | "super"))
    {
        if step == "super" {
            base.pop();
        }
    }
    base.extend(segments.map(str::to_owned));
    Some(base)
}
