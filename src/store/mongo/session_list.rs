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

pub(super) async fn list_sessions(
    tx: &mut MongoTransaction,
    visibility: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<SessionPage> {
    let mut filter = build_filter(visibility, query);
    let collection = tx.collections.sessions.clone();
    let mut skip = 0;
    let pagination = match &query.position {
        PagePosition::After(cursor) => {
            filter.extend(after_cursor_filter(cursor, query.sort));
            None
        }
        PagePosition::Page(page) => {
            skip = i64::from(page - 1) * i64::from(query.limit);
            let counted =
                collection.count_documents(filter.clone()).session(&mut tx.client_session).await;
            Some(Pagination::new(*page, query.limit, tx.check_result(counted)?))
        }
    };
    let direction = if query.sort.descending { -1 } else { 1 };
    let order = doc! { "pinned": -1, sort_field(query.sort.field): direction, "_id": direction };
    let pipeline = vec![
        doc! { "$match": filter },
        doc! { "$sort": order },
        doc! { "$skip": skip },
        doc! { "$limit": i64::from(query.limit) + 1 },
    ];
    let found: Vec<SessionDoc> = tx.run_pipeline(&collection, pipeline).await?;
    let sessions =
        found.into_iter().map(|session| Ok(session.into_row()?.session)).collect::<Result<_>>()?;
    Ok(build_session_page(sessions, query, pagination))
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

fn build_filter(visibility: SessionVisibility<'_>, query: &SessionQuery) -> Document {
    let mut filter = match visibility {
        // Owners are participants, too. This index has an entry per participant.
        SessionVisibility::Participant(user) => doc! { "participants": user.as_str() },
        SessionVisibility::Owner(user) => doc! { "userId": user.as_str() },
        SessionVisibility::Any => doc! {},
    };
    if let Some(archived) = query.archived {
        filter.insert("archived", archived);
    }
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
fn after_cursor_filter(cursor: &SessionCursor, sort: SortOrder) -> Document {
    let column = sort_field(sort.field);
    let beyond = if sort.descending { "$lt" } else { "$gt" };
    let key: Bson = match &cursor.key {
        CursorKey::Number(number) => DateTime::from_millis(*number).into(),
        CursorKey::Text(text) => text.as_str().into(),
    };
    let mut ranges = vec![
        doc! { "pinned": cursor.pinned, column: { beyond: key.clone() } },
        doc! { "pinned": cursor.pinned, column: key, "_id": { beyond: &cursor.id } },
    ];
    // After the last pinned session all others follow.
    if cursor.pinned {
        ranges.push(doc! { "pinned": false });
    }
    doc! { "$or": ranges }
}
