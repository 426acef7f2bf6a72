//! The rules for names and prose that a compiler does not check: type names, test names, the width
//! of comments, and phrases with a plainer equivalent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Public types of one word that are precise enough, by the reason.
const ONE_WORD_TYPES: &[(&str, &[&str])] = &[
    (
        "The domain's own nouns, which the API and the documentation use as well.",
        &[
            "Cost",
            "Memory",
            "Message",
            "Project",
            "Prompt",
            "Quota",
            "Role",
            "Session",
            "Timestamp",
            "Transcript",
            "Usage",
        ],
    ),
    (
        "The services and traits that the modules are named after.",
        &[
            "App",
            "Authenticator",
            "Cli",
            "Config",
            "Embedder",
            "Hub",
            "Journal",
            "Provider",
            "Store",
        ],
    ),
    (
        "Standard terms of Rust, of authentication and of storage for exactly this kind of type.",
        &[
            "Collections",
            "Durability",
            "Envelope",
            "Error",
            "Identity",
            "Pagination",
            "Passthrough",
            "Principal",
            "Result",
            "Status",
            "Utterance",
        ],
    ),
];

/// Names that several public types share, with the reason.
const SHARED_NAMES: &[(&str, &str)] = &[];

/// Words that open a sentence with a relative clause. A noun or a verb says it directly.
const OPENERS: &[&str] = &["What", "Whose", "Who", "Whatever", "Whoever"];

/// Phrases, with the plain words for them.
const PHRASES: &[(&str, &str)] = &[
    ("anew", "again"),
    ("beside", "alongside, next to, apart from, in the background"),
    ("whoever", "callers, clients, users"),
    ("nobody", "no client, no user, or a passive"),
    ("is none", "is invalid, is missing, is not one of them"),
    ("are none", "are invalid, are missing, are not among them"),
    ("that is no", "that is not a"),
];

/// Plain sentences that contain one of the phrases.
const ALLOWED_PHRASES: &[&str] = &["there is none", "there are none", "that is no longer"];

const MAX_TEST_NAME: usize = 60;
const MAX_COMMENT_COLUMNS: usize = 100;
const MAX_FUNCTION_LINES: usize = 80;
/// Longer functions are rare, and have a reason.
const LONG_FUNCTION_LINES: usize = 60;
const MAX_LONG_FUNCTIONS: usize = 5;

/// Folders that are checked, and files of the project's root.
const FOLDERS: &[&str] =
    &["src", "tests", "benches", "web", "docs", "prompts", "fuzz", "examples", "deploy"];
const ROOT_FILES: &[&str] =
    &["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Cargo.toml", "justfile"];
const SKIPPED_FOLDERS: &[&str] = &["node_modules", "snapshots", "target", "__pycache__"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rust,
    /// Also TypeScript and style sheets.
    JavaScript,
    /// Python, shell and settings, whose comments begin with `#`.
    Script,
    Sql,
    Markdown,
}

struct SourceFile {
    /// Relative to the project's root.
    path: String,
    kind: Kind,
    text: String,
}

impl SourceFile {
    fn read(root: &Path, path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let kind = match name.trim_end_matches(".j2").rsplit('.').next()? {
            "rs" => Kind::Rust,
            "js" | "mjs" | "ts" | "css" => Kind::JavaScript,
            "py" | "run" | "sh" | "toml" | "yml" | "txt" | "justfile" => Kind::Script,
            "sql" => Kind::Sql,
            "md" => Kind::Markdown,
            _ => return None,
        };
        let text = std::fs::read_to_string(path).ok()?;
        Some(Self { path: path.strip_prefix(root).ok()?.to_str()?.to_owned(), kind, text })
    }

    /// The text before the inline test module.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }

