//! Writes a session as Markdown, for reading: its active path, page by page, without other
//! branches.

use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::principal::AccessLevel;
use crate::domain::{
    Message, MessageId, Principal, Role, Session, SessionId, Status, Timestamp, UserId,
};
use crate::error::Result;
use crate::store::{MessagePage, MessageQuery, Store};
use serde_json::Value;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A session that is partly written. A path can only be read from its end, so opening walks back
/// and keeps the first message id of each page; writing then reads the pages again, oldest first.
/// Messages are immutable, so both passes see the same ones.
pub(super) struct MarkdownWriter {
    session: Session,
    /// Written before the next page.
    heading: String,
    /// The next page, if it is already in memory.
    prefetched: Option<MessagePage>,
    /// For each remaining page, the message it ends before; the newest page first.
    page_ends: Vec<MessageId>,
    /// The last page, kept from the first pass: the head may have moved by the time it is reached.
    last_page: Option<MessagePage>,
}

/// A page of text.
pub(super) struct MarkdownPage {
    pub(super) text: String,
    pub(super) is_last: bool,
}

impl MarkdownWriter {
    /// Walks back to the beginning of the session's active path.
    pub(super) async fn open_session(
        store: &Arc<dyn Store>,
        principal: &Principal,
        id: &SessionId,
        is_first: bool,
    ) -> Result<Self> {
        let session = store.get_session(principal, id, AccessLevel::Owner).await?;
        let mut page = read_page(store, principal, id, MessageSlice::Newest).await?;
        let mut ends = Vec::new();
        let mut newest = None;
        while let Some(first) = page.messages.first().filter(|_| page.has_more) {
            ends.push(first.id.clone());
            let before =
                read_page(store, principal, id, MessageSlice::Before(first.id.clone())).await?;
            let passed = std::mem::replace(&mut page, before);
            // Only the first page read, the newest, is kept.
            newest.get_or_insert(passed);
        }
        // The oldest page is in memory already.
        ends.pop();
        let heading = format_heading(&session, is_first);
        Ok(Self { session, heading, prefetched: Some(page), page_ends: ends, last_page: newest })
    }

    pub(super) async fn next_page(
        &mut self,
        store: &Arc<dyn Store>,
        principal: &Principal,
    ) -> Result<MarkdownPage> {
        let page = match (self.prefetched.take(), self.page_ends.pop()) {
            (Some(page), end) => {
                self.page_ends.extend(end);
                Some(page)
            }
            (None, Some(end)) => Some(
                read_page(store, principal, &self.session.id, MessageSlice::Before(end)).await?,
            ),
            (None, None) => self.last_page.take(),
        };
        let mut text = std::mem::take(&mut self.heading);
        for message in page.into_iter().flat_map(|page| page.messages) {
            // Writing to a string cannot fail.
            let _ = write_message(&mut text, &self.session.owner, &message);
        }
        Ok(MarkdownPage { text, is_last: self.page_ends.is_empty() && self.last_page.is_none() })
    }
}

async fn read_page(
    store: &Arc<dyn Store>,
    principal: &Principal,
    id: &SessionId,
    slice: MessageSlice,
) -> Result<MessagePage> {
    store
        .list_messages(
            principal,
            id,
            MessageQuery {
                view: MessageView::Path,
                slice,
                limit: MAX_PAGE_SIZE,
                with_siblings: true,
            },
        )
        .await
}

fn format_heading(session: &Session, is_first: bool) -> String {
    let title = session.title.split_whitespace().collect::<Vec<_>>().join(" ");
    // Sessions in one file are separated by a rule.
    let rule = if is_first { "" } else { "---\n\n" };
    format!(
        "{rule}# {title}\n\n*Session `{}`, started {}*\n\n",
        session.id,
        format_minute(session.created_at)
    )
}

