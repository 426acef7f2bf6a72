//! Session titles: the default, a title cut from the first message, and one written by a model.

use super::text::reject_nul;
use super::{FieldError, string_enum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Title of a session that nothing has named yet.
pub const DEFAULT_TITLE: &str = "New Chat";
/// Maximum length of a title set by a user, in characters (Unicode scalar values).
pub const MAX_TITLE_CHARS: usize = 200;
/// Length at which a title taken from a message is cut, in characters (Unicode scalar values).
const AUTO_TITLE_CHARS: usize = 60;

/// Origin of a session's title. A title set by a user is never overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TitleSource {
    /// The session has no title yet.
    Default,
    /// Taken from the first user message.
    Auto,
    /// Written by a model.
    Model,
    /// Set by a user.
    User,
}

string_enum!(TitleSource { Default = "default", Auto = "auto", Model = "model", User = "user" });

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionTitle {
    pub text: String,
    pub source: TitleSource,
}

impl Default for SessionTitle {
    fn default() -> Self {
        Self { text: DEFAULT_TITLE.to_owned(), source: TitleSource::Default }
    }
}

impl SessionTitle {
    /// Validates and trims a title set by a user. A missing or blank title resets it to the
    /// default.
    pub fn from_user(title: Option<&str>) -> Result<Self, FieldError> {
        let Some(text) = title.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        reject_nul("title", text)?;
        if text.chars().count() > MAX_TITLE_CHARS {
            return Err(FieldError::new("title", "must be at most 200 characters"));
        }
        Ok(Self { text: text.to_owned(), source: TitleSource::User })
    }

    /// Derives a title from the first message: its first non-blank line with white space collapsed,
    /// cut at a space near 60 characters. `None` if the message contains no text.
    pub fn from_first_message(content: &str) -> Option<Self> {
        let line = content.lines().find(|line| !line.trim().is_empty())?;
        let mut collapsed = String::new();
        for word in line.split_whitespace() {
            if !collapsed.is_empty() {
                collapsed.push(' ');
            }
            collapsed.push_str(word);
            // Enough to decide that the title is cut, and where. The rest of a huge line is not
            // scanned.
            if collapsed.len() > 4 * (AUTO_TITLE_CHARS + 1) {
                break;
            }
        }
        Some(Self { text: truncate_title(&collapsed), source: TitleSource::Auto })
    }
}

impl SessionTitle {
    /// Cleans up a title written by a model: reasoning, quotation marks, Markdown and "Title:" are
    /// removed. `None` if nothing remains.
    pub fn from_model(written: &str) -> Option<Self> {
        // Reasoning models without a separate reasoning channel put it in front of the answer.
        let answer = written.rsplit_once("</think>").map_or(written, |(_, answer)| answer);
        // Reasoning that was cut off: there is no answer after it.
        if answer.contains("<think>") || answer.contains('\0') {
            return None;
        }
        let decoration = |c: char| {
            c.is_whitespace() || "\"'`*#_\u{201c}\u{201d}\u{201e}\u{ab}\u{bb}".contains(c)
        };
        let line = answer
            .lines()
            .map(|line| line.trim_matches(decoration))
            .find(|line| !line.is_empty())?;
        let line = line.strip_prefix("Title:").unwrap_or(line).trim_matches(decoration);
        let title = Self::from_first_message(line.trim_end_matches('.'))?;
        Some(Self { source: TitleSource::Model, ..title })
    }
}

/// Cuts a line to at most 60 characters, at the last space if there is one.
fn truncate_title(line: &str) -> String {
    let Some((limit, _)) = line.char_indices().nth(AUTO_TITLE_CHARS) else {
        return line.to_owned();
    };
    // A space right after the 60th character counts too: cutting there loses no part of a word.
    let reach = limit + line[limit..].chars().next().map_or(0, char::len_utf8);
    let end = line[..reach].rfind(' ').unwrap_or(limit);
    format!("{}…", &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto_title(content: &str) -> Option<String> {
        SessionTitle::from_first_message(content).map(|title| title.text)
    }

    #[test]
    fn first_nonblank_line_becomes_title() {
        assert_eq!(
            auto_title("\n \n  Explain\t event   loops \nplease").unwrap(),
            "Explain event loops"
        );
        assert_eq!(auto_title(" \n\t"), None);
    }

    #[test]
    fn long_title_is_cut_at_a_space_by_60_characters() {
        let sixty = "a".repeat(60);
        assert_eq!(auto_title(&sixty).unwrap(), sixty);
        assert_eq!(auto_title(&format!("{sixty} more")).unwrap(), format!("{sixty}…"));
        assert_eq!(
            auto_title(&format!("{} {}", "a".repeat(30), "b".repeat(40))).unwrap(),
            format!("{}…", "a".repeat(30))
        );
        assert_eq!(auto_title(&"é".repeat(61)).unwrap(), format!("{}…", "é".repeat(60)));
        assert_eq!(auto_title(&"x".repeat(100_000)).unwrap(), format!("{}…", "x".repeat(60)));
    }

    #[test]
    fn model_title_is_stripped_of_decoration() {
        let title = |written: &str| SessionTitle::from_model(written).map(|title| title.text);
        for written in [
            "Event loops",
            "\"Event loops.\"",
            "\n **Title: Event   loops**\n",
            "<think>They ask\nabout\n</think>\n\nEvent loops",
            "\u{201c}Event loops\u{201d}\nBecause that is what it is about.",
        ] {
            assert_eq!(title(written).as_deref(), Some("Event loops"), "{written:?}");
        }
        for unusable in ["", " \n", "<think>still thinking", "\"\""] {
            assert_eq!(title(unusable), None, "{unusable:?}");
        }
        assert_eq!(SessionTitle::from_model("x").unwrap().source, TitleSource::Model);
    }

    #[test]
    fn blank_title_resets_and_long_title_is_rejected() {
        assert_eq!(SessionTitle::from_user(Some("  ")).unwrap(), SessionTitle::default());
        assert_eq!(SessionTitle::from_user(None).unwrap().text, "New Chat");
        assert_eq!(SessionTitle::from_user(Some(" Mine ")).unwrap().text, "Mine");
        assert!(SessionTitle::from_user(Some(&"é".repeat(200))).is_ok());
        assert_eq!(SessionTitle::from_user(Some(&"é".repeat(201))).unwrap_err().field, "title");
    }
}
