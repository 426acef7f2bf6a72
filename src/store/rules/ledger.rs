//! Quotas and the ledger: nobody begins what is spent already, and what a turn used is booked by the
//! step that ends it.

use crate::domain::quota::{Quota, QuotaUnit, UsagePayer};
use crate::domain::usage::Cost;
use crate::domain::{CallKind, Session, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::ledger::quota_window;
use crate::store::transaction::{SessionRow, StoreTransaction};
use crate::store::{FinishTurn, LedgerEntry};
use serde_json::json;

/// Refuses a turn whose quota is spent. Errors: `quota_exceeded`.
pub(super) async fn check_quotas(
    tx: &mut impl StoreTransaction,
    quotas: &[Quota],
    payer: &UsagePayer,
    session: &Session,
    now: Timestamp,
) -> Result<()> {
    for quota in quotas {
        let project = session.project_id.as_ref();
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

/// The refusal of a turn whose quota is spent.
pub(crate) fn quota_exceeded(quota: &Quota, now: Timestamp) -> Error {
    let resets_at = quota.period.ends_at(now);
    let retry_after = resets_at.duration_since(now).as_secs() + 1;
    let limit = match quota.unit {
        QuotaUnit::Tokens => json!(quota.limit),
        QuotaUnit::Cost => json!(Cost(quota.limit)),
    };
    Error::new(ErrorKind::QuotaExceeded, format!("{} is spent", quota.describe()))
        .with_details(json!({ "limit": limit, "resetsAt": resets_at, "retryAfter": retry_after }))
}

/// The line of a turn that ends; none if nothing is known of what it used.
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
