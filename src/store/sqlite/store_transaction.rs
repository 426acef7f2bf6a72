//! [`SqliteTransaction`] as the rules see it: the implementation of [`StoreTransaction`].
//!
//! SQLite answers synchronously, so the async functions here never wait.

use super::messages::read_message;
use super::paths::{find_message, find_message_by_id, find_newest_message, list_children};
use super::rows::{decode_word, message_key};
use super::transaction::SqliteTransaction;
use super::{append, tree};
use crate::domain::node::NodeFill;
use crate::domain::{Message, MessageId, Role};
use crate::error::{Error, Result};
use crate::store::stored_values::decode_parts;
use crate::store::transaction::{
    LocatedMessage, MessageInsert, MessageLocation, NodeHeader, SessionRow, StoreTransaction,
};
use crate::store::{NewMessage, UserMessage};

impl StoreTransaction for SqliteTransaction<'_> {
    async fn find_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_message(self.db, self.session_key(row)?, id)
    }

    async fn find_message_by_id(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_message_by_id(self.db, self.session_key(row)?, id)
    }

    async fn find_newest_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_newest_message(self.db, self.session_key(row)?, id)
    }

    async fn read_message(&mut self, row: &SessionRow, at: MessageLocation) -> Result<Message> {
        read_message(self.db, self.session_key(row)?, row, at.seq)
    }

    async fn read_user_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<UserMessage> {
        let sql = "SELECT id, parent_id, role, content, tokens, parts FROM messages WHERE key = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([message_key(self.session_key(row)?, at.seq)])?;
        let row = rows.next()?.ok_or_else(Error::message_not_found)?;
        Ok(UserMessage {
            id: MessageId::new_unchecked(row.get::<_, String>(0)?),
            parent_id: row.get::<_, Option<String>>(1)?.map(MessageId::new_unchecked),
            role: decode_word(Role::from_name, row, 2)?,
            content: row.get(3)?,
            tokens: row.get(4)?,
            parts: decode_parts(row.get(5)?)?,
        })
    }

    async fn list_children(
        &mut self,
        row: &SessionRow,
        parent: MessageLocation,
    ) -> Result<Vec<MessageLocation>> {
        let found = list_children(self.db, self.session_key(row)?, Some(parent))?;
        Ok(found.into_iter().map(|child| child.location).collect())
    }

    async fn node_fill(&mut self, row: &SessionRow, at: MessageLocation) -> Result<NodeFill> {
        append::node_fill(self.db, self.session_key(row)?, at)
    }

    async fn path_tokens(&mut self, row: &SessionRow, at: MessageLocation) -> Result<u64> {
        append::path_tokens(self.db, self.session_key(row)?, at)
    }

    async fn list_nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeHeader>> {
        tree::list_nodes(self.db, self.session_key(row)?)
    }

    async fn node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>> {
        tree::node_messages(self.db, self.session_key(row)?, row, up_to)
    }

    async fn insert_message(&mut self, row: &SessionRow, insert: MessageInsert<'_>) -> Result<()> {
        append::insert_message(self.db, self.session_key(row)?, insert)
    }
}
