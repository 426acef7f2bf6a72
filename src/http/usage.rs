//! `/api/usage` and `/api/admin/usage`: tokens and cost of turns and background model calls.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::param::{ParseParam, parse_name, parse_param};
use super::query::{QueryParams, RouteQuery};
use crate::clock;
use crate::domain::quota::NANOS_PER_UNIT;
use crate::domain::{FieldError, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::{GroupBy, UsageGroup, UsageQuery};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

const DAY_MILLIS: i64 = 86_400_000;
/// Length of the default range, in days.
const DEFAULT_DAYS: i64 = 30;
const MAX_RANGE: Duration = Duration::from_secs(366 * 86_400);
const MAX_ENTRIES: u32 = 1000;

/// Usage of one group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageEntry {
    /// The group: a day as `2026-01-31`, a model, or an ID. Empty for usage without one.
    key: String,
    #[serde(flatten)]
    sum: UsageSum,
}

/// A sum over turns and background calls.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageSum {
    /// Number of turns, including stopped and failed ones.
    turns: u64,
    /// Turns whose tokens were counted by the server, because the provider reported no usage.
    estimated_turns: u64,
    /// Model calls outside of turns: for titles and summaries, and requests to `/v1` without a
    /// session. They are not counted in `turns`, but included in tokens and cost.
    side_calls: u64,
    /// Tokens of the prompts, including cached ones.
    prompt_tokens: u64,
    /// Prompt tokens that the provider read from its cache.
    cached_tokens: u64,
    /// Tokens of the replies, including reasoning.
    completion_tokens: u64,
    /// The part of `completionTokens` that the models spent on reasoning.
    reasoning_tokens: u64,
    /// Cost by the server's price table; absent if none of the models has a price.
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

/// Usage by group, and its total.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageResponse {
    /// One entry per group, at most 1000: those with the most tokens.
    usage: Vec<UsageEntry>,
    /// The sum over the whole range, including groups that are not listed.
    total: UsageSum,
}

/// Range and grouping of the caller's usage.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct GetUsageQuery {
    /// Begin of the range: a day as 2026-01-31 (UTC), or a time (RFC 3339)
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    from: Option<RangeStart>,
    /// End of the range: a day (inclusive), or a time (exclusive); at most 366 days after from
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    to: Option<RangeEnd>,
    /// day (default), model, project or session
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    group_by: Grouping<4>,
}

impl RouteQuery for GetUsageQuery {}

/// Get the caller's usage.
///
/// By default of the last 30 days, grouped by day.
#[utoipa::path(
    get, path = "/api/usage", tag = "people",
    params(GetUsageQuery),
    responses((status = 200, body = Envelope<UsageResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_usage(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    QueryParams(query): QueryParams<GetUsageQuery>,
) -> ApiResult<Json<Envelope<UsageResponse>>> {
    let GetUsageQuery { from, to, group_by: Grouping(group_by) } = query;
    let query = build_usage_query(Some(principal.user), group_by, from, to)?;
    build_usage_response(&api, query).await
}

/// User, range and grouping of the usage.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct GetAllUsageQuery {
    /// Only usage of this user
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    user: Option<UserId>,
    /// Begin of the range: a day as 2026-01-31 (UTC), or a time (RFC 3339)
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    from: Option<RangeStart>,
    /// End of the range: a day (inclusive), or a time (exclusive); at most 366 days after from
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    to: Option<RangeEnd>,
    /// day (default), model, project, session or user
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    group_by: Grouping<5>,
}

impl RouteQuery for GetAllUsageQuery {}

/// Get the usage of all users, or of one user.
///
/// Requires an admin. By default of the last 30 days, grouped by day.
#[utoipa::path(
    get, path = "/api/admin/usage", tag = "admin",
    params(GetAllUsageQuery),
    responses((status = 200, body = Envelope<UsageResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_all_usage(
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<GetAllUsageQuery>,
) -> ApiResult<Json<Envelope<UsageResponse>>> {
    let GetAllUsageQuery { user, from, to, group_by: Grouping(group_by) } = query;
    let query = build_usage_query(user, group_by, from, to)?;
    build_usage_response(&api, query).await
}

async fn build_usage_response(
    api: &ApiState,
    query: UsageQuery,
) -> ApiResult<Json<Envelope<UsageResponse>>> {
    // Asked separately, because the list may be cut at `MAX_ENTRIES`.
    let all = UsageQuery { group_by: GroupBy::All, ..query.clone() };
    let lines = api.store.query_usage(query).await?;
    let total = api.store.query_usage(all).await?.pop().unwrap_or_default();
    let entry = |line: UsageGroup| UsageEntry { key: line.key.clone(), sum: line.into() };
    let report =
        UsageResponse { usage: lines.into_iter().map(entry).collect(), total: total.into() };
    Ok(ok_response("Usage retrieved successfully", report))
}

fn build_usage_query(
    user: Option<UserId>,
    group_by: GroupBy,
    from: Option<RangeStart>,
    to: Option<RangeEnd>,
) -> Result<UsageQuery> {
    // `to` is exclusive: one millisecond later includes a turn that is booked right now.
    let now = || Timestamp::from_millis(clock::now().as_millis() + 1);
    let to = to.map_or_else(now, |RangeEnd(to)| to);
    let default_from = Timestamp::from_millis(to.as_millis() - DEFAULT_DAYS * DAY_MILLIS);
    let from = from.map_or(default_from, |RangeStart(from)| from);
    if from >= to || to.duration_since(from) > MAX_RANGE {
        return Err(Error::invalid_field("from", "must be before to, by at most 366 days"));
    }
    Ok(UsageQuery { user, from, to, group_by, limit: MAX_ENTRIES })
}

/// A time, or the beginning of a day in UTC.
struct RangeStart(Timestamp);

/// A time, or the end of a day in UTC.
struct RangeEnd(Timestamp);

impl ParseParam for RangeStart {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        parse_time(text, 0).map(Self)
    }
}

impl ParseParam for RangeEnd {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        parse_time(text, DAY_MILLIS).map(Self)
    }
}

/// Parses a time, or a day in UTC as its beginning plus `offset_millis`.
fn parse_time(text: &str, offset_millis: i64) -> Result<Timestamp, FieldError> {
    let day = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    let day_boundary = || day().map(|day| Timestamp::from_millis(day.as_millis() + offset_millis));
    let expected = "must be a day such as 2026-01-31, or a time in RFC 3339";
    Timestamp::parse(text).or_else(day_boundary).ok_or_else(|| FieldError::new("", expected))
}

/// One of the first `COUNT` words of [`GROUPINGS`].
struct Grouping<const COUNT: usize>(GroupBy);

/// The last one is for admins.
const GROUPINGS: [(&str, GroupBy); 5] = [
    ("day", GroupBy::Day),
    ("model", GroupBy::Model),
    ("project", GroupBy::Project),
    ("session", GroupBy::Session),
    ("user", GroupBy::User),
];

impl<const COUNT: usize> ParseParam for Grouping<COUNT> {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        parse_name(text, GROUPINGS.iter().take(COUNT)).map(Self)
    }
}

impl<const COUNT: usize> Default for Grouping<COUNT> {
    fn default() -> Self {
        Self(GroupBy::Day)
    }
}
