//! Whole sessions as they lie in MongoDB, for a move here.
//!
//! Nobody sees what has no session's document: not its nodes, not its waiting turns, not its log.
//! So all of that is written first, page by page, and the document last. What `pending` says is not
//! looked at: who finds one finds a session that was used here.

use super::documents::{
    ClaimDoc, LocationDoc, MessageDoc, NodeDoc, PlaceDoc, ReadMark, SessionDoc, date, document,
    long, number, time, to_json,
};
use super::failures::is_duplicate;
use super::log::document as batch_document;
use super::responses::{ResponseDoc, document as response_document};
use super::step::{Manner, first_revision, step};
use super::{LONG_PATIENCE, MongoStore};
use crate::domain::node::format_chat_id;
use crate::domain::text::fold_words;
use crate::domain::{MessageId, Project, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, Kind, Result};
use crate::store::moving::{
    Keeps, KeptMessage, KeptNode, KeptRequest, KeptSession, KeptTurn, MAX_PAGE, MoveIn,
};
use crate::store::project_work::ProjectWork;
use crate::store::rules::title_words;
use crate::store::work::{Location, Place, Placed, SessionRow};
use crate::store::{Batch, NewFile, Store, StoredResponse};
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::future::try_join_all;
use mongodb::Collection;
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;
use std::collections::HashMap;
use tokio::time::timeout;

/// The most bytes of a document, less what surrounds the messages in a node.
const MAX_DOCUMENT: u64 = (16 << 20) - (64 << 10);
/// Nodes that are fetched at once: about a page of usual ones.
const FETCH: u32 = 8;

/// A turn that waits.
#[derive(Debug, Deserialize)]
struct TurnDoc {
    #[serde(rename = "_id")]
    id: String,
    turn: String,
}

/// A request that may be repeated.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestDoc {
    #[serde(rename = "_id")]
    id: RequestName,
    fingerprint: String,
    message_id: String,
    turn_id: Option<String>,
    created_at: DateTime,
}

#[derive(Debug, Deserialize)]
struct RequestName {
    user: String,
    route: String,
    key: String,
}

#[async_trait]
impl Keeps for MongoStore {
    async fn kept_session(&self, id: &SessionId, since: Timestamp) -> Result<Option<KeptSession>> {
        let sessions = self.tables.sessions.clone_with_type::<SessionDoc>();
        let find = sessions.find_one(doc! { "_id": id.as_str() });
        let Some(mut session) = in_time(find.into_future()).await? else { return Ok(None) };
        let queue = std::mem::take(&mut session.queue);
        let row = session.into_row()?;
        Ok(Some(KeptSession {
            waiting: self.waiting(queue).await?,
            log: self.running_log(&row).await?,
            requests: self.requests(id, since).await?,
            responses: self.responses(id).await?,
            row,
        }))
    }

    async fn kept_nodes(&self, session: &SessionRow, first: u32) -> Result<Vec<KeptNode>> {
        let nodes = self.tables.nodes.clone_with_type::<NodeDoc>();
        let id = session.session.id.as_str();
        let behind = doc! { "sessionId": id, "number": { "$gte": i64::from(first) } };
        let find = nodes.find(behind).sort(doc! { "sessionId": 1, "number": 1 }).batch_size(FETCH);
        let mut cursor = in_time(find.into_future()).await?;
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_PAGE
            && let Some(node) = in_time(cursor.try_next()).await?
        {
            let node = kept_node(node, session)?;
            bytes += node.bytes;
            page.push(node);
        }
        Ok(page)
    }

    fn place(&self) -> String {
        self.describe()
    }

    async fn leave(&self) {
        self.close().await;
    }
}

#[async_trait]
impl MoveIn for MongoStore {
    async fn clear(&self, id: &SessionId) -> Result<()> {
        let tables = &self.tables;
        let tables = [
            &tables.nodes,
            &tables.queue,
            &tables.turn_log,
            &tables.idempotency_keys,
            &tables.responses,
        ];
        let delete = tables.map(|table| {
            in_time(table.delete_many(doc! { "sessionId": id.as_str() }).into_future())
        });
        try_join_all(delete).await?;
        Ok(())
    }

    async fn put_nodes(&self, id: &SessionId, nodes: &[KeptNode]) -> Result<()> {
        if nodes.iter().any(|node| node.bytes > MAX_DOCUMENT) {
            return Err(Error::too_large("a message", MAX_DOCUMENT as usize));
        }
        let nodes = nodes.iter().map(|node| document(&node_doc(id, node)?));
        add(&self.tables.nodes, nodes.collect::<Result<_>>()?).await
    }

