//! Store operations for operators: users and inactive sessions, whatever their owner.

use super::DeletionResult;
use crate::domain::page::Pagination;
use crate::domain::{SessionId, Timestamp, UserId};
use crate::error::Result;
use async_trait::async_trait;

/// Session statistics of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserStats {
    pub user: UserId,
    /// Sessions that the user owns.
    pub sessions: u64,
    /// Messages in these sessions.
    pub messages: u64,
    /// Time of the latest message, or of the creation of a session without messages.
    pub last_active_at: Timestamp,
}

/// A page of users, sorted by user id.
#[derive(Debug)]
pub struct UserStatsPage {
    pub users: Vec<UserStats>,
    pub pagination: Pagination,
}

/// Maintenance across all users.
#[async_trait]
pub trait AdminStore: Send + Sync {
    /// Lists the users who own sessions; pages are counted from 1.
    async fn list_user_stats(&self, page: u32, limit: u32) -> Result<UserStatsPage>;

    /// The number of sessions of all users.
    async fn count_sessions(&self) -> Result<u64>;

    /// Lists up to `limit` sessions without activity since a time, in no particular order.
    async fn list_inactive_sessions(&self, since: Timestamp, limit: u32) -> Result<Vec<SessionId>>;

    /// In one transaction: deletes a session with all its messages if it has had no activity since
    /// a time and no reply is running in it. `None` if that is not so, or if it is gone.
    async fn delete_if_inactive(
        &self,
        id: &SessionId,
        since: Timestamp,
    ) -> Result<Option<DeletionResult>>;
}
