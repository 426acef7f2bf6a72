//! Exports sessions as text, chunk by chunk. Of an account only the session ids are in memory, of a
//! session only one chunk.
//!
//! Used by `http` and `cli`, which request chunks at the pace of the reader.

use super::markdown::MarkdownWriter;
use crate::cpu_pool::run_cpu;
use crate::domain::export_format::ExportFormat;
use crate::domain::message::{FinishReason, MessageError, MessageParts};
use crate::domain::principal::AccessLevel;
use crate::domain::session::ListPlacement;
use crate::domain::{
    Message, MessageId, MessageType, Principal, ProjectId, Role, SessionId, Status, Timestamp,
    Usage, UserId,
};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DeleteFilter, SessionChunk, Store};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const FORMAT_NAME: &str = "echoic";
const FORMAT_VERSION: u32 = 1;
/// Later than the activity of any session: the last millisecond of the year 9999.
const MAX_TIMESTAMP: Timestamp = Timestamp::from_millis(253_402_300_799_999);

#[derive(Debug, Clone)]
pub enum ExportScope {
    /// All sessions of the caller.
    All,
    /// The caller's sessions of a project.
    Project(ProjectId),
    /// One session. Admins may export any.
    Session(SessionId),
}

/// An export in progress.
pub struct SessionExporter {
    store: Arc<dyn Store>,
    principal: Principal,
    format: ExportFormat,
    ids: std::vec::IntoIter<SessionId>,
    state: ExportState,
    sessions_started: usize,
}

enum ExportState {
    Header,
    BetweenSessions,
    InSession(Box<OpenSession>),
    InMarkdown(Box<MarkdownWriter>),
    Done,
}

/// A session that is partly written.
struct OpenSession {
    id: SessionId,
    /// The next messages to write.
    chunk: SessionChunk,
    /// Messages of the session when its export began. Later ones are left out, so that head and
    /// counters match what is written.
    message_count: u32,
    has_messages: bool,
    /// Seq of the last message that was written.
    last_seq: u32,
    /// Read marks at that time, by `seq`, that have not been resolved to a message id yet.
    pending_marks: HashMap<u32, Vec<String>>,
    /// Read marks by user, with the ids of written messages.
    read_marks: BTreeMap<String, MessageId>,
    /// `archived` and `pinned` of participants other than the owner.
    placements: BTreeMap<String, ListPlacement>,
}

impl SessionExporter {
    /// Finds the sessions to export. Errors: `session_not_found`, `forbidden`.
    pub async fn open(
        store: Arc<dyn Store>,
        principal: Principal,
        scope: ExportScope,
        format: ExportFormat,
    ) -> Result<Self> {
        let mut ids = match scope {
            ExportScope::All => {
                store
                    .list_owned_sessions(&principal, DeleteFilter::InactiveSince(MAX_TIMESTAMP))
                    .await?
            }
            ExportScope::Project(project) => {
                store.list_owned_sessions(&principal, DeleteFilter::Project(project)).await?
            }
            ExportScope::Session(id) => {
                vec![store.get_session(&principal, &id, AccessLevel::Owner).await?.id]
            }
        };
        // A fixed order makes exports of the same data identical.
        ids.sort_unstable();
        Ok(Self {
            store,
            principal,
            format,
            ids: ids.into_iter(),
            state: ExportState::Header,
            sessions_started: 0,
        })
    }

    pub fn sessions_remaining(&self) -> usize {
        self.ids.len()
    }

    pub fn sessions_started(&self) -> usize {
        self.sessions_started
    }