    /// The comment in a line, or the line itself in Markdown.
    fn prose_of<'a>(&self, line: &'a str) -> Option<&'a str> {
        let line = line.trim();
        match self.kind {
            // Templates of prompts are Markdown with tags.
            Kind::Markdown => (!line.starts_with("{%")).then_some(line),
            Kind::Script => line.strip_prefix("# "),
            Kind::Sql => line.strip_prefix("-- "),
            Kind::Rust | Kind::JavaScript => {
                let block = self.kind == Kind::JavaScript && line.starts_with(['*', '/']);
                if line.starts_with("//") || block {
                    return Some(line.trim_start_matches(['/', '*', '!']).trim());
                }
                // Two slashes in a string are not a comment.
                let (before, comment) = line.rsplit_once(" // ")?;
                before.matches('"').count().is_multiple_of(2).then_some(comment)
            }
        }
    }

    /// Number and text of each line of prose, without code blocks and code in backquotes.
    fn prose(&self) -> Vec<(usize, String)> {
        let mut lines = Vec::new();
        let mut in_code_block = false;
        for (number, line) in (1..).zip(self.text.lines()) {
            let Some(prose) = self.prose_of(line) else {
                in_code_block = false;
                continue;
            };
            if prose.starts_with("```") {
                in_code_block = !in_code_block;
            } else if !in_code_block {
                let outside: Vec<_> = prose.split('`').step_by(2).collect();
                lines.push((number, outside.join("_")));
            }
        }
        lines
    }
}

/// All files, read once for all tests of this module.
fn files() -> &'static [SourceFile] {
    static FILES: OnceLock<Vec<SourceFile>> = OnceLock::new();
    FILES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths: Vec<_> = ROOT_FILES.iter().map(|name| root.join(name)).collect();
        for folder in FOLDERS {
            collect(&root.join(folder), &mut paths);
        }
        paths.sort();
        paths.iter().filter_map(|path| SourceFile::read(root, path)).collect()
    })
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_skipped = SKIPPED_FOLDERS.iter().any(|name| path.ends_with(name));
        match path.is_dir() {
            true if is_skipped => {}
            true => collect(&path, paths),
            false => paths.push(path),
        }
    }
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} found:\n{}", wrong.len(), wrong.join("\n"));
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The name of the public type that a line defines.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.trim().strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(restricted) => restricted.split_once(')')?.1,
        None => rest,
    };
    let rest = rest.strip_prefix(' ')?;
    let (keyword, rest) = rest.strip_prefix("unsafe ").unwrap_or(rest).split_once(' ')?;
    let is_type = matches!(keyword, "struct" | "enum" | "trait" | "type" | "union");
    let name = identifier(rest);
    (is_type && !name.is_empty()).then_some(name)
}

/// The paths of the files that define each public type of `src`.
fn public_types() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut types = BTreeMap::<_, Vec<_>>::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/")) {
        for name in file.code().lines().filter_map(public_type) {
            types.entry(name).or_default().push(file.path.as_str());
        }
    }
    types
}

/// Counts the words of a type's name: `Jwks` has one, `HttpError` and `ETag` have two.
fn word_count(name: &str) -> usize {
    let letters: Vec<char> = name.chars().collect();
    let starts_word = |at: &usize| {
        let is_after_lowercase = *at == 0 || !letters[at - 1].is_uppercase();
        let is_before_lowercase = letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        letters[*at].is_uppercase() && (is_after_lowercase || is_before_lowercase)
    };
    (0..letters.len()).filter(starts_word).count()
}

#[test]
fn public_types_do_not_share_names() {
    let is_allowed = |name: &str| SHARED_NAMES.iter().any(|(allowed, _)| *allowed == name);
    let shared = public_types().into_iter().filter(|(_, paths)| paths.len() > 1);
    let wrong = shared.filter(|(name, _)| !is_allowed(name));
    assert_none(
        &wrong.map(|(name, paths)| format!("{name}: {}", paths.join(", "))).collect::<Vec<_>>(),
    );
}

