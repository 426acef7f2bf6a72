//! Store operations on the usage ledger: one entry per turn and per background call, and the totals
//! that quotas are checked against.

use super::stored_values::{decode_name, to_i64};
use crate::domain::key::KeyId;
use crate::domain::quota::{
    MAX_CALL_COST, Quota, QuotaPeriod, QuotaScope, QuotaUnit, UsagePayer, quota_key,
};
use crate::domain::{CallKind, ProjectId, SessionId, Status, Timestamp, TurnId, Usage, UserId};
use crate::error::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Maximum of a user's tokens in one day that is believed: a million of the largest replies.
pub(super) const MAX_DAILY_TOKENS: i64 = 1_000_000_000_000_000;

/// Usage of one turn or background call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Id of the turn, or a new id for a background call. There is at most one entry per id.
    pub turn_id: TurnId,
    /// Purpose of the model call.
    pub kind: CallKind,
    /// The session may be gone.
    pub session_id: SessionId,
    /// Owner of the session.
    pub owner: UserId,
    pub project_id: Option<ProjectId>,
    /// User and API key that are charged.
    pub payer: UsagePayer,
    /// Model that answered, if known.
    pub model: Option<String>,
    /// How the reply ended.
    pub status: Status,
    pub usage: Usage,
    /// Cost in billionths of the pricing currency; `None` without a price.
    pub cost: Option<i64>,
    pub ended_at: Timestamp,
}

impl LedgerEntry {
    /// Keys of all totals that this entry counts toward.
    pub(crate) fn quota_keys(&self) -> Vec<String> {
        let key = |scope| quota_key(scope, &self.payer, &self.owner, self.project_id.as_ref());
        [QuotaScope::User, QuotaScope::Key, QuotaScope::Project]
            .into_iter()
            .filter_map(key)
            .collect()
    }

    /// Tokens of prompt and reply, saturating.
    pub(crate) fn total_tokens(&self) -> i64 {
        let usage = self.usage.without_absurd_counts();
        to_i64(usage.prompt_tokens.saturating_add(usage.completion_tokens))
    }

    /// The cost that counts toward quotas.
    pub(crate) fn total_cost(&self) -> i64 {
        self.cost.map_or(0, clamp_cost)
    }
}

fn clamp_cost(cost: i64) -> i64 {
    cost.clamp(0, MAX_CALL_COST)
}

/// A ledger entry in columns of text and integers, without its id and its time, which databases
/// keep in types of their own. Serialized names are those of MongoDB's documents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LedgerColumns {
    pub(super) kind: String,
    pub(super) session_id: String,
    pub(super) owner: String,
    pub(super) project_id: Option<String>,
    pub(super) user_id: String,
    pub(super) key_id: Option<String>,
    pub(super) model: Option<String>,
    pub(super) status: String,
    pub(super) prompt_tokens: i64,
    pub(super) cached_tokens: i64,
    pub(super) completion_tokens: i64,
    pub(super) reasoning_tokens: i64,
    pub(super) estimated: bool,
    pub(super) cost: Option<i64>,
}

impl LedgerColumns {
    pub(super) fn from_entry(entry: &LedgerEntry) -> Self {
        let usage = entry.usage.without_absurd_counts();
        Self {
            kind: entry.kind.as_str().to_owned(),
            session_id: entry.session_id.to_string(),
            owner: entry.owner.to_string(),
            project_id: entry.project_id.as_ref().map(ToString::to_string),
            user_id: entry.payer.user.to_string(),
            key_id: entry.payer.key.as_ref().map(ToString::to_string),
            model: entry.model.clone(),
            status: entry.status.as_str().to_owned(),
            prompt_tokens: to_i64(usage.prompt_tokens),
            cached_tokens: to_i64(usage.cached_tokens),
            completion_tokens: to_i64(usage.completion_tokens),
            reasoning_tokens: to_i64(usage.reasoning_tokens),
            estimated: usage.estimated,
            cost: entry.cost.map(clamp_cost),
        }
    }