    /// The next chunk of text; `None` at the end. An error is final and leaves the output
    /// incomplete.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<u8>>> {
        // The state is `Done` unless a step succeeds, so that an export does not continue after an
        // error.
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
            ExportState::InSession(open) => self.continue_session(*open).await,
            ExportState::InMarkdown(markdown) => self.write_markdown(markdown).await,
        }
    }

    async fn next_session(&mut self) -> Result<Option<Vec<u8>>> {
        // Sessions deleted since the export began are skipped.
        while let Some(id) = self.ids.next() {
            if self.format == ExportFormat::Markdown {
                let is_first = self.sessions_started == 0;
                let opened =
                    MarkdownWriter::open_session(&self.store, &self.principal, &id, is_first).await;
                if let Some(markdown) = skip_if_deleted(opened)? {
                    self.sessions_started += 1;
                    return self.write_markdown(Box::new(markdown)).await;
                }
            } else if let Some(chunk) =
                skip_if_deleted(self.store.read_chunk(&self.principal, &id, 0).await)?
            {
                let separator = match (self.format, self.sessions_started) {
                    (ExportFormat::Json, 0) => "\n",
                    (ExportFormat::Json, _) => ",\n",
                    _ => "",
                };
                self.sessions_started += 1;
                let mut text = separator.as_bytes().to_vec();
                let mut open = OpenSession::begin_session(id, chunk, &mut text)?;
                // How others arrange their lists is nothing of the owner's.
                if !self.principal.is_admin {
                    open.placements.clear();
                }
                return self.write_chunk(open, text).await;
            }
        }
        Ok((self.format == ExportFormat::Json).then(|| b"\n]}\n".to_vec()))
    }

    /// Reads the next messages of the open session, once the client has taken the ones before.
    async fn continue_session(&mut self, mut open: OpenSession) -> Result<Option<Vec<u8>>> {
        let next = self.store.read_chunk(&self.principal, &open.id, open.last_seq).await;
        match skip_if_deleted(next)? {
            Some(chunk) => {
                open.chunk = chunk;
                self.write_chunk(open, Vec::new()).await
            }
            None => self.end_session(open, Vec::new()).map(Some),
        }
    }

    /// Appends the messages that were read to `text`.
    async fn write_chunk(
        &mut self,
        mut open: OpenSession,
        mut text: Vec<u8>,
    ) -> Result<Option<Vec<u8>>> {
        let last;
        (open, text, last) = run_cpu(move || {
            let last = open.write_messages(&mut text)?;
            Ok::<_, Error>((open, text, last))
        })
        .await??;
        match last {
            // A chunk may end in the middle of the session, and messages may have been added since
            // it began.
            Some(last) if last < open.message_count => {
                open.last_seq = last;
                self.state = ExportState::InSession(Box::new(open));
                Ok(Some(text))
            }
            _ => self.end_session(open, text).map(Some),
        }
    }

    fn end_session(&mut self, open: OpenSession, mut text: Vec<u8>) -> Result<Vec<u8>> {
        open.write_end(&mut text)?;
        if self.format == ExportFormat::Jsonl {
            text.push(b'\n');
        }
        self.state = ExportState::BetweenSessions;
        Ok(text)
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

/// A session deleted during its export ends where it was cut off; the output stays well-formed.
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
    /// Writes the session's own fields and opens its list of messages.
    fn begin_session(id: SessionId, mut chunk: SessionChunk, text: &mut Vec<u8>) -> Result<Self> {
        write_json(text, &chunk.session)?;
        // Drop the closing brace: the messages follow inside the object.
        text.pop();
        text.extend_from_slice(b",\"messages\":[");
        let mut pending_marks: HashMap<u32, Vec<String>> = HashMap::new();
        for (user, seq) in std::mem::take(&mut chunk.read_marks) {
            pending_marks.entry(seq).or_default().push(user);
        }
        let mut placements = std::mem::take(&mut chunk.placements);
        placements.remove(chunk.session.owner.as_str());
        let count = chunk.session.messages_count;
        Ok(Self {
            id,
            chunk,
            message_count: count,
            has_messages: false,
            last_seq: 0,
            pending_marks,
            read_marks: BTreeMap::new(),
            placements,
        })
    }

    /// Returns the `seq` of the last message written.
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
            // Marks on messages that are not in the file are left out with them.
            for user in self.pending_marks.remove(&message.seq).unwrap_or_default() {
                self.read_marks.insert(user, message.id.clone());
            }
            last = Some(message.seq);
        }
        Ok(last)
    }

    fn write_end(self, text: &mut Vec<u8>) -> Result<()> {
        text.push(b']');
        if !self.read_marks.is_empty() {
            text.extend_from_slice(b",\"readMarks\":");
            write_json(text, &self.read_marks)?;
        }
        if !self.placements.is_empty() {
            text.extend_from_slice(b",\"placements\":");
            write_json(text, &self.placements)?;
        }
        text.push(b'}');
        Ok(())
    }
}

fn write_json(text: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(text, value).map_err(Error::internal)
}

/// A message in an export file. Fields that its position implies, and absent ones, are left out.
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
