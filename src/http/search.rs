//! `/api/search`: full-text search in messages and titles.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::param::{ParseParam, parse_number, parse_param};
use super::query::{QueryParams, RouteQuery};
use crate::chat::ResolvedSearchHit;
use crate::domain::page::MAX_PAGE_SIZE;
use crate::domain::search::{SearchCursor, SearchQuery, SearchTerm, parse_terms};
use crate::domain::{FieldError, MessageId, ProjectId, Role, SessionId, Timestamp};
use crate::error::Result;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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

/// Words to search for, and filters.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchMessagesQuery {
    /// Words to search for; at most 16 are used
    #[param(required = true)]
    q: String,
    /// Only sessions of this project
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    project_id: Option<ProjectId>,
    /// Only messages and the title of this session
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    session_id: Option<SessionId>,
    /// Only messages with this role, and no titles
    role: Option<Role>,
    /// Only results at or after this time (RFC 3339)
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    from: Option<Timestamp>,
    /// Only results before this time (RFC 3339)
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    to: Option<Timestamp>,
    /// Page size, 1 to 100 (default 20)
    #[serde(deserialize_with = "parse_number::<_, 1, MAX_PAGE_SIZE>")]
    limit: Option<u32>,
    /// The nextCursor of the previous page
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    cursor: Option<SearchCursor>,
}

impl RouteQuery for SearchMessagesQuery {
    fn check(&self, errors: &mut Vec<FieldError>) {
        errors.extend(self.terms().err());
    }
}

impl SearchMessagesQuery {
    fn terms(&self) -> Result<Vec<SearchTerm>, FieldError> {
        match self.q.len() {
            // Without `q` there are no words, which `parse_terms` refuses.
            0..=MAX_QUERY_BYTES => parse_terms(&self.q),
            _ => Err(FieldError::new("q", "must be at most 1000 bytes")),
        }
    }

    fn into_search_query(self) -> Result<SearchQuery> {
        Ok(SearchQuery {
            terms: self.terms()?,
            project_id: self.project_id,
            session_id: self.session_id,
            role: self.role,
            from: self.from,
            to: self.to,
            after: self.cursor,
            limit: self.limit.unwrap_or(20),
        })
    }
}

impl ParseParam for SearchCursor {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        Self::decode(text)
    }
}

/// Search messages and titles of all sessions the caller may read.
///
/// Archived sessions and all branches are included. Each word of the query must be a prefix of a
/// word in the same message or title; a word of fewer than three letters must match a whole word.
/// Characters of Chinese, Japanese, Korean, Thai and other scripts of East and Southeast Asia must
/// occur next to each other, at any place. Case and accents are ignored. New messages are found
/// within two seconds.
#[utoipa::path(
    get, path = "/api/search", tag = "messages",
    params(SearchMessagesQuery),
    responses((status = 200, body = Envelope<SearchResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn search_messages(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    QueryParams(query): QueryParams<SearchMessagesQuery>,
) -> ApiResult<Json<Envelope<SearchResponse>>> {
    let query = query.into_search_query()?;
    let (findings, next) = api.chat.search_messages(&principal, &query).await?;
    let results = findings.into_iter().map(SearchResult::from).collect();
    let next_cursor = next.map(|spot| spot.encode());
    Ok(ok_response("Search completed successfully", SearchResponse { results, next_cursor }))
}
