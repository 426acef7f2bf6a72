//! `/api/render`: Markdown as HTML that a page can show.

use super::ApiState;
use super::body::JsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams};
use crate::error::Error;
use crate::markup;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

/// Longer texts, and those with code to colour, are rendered on threads that may take their time.
const INLINE_RENDER_LIMIT: usize = 2 << 10;
/// So many at once; the others wait.
static BLOCKING_RENDERS: Semaphore = Semaphore::const_new(2);

/// What to render.
#[derive(Deserialize, ToSchema)]
pub(super) struct RenderRequest {
    /// At most as long as a message may be.
    markdown: String,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(super) struct RenderResponse {
    /// Holds no script, no style, no image and no form; links open elsewhere and tell nothing.
    html: String,
}

/// Render Markdown as sanitised HTML. HTML in it stays text, images become links, code is coloured
/// by classes (`c-key`, `c-str`, `c-num`, `c-com`, `c-fun`, `c-typ`, `c-var`, `c-add`, `c-del`).
#[utoipa::path(
    post, path = "/api/render", tag = "messages", request_body = RenderRequest,
    responses((status = 200, body = Envelope<RenderResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn render_markdown(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(_who): CurrentUser,
    JsonBody(body): JsonBody<RenderRequest>,
) -> ApiResult<Json<Envelope<RenderResponse>>> {
    let markdown = body.markdown;
    if markdown.len() > api.size_limits.message {
        return Err(Error::too_large("markdown", api.size_limits.message));
    }
    let has_code = markdown.contains("```") || markdown.contains("~~~");
    let html = if markdown.len() <= INLINE_RENDER_LIMIT && !has_code {
        markup::render_html(&markdown)
    } else {
        let _permit = BLOCKING_RENDERS.acquire().await.map_err(Error::internal)?;
        spawn_blocking(move || markup::render_html(&markdown)).await.map_err(Error::internal)?
    };
    Ok(ok_response("Markdown rendered successfully", RenderResponse { html }))
}
