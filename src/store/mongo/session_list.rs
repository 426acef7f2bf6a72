//! Lists of sessions: filters, search in titles, sorting and pagination.
//!
//! A title is found by prefixes of its words, with an index on the list of words. MongoDB's text
//! index matches whole stemmed words only and would find less than the other stores do.

use super::documents::SessionDoc;
use super::search::title_filters;
use super::transaction::MongoTransaction;
use crate::domain::UserId;
use crate::domain::page::{
    CursorKey, PagePosition, Pagination, SessionCursor, SessionQuery, SortField, SortOrder,
};
use crate::error::Result;
use crate::store::SessionPage;
use crate::store::rules::{SessionVisibility, build_session_page};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::Deserialize;

/// The field that holds the reader's own `archived` and `pinned` while a guest's list is read.
const PLACEMENT: &str = "placement";

#[derive(Debug, Deserialize)]
struct CountDoc {
    total: i64,
}

pub(super) async fn list_sessions(
    tx: &mut MongoTransaction,
    visibility: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<SessionPage> {
    let collection = tx.collections.sessions.clone();
    let mut stages = select_stages(visibility, query);
    let mut skip = 0;
    let pagination = match &query.position {
        PagePosition::After(cursor) => {
            stages.push(doc! { "$match": after_cursor_filter(cursor, query.sort, visibility) });
            None
        }
        PagePosition::Page(page) => {
            skip = i64::from(page - 1) * i64::from(query.limit);
            let mut counting = stages.clone();
            counting.push(doc! { "$count": "total" });
            let counted: Vec<CountDoc> = tx.run_pipeline(&collection, counting).await?;
            // There is no document if nothing matches.
            let total = counted.first().map_or(0, |counted| counted.total.unsigned_abs());
            Some(Pagination::new(*page, query.limit, total))
        }
    };
    let direction = if query.sort.descending { -1 } else { 1 };
    let pinned = placement_field(visibility, "pinned");
    let order = doc! { pinned: -1, sort_field(query.sort.field): direction, "_id": direction };
    stages.extend([
        doc! { "$sort": order },
        doc! { "$skip": skip },
        doc! { "$limit": i64::from(query.limit) + 1 },
    ]);
    let found: Vec<SessionDoc> = tx.run_pipeline(&collection, stages).await?;
    let present = |session: SessionDoc| Ok(visibility.present(session.into_row()?));
    let sessions = found.into_iter().map(present).collect::<Result<_>>()?;
    Ok(build_session_page(sessions, query, pagination))
}

/// Selects the sessions of a list. An index finds those of the reader; a guest's own `archived` and
/// `pinned` are computed for these only.
fn select_stages(visibility: SessionVisibility<'_>, query: &SessionQuery) -> Vec<Document> {
    let mut filter = build_filter(visibility, query);
    let archived =
        query.archived.map(|archived| doc! { placement_field(visibility, "archived"): archived });
    let SessionVisibility::Participant(user) = visibility else {
        filter.extend(archived.unwrap_or_default());
        return vec![doc! { "$match": filter }];
    };
    // A user id that begins with a dollar sign is not a reference to a field.
    let user = || doc! { "$literal": user.as_str() };
    let own = |field: &str, others: &str| {
        let is_owner = doc! { "$eq": ["$userId", user()] };
        let is_listed = doc! { "$in": [user(), { "$ifNull": [format!("${others}"), []] }] };
        doc! { "$cond": [is_owner, format!("${field}"), is_listed] }
    };
    let placement =
        doc! { "archived": own("archived", "archivedBy"), "pinned": own("pinned", "pinnedBy") };
    let mut stages = vec![doc! { "$match": filter }, doc! { "$set": { PLACEMENT: placement } }];
    stages.extend(archived.map(|archived| doc! { "$match": archived }));
    stages
}

/// Where the reader's own `archived` or `pinned` is found.
fn placement_field(visibility: SessionVisibility<'_>, field: &str) -> String {
    match visibility {
        SessionVisibility::Participant(_) => format!("{PLACEMENT}.{field}"),
        _ => field.to_owned(),
    }
}

/// Whether the user participates in a session of another user.
pub(super) async fn is_guest(tx: &mut MongoTransaction, user: &UserId) -> Result<bool> {
    let user = user.as_str();
    let collection = tx.collections.sessions.clone();
    let as_guest = doc! { "participants": user, "userId": { "$ne": user } };
    let found: Option<Document> =
        tx.find_one(&collection, as_guest, Some(doc! { "_id": 1 })).await?;
    Ok(found.is_some())
}

/// The conditions on fields that all readers share.
fn build_filter(visibility: SessionVisibility<'_>, query: &SessionQuery) -> Document {
    let mut filter = match visibility {
        // Owners are participants, too. This index has an entry per participant.
        SessionVisibility::Participant(user) => doc! { "participants": user.as_str() },
        SessionVisibility::Invited(user) => doc! { "invited": user.as_str() },
        SessionVisibility::Owner(user) => doc! { "userId": user.as_str() },
        SessionVisibility::Any => doc! {},
    };
    if let Some(project) = &query.project_id {
        filter.insert("projectId", project.as_str());
    }
    if let Some(status) = &query.status {
        filter.insert("status", status.as_str());
    }
    match query.search.as_deref() {
        None => {}
        // A search for nothing but punctuation finds nothing.
        Some([]) => drop(filter.insert("_id", doc! { "$in": [] })),
        Some(terms) => drop(filter.insert("$and", title_filters(terms))),
    }
    filter
}

const fn sort_field(key: SortField) -> &'static str {
    match key {
        SortField::LastMessageAt => "activityAt",
        SortField::CreatedAt => "createdAt",
        SortField::UpdatedAt => "updatedAt",
        SortField::Title => "titleKey",
    }
}

/// Matches the sessions after the cursor. Pinned sessions come first in both directions.
fn after_cursor_filter(
    cursor: &SessionCursor,
    sort: SortOrder,
    visibility: SessionVisibility<'_>,
) -> Document {
    let pinned = placement_field(visibility, "pinned");
    let column = sort_field(sort.field);
    let beyond = if sort.descending { "$lt" } else { "$gt" };
    let key: Bson = match &cursor.key {
        CursorKey::Number(number) => DateTime::from_millis(*number).into(),
        CursorKey::Text(text) => text.as_str().into(),
    };
    let mut ranges = vec![
        doc! { &pinned: cursor.pinned, column: { beyond: key.clone() } },
        doc! { &pinned: cursor.pinned, column: key, "_id": { beyond: &cursor.id } },
    ];
    // After the last pinned session all others follow.
    if cursor.pinned {
        ranges.push(doc! { &pinned: false });
    }
    doc! { "$or": ranges }
}
