//! Sessions in MongoDB: creation, changes and deletion.

use super::MongoStore;
use super::documents::{
    IdDoc, LocatedMessageDoc, ReadMarkDoc, SessionDoc, to_bson_date, to_document,
};
use super::session_list;
use super::transaction::{MongoTransaction, TransactionMode, transact};
use super::turn_log::with_timeout;
use crate::domain::page::SessionQuery;
use crate::domain::principal::AccessLevel;
use crate::domain::search::extract_index_words;
use crate::domain::session::{ListPlacement, SessionStatus};
use crate::domain::title::SessionTitle;
use crate::domain::tokenizer::WORDS_VERSION;
use crate::domain::{Principal, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use crate::store::rules::{self, SessionVisibility};
use crate::store::stored_values::encode_json;
use crate::store::transaction::{SessionRow, SessionTransaction};
use crate::store::{
    DeleteFilter, DeletionResult, ImportSession, NewSession, SessionMembers, SessionPage,
    SessionStore, SessionUpdate,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use std::collections::HashMap;

/// The fields of a session's document that decide who may use it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MembersDoc {
    #[serde(rename = "_id")]
    id: String,
    user_id: String,
    participants: Vec<String>,
}

impl MembersDoc {
    fn into_members(self) -> (SessionId, SessionMembers) {
        let participants = self.participants.into_iter().map(UserId::new_unchecked).collect();
        let owner = UserId::new_unchecked(self.user_id);
        (SessionId::new_unchecked(self.id), SessionMembers { owner, participants })
    }
}

#[async_trait]
impl SessionStore for MongoStore {
    async fn create_session(
        &self,
        principal: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)> {
        // Chosen here and not in the rules: all attempts must create the same session, so that a
        // commit whose response was lost is recognized.
        let id = new.id.clone().unwrap_or_else(SessionId::generate);
        let new = NewSession { id: Some(id), ..new };
        let new = &new;
        transact!(self, |tx| rules::create_session(tx, principal, new, now).await)
    }

    async fn get_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        access: AccessLevel,
    ) -> Result<Session> {
        transact!(self, TransactionMode::READ, |tx| Ok(rules::get_session(
            tx, principal, id, access
        )
        .await?
        .into_session_with_nodes()))
    }

    async fn list_members(
        &self,
        sessions: Vec<SessionId>,
    ) -> Result<HashMap<SessionId, SessionMembers>> {
        let ids: Vec<&str> = sessions.iter().map(SessionId::as_str).collect();
        let ids = &ids;
        let found: Vec<MembersDoc> = transact!(self, TransactionMode::READ, |tx| {
            let collection = tx.collections.sessions.clone();
            let pipeline = vec![
                doc! { "$match": { "_id": { "$in": ids } } },
                doc! { "$project": { "userId": 1, "participants": 1 } },
            ];
            tx.run_pipeline(&collection, pipeline).await
        })?;
        Ok(found.into_iter().map(MembersDoc::into_members).collect())
    }

    async fn list_sessions(
        &self,
        principal: &Principal,
        query: SessionQuery,
    ) -> Result<SessionPage> {
        let query = &query;
        transact!(self, TransactionMode::READ, |tx| {
            let visibility = if query.is_of_invitations {
                SessionVisibility::Invited(&principal.user)
            } else {
                let is_guest = session_list::is_guest(tx, &principal.user).await?;
                SessionVisibility::of_user(&principal.user, is_guest)
            };
            session_list::list_sessions(tx, visibility, query).await
        })
    }

    async fn list_all_sessions(
        &self,
        owner: Option<&UserId>,
        query: SessionQuery,
    ) -> Result<SessionPage> {
        let query = &query;
        let visibility = owner.map_or(SessionVisibility::Any, SessionVisibility::Owner);
        transact!(self, TransactionMode::READ, |tx| session_list::list_sessions(
            tx, visibility, query
        )
        .await)
    }

    async fn update_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        change: SessionUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session> {
        let change = &change;
        let if_match = if_match.as_slice();
        transact!(self, |tx| rules::update_session(tx, principal, id, change, if_match, now).await)
    }

    async fn accept_invitation(
        &self,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<Session> {
        transact!(self, |tx| rules::accept_invitation(tx, principal, id, now).await)
    }

    async fn leave_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<()> {
        transact!(self, |tx| rules::leave_session(tx, principal, id, now).await)
    }

    async fn delete_session(
        &self,
        principal: &Principal,
        id: &SessionId,
    ) -> Result<DeletionResult> {
        transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| rules::delete_session(
            tx, principal, id
        )
        .await)
    }

    async fn list_owned_sessions(
        &self,
        principal: &Principal,
        filter: DeleteFilter,
    ) -> Result<Vec<SessionId>> {
        let mut find = doc! { "userId": principal.user.as_str() };
        match filter {
            DeleteFilter::Project(project) => find.insert("projectId", project.as_str()),
            DeleteFilter::InactiveSince(time) => {
                find.insert("activityAt", doc! { "$lt": to_bson_date(time) })
            }
        };
        let collection = self.collections.sessions.clone_with_type::<IdDoc>();
        let found = collection.find(find).projection(doc! { "_id": 1 });
        let found: Vec<IdDoc> =
            with_timeout(async { Ok(found.await?.try_collect().await?) }).await?;
        Ok(found.into_iter().map(|session| SessionId::new_unchecked(session.id)).collect())
    }
}

