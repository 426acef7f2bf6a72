//! `/api/render`: Markdown as HTML that a page can show.

use super::Api;
use super::body::JsonBody;
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, NoQuery};
use crate::error::Error;
use crate::markup;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

/// Longer texts, and those with code to colour, are rendered on threads that may take their time.
const SHORT: usize = 2 << 10;
/// So many at once; the others wait.
static LONG_ONES: Semaphore = Semaphore::const_new(2);

/// What to render.
#[derive(Deserialize, ToSchema)]
pub(super) struct RenderBody {
    /// At most as long as a message may be.
    markdown: String,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(super) struct Rendered {
    /// Holds no script, no style, no image and no form; links open elsewhere and tell nothing.
    html: String,
}

/// Render Markdown as sanitised HTML. HTML in it stays text, images become links, code is coloured
/// by classes (`c-key`, `c-str`, `c-num`, `c-com`, `c-fun`, `c-typ`, `c-var`, `c-add`, `c-del`).
#[utoipa::path(
    post, path = "/api/render", tag = "messages", request_body = RenderBody,
    responses((status = 200, body = Envelope<Rendered>), (status = "default", body = Failure))
)]
pub(super) async fn render(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(_who): Caller,
    JsonBody(body): JsonBody<RenderBody>,
) -> Answer<Json<Envelope<Rendered>>> {
    let markdown = body.markdown;
    if markdown.len() > api.limits.message {
        return Err(Error::too_large("markdown", api.limits.message));
    }
    let has_code = markdown.contains("```") || markdown.contains("~~~");
    let html = if markdown.len() <= SHORT && !has_code {
        markup::html(&markdown)
    } else {
        let _permit = LONG_ONES.acquire().await.map_err(Error::internal)?;
        spawn_blocking(move || markup::html(&markdown)).await.map_err(Error::internal)?
    };
    Ok(ok("Markdown rendered successfully", Rendered { html }))
}