/// Formats a time to the minute.
fn format_minute(time: Timestamp) -> String {
    let text = time.to_string();
    match (text.get(..10), text.get(11..16)) {
        (Some(date), Some(minute)) => format!("{date} {minute} UTC"),
        _ => text,
    }
}

fn write_message(text: &mut String, owner: &UserId, message: &Message) -> fmt::Result {
    write!(text, "## {} · {}", format_speaker(owner, message), format_minute(message.created_at))?;
    if message.sibling_count > 1 {
        write!(text, " · version {} of {}", message.sibling_index + 1, message.sibling_count)?;
    }
    text.push_str("\n\n");
    let parts: Vec<Value> = serde_json::from_str(message.parts.as_json()).unwrap_or_default();
    // Collapsed, as in the console: the answer is what a reader is looking for.
    if let Some(thoughts) = message.parts.reasoning() {
        let thoughts = close_code_block(thoughts.trim());
        write!(text, "<details><summary>Reasoning</summary>\n\n{thoughts}\n\n</details>\n\n")?;
    }
    let content = close_code_block(message.content.trim());
    if !content.is_empty() {
        write!(text, "{content}\n\n")?;
    }
    for part in &parts {
        write_attachment(text, part)?;
    }
    match (message.status, &message.error) {
        (Status::Complete, _) => Ok(()),
        (status, Some(error)) => write!(text, "*({}: {})*\n\n", status.as_str(), error.message),
        (status, None) => write!(text, "*({})*\n\n", status.as_str()),
    }
}

fn format_speaker(owner: &UserId, message: &Message) -> String {
    match message.role {
        Role::User if message.sender_id == *owner => "User".to_owned(),
        Role::Assistant if message.sender_id == UserId::assistant() => match &message.model {
            Some(model) => format!("Assistant ({model})"),
            None => "Assistant".to_owned(),
        },
        Role::User | Role::Assistant => message.sender_id.to_string(),
        Role::System => "System".to_owned(),
        Role::Tool => "Tool".to_owned(),
    }
}

/// Writes an attachment as a link, or as its name if there is no URL to follow. Inline data is left
/// out.
fn write_attachment(text: &mut String, part: &Value) -> fmt::Result {
    let field = |name: &str| part.get(name).and_then(Value::as_str);
    let kind = field("type").unwrap_or_default();
    if !matches!(kind, "file" | "image" | "video") {
        return Ok(());
    }
    let name = field("filename").or_else(|| field("mediaType")).unwrap_or(kind);
    match field("url").or_else(|| field(kind)) {
        Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
            write!(text, "[{name}](<{url}>)\n\n")
        }
        _ => write!(text, "*(attached: {name})*\n\n"),
    }
}

/// Closes an open code block, as in a reply that was cut off. It would swallow everything after it.
fn close_code_block(text: &str) -> String {
    let mut open: Option<&str> = None;
    for line in text.lines().map(str::trim_start) {
        // A fence is three or more backticks or tildes. It is closed by at least as many of the
        // same character, with nothing after them.
        let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'));
        let Some(mark) = mark else { continue };
        let fence = &line[..line.len() - line.trim_start_matches(mark).len()];
        open = match open {
            None if fence.len() >= 3 => Some(fence),
            Some(start) if fence.starts_with(start) && line[fence.len()..].trim().is_empty() => {
                None
            }
            other => other,
        };
    }
    match open {
        Some(fence) => format!("{text}\n{fence}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_code_block_is_closed() {
        for whole in ["", "a", "```\nx\n```", "~~~~\n~~~\n```\n~~~~", "a ``` b", "````\n```\n````"]
        {
            assert_eq!(close_code_block(whole), whole);
        }
        assert_eq!(close_code_block("```rust\nfn"), "```rust\nfn\n```");
        assert_eq!(close_code_block("```\na\n```\n~~~\nb"), "```\na\n```\n~~~\nb\n~~~");
        assert_eq!(close_code_block("````\n```"), "````\n```\n````");
    }
}
