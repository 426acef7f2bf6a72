//! Ranks the files of a project by relevance to a message: files that the message names, full paths
//! before partial ones, then recently changed files.

use crate::domain::project::FileEntry;
use crate::domain::text::truncate_chars;
use std::cmp::Reverse;
use std::collections::HashSet;

/// Characters of a message that are searched for file names.
const MAX_SEARCHED_CHARS: usize = 32 * 1024;

/// The files, most relevant first. Ties are in the order of paths.
pub(super) fn rank_files<'a>(files: &'a [FileEntry], message: &str) -> Vec<&'a FileEntry> {
    let names = MentionedNames::from_message(message);
    let mut ranked: Vec<_> =
        files.iter().map(|file| (names.match_path(file.path.as_str()), file)).collect();
    ranked.sort_by_key(|(rank, file)| (*rank, Reverse(file.updated_at), file.path.clone()));
    ranked.into_iter().map(|(_, file)| file).collect()
}

/// How precisely a message names a file; more precise matches sort first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum NameMatch {
    FullPath,
    PathSuffix,
    NoMatch,
}

/// The words of a message that can be file names, in lower case.
struct MentionedNames {
    text: String,
    words: HashSet<String>,
}

impl MentionedNames {
    fn from_message(message: &str) -> Self {
        let text = truncate_chars(message, MAX_SEARCHED_CHARS).to_lowercase();
        let is_of_path = |c: char| c.is_alphanumeric() || "/._-+@#$~".contains(c);
        let words = text.split(|c| !is_of_path(c)).map(|word| {
            // "Look at ./src/main.rs." names src/main.rs.
            let word = word.trim_end_matches(['.', '/']);
            word.strip_prefix("./").unwrap_or(word).trim_start_matches('/').to_owned()
        });
        let words = words.filter(|word| !word.is_empty()).collect();
        Self { text, words }
    }

    fn match_path(&self, path: &str) -> NameMatch {
        let path = path.to_lowercase();
        // Paths with spaces or brackets are split into several words, so they are searched in the
        // text.
        let is_odd = path.contains(|c: char| c.is_whitespace() || "()[]{},;'\"".contains(c));
        if self.words.contains(&path) || (is_odd && self.text.contains(&path)) {
            return NameMatch::FullPath;
        }
        // Suffixes start after a slash: `app/main.rs` names `src/app/main.rs`, `n.rs` does not.
        let mut suffixes = path.match_indices('/').map(|(at, _)| &path[at + 1..]);
        if suffixes.any(|suffix| self.words.contains(suffix)) {
            NameMatch::PathSuffix
        } else {
            NameMatch::NoMatch
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FilePath, Timestamp};

    fn file_entries(paths: &[(&str, i64)]) -> Vec<FileEntry> {
        let file = |(path, changed): &(&str, i64)| FileEntry {
            path: FilePath::new_unchecked(*path),
            size: 1,
            language: None,
            updated_at: Timestamp::from_millis(*changed),
            tokens: 1,
        };
        paths.iter().map(file).collect()
    }

    fn ranked_paths(files: &[FileEntry], message: &str) -> Vec<String> {
        rank_files(files, message).iter().map(|file| file.path.to_string()).collect()
    }

    #[test]
    fn named_files_rank_first_then_recently_changed() {
        let files =
            file_entries(&[("a.rs", 1), ("b/main.rs", 2), ("c.rs", 9), ("d/main.rs", 3), ("e", 9)]);
        assert_eq!(ranked_paths(&files, ""), ["c.rs", "e", "d/main.rs", "b/main.rs", "a.rs"]);
        assert_eq!(
            ranked_paths(&files, "Look at main.rs, please"),
            ["d/main.rs", "b/main.rs", "c.rs", "e", "a.rs"]
        );
        assert_eq!(
            ranked_paths(&files, "Is B/Main.rs like main.rs?"),
            ["b/main.rs", "d/main.rs", "c.rs", "e", "a.rs"]
        );
    }

    #[test]
    fn file_names_match_whole_words_only() {
        let named = |path: &str, message: &str| {
            MentionedNames::from_message(message).match_path(path) != NameMatch::NoMatch
        };
        for (path, message) in [
            ("src/main.rs", "`src/main.rs` is broken"),
            ("src/main.rs", "fix ./src/main.rs."),
            ("src/main.rs", "(see main.rs)"),
            ("src/app/main.rs", "in app/main.rs:12"),
            ("README", "update the readme"),
            ("docs/Größe.md", "GRÖSSE.md? no: größe.md"),
            ("app/(shop)/[id]/page.tsx", "open app/(shop)/[id]/page.tsx now"),
            ("my notes.txt", "what do my notes.txt say?"),
        ] {
            assert!(named(path, message), "{path} in {message}");
        }
        for (path, message) in [
            ("a.rs", "data.rs"),
            ("main.rs", "main.rs.bak"),
            ("src/main.rs", "the main function"),
            ("src/main.rs", "lib/src/main.rsx"),
            ("src/lib.rs", "src"),
        ] {
            assert!(!named(path, message), "{path} in {message}");
        }
    }
}
