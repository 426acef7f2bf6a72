//! Sessions on their way out, as text that is made piece by piece: of the account only the ids of
//! its sessions are in memory, of a session one piece.
//!
//! Called by `http` and `cli`, which pass the text on at the pace of whoever reads it.

use super::markdown::MarkdownWriter;
use crate::domain::message::{FinishReason, MessageError, MessageParts};
use crate::domain::principal::AccessLevel;
use crate::domain::{
    Message, MessageId, MessageType, Principal, ProjectId, Role, SessionId, Status, Timestamp,
    Usage, UserId,
};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DeleteFilter, SessionChunk, Store};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The format of our own files.
const FORMAT_NAME: &str = "echoic";
/// The version of that format.
const FORMAT_VERSION: u32 = 1;
/// Later than the activity of any session: the last millisecond of the year 9999.
const MAX_TIMESTAMP: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// One JSON object with a list of sessions.
    Json,
    /// One JSON object per session, each on a line of its own.
    Jsonl,
    /// For reading: the active paths.
    Markdown,
}

/// What to export.
#[derive(Debug, Clone)]
pub enum ExportScope {
    /// The caller's own sessions.
    All,
    /// Those of them that belong to a project.
    Project(ProjectId),
    /// One session; an admin's may be anybody's.
    Session(SessionId),
}

/// An export under way.
pub struct SessionExporter {
    store: Arc<dyn Store>,
    principal: Principal,
    format: ExportFormat,
    ids: std::vec::IntoIter<SessionId>,
    state: ExportState,
    /// Sessions begun so far.
    sessions_started: usize,
}

enum ExportState {
    Header,
    BetweenSessions,
    InSession(Box<OpenSession>),
    InMarkdown(Box<MarkdownWriter>),
    Done,
}

/// A session that has been written in part.
struct OpenSession {
    id: SessionId,
    /// What is written next.
    chunk: SessionChunk,
    /// How many messages the session had when it was opened. Later ones are left out, so that its
    /// head and counters are true of what is written.
    message_count: u32,
    has_messages: bool,
    /// How far users had read then: a seq and who.
    pending_marks: HashMap<u32, Vec<String>>,
    /// The same, by the ids of messages that were written.
    read_marks: BTreeMap<String, MessageId>,
}

impl SessionExporter {
    /// Finds out what there is to export. Errors: `session_not_found`, `forbidden`.
    pub async fn open(
        store: Arc<dyn Store>,
        who: Principal,
        which: ExportScope,
        format: ExportFormat,
    ) -> Result<Self> {
        let mut ids = match which {
            ExportScope::All => {
                store.list_owned_sessions(&who, DeleteFilter::InactiveSince(MAX_TIMESTAMP)).await?
            }
            ExportScope::Project(project) => {
                store.list_owned_sessions(&who, DeleteFilter::Project(project)).await?
            }
            ExportScope::Session(id) => {
                vec![store.get_session(&who, &id, AccessLevel::Owner).await?.id]
            }
        };
        ids.sort_unstable();
        Ok(Self {
            store,
            principal: who,
            format,
            ids: ids.into_iter(),
            state: ExportState::Header,
            sessions_started: 0,
        })
    }

    /// How many sessions are still to be begun.
    pub fn sessions_remaining(&self) -> usize {
        self.ids.len()
    }

    /// How many sessions have been begun.
    pub fn sessions_started(&self) -> usize {
        self.sessions_started
    }

