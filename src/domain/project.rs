//! Projects: a description, instructions and files that sessions share. Naming rules, size limits
//! and access.

use super::content::ContentError;
use super::principal::{AccessDecision, AccessLevel, Principal};
use super::text::reject_nul;
use super::{FieldError, ProjectId, Timestamp, UserId, string_enum};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use utoipa::ToSchema;

/// Maximum size of a file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Maximum size of all files of a project together, in bytes.
pub const MAX_PROJECT_BYTES: usize = 16 << 20;
pub const MAX_FILES: usize = 2000;
const MAX_DESCRIPTION_BYTES: usize = 16 * 1024;
const MAX_NAME_CHARS: usize = 200;
const MAX_PATH_BYTES: usize = 512;
const MAX_LANGUAGE_BYTES: usize = 32;

/// State of the application's own code generation for a project. The server only stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GenerationStatus {
    /// Nothing was requested.
    #[default]
    Idle,
    /// Files are being generated.
    Generating,
    /// Files were generated.
    Completed,
    /// Generation failed.
    Failed,
}

string_enum!(GenerationStatus {
    Idle = "idle",
    Generating = "generating",
    Completed = "completed",
    Failed = "failed",
});

/// Description, instructions and files shared by sessions.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Project id.
    #[serde(rename = "projectId")]
    #[schema(value_type = String)]
    pub id: ProjectId,
    /// The only user with access, apart from admins.
    #[serde(skip)]
    pub owner: UserId,
    /// Display name.
    pub name: String,
    /// Description of the project, part of the prompt in all its sessions.
    pub description: String,
    /// Instructions to the model in every session of the project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Files without their contents, sorted by path.
    pub files: Vec<FileEntry>,
    /// Incremented whenever a field or file changes.
    pub version: u32,
    /// State of the application's code generation.
    pub generation_status: GenerationStatus,
    /// Time of creation.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last change to any field or file.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// A project file without its content.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Path within the project.
    #[schema(value_type = String)]
    pub path: FilePath,
    /// Size of the content, in bytes.
    pub size: u32,
    /// Programming or markup language of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub language: Option<FileLanguage>,
    /// Time of the last change.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Tokens of the content, counted with o200k_base.
    #[serde(skip)]
    pub tokens: u32,
}

impl Project {
    /// Whether this user may read and change the project. For all others it does not exist.
    pub fn is_accessible_to(&self, principal: &Principal) -> bool {
        principal.authorize(AccessLevel::Owner, &self.owner, &[]) == AccessDecision::Allowed
    }

    pub fn find_file(&self, path: &FilePath) -> Option<&FileEntry> {
        self.find_index(path).ok().map(|place| &self.files[place])
    }

    /// Adds a file or replaces the one at its path. Returns whether it is new. Errors: the project
    /// would exceed its limits.
    pub fn upsert_file(&mut self, entry: FileEntry) -> Result<bool, ContentError> {
        let place = self.find_index(&entry.path);
        match place {
            Ok(place) => self.files[place] = entry,
            Err(place) => self.files.insert(place, entry),
        }
        // Checked after the change, because a replacement can also make the project smaller. On an
        // error the caller discards the project, which is a copy read from the store.
        check_file_sizes(self.files.iter().map(|file| file.size as usize))?;
        Ok(place.is_err())
    }

    /// Returns whether there was a file at the path.
    pub fn remove_file(&mut self, path: &FilePath) -> bool {
        self.find_index(path).map(|place| self.files.remove(place)).is_ok()
    }

    /// The index of a path, or where it would be inserted.
    fn find_index(&self, path: &FilePath) -> Result<usize, usize> {
        self.files.binary_search_by(|file| file.path.cmp(path))
    }
}

/// Checks the number and total size of files against a project's limits. Sizes are in bytes.
pub fn check_file_sizes(sizes: impl ExactSizeIterator<Item = usize>) -> Result<(), ContentError> {
    if sizes.len() > MAX_FILES {
        return Err(FieldError::new("files", format!("must be at most {MAX_FILES}")).into());
    }
    if sizes.fold(0, usize::saturating_add) > MAX_PROJECT_BYTES {
        return Err(ContentError::TooLarge { field: "files", limit: MAX_PROJECT_BYTES });
    }
    Ok(())
}

/// A path relative to the project's root, with `/` as the separator.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Arc<str>);

