//! Quotas and the ledger: no turn begins once a quota is exhausted, and the transaction that
//! finishes a turn records its usage.

use crate::domain::quota::{Quota, QuotaUnit, UsagePayer};
use crate::domain::usage::Cost;
use crate::domain::{CallKind, Session, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::ledger::{MAX_DAILY_TOKENS, quota_window};
use crate::store::transaction::{SessionRow, StoreTransaction};
use crate::store::{FinishTurn, LedgerEntry};
use serde_json::json;

/// Whether a day's total cannot come from replies. `None`: the sum is no integer.
pub(in crate::store) fn is_impossible_total(tokens: Option<i64>, cost: Option<i64>) -> bool {
    tokens.is_none_or(|tokens| !(0..=MAX_DAILY_TOKENS).contains(&tokens))
        || cost.is_none_or(|cost| cost < 0)
}

/// Rejects a turn if one of the quotas is exhausted. Errors: `quota_exceeded`.
pub(super) async fn check_quotas(
    tx: &mut impl StoreTransaction,
    quotas: &[Quota],
    payer: &UsagePayer,
    session: &Session,
    now: Timestamp,
) -> Result<()> {
    for quota in quotas {
        let project = session.project_id.as_ref();
        // Some quotas do not apply, such as one per API key to a caller without a key.
        let Some((quota_key, since_day)) = quota_window(quota, payer, &session.owner, project, now)
        else {
            continue;
        };
        if tx.usage_total(&quota_key, since_day).await?.is_exhausted(quota) {
            return Err(quota_exceeded(quota, now));
        }
    }
    Ok(())
}

/// The error for an exhausted quota, with the time of its reset.
pub(crate) fn quota_exceeded(quota: &Quota, now: Timestamp) -> Error {
    let resets_at = quota.period.ends_at(now);
    // Rounded up: a client that waits this long must find the new period.
    let retry_after = resets_at.duration_since(now).as_secs() + 1;
    let limit = match quota.unit {
        QuotaUnit::Tokens => json!(quota.limit),
        QuotaUnit::Cost => json!(Cost(quota.limit)),
    };
    Error::new(ErrorKind::QuotaExceeded, format!("{} is used up", quota.describe()))
        .with_details(json!({ "limit": limit, "resetsAt": resets_at, "retryAfter": retry_after }))
}

/// Builds the ledger entry of a finished turn; `None` if its usage is unknown.
pub(super) fn build_ledger_entry(row: &SessionRow, finish: &FinishTurn) -> Option<LedgerEntry> {
    let reply = &finish.reply;
    Some(LedgerEntry {
        turn_id: finish.turn_id.clone(),
        kind: CallKind::Reply,
        session_id: row.session.id.clone(),
        owner: row.session.owner.clone(),
        project_id: row.session.project_id.clone(),
        payer: row.payer.clone()?,
        model: reply.reply.model.clone(),
        status: reply.reply.status,
        usage: reply.reply.usage?,
        cost: finish.cost,
        ended_at: reply.created_at,
    })
}
