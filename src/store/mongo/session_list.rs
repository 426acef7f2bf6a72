//! Lists of sessions: filtered, searched, ordered, paged.
//!
//! A title is found by the beginnings of its words, which the index on them answers. MongoDB's own
//! text index knows whole stemmed words only: it would find less than every other store does.

use super::documents::SessionDoc;
use super::transaction::MongoTransaction;
use crate::domain::page::{
    CursorKey, PagePosition, Pagination, SessionCursor, SessionQuery, SortField, SortOrder,
};
use crate::domain::{Session, UserId};
use crate::error::Result;
use crate::store::{SessionPage, rules};
use mongodb::bson::{Bson, DateTime, Document, doc};

/// Whose sessions a list holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum SessionVisibility<'a> {
    /// Those that a user participates in.
    Participant(&'a UserId),
    /// Those that a user owns.
    Owner(&'a UserId),
    /// All there are.
    Any,
}

/// A page of sessions.
pub(super) async fn list_sessions(
    step: &mut MongoTransaction,
    whose: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<SessionPage> {
    let mut filter = build_filter(step, whose, query).await?;
    let table = step.collections.sessions.clone();
    let mut skip = 0;
    let pagination = match &query.position {
        PagePosition::After(cursor) => {
            filter.extend(after_cursor_filter(cursor, query.sort));
            None
        }
        PagePosition::Page(page) => {
            skip = i64::from(page - 1) * i64::from(query.limit);
            let counted =
                table.count_documents(filter.clone()).session(&mut step.client_session).await;
            Some(Pagination::new(*page, query.limit, step.check_result(counted)?))
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
    let mut found: Vec<SessionDoc> = step.run_pipeline(&table, pipeline).await?;
    let has_more = found.len() > query.limit as usize;
    found.truncate(query.limit as usize);
    let sessions = found
        .into_iter()
        .map(|session| Ok(session.into_row()?.session))
        .collect::<Result<Vec<Session>>>()?;
    let next = sessions.last().filter(|_| has_more).map(|last| cursor_after(last, query.sort));
    Ok(SessionPage { sessions, pagination, next_cursor: next })
}

/// The sessions that a user participates in.
async fn participant_filter(step: &mut MongoTransaction, user: &UserId) -> Result<Document> {
    let user = user.as_str();
    // Most users take part in nobody else's sessions, and then the owner's indexes answer.
    let table = step.collections.sessions.clone();
    let as_guest = doc! { "participants": user, "userId": { "$ne": user } };
    let is_guest: Option<Document> =
        step.find_one(&table, as_guest, Some(doc! { "_id": 1 })).await?;
    Ok(if is_guest.is_some() {
        doc! { "participants": user }
    } else {
        doc! { "userId": user }
    })
}

async fn build_filter(
    step: &mut MongoTransaction,
    whose: SessionVisibility<'_>,
    query: &SessionQuery,
) -> Result<Document> {
    let mut filter = match whose {
        SessionVisibility::Participant(user) => participant_filter(step, user).await?,
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
        // Folded words hold letters and digits only, so they need no escape in a pattern.
        let words = words
            .iter()
            .map(|word| Bson::from(doc! { "titleWords": { "$regex": format!("^{word}") } }));
        let words: Vec<Bson> = words.collect();
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

/// What stands behind the entry that the cursor names; pinned ones stand first in both directions.
fn after_cursor_filter(cursor: &SessionCursor, sort: SortOrder) -> Document {
    let column = sort_field(sort.field);
    let beyond = if sort.descending { "$lt" } else { "$gt" };
    let key: Bson = match &cursor.key {
        CursorKey::Number(number) => DateTime::from_millis(*number).into(),
        CursorKey::Text(text) => text.as_str().into(),
    };
    let mut places = vec![
        doc! { "pinned": cursor.pinned, column: { beyond: key.clone() } },
        doc! { "pinned": cursor.pinned, column: key, "_id": { beyond: &cursor.id } },
    ];
    if cursor.pinned {
        places.push(doc! { "pinned": false });
    }
    doc! { "$or": places }
}
