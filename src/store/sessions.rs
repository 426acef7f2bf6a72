//! What is asked of a store about sessions.

use crate::domain::page::{Pagination, SessionCursor, SessionQuery};
use crate::domain::principal::AccessLevel;
use crate::domain::session::{JsonObject, SessionSettings, SessionStatus};
use crate::domain::title::SessionTitle;
use crate::domain::{Principal, ProjectId, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use async_trait::async_trait;

/// A session to create.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// The id the client chose, if it chose one.
    pub id: Option<SessionId>,
    /// Its title.
    pub title: SessionTitle,
    /// Its project.
    pub project_id: Option<ProjectId>,
    /// Participants beside the owner.
    pub participants: Vec<UserId>,
    /// The application's data.
    pub meta: JsonObject,
    /// What the application knows of its user.
    pub user_meta: JsonObject,
    /// How the application shows it.
    pub theme: JsonObject,
    /// What its turns use.
    pub settings: SessionSettings,
}

/// A change of a session's own fields: each `Some` replaces that field.
#[derive(Debug, Clone, Default)]
pub struct SessionUpdate {
    /// The title.
    pub title: Option<SessionTitle>,
    /// The status; the only one a participant who is not the owner may set.
    pub status: Option<SessionStatus>,
    /// Put away or taken out again.
    pub archived: Option<bool>,
    /// Kept at the head of lists.
    pub pinned: Option<bool>,
    /// The application's data.
    pub meta: Option<JsonObject>,
    /// What the application knows of its user.
    pub user_meta: Option<JsonObject>,
    /// How the application shows it.
    pub theme: Option<JsonObject>,
    /// What its turns use.
    pub settings: Option<SessionSettings>,
    /// Participants beside the owner.
    pub participants: Option<Vec<UserId>>,
    /// The project; `Some(None)` takes the session out of its project.
    pub project_id: Option<Option<ProjectId>>,
}

impl SessionUpdate {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        self.has_only_status() && self.status.is_none()
    }

    /// What a user must be allowed to make this change.
    pub fn required_access(&self) -> AccessLevel {
        if self.has_only_status() { AccessLevel::Participant } else { AccessLevel::Owner }
    }

    fn has_only_status(&self) -> bool {
        self.title.is_none()
            && self.archived.is_none()
            && self.pinned.is_none()
            && self.meta.is_none()
            && self.user_meta.is_none()
            && self.theme.is_none()
            && self.settings.is_none()
            && self.participants.is_none()
            && self.project_id.is_none()
    }
}

/// A page of sessions.
#[derive(Debug)]
pub struct SessionPage {
    /// The sessions, without their nodes.
    pub sessions: Vec<Session>,
    /// How many there are in all; only for a numbered page.
    pub pagination: Option<Pagination>,
    /// Where the list goes on, if it does.
    pub next_cursor: Option<SessionCursor>,
}

/// What a deletion took away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeletionResult {
    /// Sessions.
    pub sessions: u64,
    /// Messages in them.
    pub messages: u64,
    /// Turns that ran or waited in them and can no longer finish.
    pub turns: Vec<TurnId>,
    /// The users that the session had, its owner among them.
    pub participants: Vec<UserId>,
}

impl DeletionResult {
    /// Adds the numbers of another deletion.
    pub fn add_counts(&mut self, more: &Self) {
        self.sessions += more.sessions;
        self.messages += more.messages;
    }
}

/// Which of the caller's own sessions to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteFilter {
    /// Those of a project.
    Project(ProjectId),
    /// Those without activity since a time.
    InactiveSince(Timestamp),
}

/// Sessions: created, listed, changed, deleted.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Creates a session. With an id that the same owner has already used, gives that session
    /// unchanged and `false`. Errors: `id_conflict`.
    async fn create_session(
        &self,
        principal: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)>;

    /// One session. Errors: `session_not_found`, `forbidden`.
    async fn get_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        access: AccessLevel,
    ) -> Result<Session>;

    /// The sessions that `who` participates in.
    async fn list_sessions(
        &self,
        principal: &Principal,
        query: SessionQuery,
    ) -> Result<SessionPage>;

    /// Everybody's sessions, or those of one owner: what an operator looks at, whoever participates.
    async fn list_all_sessions(
        &self,
        owner: Option<&UserId>,
        query: SessionQuery,
    ) -> Result<SessionPage>;

    /// Changes a session's own fields; its version must be one of `if_match`, unless that is empty.
    /// A change of nothing leaves even the version. Errors: `session_not_found`, `forbidden`,
    /// `version_conflict`.
    async fn update_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        change: SessionUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session>;

    /// Deletes a session with all its messages. Errors: `session_not_found`, `forbidden`.
    async fn delete_session(&self, principal: &Principal, id: &SessionId)
    -> Result<DeletionResult>;

    /// The sessions that `who` owns and the filter names.
    async fn list_owned_sessions(
        &self,
        principal: &Principal,
        filter: DeleteFilter,
    ) -> Result<Vec<SessionId>>;
}
