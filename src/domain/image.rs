//! Finds the images among the parts of a message, in the formats of all supported clients.

use super::message::MessageParts;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// An image that can be sent to a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessageImage {
    /// An `https://` or `http://` URL, or the image itself as `data:image/…`.
    pub url: Arc<str>,
    /// OpenAI's `detail` (`low`, `high`, `auto`), if the client sent one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The images among `parts`, in order. Parts that are not images, and URLs that no model can fetch,
/// are skipped.
pub fn find_images(parts: &MessageParts) -> Vec<MessageImage> {
    if parts.is_empty() {
        return Vec::new();
    }
    let parts: Vec<Value> = serde_json::from_str(parts.as_json()).unwrap_or_default();
    parts.iter().filter_map(parse_image).collect()
}

/// Reads a part as an image. `file` and the older `image` are AI SDK types; `image_url` and
/// `input_image` are OpenAI's.
pub fn parse_image(part: &Value) -> Option<MessageImage> {
    let media_type = || part["mediaType"].as_str().or(part["mimeType"].as_str());
    let source = match part["type"].as_str()? {
        "file" if media_type().is_some_and(|kind| kind.starts_with("image/")) => &part["url"],
        "image" => [&part["url"], &part["image"]].into_iter().find(|source| source.is_string())?,
        "image_url" | "input_image" => &part["image_url"],
        _ => return None,
    };
    // Chat Completions wraps the URL in an object; Responses and the AI SDK give it as a string.
    let url = source.as_str().or(source["url"].as_str())?;
    // Models take SVG as text rather than as an image, so it becomes a text attachment.
    let can_be_reached = !url.starts_with("data:image/svg")
        && ["https://", "http://", "data:image/"].iter().any(|scheme| url.starts_with(scheme));
    // Chat Completions puts `detail` next to the URL, Responses next to `type`.
    let detail = source["detail"].as_str().or(part["detail"].as_str());
    can_be_reached.then(|| MessageImage { url: url.into(), detail: detail.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_urls(parts: &str) -> Vec<String> {
        let parts = MessageParts::from_stored(parts.to_owned()).unwrap();
        find_images(&parts).into_iter().map(|image| image.url.to_string()).collect()
    }

    #[test]
    fn images_are_found_in_every_client_format() {
        for part in [
            r#"{"type":"file","mediaType":"image/png","url":"https://e.com/a.png"}"#,
            r#"{"type":"file","mimeType":"image/png","url":"https://e.com/a.png"}"#,
            r#"{"type":"image","url":"https://e.com/a.png"}"#,
            r#"{"type":"image","image":"https://e.com/a.png"}"#,
            r#"{"type":"image_url","image_url":{"url":"https://e.com/a.png"}}"#,
            r#"{"type":"image_url","image_url":"https://e.com/a.png"}"#,
            r#"{"type":"input_image","image_url":"https://e.com/a.png"}"#,
        ] {
            assert_eq!(find_urls(&format!("[{part}]")), ["https://e.com/a.png"], "{part}");
        }
        let two = r#"[{"type":"image","url":"http://e.com/1"},{"type":"reasoning","text":"x"},
            {"type":"image","url":"data:image/png;base64,AA=="}]"#;
        assert_eq!(find_urls(two), ["http://e.com/1", "data:image/png;base64,AA=="]);
    }

    #[test]
    fn unreachable_image_is_skipped() {
        for part in [
            r#"{"type":"file","mediaType":"application/pdf","url":"https://e.com/a.pdf"}"#,
            r#"{"type":"file","url":"https://e.com/a.png"}"#,
            r#"{"type":"video","url":"https://e.com/a.mp4"}"#,
            r#"{"type":"image","url":"blob:https://e.com/1"}"#,
            r#"{"type":"image","url":"file:///etc/passwd"}"#,
            r#"{"type":"image","url":"data:text/html,x"}"#,
            r#"{"type":"image","url":"data:image/svg+xml,x"}"#,
            r#"{"type":"image","url":7}"#,
            r#"{"type":"image_url","image_url":{}}"#,
            r#"{"type":"image"}"#,
        ] {
            assert_eq!(find_urls(&format!("[{part}]")), Vec::<String>::new(), "{part}");
        }
    }

    #[test]
    fn image_detail_is_kept() {
        let part = r#"[{"type":"image_url","image_url":{"url":"https://e.com/a","detail":"low"}}]"#;
        let found = find_images(&MessageParts::from_stored(part.to_owned()).unwrap());
        assert_eq!(found[0].detail.as_deref(), Some("low"));
    }
}
