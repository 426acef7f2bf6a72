//! Drafts: sessions that are written message by message before they exist.
//!
//! A draft is invisible until one short transaction publishes it. It grows through the normal
//! append, so that a published session looks like any other.

use super::append::{append_message, save_session};
use super::import::{changed_meanwhile, create_imported_session};
use super::posts::{ensure_idle, ensure_open};
use super::sessions::get_session;
use crate::domain::principal::AccessLevel;
use crate::domain::session::SessionStatus;
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::{Principal, Role, Session, SessionId, Timestamp, UserId};
use crate::error::Result;
use crate::store::transaction::{LocatedMessage, SessionRow, StoreTransaction};
use crate::store::{
    ImportEnd, ImportOutcome, ImportSession, MessageParent, NewMessage, NewSession,
    UnknownReferences,
};
use std::collections::HashMap;

/// The state of a draft besides its messages.
#[derive(Debug, Clone)]
pub(in crate::store) struct SessionDraft {
    /// Counters and head; the other fields mean nothing, unless `base` is set.
    pub(in crate::store) row: SessionRow,
    /// The message that was added last, or found to be there.
    last: Option<LocatedMessage>,
    /// From the first user message that can name a session.
    title: Option<SessionTitle>,
    /// The session that the draft is a copy of, as it was then.
    base: Option<Box<SessionRow>>,
}

impl SessionDraft {
    pub(in crate::store) fn new(owner: &UserId, id: &SessionId) -> Self {
        Self { row: empty_row(owner, id), last: None, title: None, base: None }
    }

    /// A draft that begins as a copy of a session. The caller copies the content.
    pub(in crate::store) fn copy_of(session: SessionRow) -> Self {
        let last = session.located_head();
        Self { row: session.clone(), last, title: None, base: Some(Box::new(session)) }
    }

    pub(in crate::store) fn is_copy(&self) -> bool {
        self.base.is_some()
    }
}

fn empty_row(owner: &UserId, id: &SessionId) -> SessionRow {
    let time = Timestamp::from_millis(0);
    let session = Session {
        id: id.clone(),
        owner: owner.clone(),
        project_id: None,
        title: String::new(),
        title_source: TitleSource::Default,
        participants: Vec::new(),
        invited: Vec::new(),
        status: SessionStatus::default(),
        archived: false,
        pinned: false,
        meta: Default::default(),
        user_meta: Default::default(),
        theme: Default::default(),
        settings: Default::default(),
        version: 1,
        messages_count: 0,
        head_id: None,
        active_turn: None,
        last_message: None,
        last_message_at: None,
        last_seen: None,
        start_time: time,
        created_at: time,
        updated_at: time,
        nodes: None,
    };
    SessionRow {
        session,
        node_count: 0,
        head: None,
        lease_holder: None,
        payer: None,
        read_marks: HashMap::new(),
        placements: Default::default(),
    }
}

/// Adds a message to a draft, unless it has the message. Returns `false` if the parent is unknown
/// and the message became a root.
pub(in crate::store) async fn append_to_draft(
    tx: &mut impl StoreTransaction,
    draft: &mut SessionDraft,
    message: &NewMessage,
    parent: &MessageParent,
) -> Result<bool> {
    let mut is_known = true;
    let parent = match parent {
        MessageParent::Root => None,
        MessageParent::Head => draft.last.take(),
        MessageParent::Message(id) => {
            let found = tx.find_message(&draft.row, id).await?;
            is_known = found.is_some();
            found
        }
    };
    draft.last = match tx.find_message_by_id(&draft.row, &message.id).await? {
        Some(located) => Some(located),
        None => {
            let at = append_message(tx, &mut draft.row, message, parent.as_ref()).await?;
            if draft.title.is_none() && message.role == Role::User {
                draft.title = SessionTitle::from_first_message(&message.body.content);
            }
            Some(LocatedMessage { id: message.id.clone(), location: at })
        }
    };
    Ok(is_known)
}

