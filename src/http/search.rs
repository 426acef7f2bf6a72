//! `/api/search`: what was said, found by its words.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::CurrentUser;
use super::query::QueryParams;
use crate::chat::ResolvedSearchHit;
use crate::domain::page::MAX_PAGE_SIZE;
use crate::domain::search::{SearchCursor, SearchQuery, parse_terms};
use crate::domain::{FieldError, MessageId, ProjectId, Role, SessionId, Timestamp};
use crate::error::Result;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// The longest question, in bytes.
const MAX_QUERY_BYTES: usize = 1000;

/// What was found.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SearchResponse {
    /// Newest first.
    results: Vec<SearchResult>,
    /// Where the list goes on; `null` at its end.
    next_cursor: Option<String>,
}

/// A message or a title that holds all words of the question.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SearchResult {
    #[schema(value_type = String)]
    session_id: SessionId,
    /// The session's title.
    title: String,
    /// The message; `null` if the words stand in the title.
    #[schema(value_type = Option<String>)]
    message_id: Option<MessageId>,
    /// Who speaks; `null` for a title.
    role: Option<Role>,
    /// At most 160 characters around the first of the words, and `…` where more follows or precedes.
    snippet: String,
    /// Where the found words stand in it: from and behind, in characters (Unicode scalar values).
    highlights: Vec<[usize; 2]>,
    /// When the message was written; of a title, when its session was created.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<ResolvedSearchHit> for SearchResult {
    fn from(finding: ResolvedSearchHit) -> Self {
        let (message_id, role) = finding.message.unzip();
        Self {
            session_id: finding.session_id,
            title: finding.title,
            message_id,
            role,
            snippet: finding.snippet.text,
            highlights: finding.snippet.highlights,
            created_at: finding.created_at,
        }
    }
}

/// Search in messages and titles of all sessions that the caller may read, archived ones and all
/// branches included. Every word must begin a word of the same message or title; one of fewer than
/// three letters must be a word of it. Case and accents do not count. What was said is found within
/// two seconds.
#[utoipa::path(
    get, path = "/api/search", tag = "messages",
    params(
        ("q" = String, Query, description = "The words; at most 16 count"),
        ("projectId" = Option<String>, Query, description = "Only sessions of this project"),
        ("sessionId" = Option<String>, Query, description = "Only this session"),
        ("role" = Option<Role>, Query, description = "Only messages of this role, and no titles"),
        ("from" = Option<String>, Query, description = "RFC 3339: only what is as new, or newer"),
        ("to" = Option<String>, Query, description = "RFC 3339: only what is older"),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 20 by default"),
        ("cursor" = Option<String>, Query, description = "A nextCursor"),
    ),
    responses((status = 200, body = Envelope<SearchResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn search_messages(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    query: QueryParams,
) -> ApiResult<Json<Envelope<SearchResponse>>> {
    let query = parse_search_query(query)?;
    let (findings, next) = api.chat.search_messages(&who, &query).await?;
    let results = findings.into_iter().map(SearchResult::from).collect();
    let next_cursor = next.map(|spot| spot.encode());
    Ok(ok_response("Search completed successfully", SearchResponse { results, next_cursor }))
}

fn parse_search_query(mut query: QueryParams) -> Result<SearchQuery> {
    let time = |name: &'static str| {
        move |text: &str| {
            Timestamp::parse(text)
                .ok_or_else(|| FieldError::new(name, "must be a time in RFC 3339"))
        }
    };
    let question = query.take_text("q").unwrap_or_default();
    let asked = match question.len() {
        0..=MAX_QUERY_BYTES => parse_terms(&question),
        _ => Err(FieldError::new("q", "must be at most 1000 bytes")),
    };
    if let Err(invalid) = &asked {
        query.add_error("q", invalid.message.clone());
    }
    let roles = [Role::User, Role::Assistant, Role::System, Role::Tool];
    let found = SearchQuery {
        terms: asked.unwrap_or_default(),
        project_id: query.take_parsed("projectId", |id| ProjectId::parse("projectId", id)),
        session_id: query.take_parsed("sessionId", |id| SessionId::parse("sessionId", id)),
        role: query.take_choice("role", &roles.map(|role| (role.as_str(), role))),
        from: query.take_parsed("from", time("from")),
        to: query.take_parsed("to", time("to")),
        after: query.take_parsed("cursor", SearchCursor::decode),
        limit: query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20),
    };
    query.finish()?;
    Ok(found)
}