    /// The next piece of text; `None` at the end. After an error there is no more to come, and what
    /// there was is not whole.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<u8>>> {
        match std::mem::replace(&mut self.state, ExportState::Done) {
            ExportState::Done => Ok(None),
            ExportState::Header => {
                self.state = ExportState::BetweenSessions;
                match self.format {
                    ExportFormat::Json => {
                        let head = format!(
                            "{{\"format\":\"{FORMAT_NAME}\",\"version\":{FORMAT_VERSION},\"sessions\":["
                        );
                        Ok(Some(head.into_bytes()))
                    }
                    ExportFormat::Jsonl | ExportFormat::Markdown => self.next_session().await,
                }
            }
            ExportState::BetweenSessions => self.next_session().await,
            ExportState::InSession(open) => self.write_chunk(*open, Vec::new()).await,
            ExportState::InMarkdown(markdown) => self.write_markdown(markdown).await,
        }
    }

    async fn next_session(&mut self) -> Result<Option<Vec<u8>>> {
        // One that was deleted meanwhile is passed over.
        while let Some(id) = self.ids.next() {
            if self.format == ExportFormat::Markdown {
                let is_first = self.sessions_started == 0;
                let opened =
                    MarkdownWriter::open_session(&self.store, &self.principal, &id, is_first).await;
                if let Some(markdown) = skip_if_deleted(opened)? {
                    self.sessions_started += 1;
                    return self.write_markdown(Box::new(markdown)).await;
                }
            } else if let Some(piece) =
                skip_if_deleted(self.store.read_chunk(&self.principal, &id, 0).await)?
            {
                let separator = match (self.format, self.sessions_started) {
                    (ExportFormat::Json, 0) => "\n",
                    (ExportFormat::Json, _) => ",\n",
                    _ => "",
                };
                self.sessions_started += 1;
                let mut text = separator.as_bytes().to_vec();
                let open = OpenSession::begin_session(id, piece, &mut text)?;
                return self.write_chunk(open, text).await;
            }
        }
        Ok((self.format == ExportFormat::Json).then(|| b"\n]}\n".to_vec()))
    }

    /// Writes the piece of the session behind `text`, and reads the next one.
    async fn write_chunk(
        &mut self,
        mut open: OpenSession,
        mut text: Vec<u8>,
    ) -> Result<Option<Vec<u8>>> {
        let last = open.write_messages(&mut text)?;
        let rest = match last {
            Some(last) if last < open.message_count => {
                skip_if_deleted(self.store.read_chunk(&self.principal, &open.id, last).await)?
            }
            _ => None,
        };
        match rest {
            Some(piece) => {
                open.chunk = piece;
                self.state = ExportState::InSession(Box::new(open));
            }
            None => {
                open.end_session(&mut text)?;
                if self.format == ExportFormat::Jsonl {
                    text.push(b'\n');
                }
                self.state = ExportState::BetweenSessions;
            }
        }
        Ok(Some(text))
    }

    async fn write_markdown(
        &mut self,
        mut markdown: Box<MarkdownWriter>,
    ) -> Result<Option<Vec<u8>>> {
        let page = skip_if_deleted(markdown.next_page(&self.store, &self.principal).await)?;
        self.state = match &page {
            Some(page) if page.is_last => ExportState::BetweenSessions,
            Some(_) => ExportState::InMarkdown(markdown),
            None => ExportState::BetweenSessions,
        };
        Ok(Some(page.map(|page| page.text.into_bytes()).unwrap_or_default()))
    }
}

/// A session that is deleted while it is exported ends where it was cut.
fn skip_if_deleted<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error)
            if matches!(error.kind, ErrorKind::SessionNotFound | ErrorKind::MessageNotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl OpenSession {
    /// Writes the session's own fields.
    fn begin_session(id: SessionId, mut piece: SessionChunk, text: &mut Vec<u8>) -> Result<Self> {
        write_json(text, &piece.session)?;
        // The object stays open for its messages.
        text.pop();
        text.extend_from_slice(b",\"messages\":[");
        let mut unread: HashMap<u32, Vec<String>> = HashMap::new();
        for (user, seq) in std::mem::take(&mut piece.read_marks) {
            unread.entry(seq).or_default().push(user);
        }
        let count = piece.session.messages_count;
        Ok(Self {
            id,
            chunk: piece,
            message_count: count,
            has_messages: false,
            pending_marks: unread,
            read_marks: BTreeMap::new(),
        })
    }

    /// The seq of the last message that was written, if there was one.
    fn write_messages(&mut self, text: &mut Vec<u8>) -> Result<Option<u32>> {
        let mut last = None;
        for message in
            self.chunk.messages.drain(..).filter(|message| message.seq <= self.message_count)
        {
            if self.has_messages {
                text.push(b',');
            }
            self.has_messages = true;
            write_json(text, &MessageLine::from_message(&message))?;
            for user in self.pending_marks.remove(&message.seq).unwrap_or_default() {
                self.read_marks.insert(user, message.id.clone());
            }
            last = Some(message.seq);
        }
        Ok(last)
    }

    fn end_session(self, text: &mut Vec<u8>) -> Result<()> {
        text.push(b']');
        if !self.read_marks.is_empty() {
            text.extend_from_slice(b",\"readMarks\":");
            write_json(text, &self.read_marks)?;
        }
        text.push(b'}');
        Ok(())
    }
}

fn write_json(text: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(text, value).map_err(Error::internal)
}

/// A message as a file has it: what does not follow from its place, or from its absence.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageLine<'a> {
    id: &'a MessageId,
    parent_id: &'a Option<MessageId>,
    role: Role,
    sender_id: &'a UserId,
    #[serde(rename = "type")]
    kind: MessageType,
    content: &'a str,
    #[serde(skip_serializing_if = "MessageParts::is_empty")]
    parts: &'a MessageParts,
    status: Status,
    seen: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: &'a Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: &'a Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: &'a Option<MessageError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: &'a Option<Usage>,
    created_at: Timestamp,
}

impl<'a> MessageLine<'a> {
    fn from_message(message: &'a Message) -> Self {
        Self {
            id: &message.id,
            parent_id: &message.parent_id,
            role: message.role,
            sender_id: &message.sender_id,
            kind: message.kind,
            content: &message.content,
            parts: &message.parts,
            status: message.status,
            seen: message.seen,
            model: &message.model,
            finish_reason: &message.finish_reason,
            client_message_id: &message.client_message_id,
            error: &message.error,
            usage: &message.usage,
            created_at: message.created_at,
        }
    }
}