/// Makes an imported draft a new session, or the new content of the session that it is a copy of.
pub(in crate::store) async fn publish_import(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    draft: &SessionDraft,
    end: &ImportEnd,
    now: Timestamp,
) -> Result<(ImportOutcome, UnknownReferences)> {
    let mut unknown = UnknownReferences::default();
    let head = find_imported_head(tx, draft, end, &mut unknown).await?;
    let written = &draft.row.session;
    let (mut row, before) = match &draft.base {
        Some(base) => (find_base(tx, base).await?, base.session.messages_count),
        None => {
            if tx.find_session(&written.id).await?.is_some() {
                return Err(changed_meanwhile());
            }
            let read_marks = find_read_marks(tx, draft, end, &mut unknown).await?;
            let import = new_session_fields(&written.id, end, read_marks);
            (create_imported_session(tx, principal, &written.id, &import).await?, 0)
        }
    };
    if let Some(title) = draft.title.as_ref()
        && !end.keep_title
        && row.session.title_source == TitleSource::Default
    {
        tx.set_title(&row, title).await?;
        row.session.title.clone_from(&title.text);
    }
    take_content(&mut row, draft);
    row.session.last_seen = match draft.base {
        // The time of an existing session must not go back.
        Some(_) => row.session.last_seen.max(written.last_seen).max(end.last_seen),
        None => end.last_seen.or(written.last_seen),
    };
    if let Some(head) = head {
        row.session.head_id = Some(head.id);
        row.head = Some(head.location);
    }
    save_session(tx, &mut row, now).await?;
    let outcome = ImportOutcome {
        session_id: row.session.id,
        title: row.session.title,
        added_messages: u64::from(written.messages_count - before),
    };
    Ok((outcome, unknown))
}

/// Makes a copied path a new session, if its source is still there.
pub(in crate::store) async fn publish_fork(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    source: &SessionId,
    fields: &NewSession,
    draft: &SessionDraft,
    now: Timestamp,
) -> Result<Session> {
    get_session(tx, principal, source, AccessLevel::Participant).await?;
    let id = &draft.row.session.id;
    let mut row = tx.insert_session(&principal.user, id, fields, now).await?;
    take_content(&mut row, draft);
    row.session.last_seen = draft.row.session.last_seen;
    save_session(tx, &mut row, now).await?;
    Ok(row.into_session_with_nodes())
}

/// Takes over the counters and the head of a draft.
fn take_content(row: &mut SessionRow, draft: &SessionDraft) {
    let written = &draft.row.session;
    row.node_count = draft.row.node_count;
    row.head = draft.row.head;
    let session = &mut row.session;
    session.messages_count = written.messages_count;
    session.head_id.clone_from(&written.head_id);
    session.last_message.clone_from(&written.last_message);
    session.last_message_at = written.last_message_at;
}

/// The session that a draft is a copy of, if nothing was added to it since.
async fn find_base(tx: &mut impl StoreTransaction, base: &SessionRow) -> Result<SessionRow> {
    let row = tx.find_session(&base.session.id).await?.ok_or_else(changed_meanwhile)?;
    ensure_idle(&row)?;
    ensure_open(&row)?;
    let is_same = row.session.created_at == base.session.created_at
        && row.session.messages_count == base.session.messages_count
        && row.node_count == base.node_count;
    if is_same { Ok(row) } else { Err(changed_meanwhile()) }
}

async fn find_imported_head(
    tx: &mut impl StoreTransaction,
    draft: &SessionDraft,
    end: &ImportEnd,
    unknown: &mut UnknownReferences,
) -> Result<Option<LocatedMessage>> {
    if let Some(id) = &end.head_id {
        match tx.find_message(&draft.row, id).await? {
            Some(found) => return Ok(Some(found)),
            None => unknown.head = true,
        }
    }
    // Each append has moved the head, but the last message of the file may have been known.
    Ok(draft.last.clone())
}

async fn find_read_marks(
    tx: &mut impl StoreTransaction,
    draft: &SessionDraft,
    end: &ImportEnd,
    unknown: &mut UnknownReferences,
) -> Result<HashMap<String, u32>> {
    let mut marks = HashMap::new();
    for (user, id) in &end.read_marks {
        match tx.find_message_by_id(&draft.row, id).await? {
            Some(found) => drop(marks.insert(user.clone(), found.location.seq)),
            None => unknown.read_marks += 1,
        }
    }
    Ok(marks)
}

fn new_session_fields(
    id: &SessionId,
    end: &ImportEnd,
    read_marks: HashMap<String, u32>,
) -> ImportSession {
    ImportSession {
        id: id.clone(),
        fallback_id: id.clone(),
        fields: end.fields.clone(),
        keep_title: end.keep_title,
        status: end.status.clone(),
        archived: end.archived,
        pinned: end.pinned,
        placements: end.placements.clone(),
        created_at: end.created_at,
        last_seen: end.last_seen,
        read_marks,
        head_id: None,
        messages: Vec::new(),
    }
}
