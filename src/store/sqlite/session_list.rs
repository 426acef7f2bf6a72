//! Lists of sessions: filtered, searched, sorted and paged.

use super::filter::SqlFilter;
use super::search::add_title_search;
use super::session_rows::get_session_by_key;
use crate::domain::UserId;
use crate::domain::page::{
    CursorKey, PagePosition, Pagination, SessionCursor, SessionQuery, SortField, SortOrder,
};
use crate::error::{Error, Result};
use crate::store::SessionPage;
use crate::store::rules::{SessionVisibility, build_session_page};
use rusqlite::types::Value;
use rusqlite::{Connection, Transaction};

/// Reads a page of sessions: first the keys, which come straight from an index in the default
/// order, then the few rows.
pub(super) fn list_sessions(
    db: &Transaction<'_>,
    visibility: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<SessionPage> {
    let mut filter = build_filter(visibility, query);
    let pagination = match query.position {
        PagePosition::After(_) => None,
        PagePosition::Page(page) => {
            let sql = format!("SELECT count(*) FROM sessions s WHERE {}", filter.where_clause());
            let total: i64 =
                db.prepare_cached(&sql)?.query_row(filter.params(), |row| row.get(0))?;
            Some(Pagination::new(page, query.limit, total.unsigned_abs()))
        }
    };
    let offset = match &query.position {
        PagePosition::Page(page) => u64::from(page - 1) * u64::from(query.limit),
        PagePosition::After(cursor) => {
            start_after(&mut filter, cursor, query.sort);
            0
        }
    };
    let sessions = select_keys(db, &filter, query, offset)?
        .into_iter()
        .map(|key| Ok(get_session_by_key(db, key)?.row.session))
        .collect::<Result<_>>()?;
    Ok(build_session_page(sessions, query, pagination))
}

/// Keys of the page's sessions, and of one more if there is one.
fn select_keys(
    db: &Transaction<'_>,
    filter: &SqlFilter,
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
    let keys = statement.query_map(filter.params(), |row| row.get(0))?;
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

/// The conditions on `s` that a query states.
fn build_filter(visibility: SessionVisibility<'_>, query: &SessionQuery) -> SqlFilter {
    let mut filter = SqlFilter::default();
    match visibility {
        // The two sets are disjoint: the table of participants does not list owners.
        SessionVisibility::Participant(user) => filter.add_condition(
            "s.key IN (SELECT key FROM sessions WHERE owner = ?1 \
             UNION ALL SELECT session FROM participants WHERE user_id = ?1)",
            [user.as_str().to_owned().into()],
        ),
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
    match query.search.as_deref() {
        None => {}
        // A search for nothing but punctuation finds nothing.
        Some([]) => filter.add_condition("FALSE", []),
        Some(terms) => add_title_search(&mut filter, terms),
    }
    filter
}

/// Starts after the entry that the cursor names. Pinned sessions come first in both directions.
fn start_after(filter: &mut SqlFilter, cursor: &SessionCursor, sort: SortOrder) {
    let column = sort_column(sort.field);
    let key: Value = match &cursor.key {
        CursorKey::Number(number) => (*number).into(),
        CursorKey::Text(text) => text.clone().into(),
    };
    let pinned = Value::from(i64::from(cursor.pinned));
    let id = cursor.id.clone().into();
    if sort.descending {
        // A single row comparison, so that the index is entered at the cursor.
        filter.add_condition(format!("(s.pinned, {column}, s.id) < (?, ?, ?)"), [pinned, key, id]);
    } else {
        // Pinned sessions come first in this direction, too, so a row comparison does not fit.
        filter.add_condition(
            format!("(s.pinned < ? OR (s.pinned = ? AND ({column}, s.id) > (?, ?)))"),
            [pinned.clone(), pinned, key, id],
        );
    }
}

/// Whether the user participates in a session of another user.
pub(super) fn is_guest(db: &Connection, user: &UserId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM participants WHERE user_id = ?1)";
    Ok(db.prepare_cached(sql)?.query_row([user.as_str()], |row| row.get(0))?)
}