    pub(super) fn into_entry(self, turn_id: TurnId, ended_at: Timestamp) -> Result<LedgerEntry> {
        Ok(LedgerEntry {
            turn_id,
            kind: decode_name(CallKind::from_name, &self.kind)?,
            session_id: SessionId::new_unchecked(self.session_id),
            owner: UserId::new_unchecked(self.owner),
            project_id: self.project_id.map(ProjectId::new_unchecked),
            payer: UsagePayer {
                user: UserId::new_unchecked(self.user_id),
                key: self.key_id.map(KeyId::new_unchecked),
            },
            model: self.model,
            status: decode_name(Status::from_name, &self.status)?,
            usage: Usage {
                prompt_tokens: self.prompt_tokens.unsigned_abs(),
                cached_tokens: self.cached_tokens.unsigned_abs(),
                completion_tokens: self.completion_tokens.unsigned_abs(),
                reasoning_tokens: self.reasoning_tokens.unsigned_abs(),
                estimated: self.estimated,
                ..Usage::default()
            }
            .without_absurd_counts(),
            cost: self.cost.map(clamp_cost),
            ended_at,
        })
    }
}

/// Usage counted under one quota key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageTotal {
    pub tokens: i64,
    /// In billionths of the pricing currency.
    pub cost: i64,
}

impl UsageTotal {
    /// Whether this total has reached the limit of a quota.
    pub fn is_exhausted(self, quota: &Quota) -> bool {
        match quota.unit {
            QuotaUnit::Tokens => self.tokens >= quota.limit,
            QuotaUnit::Cost => self.cost >= quota.limit,
        }
    }
}

/// Grouping of a usage report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// Day in UTC.
    Day,
    Model,
    Project,
    Session,
    User,
    /// One group of everything.
    All,
}

#[derive(Debug, Clone)]
pub struct UsageQuery {
    /// `None` for all users.
    pub user: Option<UserId>,
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive.
    pub to: Timestamp,
    pub group_by: GroupBy,
    /// Maximum number of groups: the earliest days, otherwise the groups with the most tokens.
    pub limit: u32,
}

/// One group of a usage report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageGroup {
    /// Day as `2026-01-31`, model name or id; empty for entries without one.
    pub key: String,
    pub turns: u64,
    /// Turns whose tokens were estimated because the provider reported none.
    pub estimated_turns: u64,
    /// Background calls. Their tokens and cost are part of the sums.
    pub background_calls: u64,
    pub prompt_tokens: u64,
    /// Part of `prompt_tokens`.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    /// Part of `completion_tokens`.
    pub reasoning_tokens: u64,
    /// In billionths of the pricing currency; `None` if nothing had a price.
    pub cost: Option<i64>,
}

/// The usage ledger. The entry of a turn is usually written by the transaction that finishes it.
#[async_trait]
pub trait LedgerStore: Send + Sync {
    /// Records usage outside of that transaction: of a turn whose session is gone, or of a
    /// background call. An id that is already recorded is ignored.
    async fn record_usage(&self, entry: LedgerEntry) -> Result<()>;

    /// Usage counted under a quota key since a day, counted from 1970-01-01.
    async fn usage_total(&self, quota_key: &str, since_day: i64) -> Result<UsageTotal>;

    /// Aggregates usage. Turns that have just ended may take a moment to appear.
    async fn query_usage(&self, query: UsageQuery) -> Result<Vec<UsageGroup>>;

    /// Deletes the ledger entries of a user; the totals remain. Returns the number of entries.
    /// Turns and calls with ids lower than `before` leave no entry if they are recorded later.
    async fn delete_usage(&self, user: &UserId, before: &TurnId) -> Result<u64>;

    /// Lists entries with ids greater than `after`, in the order of ids.
    async fn list_ledger_entries(
        &self,
        after: Option<&TurnId>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>>;
}

/// The quota key and the first counted day of a quota; `None` if the quota does not apply.
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
