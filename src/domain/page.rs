//! Pagination and cursors: the parameters of lists.

use super::search::SearchTerm;
use super::session::SessionStatus;
use super::{FieldError, MessageId, ProjectId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Maximum entries per page.
pub const MAX_PAGE_SIZE: u32 = 100;

/// Position within a paginated list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Pagination {
    /// Page number, starting at 1.
    pub page: u32,
    /// Entries per page.
    pub limit: u32,
    /// Total number of entries.
    pub total: u64,
    /// Total number of pages.
    pub pages: u64,
}

impl Pagination {
    pub fn new(page: u32, limit: u32, total: u64) -> Self {
        Self { page, limit, total, pages: total.div_ceil(u64::from(limit.max(1))) }
    }
}

/// The sort key of a session list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortField {
    /// Time of the newest message, or of creation while the session is empty.
    LastMessageAt,
    CreatedAt,
    UpdatedAt,
    /// Case-insensitive.
    Title,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortOrder {
    pub field: SortField,
    pub descending: bool,
}

impl Default for SortOrder {
    fn default() -> Self {
        Self { field: SortField::LastMessageAt, descending: true }
    }
}

impl SortOrder {
    /// Parses `lastMessageAt`, `-lastMessageAt` and the like.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let (name, descending) = match text.strip_prefix('-') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let key = match name {
            // `lastMessageTime` is accepted as an older name of the same key.
            "lastMessageAt" | "lastMessageTime" => SortField::LastMessageAt,
            "createdAt" => SortField::CreatedAt,
            "updatedAt" => SortField::UpdatedAt,
            "title" => SortField::Title,
            _ => {
                return Err(FieldError::new(
                    "sort",
                    "must be lastMessageAt, createdAt, updatedAt or title, with a leading - for descending order",
                ));
            }
        };
        Ok(Self { field: key, descending })
    }
}

/// Continues a list after the entry with this sort position. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCursor {
    /// Pinned sessions come first, so this is part of the sort position.
    #[serde(rename = "p")]
    pub pinned: bool,
    #[serde(rename = "k")]
    pub key: CursorKey,
    /// Breaks ties between entries with the same key.
    #[serde(rename = "i")]
    pub id: String,
}

/// The sort key of the entry that a cursor points to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CursorKey {
    /// Milliseconds since 1970.
    Number(i64),
    Text(String),
}

impl SessionCursor {
    /// Encodes the cursor for clients, as URL-safe Base64.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Decodes a cursor. Rejects one that was issued for a list with another sort key.
    pub fn decode(text: &str, sort: SortOrder) -> Result<Self, FieldError> {
        let invalid = || FieldError::new("cursor", "must be a nextCursor of the same list");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let cursor: Self = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        // A cursor from a list sorted by time would compare numbers with titles.
        let is_text = matches!(cursor.key, CursorKey::Text(_));
        if is_text != (sort.field == SortField::Title) {
            return Err(invalid());
        }
        Ok(cursor)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PagePosition {
    /// Page number, starting at 1.
    Page(u32),
    /// The entries after a cursor.
    After(SessionCursor),
}

/// Filters, order and position of a session list.
#[derive(Debug, Clone)]
pub struct SessionQuery {
    pub position: PagePosition,
    pub limit: u32,
    /// Pinned sessions come first in any order.
    pub sort: SortOrder,
    /// Terms that the title must contain. An empty list matches nothing.
    pub search: Option<Vec<SearchTerm>>,
    pub project_id: Option<ProjectId>,
    pub status: Option<SessionStatus>,
    pub archived: Option<bool>,
    /// Lists the sessions that the user is invited to, instead of their own.
    pub is_of_invitations: bool,
}

/// Which messages of a session to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageView {
    /// The messages of the active path.
    #[default]
    Path,
    /// The messages of all branches.
    All,
}

/// Which page of a session's messages to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageSlice {
    Newest,
    Before(MessageId),
    After(MessageId),
}
