//! Lists of sessions: which sessions a list may contain, and where its next page starts.

use super::sessions::{activity_time, fold_title};
use crate::domain::page::{
    CursorKey, Pagination, SessionCursor, SessionQuery, SortField, SortOrder,
};
use crate::domain::{Session, UserId};
use crate::store::SessionPage;
use crate::store::transaction::SessionRow;

/// The sessions that a list may contain.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum SessionVisibility<'a> {
    /// Those that the user owns, or participates in as a guest.
    Participant(&'a UserId),
    /// Those that the user is invited to.
    Invited(&'a UserId),
    Owner(&'a UserId),
    Any,
}

impl<'a> SessionVisibility<'a> {
    /// The session as the reader of the list sees it.
    pub(in crate::store) fn present(self, row: SessionRow) -> Session {
        match self {
            Self::Participant(user) => row.for_viewer(user).session,
            Self::Invited(_) => row.session.redact_for_invitee(),
            // The owner's own values.
            Self::Owner(_) | Self::Any => row.session,
        }
    }

    /// The sessions of a user. A guest is a user who participates in some other user's session.
    /// Most users are not guests, and their list is that of an owner, which databases read from a
    /// plain index.
    pub(in crate::store) fn of_user(user: &'a UserId, is_guest: bool) -> Self {
        if is_guest { Self::Participant(user) } else { Self::Owner(user) }
    }
}

/// Builds a page from the sessions that were read: up to one more than the limit, which shows that
/// there is another page.
pub(in crate::store) fn build_session_page(
    mut sessions: Vec<Session>,
    query: &SessionQuery,
    pagination: Option<Pagination>,
) -> SessionPage {
    let limit = query.limit as usize;
    let has_more = sessions.len() > limit;
    sessions.truncate(limit);
    let last = sessions.last().filter(|_| has_more);
    let next_cursor = last.map(|last| cursor_after(last, query.sort));
    SessionPage { sessions, pagination, next_cursor }
}

fn cursor_after(last: &Session, sort: SortOrder) -> SessionCursor {
    let key = match sort.field {
        SortField::LastMessageAt => CursorKey::Number(activity_time(last).as_millis()),
        SortField::CreatedAt => CursorKey::Number(last.created_at.as_millis()),
        SortField::UpdatedAt => CursorKey::Number(last.updated_at.as_millis()),
        SortField::Title => CursorKey::Text(fold_title(&last.title)),
    };
    SessionCursor { pinned: last.pinned, key, id: last.id.to_string() }
}