#[test]
fn public_types_have_two_words() {
    let is_allowed = |name: &str| ONE_WORD_TYPES.iter().any(|(_, names)| names.contains(&name));
    let single = public_types().into_iter().filter(|(name, _)| word_count(name) == 1);
    let wrong = single.filter(|(name, _)| !is_allowed(name));
    assert_none(
        &wrong.map(|(name, paths)| format!("{name}: {}", paths.join(", "))).collect::<Vec<_>>(),
    );
}

#[test]
fn lists_of_exceptions_are_up_to_date() {
    let types = public_types();
    let one_word = ONE_WORD_TYPES.iter().flat_map(|(_, names)| *names);
    let unused = one_word.filter(|name| !types.contains_key(*name)).copied();
    let is_shared = |name: &str| types.get(name).is_some_and(|paths| paths.len() > 1);
    let unshared = SHARED_NAMES.iter().map(|(name, _)| *name).filter(|name| !is_shared(name));
    assert_none(
        &unused.chain(unshared).map(|name| format!("{name} is not used")).collect::<Vec<_>>(),
    );
}

/// The name and the number of lines of each function, as rustfmt lays them out.
fn function_lengths(code: &str) -> Vec<(&str, usize)> {
    const MODIFIERS: &[&str] = &["pub", "const", "async", "unsafe"];
    let lines: Vec<&str> = code.lines().collect();
    let mut lengths = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some((before, name)) = line.split_once("fn ") else { continue };
        // `pub(in crate::store)` is two words.
        let is_modifier = |word: &str| {
            MODIFIERS.contains(&word) || word.starts_with("pub(") || word.ends_with(')')
        };
        if !before.split_whitespace().all(is_modifier) {
            continue;
        }
        // A signature ends with its body's brace, with `;` in a trait, or with a body in one line.
        let signature_end = lines[start..].iter().find(|line| line.ends_with(['{', ';', '}']));
        if signature_end.is_some_and(|line| line.ends_with('{')) {
            let indent = before.len() - before.trim_start().len();
            let body_end = format!("{:indent$}}}", "");
            let length = lines[start..].iter().position(|line| *line == body_end).unwrap_or(0) + 1;
            lengths.push((identifier(name), length));
        }
    }
    lengths
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/")) {
        for (name, lines) in function_lengths(file.code()) {
            assert!(lines <= MAX_FUNCTION_LINES, "{}: {name} has {lines} lines", file.path);
            if lines > LONG_FUNCTION_LINES {
                long.push(format!("{}: {name} has {lines} lines", file.path));
            }
        }
    }
    assert!(!long.is_empty(), "no function was found");
    assert!(long.len() <= MAX_LONG_FUNCTIONS, "shorten some of these:\n{}", long.join("\n"));
}

#[test]
fn test_names_are_short() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.kind == Kind::Rust) {
        // Contract suites list their tests in a macro, so every function in `tests` is checked.
        let mut is_test = false;
        for line in file.text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let Some((before, name)) = line.split_once("fn ") else { continue };
            if !matches!(before, "" | "async " | "pub " | "pub async ")
                && !before.starts_with("pub(")
            {
                continue;
            }
            let name = identifier(name);
            if (is_test || file.path.starts_with("tests/")) && name.len() > MAX_TEST_NAME {
                wrong.push(format!("{}: {name} has {} characters", file.path, name.len()));
            }
            is_test = false;
        }
    }
    assert_none(&wrong);
}

