//! Migration of whole sessions into MongoDB.
//!
//! Nodes, queued turns and logs are invisible without their session's document. They are written
//! first, page by page, and the document last, so a migration that is interrupted leaves nothing
//! visible and can be repeated.
//!
//! `pending` is ignored when a session is dumped for comparison: a migrated session has none, and
//! one that has was already used here.

use super::content_keys::ContentKey;
use super::documents::{
    ClaimDoc, LocatedMessageDoc, MessageDoc, MessageLocationDoc, NodeDoc, ReadMarkDoc, SessionDoc,
    to_bson_date, to_document, to_timestamp, to_u32,
};
use super::errors::{MAX_DOCUMENT_BYTES, is_duplicate_key, timed_out};
use super::responses::{ResponseDoc, to_response_document};
use super::sessions::placed_by;
use super::transaction::{TransactionMode, initial_revision, transact};
use super::turn_log::to_batch_document;
use super::{LONG_OPERATION_TIMEOUT, MongoStore};
use crate::domain::node::format_chat_id;
use crate::domain::search::extract_index_words;
use crate::domain::tokenizer::WORDS_VERSION;
use crate::domain::{MessageId, Project, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::migration::{
    MAX_PAGE_BYTES, MessageDump, MigrationStore, MigrationTarget, NodeDump, QueuedTurnDump,
    RequestDump, SessionDump,
};
use crate::store::project_transaction::ProjectTransaction;
use crate::store::rules::{activity_time, fold_title};
use crate::store::stored_values::{encode_json, to_i64};
use crate::store::transaction::{LocatedMessage, MessageInsert, MessageLocation, SessionRow};
use crate::store::{LogBatch, NewFile, Store, StoredResponse};
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::future::try_join_all;
use mongodb::Collection;
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;
use std::collections::HashMap;
use tokio::time::timeout;

/// Nodes fetched per round trip: about a page of usual ones.
const NODE_BATCH_SIZE: u32 = 8;

#[derive(Debug, Deserialize)]
struct MigratedTurnDoc {
    #[serde(rename = "_id")]
    id: String,
    turn: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MigratedRequestDoc {
    #[serde(rename = "_id")]
    id: RequestIdDoc,
    fingerprint: String,
    message_id: String,
    turn_id: Option<String>,
    created_at: DateTime,
}

#[derive(Debug, Deserialize)]
struct RequestIdDoc {
    user: String,
    route: String,
    key: String,
}

#[async_trait]
impl MigrationStore for MongoStore {
    async fn dump_session(&self, id: &SessionId, since: Timestamp) -> Result<Option<SessionDump>> {
        let sessions = self.collections.sessions.clone_with_type::<SessionDoc>();
        let find = sessions.find_one(doc! { "_id": id.as_str() });
        let Some(mut session) = with_long_timeout(find.into_future()).await? else {
            return Ok(None);
        };
        let queue = std::mem::take(&mut session.queue);
        let row = session.into_row()?;
        Ok(Some(SessionDump {
            queued_turns: self.dump_queued_turns(queue).await?,
            log: self.dump_running_log(&row).await?,
            requests: self.dump_requests(id, since).await?,
            responses: self.dump_responses(id).await?,
            row,
        }))
    }

    async fn dump_nodes(&self, session: &SessionRow, first: u32) -> Result<Vec<NodeDump>> {
        let nodes = self.collections.nodes.clone_with_type::<NodeDoc>();
        let key = self.find_content_key(&session.session.id).await?;
        let Some(ContentKey { key, .. }) = key else { return Ok(Vec::new()) };
        let remaining = doc! { "sessionId": key.as_str(), "number": { "$gte": i64::from(first) } };
        let find = nodes
            .find(remaining)
            .sort(doc! { "sessionId": 1, "number": 1 })
            .batch_size(NODE_BATCH_SIZE);
        let mut cursor = with_long_timeout(find.into_future()).await?;
        let mut page = Vec::new();
        let mut bytes = 0;
        while bytes < MAX_PAGE_BYTES
            && let Some(node) = with_long_timeout(cursor.try_next()).await?
        {
            let node = to_node_dump(node, session)?;
            bytes += node.bytes;
            page.push(node);
        }
        Ok(page)
    }

    fn describe_location(&self) -> String {
        self.describe()
    }

    async fn disconnect(&self) {
        self.close().await;
    }
}

#[async_trait]
impl MigrationTarget for MongoStore {
    async fn clear_partial_session(&self, id: &SessionId) -> Result<()> {
        let collections = &self.collections;
        let collections = [
            &collections.nodes,
            &collections.queue,
            &collections.turn_log,
            &collections.idempotency_keys,
            &collections.responses,
        ];
        let delete = collections.map(|collection| {
            with_long_timeout(
                collection.delete_many(doc! { "sessionId": id.as_str() }).into_future(),
            )
        });
        try_join_all(delete).await?;
        Ok(())
    }

    async fn insert_nodes(&self, id: &SessionId, nodes: &[NodeDump]) -> Result<()> {
        // SQLite has no such limit. Better a clear error here than one of the driver halfway
        // through.
        if nodes.iter().any(|node| node.bytes > MAX_DOCUMENT_BYTES as u64) {
            return Err(Error::too_large("a message", MAX_DOCUMENT_BYTES));
        }
        let nodes = nodes.iter().map(|node| to_document(&to_node_doc(id, node)?));
        insert_documents(&self.collections.nodes, nodes.collect::<Result<_>>()?).await
    }

    async fn insert_session(&self, session: &SessionDump) -> Result<()> {
        let SessionDump { row, queued_turns, log, requests, responses } = session;
        let id = &row.session.id;
        let text = |turn: &QueuedTurnDump| {
            doc! { "_id": turn.id.as_str(), "sessionId": id.as_str(), "turn": &turn.json }
        };
        insert_documents(&self.collections.queue, queued_turns.iter().map(text).collect()).await?;
        // The claim and the log of a running turn are migrated as well. The instance that held the
        // claim has no heartbeat in this database, so the first instance to start here recovers the
        // turn.
        if let Some(turn) = &row.session.active_turn {
            let batch = |(number, frames): (u32, &Vec<u8>)| {
                let batch = LogBatch { number, frames: frames.clone().into() };
                to_batch_document(id, None, &turn.turn_id, &batch)
            };
            insert_documents(&self.collections.turn_log, (0..).zip(log).map(batch).collect())
                .await?;
        }
        let requests = requests.iter().map(|request| to_request_document(id, request));
        insert_documents(&self.collections.idempotency_keys, requests.collect()).await?;
        let responses = responses.iter().map(|response| to_response_document(id, None, response));
        insert_documents(&self.collections.responses, responses.collect()).await?;
        let queue = queued_turns.iter().map(|turn| turn.id.to_string()).collect();
        let mut document = to_document(&to_session_doc(row, queue)?)?;
        // Words are not migrated: `unindexed` puts the session on the backlog of the search index.
        let created_revision = initial_revision();
        document.extend(doc! {
            "born": created_revision,
            "revision": created_revision,
            "commits": [],
            "unindexed": true,
            "wordsVersion": i64::from(WORDS_VERSION),
        });
        insert_documents(&self.collections.sessions, vec![document]).await
    }

    async fn insert_project(&self, project: &Project, files: &[NewFile]) -> Result<()> {
        transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| tx
            .insert_project(project, files)
            .await)
    }
}

impl MongoStore {
    /// The queued turns of a session, next one first.
    async fn dump_queued_turns(&self, queue: Vec<String>) -> Result<Vec<QueuedTurnDump>> {
        if queue.is_empty() {
            return Ok(Vec::new());
        }
        let texts = self.collections.queue.clone_with_type::<MigratedTurnDoc>();
        let found: Vec<MigratedTurnDoc> =
            collect_all(texts.find(doc! { "_id": { "$in": &queue } }).into_future()).await?;
        let mut texts: HashMap<_, _> =
            found.into_iter().map(|queued| (queued.id, queued.turn)).collect();
        let turn = |id: String| {
            let text = texts.remove(&id)?;
            Some(QueuedTurnDump { id: TurnId::new_unchecked(id), json: text })
        };
        Ok(queue.into_iter().filter_map(turn).collect())
    }

    async fn dump_running_log(&self, row: &SessionRow) -> Result<Vec<Vec<u8>>> {
        let Some(turn) = &row.session.active_turn else { return Ok(Vec::new()) };
        let log = self.read_batches(&turn.turn_id).await?;
        Ok(log.into_iter().map(|batch| batch.into_frames().into()).collect())
    }

    async fn dump_responses(&self, id: &SessionId) -> Result<Vec<StoredResponse>> {
        let responses = self.collections.responses.clone_with_type::<ResponseDoc>();
        let of_session = responses.find(doc! { "sessionId": id.as_str() }).sort(doc! { "_id": 1 });
        let found: Vec<ResponseDoc> = collect_all(of_session.into_future()).await?;
        Ok(found.into_iter().map(ResponseDoc::into_stored_response).collect())
    }

    async fn dump_requests(&self, id: &SessionId, since: Timestamp) -> Result<Vec<RequestDump>> {
        let keys = self.collections.idempotency_keys.clone_with_type::<MigratedRequestDoc>();
        let unexpired =
            doc! { "sessionId": id.as_str(), "createdAt": { "$gt": to_bson_date(since) } };
        let found: Vec<MigratedRequestDoc> =
            collect_all(keys.find(unexpired).into_future()).await?;
        let mut requests: Vec<_> = found.into_iter().map(to_request_dump).collect();
        requests.sort_unstable();
        Ok(requests)
    }
}

fn to_session_doc(row: &SessionRow, queue: Vec<String>) -> Result<SessionDoc> {
    let session = &row.session;
    let mark =
        |(user, seq): (&String, &u32)| ReadMarkDoc { user_id: user.clone(), seq: (*seq).into() };
    // A claim is complete or absent: without its holder or payer the turn could not be recovered.
    let held = session.active_turn.as_ref().zip(row.lease_holder.as_ref());
    let claim = held.zip(row.payer.as_ref());
    let own = row.placement(&session.owner);
    let (archived_by, pinned_by) = placed_by(row);
    Ok(SessionDoc {
        id: session.id.to_string(),
        user_id: session.owner.to_string(),
        participants: session.participants.iter().map(ToString::to_string).collect(),
        project_id: session.project_id.as_ref().map(ToString::to_string),
        title: session.title.clone(),
        title_key: fold_title(&session.title),
        title_words: extract_index_words(&session.title),
        title_source: session.title_source.as_str().to_owned(),
        status: session.status.as_str().to_owned(),
        archived: own.archived,
        pinned: own.pinned,
        invited: session.invited.iter().map(ToString::to_string).collect(),
        archived_by,
        pinned_by,
        meta: session.meta.as_json().to_owned(),
        user_meta: session.user_meta.as_json().to_owned(),
        theme: session.theme.as_json().to_owned(),
        settings: encode_json(&session.settings)?,
        read_marks: row.read_marks.iter().map(mark).collect(),
        version: session.version.into(),
        messages: session.messages_count.into(),
        nodes: row.node_count.into(),
        head: row.located_head().map(|head| LocatedMessageDoc::new(&head.id, head.location)),
        last_message: session.last_message.clone(),
        last_message_at: session.last_message_at.map(to_bson_date),
        activity_at: to_bson_date(activity_time(session)),
        last_seen: session.last_seen.map(to_bson_date),
        created_at: to_bson_date(session.created_at),
        updated_at: to_bson_date(session.updated_at),
        active_turn: claim
            .map(|((turn, lease_holder), payer)| ClaimDoc::new(turn, lease_holder, payer)),
        queue,
    })
}

fn to_node_doc(session: &SessionId, node: &NodeDump) -> Result<NodeDoc> {
    let NodeDump { number, prev, first_seq, last_seq, count, bytes, created_at, messages } = node;
    let prev = prev.unwrap_or(MessageLocation { node: 0, seq: 0 });
    let to_message_doc = |dump: &MessageDump| {
        let at = MessageLocation { node: *number, seq: dump.seq };
        let MessageDump { message, parent, path_tokens, .. } = dump;
        let insert = MessageInsert {
            message,
            location: at,
            parent: parent.as_ref(),
            opens_node: false,
            size: *bytes,
            path_tokens: *path_tokens,
        };
        MessageDoc::new(insert)
    };
    let first_id = messages.first().map(|first| first.message.id.to_string());
    Ok(NodeDoc {
        id: format_chat_id(session, *number),
        session_id: session.to_string(),
        // Later than the revision of any earlier session with this id, and not later than that of
        // this session, whose document is written last.
        created_revision: initial_revision(),
        number: (*number).into(),
        prev: MessageLocationDoc { node: prev.node.into(), seq: prev.seq.into() },
        first_id: first_id.unwrap_or_default(),
        first_seq: (*first_seq).into(),
        last_seq: (*last_seq).into(),
        count: (*count).into(),
        bytes: to_i64(*bytes),
        path_tokens: messages.last().map_or(0, |last| to_i64(last.path_tokens)),
        created_at: to_bson_date(*created_at),
        messages: messages.iter().map(to_message_doc).collect::<Result<_>>()?,
    })
}

fn to_request_document(session: &SessionId, request: &RequestDump) -> Document {
    let RequestDump { user, route, key, fingerprint, message_id, turn_id, created_at } = request;
    doc! {
        "_id": { "user": user.as_str(), "route": route, "key": key },
        "fingerprint": fingerprint,
        "sessionId": session.as_str(),
        "messageId": message_id.as_str(),
        "turnId": turn_id.as_ref().map(|turn| turn.as_str()),
        "createdAt": to_bson_date(*created_at),
        "notedAt": to_bson_date(*created_at),
        "isConfirmed": true,
    }
}

fn to_request_dump(request: MigratedRequestDoc) -> RequestDump {
    let RequestIdDoc { user, route, key } = request.id;
    RequestDump {
        user: UserId::new_unchecked(user),
        route,
        key,
        fingerprint: request.fingerprint,
        message_id: MessageId::new_unchecked(request.message_id),
        turn_id: request.turn_id.map(TurnId::new_unchecked),
        created_at: to_timestamp(request.created_at),
    }
}

fn to_node_dump(node: NodeDoc, session: &SessionRow) -> Result<NodeDump> {
    let message = |stored: MessageDoc| {
        let place = |parent: &LocatedMessageDoc| LocatedMessage {
            id: MessageId::new_unchecked(parent.id.as_str()),
            location: parent.location(),
        };
        Ok(MessageDump {
            seq: to_u32(stored.seq),
            parent: stored.parent.as_ref().map(place),
            path_tokens: stored.path_tokens.unsigned_abs(),
            message: stored.into_new_message(session)?,
        })
    };
    Ok(NodeDump {
        number: to_u32(node.number),
        prev: node.prev.location(),
        first_seq: to_u32(node.first_seq),
        last_seq: to_u32(node.last_seq),
        count: to_u32(node.count),
        bytes: node.bytes.unsigned_abs(),
        created_at: to_timestamp(node.created_at),
        messages: node.messages.into_iter().map(message).collect::<Result<_>>()?,
    })
}

/// Inserts documents. Errors: `id_conflict` if one of them exists.
async fn insert_documents(
    collection: &Collection<Document>,
    documents: Vec<Document>,
) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    let insert = collection.insert_many(documents).into_future();
    match timeout(LONG_OPERATION_TIMEOUT, insert).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_duplicate_key(&error) => {
            Err(Error::new(ErrorKind::IdConflict, "parts of the session exist already")
                .with_source(error))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(timed_out()),
    }
}

async fn collect_all<T>(
    find: impl Future<Output = mongodb::error::Result<mongodb::Cursor<T>>>,
) -> Result<Vec<T>>
where
    T: serde::de::DeserializeOwned + Unpin + Send + Sync,
{
    with_long_timeout(async { find.await?.try_collect().await }).await
}

async fn with_long_timeout<T>(work: impl Future<Output = mongodb::error::Result<T>>) -> Result<T> {
    match timeout(LONG_OPERATION_TIMEOUT, work).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(timed_out()),
    }
}