    async fn put_session(&self, session: &KeptSession) -> Result<()> {
        let KeptSession { row, waiting, log, requests, responses } = session;
        let id = &row.session.id;
        let text = |turn: &KeptTurn| {
            doc! { "_id": turn.id.as_str(), "sessionId": id.as_str(), "turn": &turn.text }
        };
        add(&self.tables.queue, waiting.iter().map(text).collect()).await?;
        if let Some(turn) = &row.session.active_turn {
            let batch = |(number, frames): (u32, &Vec<u8>)| {
                let batch = Batch { number, frames: frames.clone().into() };
                batch_document(id, &turn.turn_id, &batch)
            };
            add(&self.tables.turn_log, (0..).zip(log).map(batch).collect()).await?;
        }
        let requests = requests.iter().map(|request| request_document(id, request));
        add(&self.tables.idempotency_keys, requests.collect()).await?;
        let responses = responses.iter().map(|response| response_document(id, response));
        add(&self.tables.responses, responses.collect()).await?;
        let queue = waiting.iter().map(|turn| turn.id.to_string()).collect();
        let mut document = document(&session_doc(row, queue)?)?;
        let born = first_revision();
        document.extend(doc! { "born": born, "revision": born, "commits": [], "unkept": true });
        add(&self.tables.sessions, vec![document]).await
    }

    async fn put_project(&self, project: &Project, files: &[NewFile]) -> Result<()> {
        step!(self, Manner::LONG_STEP, |step| step.insert_project(project, files).await)
    }
}

impl MongoStore {
    /// The texts of the turns that a session names, in its order.
    async fn waiting(&self, queue: Vec<String>) -> Result<Vec<KeptTurn>> {
        if queue.is_empty() {
            return Ok(Vec::new());
        }
        let texts = self.tables.queue.clone_with_type::<TurnDoc>();
        let found: Vec<TurnDoc> =
            all(texts.find(doc! { "_id": { "$in": &queue } }).into_future()).await?;
        let mut texts: HashMap<_, _> =
            found.into_iter().map(|waiting| (waiting.id, waiting.turn)).collect();
        let turn = |id: String| {
            let text = texts.remove(&id)?;
            Some(KeptTurn { id: TurnId::trusted(id), text })
        };
        Ok(queue.into_iter().filter_map(turn).collect())
    }

    async fn running_log(&self, row: &SessionRow) -> Result<Vec<Vec<u8>>> {
        let Some(turn) = &row.session.active_turn else { return Ok(Vec::new()) };
        let log = self.log_of(&turn.turn_id).await?;
        Ok(log.into_iter().map(|batch| batch.frames().into()).collect())
    }

    async fn responses(&self, id: &SessionId) -> Result<Vec<StoredResponse>> {
        let responses = self.tables.responses.clone_with_type::<ResponseDoc>();
        let of_session = responses.find(doc! { "sessionId": id.as_str() }).sort(doc! { "_id": 1 });
        let found: Vec<ResponseDoc> = all(of_session.into_future()).await?;
        Ok(found.into_iter().map(ResponseDoc::into_stored).collect())
    }

    async fn requests(&self, id: &SessionId, since: Timestamp) -> Result<Vec<KeptRequest>> {
        let keys = self.tables.idempotency_keys.clone_with_type::<RequestDoc>();
        let young = doc! { "sessionId": id.as_str(), "createdAt": { "$gt": date(since) } };
        let found: Vec<RequestDoc> = all(keys.find(young).into_future()).await?;
        let mut requests: Vec<_> = found.into_iter().map(kept_request).collect();
        requests.sort_unstable();
        Ok(requests)
    }
}

fn session_doc(row: &SessionRow, queue: Vec<String>) -> Result<SessionDoc> {
    let session = &row.session;
    let mark =
        |(user, seq): (&String, &u32)| ReadMark { user_id: user.clone(), seq: (*seq).into() };
    let held = session.active_turn.as_ref().zip(row.claimant.as_ref());
    let claim = held.zip(row.payer.as_ref());
    Ok(SessionDoc {
        id: session.id.to_string(),
        user_id: session.owner.to_string(),
        participants: session.participants.iter().map(ToString::to_string).collect(),
        project_id: session.project_id.as_ref().map(ToString::to_string),
        title: session.title.clone(),
        title_key: title_words(&session.title),
        title_words: fold_words(&session.title),
        title_source: session.title_source.as_str().to_owned(),
        status: session.status.as_str().to_owned(),
        archived: session.archived,
        pinned: session.pinned,
        meta: session.meta.as_json().to_owned(),
        user_meta: session.user_meta.as_json().to_owned(),
        theme: session.theme.as_json().to_owned(),
        settings: to_json(&session.settings)?,
        read_marks: row.read_marks.iter().map(mark).collect(),
        version: session.version.into(),
        messages: session.messages_count.into(),
        nodes: row.node_count.into(),
        head: row.head().map(|head| PlaceDoc::of(&head.id, head.at)),
        last_message: session.last_message.clone(),
        last_message_at: session.last_message_at.map(date),
        activity_at: date(session.last_message_at.unwrap_or(session.created_at)),
        last_seen: session.last_seen.map(date),
        created_at: date(session.created_at),
        updated_at: date(session.updated_at),
        active_turn: claim.map(|((turn, claimant), payer)| ClaimDoc::of(turn, claimant, payer)),
        queue,
    })
}