impl SessionTransaction for MongoTransaction {
    async fn find_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        self.load_session(id).await
    }

    async fn find_visible_session(
        &mut self,
        _principal: &Principal,
        id: &SessionId,
    ) -> Result<Option<SessionRow>> {
        // The caller checks access. A filter by principal would save nothing: the session is one
        // document, read by its key.
        self.load_session(id).await
    }

    async fn insert_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow> {
        let at = to_bson_date(now);
        let (participants, invited) = rules::initial_members(owner, new);
        let session = SessionDoc {
            id: id.to_string(),
            user_id: owner.to_string(),
            participants: user_names(&participants),
            project_id: new.project_id.as_ref().map(ToString::to_string),
            title: new.title.text.clone(),
            title_key: rules::fold_title(&new.title.text),
            title_words: extract_index_words(&new.title.text),
            title_source: new.title.source.as_str().to_owned(),
            status: SessionStatus::ACTIVE.to_owned(),
            archived: false,
            pinned: false,
            invited: user_names(&invited),
            archived_by: Vec::new(),
            pinned_by: Vec::new(),
            meta: new.meta.as_json().to_owned(),
            user_meta: new.user_meta.as_json().to_owned(),
            theme: new.theme.as_json().to_owned(),
            settings: encode_json(&new.settings)?,
            read_marks: Vec::new(),
            version: 1,
            messages: 0,
            nodes: 0,
            head: None,
            last_message: None,
            last_message_at: None,
            activity_at: at,
            last_seen: None,
            created_at: at,
            updated_at: at,
            active_turn: None,
            queue: Vec::new(),
        };
        let mut document = to_document(&session)?;
        // The title has current words, and so will the messages.
        document.insert("wordsVersion", i64::from(WORDS_VERSION));
        self.stage_session_document(id, document).await?;
        session.into_row()
    }

    async fn update_session(
        &mut self,
        row: &SessionRow,
        change: SessionUpdate,
        now: Timestamp,
    ) -> Result<()> {
        let mut set = doc! {
            "version": i64::from(row.session.version) + 1,
            "updatedAt": to_bson_date(now),
        };
        if let Some(title) = &change.title {
            set.extend(title_fields(title));
        }
        if let Some(project) = &change.project_id {
            set.insert("projectId", project.as_ref().map(|project| project.as_str()));
        }
        if let Some(status) = &change.status {
            set.insert("status", status.as_str());
        }
        let objects =
            [("meta", &change.meta), ("userMeta", &change.user_meta), ("theme", &change.theme)];
        for (field, value) in objects {
            if let Some(value) = value {
                set.insert(field, value.as_json());
            }
        }
        if let Some(settings) = &change.settings {
            set.insert("settings", encode_json(settings)?);
        }
        self.set_fields(set);
        Ok(())
    }

    async fn save_members(&mut self, row: &SessionRow) -> Result<()> {
        let Session { owner, participants, invited, .. } = &row.session;
        let own = row.placement(owner);
        self.set_fields(doc! {
            "participants": user_names(participants),
            "archived": own.archived,
            "pinned": own.pinned,
        });
        let (archived_by, pinned_by) = placed_by(row);
        for (field, users) in
            [("invited", user_names(invited)), ("archivedBy", archived_by), ("pinnedBy", pinned_by)]
        {
            match users.is_empty() {
                true => self.unset_field(field),
                false => self.set_fields(doc! { field: users }),
            }
        }
        Ok(())
    }

    async fn set_title(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()> {
        let mut set = title_fields(title);
        set.insert("version", i64::from(row.session.version) + 1);
        self.set_fields(set);
        Ok(())
    }

    async fn set_imported_fields(
        &mut self,
        _row: &SessionRow,
        import: &ImportSession,
    ) -> Result<()> {
        let set = doc! {
            "status": import.status.as_str(),
            "lastSeen": import.last_seen.map(to_bson_date),
        };
        self.set_fields(set);
        Ok(())
    }

    async fn save_counters(&mut self, row: &SessionRow) -> Result<()> {
        let session = &row.session;
        let head = row.located_head().map(|head| LocatedMessageDoc::new(&head.id, head.location));
        let set = doc! {
            "messages": i64::from(session.messages_count),
            "nodes": i64::from(row.node_count),
            "head": head.as_ref().map(to_document).transpose()?,
            "lastMessage": session.last_message.as_deref(),
            "lastMessageAt": session.last_message_at.map(to_bson_date),
            "activityAt": to_bson_date(rules::activity_time(session)),
            "lastSeen": session.last_seen.map(to_bson_date),
            "updatedAt": to_bson_date(session.updated_at),
            // Put the session on the backlog of the search index, see `search.rs`.
            "unindexed": true,
        };
        self.set_fields(set);
        Ok(())
    }

    async fn save_read_marks(&mut self, row: &SessionRow) -> Result<()> {
        let mark = |(user_id, seq): (&String, &u32)| {
            to_document(&ReadMarkDoc { user_id: user_id.clone(), seq: (*seq).into() })
        };
        let marks = row.read_marks.iter().map(mark).collect::<Result<Vec<_>>>()?;
        self.set_fields(doc! { "readMarks": marks });
        Ok(())
    }

    /// Runs in a MongoDB transaction.
    async fn delete_session(&mut self, row: &SessionRow) -> Result<DeletionResult> {
        let queued = self.queued_turn_ids();
        self.delete_loaded_session().await?;
        let running = row.session.active_turn.as_ref().map(|turn| turn.turn_id.clone());
        let queued = queued.into_iter().map(TurnId::new_unchecked);
        let turns: Vec<TurnId> = queued.chain(running).collect();
        let messages = row.session.messages_count.into();
        Ok(DeletionResult { sessions: 1, messages, turns, ..DeletionResult::default() })
    }
}

fn title_fields(title: &SessionTitle) -> Document {
    doc! {
        "title": &title.text,
        "titleKey": rules::fold_title(&title.text),
        "titleWords": extract_index_words(&title.text),
        "titleSource": title.source.as_str(),
    }
}

/// The participants other than the owner who have archived the session, and those who have pinned
/// it.
pub(super) fn placed_by(row: &SessionRow) -> (Vec<String>, Vec<String>) {
    let owner = row.session.owner.as_str();
    let users = |has: fn(ListPlacement) -> bool| {
        let others = row.placements.iter().filter(|(user, placed)| *user != owner && has(**placed));
        others.map(|(user, _)| user.clone()).collect()
    };
    (users(|placement| placement.archived), users(|placement| placement.pinned))
}

fn user_names(users: &[UserId]) -> Vec<String> {
    users.iter().map(ToString::to_string).collect()
}
