//! `/api/render`: Markdown to sanitized HTML.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::body::JsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use crate::cpu_pool::run_cpu;
use crate::error::Error;
use crate::markup;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longer texts, and those with code to highlight, are rendered on a thread for
/// computing.
const INLINE_RENDER_LIMIT: usize = 2 << 10;

/// A text to render.
#[derive(Deserialize, ToSchema)]
pub(super) struct RenderRequest {
    /// The Markdown; at most as long as a message may be.
    markdown: String,
}

/// The rendered text.
#[derive(Serialize, ToSchema)]
pub(super) struct RenderResponse {
    /// HTML without scripts, styles, images and forms. Links open in a new tab, without referrer.
    html: String,
}

/// Render Markdown as sanitized HTML.
///
/// HTML in the source is shown as text and images become links. Code is highlighted with the
/// classes `c-key`, `c-str`, `c-num`, `c-com`, `c-fun`, `c-typ`, `c-var`, `c-add` and `c-del`.
#[utoipa::path(
    post, path = "/api/render", tag = "messages", request_body = RenderRequest,
    responses((status = 200, body = Envelope<RenderResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn render_markdown(
    State(api): State<ApiState>,
    CurrentUser(_principal): CurrentUser,
    JsonBody(body): JsonBody<RenderRequest>,
) -> ApiResult<Json<Envelope<RenderResponse>>> {
    let markdown = body.markdown;
    if markdown.len() > api.size_limits.message {
        return Err(Error::too_large("markdown", api.size_limits.message));
    }
    // Highlighting is by far the slowest part. This may take text for code, which costs little.
    let has_code = markdown.contains("```") || markdown.contains("~~~");
    let html = if markdown.len() <= INLINE_RENDER_LIMIT && !has_code {
        markup::render_html(&markdown)
    } else {
        run_cpu(move || markup::render_html(&markdown)).await?
    };
    Ok(ok_response("Markdown rendered successfully", RenderResponse { html }))
}
