//! Pictures among a message's parts, in the spellings that clients use.

use super::message::MessageParts;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// A picture that a model can be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessageImage {
    /// Where it is, or itself: `https://…`, `http://…` or `data:image/…`.
    pub url: Arc<str>,
    /// How closely to look, in OpenAI's words, if the client says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The pictures among parts, in their order. What is no picture, or lies where no model can reach
/// it, is passed over.
pub fn find_images(parts: &MessageParts) -> Vec<MessageImage> {
    if parts.is_empty() {
        return Vec::new();
    }
    let parts: Vec<Value> = serde_json::from_str(parts.as_json()).unwrap_or_default();
    parts.iter().filter_map(parse_image).collect()
}

/// The picture that a part is. `file` is the AI SDK's part, `image` its older one, `image_url` and
/// `input_image` are OpenAI's.
pub fn parse_image(part: &Value) -> Option<MessageImage> {
    let media_type = || part["mediaType"].as_str().or(part["mimeType"].as_str());
    let source = match part["type"].as_str()? {
        "file" if media_type().is_some_and(|kind| kind.starts_with("image/")) => &part["url"],
        "image" => [&part["url"], &part["image"]].into_iter().find(|source| source.is_string())?,
        "image_url" | "input_image" => &part["image_url"],
        _ => return None,
    };
    let url = source.as_str().or(source["url"].as_str())?;
    // A drawing in SVG is a text to models.
    let can_be_reached = !url.starts_with("data:image/svg")
        && ["https://", "http://", "data:image/"].iter().any(|scheme| url.starts_with(scheme));
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
