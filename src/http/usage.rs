//! `/api/usage`: what turns and the calls of models beside them have used, and what they cost.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::CurrentUser;
use super::query::QueryParams;
use crate::clock;
use crate::domain::quota::NANOS_PER_UNIT;
use crate::domain::{FieldError, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::{GroupBy, UsageGroup, UsageQuery};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

const DAY_MILLIS: i64 = 86_400_000;
/// What is shown unless a time is named, in days.
const DEFAULT_DAYS: i64 = 30;
/// The most that is shown at once.
const MAX_RANGE: Duration = Duration::from_secs(366 * 86_400);
/// The most lines.
const MAX_ENTRIES: u32 = 1000;

/// Usage put together.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageEntry {
    /// The day as `2026-01-31`, the model, or an id; empty where there is none.
    key: String,
    #[serde(flatten)]
    sum: UsageSum,
}

/// What some turns have used, stopped and failed ones among them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageSum {
    turns: u64,
    /// Turns whose tokens were counted here, because the provider did not say.
    estimated_turns: u64,
    /// Calls of models beside the turns, for titles and summaries, and requests to `/v1` without a
    /// session: not among the turns, but in the
    /// sums of tokens and money.
    side_calls: u64,
    /// Cached ones included.
    prompt_tokens: u64,
    cached_tokens: u64,
    /// Reasoning included.
    completion_tokens: u64,
    reasoning_tokens: u64,
    /// By the table of prices; not there if nothing has a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
}

impl From<UsageGroup> for UsageSum {
    fn from(line: UsageGroup) -> Self {
        Self {
            turns: line.turns,
            estimated_turns: line.estimated_turns,
            side_calls: line.background_calls,
            prompt_tokens: line.prompt_tokens,
            cached_tokens: line.cached_tokens,
            completion_tokens: line.completion_tokens,
            reasoning_tokens: line.reasoning_tokens,
            cost: line.cost.map(|cost| cost as f64 / NANOS_PER_UNIT),
        }
    }
}

/// Usage by what was asked for, and all of it.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageResponse {
    usage: Vec<UsageEntry>,
    total: UsageSum,
}

/// What the caller's turns have used: of the last 30 days, by day, unless asked otherwise.
#[utoipa::path(
    get, path = "/api/usage", tag = "people",
    params(
        ("from" = Option<String>, Query, description = "A day, or a time in RFC 3339"),
        ("to" = Option<String>, Query, description = "A day, which counts, or a time; at most 366 days behind from"),
        ("groupBy" = Option<String>, Query, description = "day (default), model, project or session; at most 1000 lines, those with most tokens"),
    ),
    responses((status = 200, body = Envelope<UsageResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_usage(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    query: QueryParams,
) -> ApiResult<Json<Envelope<UsageResponse>>> {
    let query = parse_usage_query(query, Some(who.user), &[])?;
    build_usage_response(&api, query).await
}

/// What everybody's turns have used, or one user's. For admins.
#[utoipa::path(
    get, path = "/api/admin/usage", tag = "admin",
    params(
        ("user" = Option<String>, Query, description = "Only what this user asked for"),
        ("from" = Option<String>, Query, description = "A day, or a time in RFC 3339"),
        ("to" = Option<String>, Query, description = "A day, which counts, or a time; at most 366 days behind from"),
        ("groupBy" = Option<String>, Query, description = "day (default), model, project, session or user"),
    ),
    responses((status = 200, body = Envelope<UsageResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_all_usage(
    State(api): State<ApiState>,
    mut query: QueryParams,
) -> ApiResult<Json<Envelope<UsageResponse>>> {
    let user = query.take_parsed("user", |user| UserId::parse("user", user));
    let query = parse_usage_query(query, user, &[("user", GroupBy::User)])?;
    build_usage_response(&api, query).await
}

async fn build_usage_response(
    api: &ApiState,
    query: UsageQuery,
) -> ApiResult<Json<Envelope<UsageResponse>>> {
    let all = UsageQuery { group_by: GroupBy::All, ..query.clone() };
    let lines = api.store.query_usage(query).await?;
    let total = api.store.query_usage(all).await?.pop().unwrap_or_default();
    let entry = |line: UsageGroup| UsageEntry { key: line.key.clone(), sum: line.into() };
    let report =
        UsageResponse { usage: lines.into_iter().map(entry).collect(), total: total.into() };
    Ok(ok_response("Usage retrieved successfully", report))
}

fn parse_usage_query(
    mut query: QueryParams,
    user: Option<UserId>,
    more: &[(&str, GroupBy)],
) -> Result<UsageQuery> {
    let words = [
        ("day", GroupBy::Day),
        ("model", GroupBy::Model),
        ("project", GroupBy::Project),
        ("session", GroupBy::Session),
    ];
    let words: Vec<_> = words.iter().chain(more).copied().collect();
    let group_by = query.take_choice("groupBy", &words).unwrap_or(GroupBy::Day);
    let from = query.take_parsed("from", |text| parse_time("from", text, 0));
    let to = query.take_parsed("to", |text| parse_time("to", text, DAY_MILLIS));
    query.finish()?;
    let to = to.unwrap_or_else(|| Timestamp::from_millis(clock::now().as_millis() + 1));
    let usual = Timestamp::from_millis(to.as_millis() - DEFAULT_DAYS * DAY_MILLIS);
    let from = from.unwrap_or(usual);
    if from >= to || to.duration_since(from) > MAX_RANGE {
        return Err(Error::invalid_field("from", "must be before to, by at most 366 days"));
    }
    Ok(UsageQuery { user, from, to, group_by, limit: MAX_ENTRIES })
}

/// A time, or a day in UTC: its beginning, and so many milliseconds.
fn parse_time(field: &'static str, text: &str, behind: i64) -> Result<Timestamp, FieldError> {
    let day = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    let of_day = || day().map(|day| Timestamp::from_millis(day.as_millis() + behind));
    let wants = "must be a day such as 2026-01-31, or a time in RFC 3339";
    Timestamp::parse(text).or_else(of_day).ok_or_else(|| FieldError::new(field, wants))
}
