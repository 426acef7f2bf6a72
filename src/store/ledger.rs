//! What is asked of a store about the usage ledger: a line for each turn and for each call of a model
//! beside one, and what of quotas is spent.

use crate::domain::quota::{Quota, QuotaPeriod, QuotaScope, QuotaUnit, UsagePayer, quota_key};
use crate::domain::{CallKind, ProjectId, SessionId, Status, Timestamp, TurnId, Usage, UserId};
use crate::error::Result;
use async_trait::async_trait;

/// What a turn, or a call beside one, used, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The turn; a call beside one has an id of its own. It is booked once.
    pub turn_id: TurnId,
    /// What the model was called for.
    pub kind: CallKind,
    /// Its session, which may be gone.
    pub session_id: SessionId,
    /// Whose session that is.
    pub owner: UserId,
    /// What the session belongs to.
    pub project_id: Option<ProjectId>,
    /// Who asked.
    pub payer: UsagePayer,
    /// The model that answered, where that is known.
    pub model: Option<String>,
    /// How it ended.
    pub status: Status,
    /// Its tokens.
    pub usage: Usage,
    /// What it cost, in billionths of the unit that prices are in; `None` without a price.
    pub cost: Option<i64>,
    /// When it ended.
    pub ended_at: Timestamp,
}

impl LedgerEntry {
    /// What it is counted in.
    pub(crate) fn quota_keys(&self) -> Vec<String> {
        let key = |scope| quota_key(scope, &self.payer, &self.owner, self.project_id.as_ref());
        [QuotaScope::User, QuotaScope::Key, QuotaScope::Project]
            .into_iter()
            .filter_map(key)
            .collect()
    }

    /// Tokens of the prompt and of the reply.
    pub(crate) fn total_tokens(&self) -> i64 {
        to_i64(self.usage.prompt_tokens.saturating_add(self.usage.completion_tokens))
    }
}

/// A number as databases count.
pub(crate) fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageTotal {
    /// Tokens.
    pub tokens: i64,
    /// Money, in billionths.
    pub cost: i64,
}

impl UsageTotal {
    /// Whether nothing is left of a quota.
    pub fn is_exhausted(self, quota: &Quota) -> bool {
        match quota.unit {
            QuotaUnit::Tokens => self.tokens >= quota.limit,
            QuotaUnit::Cost => self.cost >= quota.limit,
        }
    }
}

/// What usage is put together by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// The day, in UTC.
    Day,
    /// The model.
    Model,
    /// The project.
    Project,
    /// The session.
    Session,
    /// Who asked.
    User,
    /// Nothing: all in one.
    All,
}

/// Which usage.
#[derive(Debug, Clone)]
pub struct UsageQuery {
    /// Whose; everybody's if nobody is named.
    pub user: Option<UserId>,
    /// From then on …
    pub from: Timestamp,
    /// … and before then.
    pub to: Timestamp,
    /// Put together by what.
    pub group_by: GroupBy,
    /// The most lines: of days the first ones, else those with most tokens.
    pub limit: u32,
}

/// Usage put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageGroup {
    /// The day as `2026-01-31`, the model, an id; empty where there is none.
    pub key: String,
    /// Turns.
    pub turns: u64,
    /// Those of them whose tokens we have counted, because the provider did not.
    pub estimated_turns: u64,
    /// Calls beside the turns, whose tokens and money are in the sums, too.
    pub background_calls: u64,
    /// Tokens of prompts …
    pub prompt_tokens: u64,
    /// … those of them that were cached …
    pub cached_tokens: u64,
    /// … of replies …
    pub completion_tokens: u64,
    /// … and those of them that were reasoning.
    pub reasoning_tokens: u64,
    /// Money, in billionths; `None` if nothing had a price.
    pub cost: Option<i64>,
}

/// The usage ledger. The line of a turn is written by the step that ends it.
#[async_trait]
pub trait LedgerStore: Send + Sync {
    /// Books what ended without such a step: a turn whose session is gone, or a call beside one. What
    /// is booked is not booked again.
    async fn record_usage(&self, entry: LedgerEntry) -> Result<()>;

    /// What has been spent of a purse from a day on, counted from 1970-01-01.
    async fn usage_total(&self, quota_key: &str, since_day: i64) -> Result<UsageTotal>;

    /// Usage put together. What a turn has used may take a moment to show.
    async fn query_usage(&self, query: UsageQuery) -> Result<Vec<UsageGroup>>;

    /// Forgets the lines of a user's turns and calls; what is spent stays spent. How many. Those that
    /// began before `now_on`, by their ids, and are booked later leave no lines either.
    async fn delete_usage(&self, user: &UserId, before: &TurnId) -> Result<u64>;

    /// Lines behind a turn, by the ids of turns: at most so many.
    async fn list_ledger_entries(
        &self,
        after: Option<&TurnId>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>>;
}

/// The first day that counts for a quota, and its purse if the turn has one.
pub(crate) fn quota_window(
    quota: &Quota,
    payer: &UsagePayer,
    owner: &UserId,
    project: Option<&ProjectId>,
    now: Timestamp,
) -> Option<(String, i64)> {
    let per: QuotaPeriod = quota.period;
    Some((quota_key(quota.scope, payer, owner, project)?, per.first_day(now)))
}
