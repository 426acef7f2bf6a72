//! Repairs a ledger that holds counts no reply can have. Earlier versions recorded whatever a
//! provider reported; one such count filled every quota that it was added to.

use super::ledger::plausible_or_zero;
use crate::domain::quota::{MAX_CALL_COST, QuotaSubject, parse_quota_key};
use crate::domain::usage::MAX_TOKEN_COUNT;
use crate::error::Result;
use crate::store::rules::is_impossible_total;
use rusqlite::types::FromSql;
use rusqlite::{Connection, Row, params};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Computes totals again that include an absurd count, from the entries without it. A total that
/// cannot be explained by its entries stays: users may have deleted these.
pub(super) fn repair_totals(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction()?;
    let suspects = find_suspects(&transaction)?;
    for suspect in &suspects {
        repair_total(&transaction, suspect)?;
    }
    transaction.commit()?;
    Ok(())
}

struct SuspectTotal {
    quota_key: String,
    day: i64,
    /// Whether the total is impossible by itself.
    is_absurd: bool,
}

/// A total that includes an absurd count is larger than any single count.
fn find_suspects(db: &Connection) -> Result<Vec<SuspectTotal>> {
    let sql = format!(
        "SELECT purse, day, tokens, cost FROM spent \
         WHERE tokens NOT BETWEEN 0 AND {MAX_TOKEN_COUNT} OR cost NOT BETWEEN 0 AND {MAX_CALL_COST}"
    );
    let mut statement = db.prepare(&sql)?;
    let suspects = statement.query_map([], |row| {
        let is_absurd = is_impossible_total(read_integer(row, 2), read_integer(row, 3));
        Ok(SuspectTotal { quota_key: row.get(0)?, day: row.get(1)?, is_absurd })
    })?;
    Ok(suspects.collect::<Result<_, _>>()?)
}

/// `None` for a sum that became a floating-point number.
fn read_integer(row: &Row<'_>, column: usize) -> Option<i64> {
    row.get_ref(column).ok().and_then(|value| i64::column_result(value).ok())
}

fn repair_total(db: &Connection, suspect: &SuspectTotal) -> Result<()> {
    let (condition, first, second) = match parse_quota_key(&suspect.quota_key) {
        Some(QuotaSubject::User(user)) => ("user_id = ?1 AND ?2 IS NULL", user, None),
        Some(QuotaSubject::Key(key)) => ("key_id = ?1 AND ?2 IS NULL", key, None),
        Some(QuotaSubject::Project { project, owner }) => {
            ("project_id = ?1 AND owner = ?2", project, Some(owner))
        }
        None => return Ok(()),
    };
    let sql = format!(
        "SELECT coalesce(sum({prompt} + {completion}), 0), CAST(total({cost}) AS INTEGER), \
         coalesce(max(prompt_tokens <> {prompt} OR completion_tokens <> {completion} OR cost <> {cost}), 0) \
         FROM usage WHERE {condition} AND at >= ?3 AND at < ?4",
        prompt = plausible_or_zero("prompt_tokens", MAX_TOKEN_COUNT),
        completion = plausible_or_zero("completion_tokens", MAX_TOKEN_COUNT),
        cost = plausible_or_zero("cost", MAX_CALL_COST as u64),
    );
    let begin = suspect.day.saturating_mul(DAY_MS);
    let bounds = params![first, second, begin, begin.saturating_add(DAY_MS)];
    let (tokens, cost, has_absurd): (i64, i64, bool) =
        db.query_row(&sql, bounds, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    if has_absurd || suspect.is_absurd {
        tracing::warn!(
            quota = suspect.quota_key,
            "total recomputed: it contained impossible usage"
        );
        let sql = "UPDATE spent SET tokens = ?3, cost = ?4 WHERE purse = ?1 AND day = ?2";
        db.execute(sql, params![suspect.quota_key, suspect.day, tokens, cost])?;
    }
    Ok(())
}
