//! Renders the attachments of a message as prompt text. Text files are included in full; an
//! attachment that a model cannot read is named, so that the model knows it was there. Images go to
//! the model as images (`image`).

use super::image::{MessageImage, parse_image};
use super::message::MessageParts;
use super::text::truncate_chars;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::borrow::Cow;

/// Characters of an attachment name that go into the prompt; the rest is cut off.
const MAX_NAME_CHARS: usize = 200;

/// Part types that attach something: the spellings of the AI SDK, OpenAI and Anthropic.
const ATTACHMENT_TYPES: &[&str] = &[
    "file",
    "input_file",
    "document",
    "image",
    "image_url",
    "input_image",
    "audio",
    "input_audio",
    "video",
];

/// Media types other than `text/…` that are text. Types ending in `+json`, `+xml` or `+yaml` are
/// text as well.
const TEXT_MEDIA_TYPES: &[&str] = &[
    "application/json",
    "application/jsonl",
    "application/ndjson",
    "application/x-ndjson",
    "application/xml",
    "application/yaml",
    "application/x-yaml",
    "application/toml",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/typescript",
    "application/x-typescript",
    "application/sql",
    "application/graphql",
    "application/csv",
    "application/markdown",
    "application/x-sh",
    "application/x-httpd-php",
];

/// Types that browsers send for text files they do not recognize; `video/mp2t` is what they send
/// for a TypeScript file (`.ts`). Treated as text only if the bytes are UTF-8.
const AMBIGUOUS_MEDIA_TYPES: &[&str] = &["", "application/octet-stream", "video/mp2t"];

/// The message as a model sees it: its content followed by its rendered attachments, and its
/// images.
pub fn render_text_and_images<'a>(
    content: &'a str,
    parts: &MessageParts,
) -> (Cow<'a, str>, Vec<MessageImage>) {
    if parts.is_empty() {
        return (content.into(), Vec::new());
    }
    let parts: Vec<Value> = serde_json::from_str(parts.as_json()).unwrap_or_default();
    let mut rendered = Cow::from(content);
    let mut images = Vec::new();
    for part in &parts {
        if let Some(image) = parse_image(part) {
            images.push(image);
        } else if let Some(attached) = render_attachment(part) {
            let rendered = rendered.to_mut();
            if !rendered.is_empty() {
                rendered.push_str("\n\n");
            }
            rendered.push_str(&attached);
        }
    }
    (rendered, images)
}

/// The text half of [`render_text_and_images`].
pub fn render_text<'a>(content: &'a str, parts: &MessageParts) -> Cow<'a, str> {
    render_text_and_images(content, parts).0
}

/// Renders one non-image part; `None` if the part attaches nothing.
fn render_attachment(part: &Value) -> Option<String> {
    let kind = part["type"].as_str().filter(|kind| ATTACHMENT_TYPES.contains(kind))?;
    let data = find_data_url(part);
    // The type that the client declares wins over the one inside a `data:` URL, which is often
    // generic.
    let declared_type = [&part["mediaType"], &part["mimeType"]].into_iter().find_map(Value::as_str);
    let own_type = data.as_ref().map(|data| data.media_type).filter(|own| !own.is_empty());
    let media_type =
        declared_type.filter(|declared| !declared.is_empty()).or(own_type).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let name = [&part["filename"], &part["name"], &part["file"]["filename"]];
    let name = name.into_iter().find_map(Value::as_str).map(sanitize_label);
    let text = data.and_then(|data| data.decode_text(&media_type));
    let kind = sanitize_label(if media_type.is_empty() { kind } else { &media_type });
    Some(match text {
        Some(text) => {
            let name = name.map(|name| format!(" name=\"{name}\"")).unwrap_or_default();
            let text = text.trim_end();
            format!("<attachment{name} type=\"{kind}\">\n{text}\n</attachment>")
        }
        None => {
            let name = name.map(|name| format!("\"{name}\", ")).unwrap_or_default();
            format!("(Attached: {name}{kind}, which you cannot read.)")
        }
    })
}

/// Makes a client-supplied name safe inside a quoted attribute: no quotes, angle brackets or
/// control characters, at most [`MAX_NAME_CHARS`].
fn sanitize_label(word: &str) -> String {
    let plain = |letter: char| match letter {
        '"' | '<' | '>' => '\'',
        // Control characters such as line breaks would split the line that holds the label.
        letter if letter.is_control() => ' ',
        letter => letter,
    };
    truncate_chars(word, MAX_NAME_CHARS).chars().map(plain).collect()
}

