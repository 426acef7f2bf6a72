//! Sessions in MongoDB: created, changed, deleted.

use super::MongoStore;
use super::documents::{ClaimDoc, IdDoc, PlaceDoc, SessionDoc, date, document, to_json};
use super::list::{self, Whose};
use super::log::in_time;
use super::step::{Manner, Step, step};
use crate::domain::page::SessionQuery;
use crate::domain::principal::AccessLevel;
use crate::domain::session::SessionStatus;
use crate::domain::text::fold_words;
use crate::domain::title::SessionTitle;
use crate::domain::{Principal, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, Result};
use crate::store::work::SessionRow;
use crate::store::{
    Claimant, DeleteFilter, Deleted, ImportSession, NewSession, SessionChange, SessionPage,
    SessionStore, rules,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};

#[async_trait]
impl SessionStore for MongoStore {
    async fn create_session(
        &self,
        who: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)> {
        // One id for all tries of the step.
        let id = new.id.clone().unwrap_or_else(SessionId::generate);
        let new = NewSession { id: Some(id), ..new };
        let new = &new;
        step!(self, |step| rules::create_session(step, who, new, now).await)
    }

    async fn session(
        &self,
        who: &Principal,
        id: &SessionId,
        access: AccessLevel,
    ) -> Result<Session> {
        step!(self, Manner::LOOK, |step| Ok(rules::get(step, who, id, access).await?.with_nodes()))
    }

    async fn sessions(&self, who: &Principal, query: SessionQuery) -> Result<SessionPage> {
        let query = &query;
        step!(self, Manner::LOOK, |step| list::sessions(
            step,
            Whose::Participants(&who.user),
            query
        )
        .await)
    }

    async fn all_sessions(
        &self,
        owner: Option<&UserId>,
        query: SessionQuery,
    ) -> Result<SessionPage> {
        let (query, whose) = (&query, owner.map_or(Whose::Anybodys, Whose::Owners));
        step!(self, Manner::LOOK, |step| list::sessions(step, whose, query).await)
    }

