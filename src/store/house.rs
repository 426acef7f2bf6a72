//! What whoever keeps the house asks of a store: who uses it, and what has lain idle too long.

use super::Deleted;
use crate::domain::page::Pagination;
use crate::domain::{SessionId, Timestamp, UserId};
use crate::error::Result;
use async_trait::async_trait;

/// A user who owns sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
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
pub struct OwnerPage {
    /// The users.
    pub owners: Vec<Owner>,
    /// How many there are in all.
    pub pagination: Pagination,
}

/// House-keeping, whoever's things it touches.
#[async_trait]
pub trait HouseStore: Send + Sync {
    /// The users who own sessions, page by page from 1.
    async fn owners(&self, page: u32, limit: u32) -> Result<OwnerPage>;

    /// Sessions without activity since a time, some of them, in no order.
    async fn idle_sessions(&self, since: Timestamp, most: u32) -> Result<Vec<SessionId>>;

    /// Deletes a session with all its messages if it still has had no activity since a time and no
    /// reply is running in it: one step. `None` if that is not so, or it is gone.
    async fn delete_idle(&self, id: &SessionId, since: Timestamp) -> Result<Option<Deleted>>;
}
