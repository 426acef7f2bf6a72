//! Store operations on sessions.

use crate::domain::page::{Pagination, SessionCursor, SessionQuery};
use crate::domain::principal::AccessLevel;
use crate::domain::session::{JsonObject, SessionSettings, SessionStatus};
use crate::domain::title::SessionTitle;
use crate::domain::{Principal, ProjectId, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use async_trait::async_trait;
use std::collections::HashMap;

#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// Id chosen by the client; `None` generates one.
    pub id: Option<SessionId>,
    pub title: SessionTitle,
    pub project_id: Option<ProjectId>,
    /// Participants other than the owner.
    pub participants: Vec<UserId>,
    /// Users who become participants when they accept.
    pub invited: Vec<UserId>,
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
    pub status: Option<SessionStatus>,
    /// The caller's own value, as is `pinned`.
    pub archived: Option<bool>,
    /// Pinned sessions are listed before all others.
    pub pinned: Option<bool>,
    pub meta: Option<JsonObject>,
    pub user_meta: Option<JsonObject>,
    pub theme: Option<JsonObject>,
    pub settings: Option<SessionSettings>,
    /// Users other than the owner who participate or are invited.
    pub participants: Option<Vec<UserId>>,
    /// Whether those of `participants` who do not participate yet are invited, and get in when they
    /// accept.
    pub needs_consent: bool,
    /// `Some(None)` takes the session out of its project.
    pub project_id: Option<Option<ProjectId>>,
}

impl SessionUpdate {
    pub fn is_empty(&self) -> bool {
        !self.changes_shared_fields() && !self.changes_placement()
    }

    /// Whether the update changes fields that all participants share. Only these have a version.
    pub fn changes_shared_fields(&self) -> bool {
        self.status.is_some() || !self.is_for_participants()
    }

    /// Whether the update changes the caller's own `archived` or `pinned`.
    pub fn changes_placement(&self) -> bool {
        self.archived.is_some() || self.pinned.is_some()
    }

    /// The access level that this update requires.
    pub fn required_access(&self) -> AccessLevel {
        if self.is_for_participants() { AccessLevel::Participant } else { AccessLevel::Owner }
    }

    /// Whether the update has only fields that every participant may change: the status, and the
    /// caller's own values.
    fn is_for_participants(&self) -> bool {
        // Every field is named: a new one must be decided about here.
        let Self {
            title,
            meta,
            user_meta,
            theme,
            settings,
            participants,
            project_id,
            status: _,
            archived: _,
            pinned: _,
            needs_consent: _,
        } = self;
        title.is_none()
            && meta.is_none()
            && user_meta.is_none()
            && theme.is_none()
            && settings.is_none()
            && participants.is_none()
            && project_id.is_none()
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

/// Owner and participants of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionMembers {
    pub owner: UserId,
    pub participants: Vec<UserId>,
}

/// Counts of a deletion, and the turns and users it affects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeletionResult {
    pub sessions: u64,
    pub messages: u64,
    /// Turns that were running or queued in the deleted sessions and can no longer finish.
    pub turns: Vec<TurnId>,
    /// Users of the deleted session: its owner, the participants and those invited.
    pub audience: Vec<UserId>,
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

    /// Reads who may use these sessions. Those that do not exist are left out.
    async fn list_members(
        &self,
        sessions: Vec<SessionId>,
    ) -> Result<HashMap<SessionId, SessionMembers>>;

    /// Lists the sessions that `principal` owns or participates in, or those that they are invited
    /// to. Of the latter only what [`Session::redact_for_invitee`] leaves.
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
    /// empty. An empty update does not increment the version, nor does one of the caller's own
    /// `archived` and `pinned` while others participate. Errors: `session_not_found`, `forbidden`,
    /// `version_conflict`.
    async fn update_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        update: SessionUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session>;

    /// Makes an invited user a participant. Accepting again changes nothing. Errors:
    /// `session_not_found`, `forbidden`.
    async fn accept_invitation(
        &self,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<Session>;

    /// Removes the caller from the participants or the invited users. Errors: `session_not_found`,
    /// `forbidden` for the owner.
    async fn leave_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<()>;

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
