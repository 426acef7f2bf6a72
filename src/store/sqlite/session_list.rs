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
    let source = ListSource::of(visibility);
    let mut filter = build_filter(visibility, source, query);
    let pagination = match query.position {
        PagePosition::After(_) => None,
        PagePosition::Page(page) => {
            let sql =
                format!("SELECT count(*) FROM {} WHERE {}", source.tables, filter.where_clause());
            let total: i64 =
                db.prepare_cached(&sql)?.query_row(filter.params(), |row| row.get(0))?;
            Some(Pagination::new(page, query.limit, total.unsigned_abs()))
        }
    };
    let offset = match &query.position {
        PagePosition::Page(page) => u64::from(page - 1) * u64::from(query.limit),
        PagePosition::After(cursor) => {
            start_after(&mut filter, cursor, query.sort, source);
            0
        }
    };
    let sessions = select_keys(db, &filter, source, query, offset)?
        .into_iter()
        .map(|key| Ok(visibility.present(get_session_by_key(db, key)?.row)))
        .collect::<Result<_>>()?;
    Ok(build_session_page(sessions, query, pagination))
}

/// The tables of a list, and the one of them that has `archived` and `pinned` of its reader.
#[derive(Debug, Clone, Copy)]
struct ListSource {
    tables: &'static str,
    placement: &'static str,
}

impl ListSource {
    const fn of(visibility: SessionVisibility<'_>) -> Self {
        match visibility {
            // The two sets are disjoint: the table of participants does not list owners.
            SessionVisibility::Participant(_) => Self {
                tables: "(SELECT key, archived, pinned FROM sessions WHERE owner = ?1 \
                     UNION ALL SELECT session, archived, pinned FROM participants \
                     WHERE user_id = ?1 AND invited = 0) p \
                     CROSS JOIN sessions s ON s.key = p.key",
                placement: "p",
            },
            SessionVisibility::Invited(_) => Self {
                tables: "participants p CROSS JOIN sessions s ON s.key = p.session",
                placement: "p",
            },
            SessionVisibility::Owner(_) | SessionVisibility::Any => {
                Self { tables: "sessions s", placement: "s" }
            }
        }
    }
}

/// Keys of the page's sessions, and of one more if there is one.
fn select_keys(
    db: &Transaction<'_>,
    filter: &SqlFilter,
    source: ListSource,
    query: &SessionQuery,
    offset: u64,
) -> Result<Vec<i64>> {
    let direction = if query.sort.descending { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT s.key FROM {} WHERE {} ORDER BY {}.pinned DESC, {} {direction}, s.id {direction} \
         LIMIT {} OFFSET {offset}",
        source.tables,
        filter.where_clause(),
        source.placement,
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
fn build_filter(
    visibility: SessionVisibility<'_>,
    source: ListSource,
    query: &SessionQuery,
) -> SqlFilter {
    let mut filter = SqlFilter::default();
    match visibility {
        // The source selects the sessions, by the first parameter.
        SessionVisibility::Participant(user) => {
            filter.add_condition("TRUE", [user.as_str().to_owned().into()])
        }
        SessionVisibility::Invited(user) => filter
            .add_condition("p.user_id = ? AND p.invited = 1", [user.as_str().to_owned().into()]),
        SessionVisibility::Owner(user) => {
            filter.add_condition("s.owner = ?", [user.as_str().to_owned().into()])
        }
        SessionVisibility::Any => filter.add_condition("TRUE", []),
    }
    if let Some(archived) = query.archived {
        let condition = format!("{}.archived = {}", source.placement, i32::from(archived));
        filter.add_condition(condition, []);
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
fn start_after(
    filter: &mut SqlFilter,
    cursor: &SessionCursor,
    sort: SortOrder,
    source: ListSource,
) {
    let place = source.placement;
    let column = sort_column(sort.field);
    let key: Value = match &cursor.key {
        CursorKey::Number(number) => (*number).into(),
        CursorKey::Text(text) => text.clone().into(),
    };
    let pinned = Value::from(i64::from(cursor.pinned));
    let id = cursor.id.clone().into();
    if sort.descending {
        // A single row comparison, so that the index is entered at the cursor.
        filter.add_condition(
            format!("({place}.pinned, {column}, s.id) < (?, ?, ?)"),
            [pinned, key, id],
        );
    } else {
        // Pinned sessions come first in this direction, too, so a row comparison does not fit.
        filter.add_condition(
            format!("({place}.pinned < ? OR ({place}.pinned = ? AND ({column}, s.id) > (?, ?)))"),
            [pinned.clone(), pinned, key, id],
        );
    }
}

/// Whether the user participates in a session of another user.
pub(super) fn is_guest(db: &Connection, user: &UserId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM participants WHERE user_id = ?1 AND invited = 0)";
    Ok(db.prepare_cached(sql)?.query_row([user.as_str()], |row| row.get(0))?)
}
