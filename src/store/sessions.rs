//! Store operations on sessions.

use crate::domain::page::{Pagination, SessionCursor, SessionQuery};
use crate::domain::principal::AccessLevel;
use crate::domain::session::{JsonObject, SessionSettings, SessionStatus};
use crate::domain::title::SessionTitle;
use crate::domain::{Principal, ProjectId, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use async_trait::async_trait;

#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// Id chosen by the client; `None` generates one.
    pub id: Option<SessionId>,
    pub title: SessionTitle,
    pub project_id: Option<ProjectId>,
    /// Participants other than the owner.
    pub participants: Vec<UserId>,
    /// Data of the application, opaque to the server.
    pub meta: JsonObject,
    /// Data of the application about the user.
    pub user_meta: JsonObject,
    /// Data of the application about the session's appearance.
    pub theme: JsonObject,
    /// Default settings of the session's turns.
    pub settings: SessionSettings,
}

/// An update of a session's own fields; each `Some` replaces that field.
#[derive(Debug, Clone, Default)]
pub struct SessionUpdate {
    pub title: Option<SessionTitle>,
    /// The only field that a participant other than the owner may change.
    pub status: Option<SessionStatus>,
    pub archived: Option<bool>,
    /// Pinned sessions are listed before all others.
    pub pinned: Option<bool>,
    pub meta: Option<JsonObject>,
    pub user_meta: Option<JsonObject>,
    pub theme: Option<JsonObject>,
    pub settings: Option<SessionSettings>,
    /// Participants other than the owner.
    pub participants: Option<Vec<UserId>>,
    /// `Some(None)` takes the session out of its project.
    pub project_id: Option<Option<ProjectId>>,
}

impl SessionUpdate {
    pub fn is_empty(&self) -> bool {
        self.has_only_status() && self.status.is_none()
    }

    /// The access level that this update requires.
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

#[derive(Debug)]
pub struct SessionPage {
    /// Without their nodes.
    pub sessions: Vec<Session>,
    /// Total count; only for numbered pages.
    pub pagination: Option<Pagination>,
    /// Start of the next page; `None` on the last one.
    pub next_cursor: Option<SessionCursor>,
}

/// Counts of a deletion, and the turns and users it affects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeletionResult {
    pub sessions: u64,
    pub messages: u64,
    /// Turns that were running or queued in the deleted sessions and can no longer finish.
    pub turns: Vec<TurnId>,
    /// Users of the deleted session, including its owner.
    pub participants: Vec<UserId>,
}

impl DeletionResult {
    /// Adds the counts of another deletion; turns and users stay as they are.
    pub fn add_counts(&mut self, more: &Self) {
        self.sessions += more.sessions;
        self.messages += more.messages;
    }
}

/// Selects the caller's own sessions for deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteFilter {
    Project(ProjectId),
    /// Sessions without activity since this time.
    InactiveSince(Timestamp),
}

/// Creating, listing, updating and deleting sessions.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Creates a session and returns it with `true`. If the same owner already has a session with
    /// this id, returns that session unchanged with `false`. Errors: `id_conflict`.
    async fn create_session(
        &self,
        principal: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)>;

    /// Returns one session. Errors: `session_not_found`, `forbidden`.
    async fn get_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        access: AccessLevel,
    ) -> Result<Session>;

    /// Lists the sessions that `principal` owns or participates in.
    async fn list_sessions(
        &self,
        principal: &Principal,
        query: SessionQuery,
    ) -> Result<SessionPage>;

    /// Lists the sessions of all users, or of one owner, without an access check. For operators.
    async fn list_all_sessions(
        &self,
        owner: Option<&UserId>,
        query: SessionQuery,
    ) -> Result<SessionPage>;

    /// Updates a session's own fields. The current version must be in `if_match` unless that is
    /// empty. An empty update does not increment the version. Errors: `session_not_found`,
    /// `forbidden`, `version_conflict`.
    async fn update_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        update: SessionUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session>;

    /// Deletes a session with all its messages. Errors: `session_not_found`, `forbidden`.
    async fn delete_session(&self, principal: &Principal, id: &SessionId)
    -> Result<DeletionResult>;

    /// Returns the ids of the sessions that `principal` owns and `filter` selects.
    async fn list_owned_sessions(
        &self,
        principal: &Principal,
        filter: DeleteFilter,
    ) -> Result<Vec<SessionId>>;
}