impl FilePath {
    /// Validates a path sent by a client. It cannot leave the project, and no two spellings name
    /// the same file.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let invalid = |message: &'static str| Err(FieldError::new("path", message));
        if text.is_empty() || text.len() > MAX_PATH_BYTES {
            return invalid("must be 1 to 512 bytes");
        }
        if text.contains('\\') || text.chars().any(char::is_control) {
            return invalid("must not contain backslashes or control characters");
        }
        // Rejecting these segments rather than resolving them keeps one spelling per file, so that
        // paths can be compared as strings.
        if text.split('/').any(|name| name.is_empty() || name == "." || name == "..") {
            return invalid("must be relative, without empty, . or .. segments");
        }
        Ok(Self(Arc::from(text)))
    }

    /// Wraps a path that was validated before it was stored.
    pub fn new_unchecked(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The language of a file, as named in a code fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FileLanguage(String);

impl FileLanguage {
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+#._-".contains(&byte);
        if (1..=MAX_LANGUAGE_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(FieldError::new("language", "must be 1 to 32 characters of A-Z a-z 0-9 + # . _ -"))
    }

    /// Wraps a language that was validated before it was stored.
    pub fn new_unchecked(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Validates a project name and trims it.
pub fn parse_name(text: &str) -> Result<String, FieldError> {
    let text = text.trim();
    let is_valid =
        (1..=MAX_NAME_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if is_valid {
        return Ok(text.to_owned());
    }
    Err(FieldError::new(
        "name",
        "must be 1 to 200 characters, not blank, without control characters",
    ))
}

pub fn parse_description(text: String) -> Result<String, FieldError> {
    reject_nul("description", &text)?;
    if text.len() > MAX_DESCRIPTION_BYTES {
        return Err(FieldError::new("description", "must be at most 16 KiB"));
    }
    Ok(text)
}

/// Validates project instructions; blank ones become `None`. `most` is the maximum size of a system
/// prompt, in bytes.
pub fn parse_system_prompt(text: String, most: usize) -> Result<Option<String>, FieldError> {
    reject_nul("systemPrompt", &text)?;
    if text.len() > most {
        return Err(FieldError::new("systemPrompt", format!("must be at most {most} bytes")));
    }
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// Validates the content of a file. It may be empty.
pub fn parse_file_content(text: String) -> Result<String, ContentError> {
    reject_nul("content", &text)?;
    if text.len() > MAX_FILE_BYTES {
        return Err(ContentError::TooLarge { field: "content", limit: MAX_FILE_BYTES });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_project() -> Project {
        let at = Timestamp::from_millis(0);
        Project {
            id: ProjectId::new_unchecked("p"),
            owner: UserId::new_unchecked("ada"),
            name: "Shop".to_owned(),
            description: String::new(),
            system_prompt: None,
            files: Vec::new(),
            version: 1,
            generation_status: GenerationStatus::Idle,
            created_at: at,
            updated_at: at,
        }
    }

    fn sample_entry(path: &str, size: usize) -> FileEntry {
        let path = FilePath::new_unchecked(path);
        let size = u32::try_from(size).unwrap();
        FileEntry { path, size, language: None, updated_at: Timestamp::from_millis(0), tokens: 0 }
    }

    #[test]
    fn file_path_stays_inside_project() {
        for good in ["a", "src/main.rs", "app/(shop)/[id]/page.tsx", ".env", "...", "ü/a b.txt"] {
            assert_eq!(FilePath::parse(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(513);
        for bad in [
            "",
            "/etc/passwd",
            "../a",
            "a/../b",
            "a/..",
            "./a",
            "a/.",
            "a//b",
            "a/",
            "..",
            ".",
            r"a\b",
            r"..\a",
            "a\0",
            "a\nb",
            &long,
        ] {
            assert_eq!(FilePath::parse(bad).unwrap_err().field, "path", "{bad:?}");
        }
    }

    #[test]
    fn files_are_sorted_by_unique_path() {
        let mut project = sample_project();
        for (path, is_new) in [("b", true), ("a/z", true), ("b", false), ("a", true)] {
            assert_eq!(project.upsert_file(sample_entry(path, 1)).unwrap(), is_new, "{path}");
        }
        let paths = |project: &Project| {
            project.files.iter().map(|file| file.path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(paths(&project), ["a", "a/z", "b"]);
        assert!(project.remove_file(&FilePath::new_unchecked("a/z")));
        assert!(!project.remove_file(&FilePath::new_unchecked("a/z")));
        assert_eq!(paths(&project), ["a", "b"]);
    }

    #[test]
    fn project_is_limited_to_16_mib_and_2000_files() {
        let mut full = sample_project();
        for number in 0..16 {
            full.upsert_file(sample_entry(&format!("{number}"), MAX_FILE_BYTES)).unwrap();
        }
        full.upsert_file(sample_entry("empty", 0)).unwrap();
        let refused = full.upsert_file(sample_entry("one byte", 1)).unwrap_err();
        assert!(matches!(
            refused,
            ContentError::TooLarge { field: "files", limit: MAX_PROJECT_BYTES }
        ));

        let mut many = sample_project();
        for number in 0..MAX_FILES {
            many.upsert_file(sample_entry(&format!("{number}"), 0)).unwrap();
        }
        many.upsert_file(sample_entry("7", 1)).unwrap();
        assert!(matches!(
            many.upsert_file(sample_entry("one more", 0)).unwrap_err(),
            ContentError::InvalidField(_)
        ));
    }

    #[test]
    fn project_fields_are_length_limited() {
        assert_eq!(parse_name(" Shop ").unwrap(), "Shop");
        for bad in ["", "  ", "a\nb", &"x".repeat(201)] {
            assert_eq!(parse_name(bad).unwrap_err().field, "name", "{bad:?}");
        }
        assert_eq!(parse_description("x".repeat(16 * 1024 + 1)).unwrap_err().field, "description");
        assert_eq!(parse_system_prompt(" \n".to_owned(), 9).unwrap(), None);
        assert_eq!(parse_system_prompt("x".repeat(10), 9).unwrap_err().field, "systemPrompt");
        assert_eq!(parse_file_content("x".repeat(MAX_FILE_BYTES)).unwrap().len(), MAX_FILE_BYTES);
        assert!(matches!(
            parse_file_content("x".repeat(MAX_FILE_BYTES + 1)).unwrap_err(),
            ContentError::TooLarge { field: "content", limit: MAX_FILE_BYTES }
        ));
        assert!(matches!(
            parse_file_content("\0".to_owned()).unwrap_err(),
            ContentError::InvalidField(_)
        ));
        assert_eq!(FileLanguage::parse("objective-c++").unwrap().as_str(), "objective-c++");
        for bad in ["", "a b", "`", &"x".repeat(33)] {
            assert_eq!(FileLanguage::parse(bad).unwrap_err().field, "language", "{bad:?}");
        }
    }
}