/// A `data:` URL, split but not decoded.
struct DataUrl<'a> {
    media_type: &'a str,
    is_base64: bool,
    data: &'a str,
}

fn find_data_url(part: &Value) -> Option<DataUrl<'_>> {
    let places = [&part["url"], &part["data"], &part["image"], &part["file"]["file_data"]];
    let url = places.into_iter().find_map(Value::as_str)?;
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let (head, is_base64) = match head.strip_suffix(";base64") {
        Some(head) => (head, true),
        None => (head, false),
    };
    Some(DataUrl { media_type: head.split(';').next().unwrap_or_default(), is_base64, data })
}

impl DataUrl<'_> {
    /// The content as text; `None` if it is not text. Declared text may be in a legacy encoding and
    /// is decoded lossily; content of an ambiguous type counts as text only if it is valid UTF-8.
    fn decode_text(&self, media_type: &str) -> Option<String> {
        let is_text = media_type.starts_with("text/")
            || ["+json", "+xml", "+yaml"].iter().any(|suffix| media_type.ends_with(suffix))
            || TEXT_MEDIA_TYPES.contains(&media_type);
        if !is_text && !AMBIGUOUS_MEDIA_TYPES.contains(&media_type) {
            return None;
        }
        let bytes: Cow<'_, [u8]> = match self.is_base64 {
            true => STANDARD.decode(self.data).ok()?.into(),
            false => percent_decode_str(self.data).into(),
        };
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text.to_owned(),
            Err(_) if is_text => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => return None,
        };
        // A byte order mark is not part of the text, and NUL means that the content was binary.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        (!text.contains('\0')).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render_part(part: &str) -> String {
        render_text("", &MessageParts::from_stored(format!("[{part}]")).unwrap()).into_owned()
    }

    #[test]
    fn text_attachment_is_rendered_inline() {
        for (media_type, data) in [
            ("text/plain", "data:text/plain;base64,YSxiCjEsMgo="),
            ("text/csv", "data:text/csv;charset=utf-8;base64,YSxiCjEsMgo="),
            ("application/json", "data:application/json,a,b%0A1,2"),
            ("image/svg+xml", "data:image/svg+xml;base64,YSxiCjEsMgo="),
            ("video/mp2t", "data:video/mp2t;base64,YSxiCjEsMgo="),
            ("", "data:;base64,77u/YSxiCjEsMgo="),
        ] {
            let part = format!(
                r#"{{"type":"file","filename":"a\"b","mediaType":"{media_type}","url":"{data}"}}"#
            );
            let shown = if media_type.is_empty() { "file" } else { media_type };
            let wanted =
                format!("<attachment name=\"a'b\" type=\"{shown}\">\na,b\n1,2\n</attachment>");
            assert_eq!(render_part(&part), wanted, "{part}");
        }
        let latin = r#"{"type":"file","filename":"x","url":"data:text/plain;base64,6Q=="}"#;
        assert!(render_part(latin).contains('\u{fffd}'));
    }

    #[test]
    fn unreadable_attachment_is_named_only() {
        for (part, wanted) in [
            (
                r#"{"type":"file","filename":"a.pdf","mediaType":"application/pdf","url":"data:application/pdf;base64,JVBERg=="}"#,
                "\"a.pdf\", application/pdf",
            ),
            (
                r#"{"type":"file","mediaType":"text/plain","url":"https://e.com/a.txt"}"#,
                "text/plain",
            ),
            (
                r#"{"type":"file","filename":"a","mediaType":"application/octet-stream","url":"data:application/octet-stream;base64,/w=="}"#,
                "\"a\", application/octet-stream",
            ),
            (r#"{"type":"image","url":"blob:https://e.com/1"}"#, "image"),
            (r#"{"type":"input_audio","input_audio":{}}"#, "input_audio"),
        ] {
            assert_eq!(
                render_part(part),
                format!("(Attached: {wanted}, which you cannot read.)"),
                "{part}"
            );
        }
    }

    #[test]
    fn image_and_reasoning_parts_are_not_rendered() {
        for part in [
            r#"{"type":"file","mediaType":"image/png","url":"https://e.com/a.png"}"#,
            r#"{"type":"image","image":"data:image/png;base64,AA=="}"#,
            r#"{"type":"reasoning","text":"x"}"#,
            r#"{"type":"data-weather","data":"data:text/plain,x"}"#,
        ] {
            assert_eq!(render_part(part), "", "{part}");
        }
    }
}
