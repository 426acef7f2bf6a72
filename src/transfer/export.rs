//! Sessions on their way out, as text that is made piece by piece: of the account only the ids of
//! its sessions are in memory, of a session one piece.
//!
//! Called by `http` and `cli`, which pass the text on at the pace of whoever reads it.

use super::markdown::Markdown;
use crate::domain::message::{FinishReason, MessageError, MessageParts};
use crate::domain::principal::AccessLevel;
use crate::domain::{
    Message, MessageId, MessageType, Principal, ProjectId, Role, SessionId, Status, Timestamp,
    Usage, UserId,
};
use crate::error::{Error, Kind, Result};
use crate::store::{DeleteFilter, SessionChunk, Store};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The format of our own files.
const FORMAT: &str = "echoic";
/// The version of that format.
const VERSION: u32 = 1;
/// Later than the activity of any session: the last millisecond of the year 9999.
const END_OF_TIME: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object with a list of sessions.
    Json,
    /// One JSON object per session, each on a line of its own.
    Jsonl,
    /// For reading: the active paths.
    Markdown,
}

/// What to export.
#[derive(Debug, Clone)]
pub enum Which {
    /// The caller's own sessions.
    All,
    /// Those of them that belong to a project.
    Project(ProjectId),
    /// One session; an admin's may be anybody's.
    Session(SessionId),
}

/// An export under way.
pub struct Export {
    store: Arc<dyn Store>,
    who: Principal,
    format: Format,
    ids: std::vec::IntoIter<SessionId>,
    state: State,
    /// Sessions begun so far.
    begun: usize,
}

enum State {
    Head,
    Between,
    Within(Box<Open>),
    Reading(Box<Markdown>),
    Done,
}

/// A session that has been written in part.
struct Open {
    id: SessionId,
    /// What is written next.
    piece: SessionChunk,
    /// How many messages the session had when it was opened. Later ones are left out, so that its
    /// head and counters are true of what is written.
    count: u32,
    has_messages: bool,
    /// How far users had read then: a seq and who.
    unread: HashMap<u32, Vec<String>>,
    /// The same, by the ids of messages that were written.
    read: BTreeMap<String, MessageId>,
}

impl Export {
    /// Finds out what there is to export. Errors: `session_not_found`, `forbidden`.
    pub async fn open(
        store: Arc<dyn Store>,
        who: Principal,
        which: Which,
        format: Format,
    ) -> Result<Self> {
        let mut ids = match which {
            Which::All => {
                store.list_owned_sessions(&who, DeleteFilter::InactiveSince(END_OF_TIME)).await?
            }
            Which::Project(project) => {
                store.list_owned_sessions(&who, DeleteFilter::Project(project)).await?
            }
            Which::Session(id) => vec![store.get_session(&who, &id, AccessLevel::Owner).await?.id],
        };
        ids.sort_unstable();
        Ok(Self { store, who, format, ids: ids.into_iter(), state: State::Head, begun: 0 })
    }

    /// How many sessions are still to be begun.
    pub fn remaining(&self) -> usize {
        self.ids.len()
    }