#[test]
fn comment_lines_fit_the_width() {
    let mut wrong = Vec::new();
    let is_code = |file: &&SourceFile| {
        let folders = ["src/", "tests/", "benches/"];
        file.kind != Kind::Markdown && folders.iter().any(|folder| file.path.starts_with(folder))
    };
    for file in files().iter().filter(is_code) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let columns = line.chars().count();
            let is_comment = line.trim_start().starts_with("//")
                || file.kind == Kind::Script && line.trim_start().starts_with("# ");
            // A link cannot be wrapped.
            if is_comment && columns > MAX_COMMENT_COLUMNS && !line.contains("://") {
                wrong.push(format!("{}:{number}: {columns} columns", file.path));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn tests_do_not_sleep_in_threads() {
    // Clippy forbids it elsewhere. In tests its list is off, for the tasks that they spawn.
    let call = ["thread::", "sleep("].concat();
    let tests = files().iter().filter(|file| file.path.starts_with("tests/it/"));
    let wrong = tests.filter(|file| file.text.contains(&call));
    assert_none(&wrong.map(|file| file.path.clone()).collect::<Vec<_>>());
}

/// The first words of the sentences in a line.
fn first_words(line: &str) -> impl Iterator<Item = &str> {
    let text = line.trim_start_matches(|c: char| "-*>0123456789.) ".contains(c));
    // A heading or a question may well begin with such a word.
    let is_exempt = line.starts_with('#') || line.contains('?');
    text.split(". ").map(|sentence| identifier(sentence.trim())).filter(move |_| !is_exempt)
}

fn contains_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + phrase.len()..].chars().next();
        ![before, after].into_iter().flatten().any(char::is_alphanumeric)
    })
}

#[test]
fn prose_avoids_roundabout_phrases() {
    let mut wrong = Vec::new();
    for file in files() {
        let mut last = (0, String::new());
        for (number, line) in file.prose() {
            for word in first_words(&line).filter(|word| OPENERS.contains(word)) {
                wrong.push(format!("{}:{number}: opens with \"{word}\"; use a noun", file.path));
            }
            let alone = line.to_lowercase();
            // A phrase may be split over two lines.
            let joined = match last {
                (before, ref word) if before + 1 == number => format!("{word} {alone}"),
                _ => alone.clone(),
            };
            let joined =
                ALLOWED_PHRASES.iter().fold(joined, |text, allowed| text.replace(allowed, ""));
            for (phrase, plain) in PHRASES {
                let text = if phrase.contains(' ') { &joined } else { &alone };
                if contains_phrase(text, phrase) {
                    wrong.push(format!("{}:{number}: \"{phrase}\"; use {plain}", file.path));
                }
            }
            let word = alone.split_whitespace().next_back().unwrap_or_default().to_owned();
            last = (number, word);
        }
    }
    assert_none(&wrong);
}

/// The words of a name or a sentence, in lower case and without the plural's "s".
fn stems(text: &str) -> BTreeSet<String> {
    let mut spaced = String::new();
    for c in text.chars() {
        if c.is_uppercase() {
            spaced.push(' ');
        }
        spaced.push(c);
    }
    let words = spaced.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    words.map(|word| word.to_lowercase().trim_end_matches('s').to_owned()).collect()
}

/// The name of the item, field or variant in a line.
fn item_name(line: &str) -> &str {
    let words = line.trim().split(|c: char| !c.is_alphanumeric() && c != '_');
    let keywords = ["pub", "crate", "super", "in", "async", "unsafe", "const", "static", "fn"];
    let kinds = ["struct", "enum", "trait", "type", "mod", "self", ""];
    words.into_iter().find(|word| !keywords.contains(word) && !kinds.contains(word)).unwrap_or("")
}

#[test]
fn doc_comments_say_more_than_the_name() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/")) {
        let mut comment = Vec::new();
        for (number, line) in (1..).zip(file.code().lines().map(str::trim)) {
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text.trim());
            } else if !line.starts_with('#') {
                if let [text] = *comment
                    && text.split_whitespace().count() <= 4
                {
                    let mut said = stems(text);
                    for article in ["the", "a", "an", "it", "of", "i", "id"] {
                        said.remove(article);
                    }
                    if !said.is_empty() && said.is_subset(&stems(item_name(line))) {
                        wrong.push(format!("{}:{number}: \"{text}\"", file.path));
                    }
                }
                comment.clear();
            }
        }
    }
    assert_none(&wrong);
}
