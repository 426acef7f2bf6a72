//! A session as Markdown, for reading: its active path, page by page. Other branches are left out.

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

/// A session that has been written in part. A path is known from its end, and read from there: on
/// the way back only the first id of each page is kept, and the pages are read again on the way
/// forth. What was said never changes, so they are the same ones.
pub(super) struct MarkdownWriter {
    session: Session,
    /// What stands before the next page.
    heading: String,
    /// The next page, if it has been read already.
    prefetched: Option<MessagePage>,
    /// The messages that the pages after it end before, the newest page's first.
    page_ends: Vec<MessageId>,
    /// The last page: the head may have moved when it is reached.
    last_page: Option<MessagePage>,
}

/// A page of text.
pub(super) struct MarkdownPage {
    pub(super) text: String,
    pub(super) is_last: bool,
}

impl MarkdownWriter {
    /// Finds the beginning of the session's active path.
    pub(super) async fn open_session(
        store: &Arc<dyn Store>,
        who: &Principal,
        id: &SessionId,
        is_first: bool,
    ) -> Result<Self> {
        let session = store.get_session(who, id, AccessLevel::Owner).await?;
        let mut page = read_page(store, who, id, MessageSlice::Newest).await?;
        let (mut ends, mut newest) = (Vec::new(), None);
        while let Some(first) = page.messages.first().filter(|_| page.has_more) {
            ends.push(first.id.clone());
            let before = read_page(store, who, id, MessageSlice::Before(first.id.clone())).await?;
            let passed = std::mem::replace(&mut page, before);
            newest.get_or_insert(passed);
        }
        // The oldest page is at hand.
        ends.pop();
        let heading = format_heading(&session, is_first);
        Ok(Self { session, heading, prefetched: Some(page), page_ends: ends, last_page: newest })
    }

    /// The next page of text.
    pub(super) async fn next_page(
        &mut self,
        store: &Arc<dyn Store>,
        who: &Principal,
    ) -> Result<MarkdownPage> {
        let page = match (self.prefetched.take(), self.page_ends.pop()) {
            (Some(page), end) => {
                self.page_ends.extend(end);
                Some(page)
            }
            (None, Some(end)) => {
                Some(read_page(store, who, &self.session.id, MessageSlice::Before(end)).await?)
            }
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
    who: &Principal,
    id: &SessionId,
    slice: MessageSlice,
) -> Result<MessagePage> {
    store
        .list_messages(
            who,
            id,
            MessageQuery { view: MessageView::Path, slice, limit: MAX_PAGE_SIZE },
        )
        .await
}

fn format_heading(session: &Session, is_first: bool) -> String {
    let title = session.title.split_whitespace().collect::<Vec<_>>().join(" ");
    let rule = if is_first { "" } else { "---\n\n" };
    format!(
        "{rule}# {title}\n\n*Session `{}`, begun {}*\n\n",
        session.id,
        format_minute(session.created_at)
    )
}

/// A time to the minute.
fn format_minute(time: Timestamp) -> String {
    let text = time.to_string();
    match (text.get(..10), text.get(11..16)) {
        (Some(date), Some(minute)) => format!("{date} {minute} UTC"),
        _ => text,
    }
}

fn write_message(text: &mut String, owner: &UserId, message: &Message) -> fmt::Result {
    write!(text, "## {} · {}", format_speaker(owner, message), format_minute(message.created_at))?;
    let all = message.sibling_ids.len();
    if let Some(place) = message.sibling_ids.iter().position(|id| *id == message.id)
        && all > 1
    {
        write!(text, " · version {} of {all}", place + 1)?;
    }
    text.push_str("\n\n");
    let parts: Vec<Value> = serde_json::from_str(message.parts.as_json()).unwrap_or_default();
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
        (Status::Failed, Some(error)) => write!(text, "*(failed: {})*\n\n", error.message),
        (Status::Failed | Status::Interrupted, _) => {
            write!(text, "*({})*\n\n", message.status.as_str())
        }
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

/// A link where there is one to follow, else the attachment's name. Its data is not for reading.
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

/// A text whose last code block is closed: a reply that was cut off leaves it open, and it would
/// swallow what follows.
fn close_code_block(text: &str) -> String {
    let mut open: Option<&str> = None;
    for line in text.lines().map(str::trim_start) {
        let mark = line.chars().next().filter(|mark| matches!(mark, '`' | '~'));
        let Some(mark) = mark else { continue };
        let fence = &line[..line.len() - line.trim_start_matches(mark).len()];
        open = match open {
            None if fence.len() >= 3 => Some(fence),
            Some(begun) if fence.starts_with(begun) && line[fence.len()..].trim().is_empty() => {
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
