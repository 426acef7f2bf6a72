//! Lists of sessions: filters, search in titles, sorting and pagination.
//!
//! A title is found by prefixes of its words, with an index on the list of words. MongoDB's text
//! index matches whole stemmed words only and would find less than the other stores do.

use super::documents::SessionDoc;
use super::transaction::MongoTransaction;
use crate::domain::page::{
    CursorKey, PagePosition, Pagination, SessionCursor, SessionQuery, SortField, SortOrder,
};
use crate::domain::{Session, UserId};
use crate::error::Result;
use crate::store::{SessionPage, rules};
use mongodb::bson::{Bson, DateTime, Document, doc};

/// The sessions from which a list is taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum SessionVisibility<'a> {
    /// Those a user participates in, as owner or guest.
    Participant(&'a UserId),
    Owner(&'a UserId),
    Any,
}

pub(super) async fn list_sessions(
    tx: &mut MongoTransaction,
    visibility: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<SessionPage> {
    let mut filter = build_filter(tx, visibility, query).await?;
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
    let mut found: Vec<SessionDoc> = tx.run_pipeline(&collection, pipeline).await?;
    let has_more = found.len() > query.limit as usize;
    found.truncate(query.limit as usize);
    let sessions = found
        .into_iter()
        .map(|session| Ok(session.into_row()?.session))
        .collect::<Result<Vec<Session>>>()?;
    let next = sessions.last().filter(|_| has_more).map(|last| cursor_after(last, query.sort));
    Ok(SessionPage { sessions, pagination, next_cursor: next })
}

async fn participant_filter(tx: &mut MongoTransaction, user: &UserId) -> Result<Document> {
    let user = user.as_str();
    // Most users are guests of no session. For them the filter by owner gives the same list, from a
    // plain index in place of the multikey one on `participants`.
    let collection = tx.collections.sessions.clone();
    let as_guest = doc! { "participants": user, "userId": { "$ne": user } };
    let is_guest: Option<Document> =
        tx.find_one(&collection, as_guest, Some(doc! { "_id": 1 })).await?;
    Ok(if is_guest.is_some() {
        doc! { "participants": user }
    } else {
        doc! { "userId": user }
    })
}

async fn build_filter(
    tx: &mut MongoTransaction,
    visibility: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<Document> {
    let mut filter = match visibility {
        SessionVisibility::Participant(user) => participant_filter(tx, user).await?,
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
    if let Some(words) = &query.search {
        // Folded words consist of letters and digits, so the pattern needs no escaping.
        let words = words
            .iter()
            .map(|word| Bson::from(doc! { "titleWords": { "$regex": format!("^{word}") } }));
        let words: Vec<Bson> = words.collect();
        // A search for nothing but punctuation finds nothing.
        if words.is_empty() {
            filter.insert("_id", doc! { "$in": [] });
        } else {
            filter.insert("$and", words);
        }
    }
    Ok(filter)
}

const fn sort_field(key: SortField) -> &'static str {
    match key {
        SortField::LastMessageAt => "activityAt",
        SortField::CreatedAt => "createdAt",
        SortField::UpdatedAt => "updatedAt",
        SortField::Title => "titleKey",
    }
}

fn cursor_after(last: &Session, sort: SortOrder) -> SessionCursor {
    let key = match sort.field {
        SortField::LastMessageAt => {
            CursorKey::Number(last.last_message_at.unwrap_or(last.created_at).as_millis())
        }
        SortField::CreatedAt => CursorKey::Number(last.created_at.as_millis()),
        SortField::UpdatedAt => CursorKey::Number(last.updated_at.as_millis()),
        SortField::Title => CursorKey::Text(rules::fold_title(&last.title)),
    };
    SessionCursor { pinned: last.pinned, key, id: last.id.to_string() }
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
