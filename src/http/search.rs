//! `/api/search`: full-text search in messages and titles.

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

const MAX_QUERY_BYTES: usize = 1000;

/// A page of search results.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SearchResponse {
    /// Newest first.
    results: Vec<SearchResult>,
    /// Pass as `cursor` to get the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// A message or a session title that contains all words of the query.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SearchResult {
    #[schema(value_type = String)]
    session_id: SessionId,
    /// Title of the session.
    title: String,
    /// The matching message; `null` if the title matched.
    #[schema(value_type = Option<String>)]
    message_id: Option<MessageId>,
    /// Role of the message; `null` if the title matched.
    role: Option<Role>,
    /// At most 160 characters around the first match, with `…` where text is cut off.
    snippet: String,
    /// Ranges `[start, end)` of the matched words in the snippet, in Unicode scalar values.
    highlights: Vec<[usize; 2]>,
    /// Time the message was written, or the session was created if the title matched.
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

/// Search messages and titles of all sessions the caller may read.
///
/// Archived sessions and all branches are included. Each word of the query must be a prefix of a
/// word in the same message or title; a word of fewer than three letters must match a whole word.
/// Case and accents are ignored. New messages are found within two seconds.
#[utoipa::path(
    get, path = "/api/search", tag = "messages",
    params(
        ("q" = String, Query, description = "Words to search for; at most 16 are used"),
        ("projectId" = Option<String>, Query, description = "Only sessions of this project"),
        ("sessionId" = Option<String>, Query, description = "Only messages and the title of this session"),
        ("role" = Option<Role>, Query, description = "Only messages with this role, and no titles"),
        ("from" = Option<String>, Query, description = "Only results at or after this time (RFC 3339)"),
        ("to" = Option<String>, Query, description = "Only results before this time (RFC 3339)"),
        ("limit" = Option<u32>, Query, description = "Page size, 1 to 100 (default 20)"),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the previous page"),
    ),
    responses((status = 200, body = Envelope<SearchResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn search_messages(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    query: QueryParams,
) -> ApiResult<Json<Envelope<SearchResponse>>> {
    let query = parse_search_query(query)?;
    let (findings, next) = api.chat.search_messages(&principal, &query).await?;
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
    // Without `q` there are no words, which `parse_terms` refuses.
    let text = query.take_text("q").unwrap_or_default();
    let terms = match text.len() {
        0..=MAX_QUERY_BYTES => parse_terms(&text),
        _ => Err(FieldError::new("q", "must be at most 1000 bytes")),
    };
    if let Err(invalid) = &terms {
        query.add_error("q", invalid.message.clone());
    }
    let roles = [Role::User, Role::Assistant, Role::System, Role::Tool];
    let search = SearchQuery {
        // An invalid text has been recorded above; `finish` returns it with all other errors.
        terms: terms.unwrap_or_default(),
        project_id: query.take_parsed("projectId", |id| ProjectId::parse("projectId", id)),
        session_id: query.take_parsed("sessionId", |id| SessionId::parse("sessionId", id)),
        role: query.take_choice("role", &roles.map(|role| (role.as_str(), role))),
        from: query.take_parsed("from", time("from")),
        to: query.take_parsed("to", time("to")),
        after: query.take_parsed("cursor", SearchCursor::decode),
        limit: query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20),
    };
    query.finish()?;
    Ok(search)
}