fn node_doc(session: &SessionId, node: &KeptNode) -> Result<NodeDoc> {
    let KeptNode { number, prev, first_seq, last_seq, count, bytes, created_at, messages } = node;
    let prev = prev.unwrap_or(Location { node: 0, seq: 0 });
    let stored = |kept: &KeptMessage| {
        let at = Location { node: *number, seq: kept.seq };
        let KeptMessage { message, parent, path_tokens, .. } = kept;
        let placed = Placed {
            message,
            at,
            parent: parent.as_ref(),
            opens_node: false,
            size: *bytes,
            path_tokens: *path_tokens,
        };
        MessageDoc::new(placed)
    };
    let first_id = messages.first().map(|first| first.message.id.to_string());
    Ok(NodeDoc {
        id: format_chat_id(session, *number),
        session_id: session.to_string(),
        // Later than any session that had this name, and never later than its own.
        born: first_revision(),
        number: (*number).into(),
        prev: LocationDoc { node: prev.node.into(), seq: prev.seq.into() },
        first_id: first_id.unwrap_or_default(),
        first_seq: (*first_seq).into(),
        last_seq: (*last_seq).into(),
        count: (*count).into(),
        bytes: i64::try_from(*bytes).unwrap_or(i64::MAX),
        path_tokens: messages.last().map_or(0, |last| long(last.path_tokens)),
        created_at: date(*created_at),
        messages: messages.iter().map(stored).collect::<Result<_>>()?,
    })
}

fn request_document(session: &SessionId, request: &KeptRequest) -> Document {
    let KeptRequest { user, route, key, fingerprint, message_id, turn_id, created_at } = request;
    doc! {
        "_id": { "user": user.as_str(), "route": route, "key": key },
        "fingerprint": fingerprint,
        "sessionId": session.as_str(),
        "messageId": message_id.as_str(),
        "turnId": turn_id.as_ref().map(|turn| turn.as_str()),
        "createdAt": date(*created_at),
        "notedAt": date(*created_at),
        "isConfirmed": true,
    }
}

fn kept_request(request: RequestDoc) -> KeptRequest {
    let RequestName { user, route, key } = request.id;
    KeptRequest {
        user: UserId::trusted(user),
        route,
        key,
        fingerprint: request.fingerprint,
        message_id: MessageId::trusted(request.message_id),
        turn_id: request.turn_id.map(TurnId::trusted),
        created_at: time(request.created_at),
    }
}

fn kept_node(node: NodeDoc, session: &SessionRow) -> Result<KeptNode> {
    let message = |stored: MessageDoc| {
        let place = |parent: &PlaceDoc| Place {
            id: MessageId::trusted(parent.id.as_str()),
            at: parent.location(),
        };
        Ok(KeptMessage {
            seq: number(stored.seq),
            parent: stored.parent.as_ref().map(place),
            path_tokens: stored.path_tokens.unsigned_abs(),
            message: stored.into_stored(session)?,
        })
    };
    Ok(KeptNode {
        number: number(node.number),
        prev: node.prev.location(),
        first_seq: number(node.first_seq),
        last_seq: number(node.last_seq),
        count: number(node.count),
        bytes: node.bytes.unsigned_abs(),
        created_at: time(node.created_at),
        messages: node.messages.into_iter().map(message).collect::<Result<_>>()?,
    })
}

/// Adds documents. Errors: `id_taken` if one of them is there.
async fn add(table: &Collection<Document>, documents: Vec<Document>) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    let insert = table.insert_many(documents).into_future();
    match timeout(LONG_PATIENCE, insert).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_duplicate(&error) => {
            Err(Error::new(Kind::IdTaken, "something of the session is there already")
                .with_source(error))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Error::store_unavailable("MongoDB did not answer in time")),
    }
}

async fn all<T>(
    find: impl Future<Output = mongodb::error::Result<mongodb::Cursor<T>>>,
) -> Result<Vec<T>>
where
    T: serde::de::DeserializeOwned + Unpin + Send + Sync,
{
    in_time(async { find.await?.try_collect().await }).await
}

async fn in_time<T>(work: impl Future<Output = mongodb::error::Result<T>>) -> Result<T> {
    match timeout(LONG_PATIENCE, work).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::store_unavailable("MongoDB did not answer in time")),
    }
}
