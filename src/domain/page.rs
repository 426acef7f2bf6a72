//! Lists: what may be asked of them and how far they have been read.

use super::session::SessionStatus;
use super::{FieldError, MessageId, ProjectId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most entries of one page.
pub const MAX_PAGE_SIZE: u32 = 100;

/// Which page of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Pagination {
    /// The page, counted from 1.
    pub page: u32,
    /// Entries per page.
    pub limit: u32,
    /// Entries in all.
    pub total: u64,
    /// Pages in all.
    pub pages: u64,
}

impl Pagination {
    /// Counts the pages.
    pub fn new(page: u32, limit: u32, total: u64) -> Self {
        Self { page, limit, total, pages: total.div_ceil(u64::from(limit.max(1))) }
    }
}

/// What a list of sessions is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortField {
    /// The newest message, or the creation of a session without one.
    LastMessageAt,
    /// The creation.
    CreatedAt,
    /// The last change.
    UpdatedAt,
    /// The title, without regard to case.
    Title,
}

/// A sort key and its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortOrder {
    /// The key.
    pub field: SortField,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl Default for SortOrder {
    fn default() -> Self {
        Self { field: SortField::LastMessageAt, descending: true }
    }
}

impl SortOrder {
    /// Reads `-lastMessageAt` and the like.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let (name, descending) = match text.strip_prefix('-') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let key = match name {
            "lastMessageAt" | "lastMessageTime" => SortField::LastMessageAt,
            "createdAt" => SortField::CreatedAt,
            "updatedAt" => SortField::UpdatedAt,
            "title" => SortField::Title,
            _ => {
                return Err(FieldError::new(
                    "sort",
                    "must be lastMessageAt, createdAt, updatedAt or title, with - in front for descending",
                ));
            }
        };
        Ok(Self { field: key, descending })
    }
}

/// Where a list goes on: behind the entry with this place in the order. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCursor {
    /// Whether that entry is pinned.
    #[serde(rename = "p")]
    pub pinned: bool,
    /// Its sort key.
    #[serde(rename = "k")]
    pub key: CursorKey,
    /// What tells it from entries with the same key.
    #[serde(rename = "i")]
    pub id: String,
}

/// The sort key of the entry a cursor stands behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CursorKey {
    /// A time, in milliseconds.
    Number(i64),
    /// A title.
    Text(String),
}

impl SessionCursor {
    /// The cursor as clients carry it.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a cursor that was given out for a list in this order.
    pub fn decode(text: &str, sort: SortOrder) -> Result<Self, FieldError> {
        let wants = || FieldError::new("cursor", "must be a nextCursor of the same list");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wants())?;
        let cursor: Self = serde_json::from_slice(&bytes).map_err(|_| wants())?;
        let is_text = matches!(cursor.key, CursorKey::Text(_));
        if is_text != (sort.field == SortField::Title) {
            return Err(wants());
        }
        Ok(cursor)
    }
}

/// Where in a list to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PagePosition {
    /// A page, counted from 1.
    Page(u32),
    /// Behind a cursor.
    After(SessionCursor),
}

/// Which sessions to list, in which order, from where.
#[derive(Debug, Clone)]
pub struct SessionQuery {
    /// Where to read.
    pub position: PagePosition,
    /// Most entries.
    pub limit: u32,
    /// The order; pinned sessions always come first.
    pub sort: SortOrder,
    /// Folded words, each of which must begin a word of the title; a search without words finds
    /// nothing.
    pub search: Option<Vec<String>>,
    /// Only those of a project.
    pub project_id: Option<ProjectId>,
    /// Only those with a status.
    pub status: Option<SessionStatus>,
    /// Only those that are, or are not, archived.
    pub archived: Option<bool>,
}

/// Which messages of a session to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageView {
    /// Those of the active path.
    #[default]
    Path,
    /// Those of all branches.
    All,
}

/// Which page of a session's messages to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageSlice {
    /// The newest.
    Newest,
    /// Those before a message.
    Before(MessageId),
    /// Those after a message.
    After(MessageId),
}
