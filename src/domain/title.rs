//! The name of a session: what it starts as, and how the first message names it.

use super::text::without_nul;
use super::{Invalid, as_word};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a session is called until something names it.
pub const DEFAULT_TITLE: &str = "New Chat";
/// The longest title a user may give, in Unicode scalar values.
pub const MAX_TITLE: usize = 200;
/// Where a title taken from a message is cut, in Unicode scalar values.
const AUTO_TITLE: usize = 60;

/// Where a session's title came from. A title of the user's is never overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TitleSource {
    /// Nothing has named the session yet.
    Default,
    /// Cut from the first user message.
    Auto,
    /// Written by a model.
    Model,
    /// Given by the user.
    User,
}

as_word!(TitleSource { Default = "default", Auto = "auto", Model = "model", User = "user" });

/// A title and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    /// The title.
    pub text: String,
    /// Where it came from.
    pub source: TitleSource,
}

impl Default for Title {
    fn default() -> Self {
        Self { text: DEFAULT_TITLE.to_owned(), source: TitleSource::Default }
    }
}

impl Title {
    /// A title as a user gives it, trimmed. A blank one, or none, resets to the default.
    pub fn given(title: Option<&str>) -> Result<Self, Invalid> {
        let Some(text) = title.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        without_nul("title", text)?;
        if text.chars().count() > MAX_TITLE {
            return Err(Invalid::new("title", "must be at most 200 characters"));
        }
        Ok(Self { text: text.to_owned(), source: TitleSource::User })
    }

    /// The title that a first message gives: its first non-blank line with white space collapsed,
    /// cut at a space near 60 characters. `None` if the message has no text.
    pub fn from_first_message(content: &str) -> Option<Self> {
        let line = content.lines().find(|line| !line.trim().is_empty())?;
        let mut collapsed = String::new();
        for word in line.split_whitespace() {
            if !collapsed.is_empty() {
                collapsed.push(' ');
            }
            collapsed.push_str(word);
            // Enough to know that it must be cut, and where; the rest of a huge line is not read.
            if collapsed.len() > 4 * (AUTO_TITLE + 1) {
                break;
            }
        }
        Some(Self { text: shortened(&collapsed), source: TitleSource::Auto })
    }
}

impl Title {
    /// The title that a model wrote, without what models put around one: thoughts, quotation
    /// marks, "Title:". `None` if nothing is left.
    pub fn by_model(written: &str) -> Option<Self> {
        let answer = written.rsplit_once("</think>").map_or(written, |(_, answer)| answer);
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

/// At most 60 characters: cut at the last space at or before the 60th, or at the 60th.
fn shortened(line: &str) -> String {
    let Some((limit, _)) = line.char_indices().nth(AUTO_TITLE) else {
        return line.to_owned();
    };
    // A space that stands just behind the 60th character counts: nothing of a word is lost there.
    let reach = limit + line[limit..].chars().next().map_or(0, char::len_utf8);
    let end = line[..reach].rfind(' ').unwrap_or(limit);
    format!("{}…", &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(content: &str) -> Option<String> {
        Title::from_first_message(content).map(|title| title.text)
    }

    #[test]
    fn the_first_line_with_text_names_the_session() {
        assert_eq!(
            named("\n \n  Explain\t event   loops \nplease").unwrap(),
            "Explain event loops"
        );
        assert_eq!(named(" \n\t"), None);
    }

    #[test]
    fn a_long_line_is_cut_at_a_space_at_or_before_60() {
        let sixty = "a".repeat(60);
        assert_eq!(named(&sixty).unwrap(), sixty);
        assert_eq!(named(&format!("{sixty} more")).unwrap(), format!("{sixty}…"));
        assert_eq!(
            named(&format!("{} {}", "a".repeat(30), "b".repeat(40))).unwrap(),
            format!("{}…", "a".repeat(30))
        );
        assert_eq!(named(&"é".repeat(61)).unwrap(), format!("{}…", "é".repeat(60)));
        assert_eq!(named(&"x".repeat(100_000)).unwrap(), format!("{}…", "x".repeat(60)));
    }

    #[test]
    fn what_models_put_around_a_title_is_taken_off() {
        let title = |written: &str| Title::by_model(written).map(|title| title.text);
        for written in [
            "Event loops",
            "\"Event loops.\"",
            "\n **Title: Event   loops**\n",
            "<think>They ask\nabout\n</think>\n\nEvent loops",
            "\u{201c}Event loops\u{201d}\nBecause that is what it is about.",
        ] {
            assert_eq!(title(written).as_deref(), Some("Event loops"), "{written:?}");
        }
        for nothing in ["", " \n", "<think>still thinking", "\"\""] {
            assert_eq!(title(nothing), None, "{nothing:?}");
        }
        assert_eq!(Title::by_model("x").unwrap().source, TitleSource::Model);
    }

    #[test]
    fn a_blank_title_resets_to_the_default_and_a_long_one_is_refused() {
        assert_eq!(Title::given(Some("  ")).unwrap(), Title::default());
        assert_eq!(Title::given(None).unwrap().text, "New Chat");
        assert_eq!(Title::given(Some(" Mine ")).unwrap().text, "Mine");
        assert!(Title::given(Some(&"é".repeat(200))).is_ok());
        assert_eq!(Title::given(Some(&"é".repeat(201))).unwrap_err().field, "title");
    }
}