    async fn change_session(
        &self,
        who: &Principal,
        id: &SessionId,
        change: SessionChange,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session> {
        let (change, if_match) = (&change, if_match.as_slice());
        step!(self, |step| rules::change_session(step, who, id, change, if_match, now).await)
    }

    async fn delete_session(&self, who: &Principal, id: &SessionId) -> Result<Deleted> {
        step!(self, Manner::LONG_STEP, |step| rules::delete_session(step, who, id).await)
    }

    async fn owned_sessions(
        &self,
        who: &Principal,
        filter: DeleteFilter,
    ) -> Result<Vec<SessionId>> {
        let mut find = doc! { "userId": who.user.as_str() };
        match filter {
            DeleteFilter::Project(project) => find.insert("projectId", project.as_str()),
            DeleteFilter::Before(time) => find.insert("activityAt", doc! { "$lt": date(time) }),
        };
        let table = self.tables.sessions.clone_with_type::<IdDoc>();
        let found = table.find(find).projection(doc! { "_id": 1 });
        let found: Vec<IdDoc> = in_time(async { Ok(found.await?.try_collect().await?) }).await?;
        Ok(found.into_iter().map(|session| SessionId::trusted(session.id)).collect())
    }
}

impl Step {
    pub(super) async fn add_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow> {
        let at = date(now);
        let session = SessionDoc {
            id: id.to_string(),
            user_id: owner.to_string(),
            participants: names(&rules::with_owner(owner, &new.participants)),
            project_id: new.project_id.as_ref().map(ToString::to_string),
            title: new.title.text.clone(),
            title_key: rules::title_words(&new.title.text),
            title_words: fold_words(&new.title.text),
            title_source: new.title.source.as_str().to_owned(),
            status: SessionStatus::ACTIVE.to_owned(),
            archived: false,
            pinned: false,
            meta: new.meta.as_json().to_owned(),
            user_meta: new.user_meta.as_json().to_owned(),
            theme: new.theme.as_json().to_owned(),
            settings: to_json(&new.settings)?,
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
        self.add(id, document(&session)?).await?;
        session.into_row()
    }

    /// Replaces fields of the session's own.
    pub(super) fn change(
        &mut self,
        row: &SessionRow,
        change: SessionChange,
        now: Timestamp,
    ) -> Result<()> {
        let mut set = doc! {
            "version": i64::from(row.session.version) + 1,
            "updatedAt": date(now),
        };
        if let Some(title) = &change.title {
            set.extend(title_fields(title));
        }
        if let Some(others) = &change.participants {
            set.insert("participants", names(&rules::with_owner(&row.session.owner, others)));
        }
        if let Some(project) = &change.project_id {
            set.insert("projectId", project.as_ref().map(|project| project.as_str()));
        }
        if let Some(status) = &change.status {
            set.insert("status", status.as_str());
        }
        for (field, value) in [("archived", change.archived), ("pinned", change.pinned)] {
            if let Some(value) = value {
                set.insert(field, value);
            }
        }
        let objects =
            [("meta", &change.meta), ("userMeta", &change.user_meta), ("theme", &change.theme)];
        for (field, value) in objects {
            if let Some(value) = value {
                set.insert(field, value.as_json());
            }
        }
        if let Some(settings) = &change.settings {
            set.insert("settings", to_json(settings)?);
        }
        self.set(set);
        Ok(())
    }

    /// Gives a session a title that its user did not give.
    pub(super) fn name(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()> {
        let mut set = title_fields(title);
        set.insert("version", i64::from(row.session.version) + 1);
        self.set(set);
        Ok(())
    }

    /// Gives a new session the fields that only an imported one has.
    pub(super) fn place(&mut self, import: &ImportSession) -> Result<()> {
        let set = doc! {
            "status": import.status.as_str(),
            "archived": import.archived,
            "pinned": import.pinned,
            "lastSeen": import.last_seen.map(date),
        };
        self.set(set);
        Ok(())
    }

    /// Writes back what a message moved.
    pub(super) fn count(&mut self, row: &SessionRow) -> Result<()> {
        let session = &row.session;
        let head = row.head().map(|head| PlaceDoc::of(&head.id, head.at));
        let set = doc! {
            "messages": i64::from(session.messages_count),
            "nodes": i64::from(row.node_count),
            "head": head.as_ref().map(document).transpose()?,
            "lastMessage": session.last_message.as_deref(),
            "lastMessageAt": session.last_message_at.map(date),
            "activityAt": date(session.last_message_at.unwrap_or(session.created_at)),
            "lastSeen": session.last_seen.map(date),
            "updatedAt": date(session.updated_at),
            // Its words are to be looked through, at least to see that all are kept.
            "unkept": true,
        };
        self.set(set);
        Ok(())
    }

    /// Invariant: at most one running turn per session; its document has one place for a claim.
    pub(super) fn claim(&mut self, row: &SessionRow, claimant: &Claimant) -> Result<()> {
        let turn =
            row.session.active_turn.as_ref().ok_or_else(|| Error::internal("no turn to hold"))?;
        let payer = row.payer.as_ref().ok_or_else(|| Error::internal("nobody pays for a turn"))?;
        self.set(doc! { "activeTurn": document(&ClaimDoc::of(turn, claimant, payer))? });
        Ok(())
    }

    /// Deletes a session and everything that belongs to it.
    pub(super) async fn remove(&mut self, row: &SessionRow) -> Result<Deleted> {
        let id = row.session.id.as_str();
        let waiting = self.queue();
        self.forget();
        let tables = self.tables.clone();
        self.delete(&tables.sessions, doc! { "_id": id }).await?;
        for table in [
            &tables.nodes,
            &tables.queue,
            &tables.turn_log,
            &tables.idempotency_keys,
            &tables.words,
            &tables.summaries,
            &tables.embeddings,
            &tables.responses,
        ] {
            self.delete(table, doc! { "sessionId": id }).await?;
        }
        let running = row.session.active_turn.as_ref().map(|turn| turn.turn_id.clone());
        let waiting = waiting.into_iter().map(TurnId::trusted);
        let turns: Vec<TurnId> = waiting.chain(running).collect();
        let messages = row.session.messages_count.into();
        Ok(Deleted { sessions: 1, messages, turns, ..Deleted::default() })
    }
}

fn title_fields(title: &SessionTitle) -> Document {
    doc! {
        "title": &title.text,
        "titleKey": rules::title_words(&title.text),
        "titleWords": fold_words(&title.text),
        "titleSource": title.source.as_str(),
    }
}

fn names(users: &[UserId]) -> Vec<String> {
    users.iter().map(ToString::to_string).collect()
}