    /// How many sessions have been begun.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// The next piece of text; `None` at the end. After an error there is no more to come, and what
    /// there was is not whole.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Done => Ok(None),
            State::Head => {
                self.state = State::Between;
                match self.format {
                    Format::Json => {
                        let head = format!(
                            "{{\"format\":\"{FORMAT}\",\"version\":{VERSION},\"sessions\":["
                        );
                        Ok(Some(head.into_bytes()))
                    }
                    Format::Jsonl | Format::Markdown => self.next_session().await,
                }
            }
            State::Between => self.next_session().await,
            State::Within(open) => self.write(*open, Vec::new()).await,
            State::Reading(markdown) => self.write_markdown(markdown).await,
        }
    }

    async fn next_session(&mut self) -> Result<Option<Vec<u8>>> {
        // One that was deleted meanwhile is passed over.
        while let Some(id) = self.ids.next() {
            if self.format == Format::Markdown {
                let is_first = self.begun == 0;
                let opened = Markdown::open(&self.store, &self.who, &id, is_first).await;
                if let Some(markdown) = unless_gone(opened)? {
                    self.begun += 1;
                    return self.write_markdown(Box::new(markdown)).await;
                }
            } else if let Some(piece) = unless_gone(self.store.read_chunk(&self.who, &id, 0).await)?
            {
                let separator = match (self.format, self.begun) {
                    (Format::Json, 0) => "\n",
                    (Format::Json, _) => ",\n",
                    _ => "",
                };
                self.begun += 1;
                let mut text = separator.as_bytes().to_vec();
                let open = Open::begin(id, piece, &mut text)?;
                return self.write(open, text).await;
            }
        }
        Ok((self.format == Format::Json).then(|| b"\n]}\n".to_vec()))
    }

    /// Writes the piece of the session behind `text`, and reads the next one.
    async fn write(&mut self, mut open: Open, mut text: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let last = open.write_messages(&mut text)?;
        let rest = match last {
            Some(last) if last < open.count => {
                unless_gone(self.store.read_chunk(&self.who, &open.id, last).await)?
            }
            _ => None,
        };
        match rest {
            Some(piece) => {
                open.piece = piece;
                self.state = State::Within(Box::new(open));
            }
            None => {
                open.end(&mut text)?;
                if self.format == Format::Jsonl {
                    text.push(b'\n');
                }
                self.state = State::Between;
            }
        }
        Ok(Some(text))
    }

    async fn write_markdown(&mut self, mut markdown: Box<Markdown>) -> Result<Option<Vec<u8>>> {
        let page = unless_gone(markdown.next(&self.store, &self.who).await)?;
        self.state = match &page {
            Some(page) if page.is_last => State::Between,
            Some(_) => State::Reading(markdown),
            None => State::Between,
        };
        Ok(Some(page.map(|page| page.text.into_bytes()).unwrap_or_default()))
    }
}

/// A session that is deleted while it is exported ends where it was cut.
fn unless_gone<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind, Kind::SessionNotFound | Kind::MessageNotFound) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Open {
    /// Writes the session's own fields.
    fn begin(id: SessionId, mut piece: SessionChunk, text: &mut Vec<u8>) -> Result<Self> {
        to_json(text, &piece.session)?;
        // The object stays open for its messages.
        text.pop();
        text.extend_from_slice(b",\"messages\":[");
        let mut unread: HashMap<u32, Vec<String>> = HashMap::new();
        for (user, seq) in std::mem::take(&mut piece.read_marks) {
            unread.entry(seq).or_default().push(user);
        }
        let count = piece.session.messages_count;
        Ok(Self { id, piece, count, has_messages: false, unread, read: BTreeMap::new() })
    }

    /// The seq of the last message that was written, if there was one.
    fn write_messages(&mut self, text: &mut Vec<u8>) -> Result<Option<u32>> {
        let mut last = None;
        for message in self.piece.messages.drain(..).filter(|message| message.seq <= self.count) {
            if self.has_messages {
                text.push(b',');
            }
            self.has_messages = true;
            to_json(text, &Line::of(&message))?;
            for user in self.unread.remove(&message.seq).unwrap_or_default() {
                self.read.insert(user, message.id.clone());
            }
            last = Some(message.seq);
        }
        Ok(last)
    }

    fn end(self, text: &mut Vec<u8>) -> Result<()> {
        text.push(b']');
        if !self.read.is_empty() {
            text.extend_from_slice(b",\"readMarks\":");
            to_json(text, &self.read)?;
        }
        text.push(b'}');
        Ok(())
    }
}

fn to_json(text: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(text, value).map_err(Error::internal)
}

/// A message as a file has it: what does not follow from its place, or from its absence.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
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

impl<'a> Line<'a> {
    fn of(message: &'a Message) -> Self {
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
