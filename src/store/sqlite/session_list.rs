//! Lists of sessions: filtered, searched, sorted and paged.

use super::sessions::get_session_by_key;
use crate::domain::page::{
    CursorKey, PagePosition, Pagination, SessionCursor, SessionQuery, SortField, SortOrder,
};
use crate::domain::{Session, UserId};
use crate::error::{Error, Result};
use crate::store::SessionPage;
use crate::store::transaction::SessionRow;
use rusqlite::types::Value;
use rusqlite::{Transaction, params_from_iter};

/// The sessions that a list may contain.
pub(super) enum SessionVisibility<'a> {
    /// Those that the user owns or participates in.
    Participant(&'a UserId),
    Owner(&'a UserId),
    Any,
}

/// Reads a page of sessions: first the keys, which come straight from an index in the default
/// order, then the few rows.
pub(super) fn list_sessions(
    db: &Transaction<'_>,
    visibility: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<SessionPage> {
    let mut filter = SessionFilter::build(db, visibility, query)?;
    let pagination = match query.position {
        PagePosition::After(_) => None,
        PagePosition::Page(page) => {
            let sql = format!("SELECT count(*) FROM sessions s WHERE {}", filter.where_clause());
            let total: i64 = db
                .prepare_cached(&sql)?
                .query_row(params_from_iter(&filter.values), |row| row.get(0))?;
            Some(Pagination::new(page, query.limit, total.unsigned_abs()))
        }
    };
    let offset = match &query.position {
        PagePosition::Page(page) => u64::from(page - 1) * u64::from(query.limit),
        PagePosition::After(cursor) => {
            filter.start_after(cursor, query.sort);
            0
        }
    };
    let mut rows = select_keys(db, &filter, query, offset)?
        .into_iter()
        .map(|key| get_session_by_key(db, key))
        .collect::<Result<Vec<SessionRow>>>()?;
    // The row beyond the limit only shows that there is another page.
    let has_more = rows.len() > query.limit as usize;
    rows.truncate(query.limit as usize);
    let sessions: Vec<Session> = rows.into_iter().map(|row| row.session).collect();
    let next = sessions.last().filter(|_| has_more).map(|last| cursor_after(last, query.sort));
    Ok(SessionPage { sessions, pagination, next_cursor: next })
}

/// Keys of the page's sessions, and of one more if there is one.
fn select_keys(
    db: &Transaction<'_>,
    filter: &SessionFilter,
    query: &SessionQuery,
    offset: u64,
) -> Result<Vec<i64>> {
    let direction = if query.sort.descending { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT s.key FROM sessions s WHERE {} ORDER BY s.pinned DESC, {} {direction}, s.id {direction} \
         LIMIT {} OFFSET {offset}",
        filter.where_clause(),
        sort_column(query.sort.field),
        u64::from(query.limit) + 1,
    );
    let mut statement = db.prepare_cached(&sql)?;
    let keys = statement.query_map(params_from_iter(&filter.values), |row| row.get(0))?;
    keys.collect::<Result<_, _>>().map_err(Error::from)
}

const fn sort_column(key: SortField) -> &'static str {
    match key {
        SortField::LastMessageAt => "s.activity_at",
        SortField::CreatedAt => "s.created_at",
        SortField::UpdatedAt => "s.updated_at",
        SortField::Title => "s.title_words",
    }
}

fn cursor_after(last: &Session, sort: SortOrder) -> SessionCursor {
    let key = match sort.field {
        SortField::LastMessageAt => {
            CursorKey::Number(last.last_message_at.unwrap_or(last.created_at).as_millis())
        }
        SortField::CreatedAt => CursorKey::Number(last.created_at.as_millis()),
        SortField::UpdatedAt => CursorKey::Number(last.updated_at.as_millis()),
        SortField::Title => CursorKey::Text(crate::domain::text::fold_words(&last.title).join(" ")),
    };
    SessionCursor { pinned: last.pinned, key, id: last.id.to_string() }
}

/// SQL conditions on `s` and the values of their parameters.
struct SessionFilter {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl SessionFilter {
    fn build(
        db: &Transaction<'_>,
        visibility: SessionVisibility<'_>,
        query: &SessionQuery,
    ) -> Result<Self> {
        let mut filter = Self { conditions: Vec::new(), values: Vec::new() };
        match visibility {
            SessionVisibility::Participant(user) => filter.add_participant(db, user)?,
            SessionVisibility::Owner(user) => {
                filter.add_condition("s.owner = ?", [user.as_str().to_owned().into()])
            }
            SessionVisibility::Any => filter.add_condition("TRUE", []),
        }
        if let Some(archived) = query.archived {
            filter.add_condition(if archived { "s.archived = 1" } else { "s.archived = 0" }, []);
        }
        if let Some(project) = &query.project_id {
            filter.add_condition("s.project_id = ?", [project.as_str().to_owned().into()]);
        }
        if let Some(status) = &query.status {
            filter.add_condition("s.status = ?", [status.as_str().to_owned().into()]);
        }
        if let Some(words) = &query.search {
            filter.add_search(words);
        }
        Ok(filter)
    }

    fn add_participant(&mut self, db: &Transaction<'_>, user: &UserId) -> Result<()> {
        // Most users participate in no session of another user, and then an index gives the order.
        let is_guest: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM participants WHERE user_id = ?1)")?
            .query_row([user.as_str()], |row| row.get(0))?;
        // The two sets are disjoint: the table of participants does not list owners.
        let visible = if is_guest {
            "s.key IN (SELECT key FROM sessions WHERE owner = ?1 \
             UNION ALL SELECT session FROM participants WHERE user_id = ?1)"
        } else {
            "s.owner = ?1"
        };
        self.add_condition(visible, [user.as_str().to_owned().into()]);
        Ok(())
    }

    fn add_search(&mut self, words: &[String]) {
        if words.is_empty() {
            return self.add_condition("FALSE", []);
        }
        // Folded words contain only letters and digits, so they need no escape inside quotes.
        let prefixes: Vec<_> = words.iter().map(|word| format!("\"{word}\"*")).collect();
        self.add_condition(
            "s.key IN (SELECT rowid FROM session_titles WHERE session_titles MATCH ?)",
            [prefixes.join(" AND ").into()],
        );
    }

    fn add_condition<const N: usize>(&mut self, condition: &str, values: [Value; N]) {
        self.conditions.push(condition.to_owned());
        self.values.extend(values);
    }

    /// Starts after the entry that the cursor names. Pinned sessions come first in both directions.
    fn start_after(&mut self, cursor: &SessionCursor, sort: SortOrder) {
        let column = sort_column(sort.field);
        let key: Value = match &cursor.key {
            CursorKey::Number(number) => (*number).into(),
            CursorKey::Text(text) => text.clone().into(),
        };
        let pinned = Value::from(i64::from(cursor.pinned));
        let id = cursor.id.clone().into();
        if sort.descending {
            // A single row comparison, so that the index is entered at the cursor.
            self.add_condition(
                &format!("(s.pinned, {column}, s.id) < (?, ?, ?)"),
                [pinned, key, id],
            );
        } else {
            self.add_condition(
                // Pinned sessions come first in this direction, too, so a row
                // comparison does not fit.
                &format!("(s.pinned < ? OR (s.pinned = ? AND ({column}, s.id) > (?, ?)))"),
                [pinned.clone(), pinned, key, id],
            );
        }
    }

    fn where_clause(&self) -> String {
        self.conditions.join(" AND ")
    }
}
