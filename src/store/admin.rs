//! What whoever keeps the house asks of a store: who uses it, and what has lain idle too long.

use super::DeletionResult;
use crate::domain::page::Pagination;
use crate::domain::{SessionId, Timestamp, UserId};
use crate::error::Result;
use async_trait::async_trait;

/// A user who owns sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserStats {
    /// The user.
    pub user: UserId,
    /// How many sessions they own.
    pub sessions: u64,
    /// How many messages are in these.
    pub messages: u64,
    /// When something was last said in one, or one was created.
    pub last_active_at: Timestamp,
}

/// A page of users, in the order of their names.
#[derive(Debug)]
pub struct UserStatsPage {
    /// The users.
    pub users: Vec<UserStats>,
    /// How many there are in all.
    pub pagination: Pagination,
}

/// House-keeping, whoever's things it touches.
#[async_trait]
pub trait AdminStore: Send + Sync {
    /// The users who own sessions, page by page from 1.
    async fn list_user_stats(&self, page: u32, limit: u32) -> Result<UserStatsPage>;

    /// Sessions without activity since a time, some of them, in no order.
    async fn list_inactive_sessions(&self, since: Timestamp, limit: u32) -> Result<Vec<SessionId>>;

    /// Deletes a session with all its messages if it still has had no activity since a time and no
    /// reply is running in it: one step. `None` if that is not so, or it is gone.
    async fn delete_if_inactive(
        &self,
        id: &SessionId,
        since: Timestamp,
    ) -> Result<Option<DeletionResult>>;
}
