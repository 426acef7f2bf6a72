//! [`MongoTransaction`] as the rules see it: the implementation of [`StoreTransaction`].
//!
//! Reads go to the database, in the driver's session. Writes are staged and take effect at the
//! commit; see [`super::transaction`].

use super::paths::NameLookup;
use super::transaction::MongoTransaction;
use crate::domain::node::NodeFill;
use crate::domain::{Message, MessageId};
use crate::error::Result;
use crate::store::transaction::{
    LocatedMessage, MessageInsert, MessageLocation, NodeHeader, SessionRow, StoreTransaction,
};
use crate::store::{NewMessage, UserMessage};

impl StoreTransaction for MongoTransaction {
    async fn preload_message_ids(&mut self, row: &SessionRow) -> Result<()> {
        self.load_message_names(&row.session.id).await
    }

    async fn find_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        self.locate_message(&row.session.id, id).await
    }

    async fn find_message_by_id(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        Ok(self.find_messages_by_name(&row.session.id, id, NameLookup::IdOnly).await?.pop())
    }

    async fn find_newest_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        Ok(self.find_messages_by_name(&row.session.id, id, NameLookup::IdOrClientId).await?.pop())
    }

    async fn read_message(&mut self, row: &SessionRow, at: MessageLocation) -> Result<Message> {
        self.load_message(row, at).await
    }

    async fn read_user_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<UserMessage> {
        self.load_message_doc(&row.session.id, at).await?.into_user_message()
    }

    async fn list_children(
        &mut self,
        row: &SessionRow,
        under: MessageLocation,
    ) -> Result<Vec<MessageLocation>> {
        let found = self.find_children(&row.session.id, Some(under)).await?;
        Ok(found.into_iter().map(|child| child.location).collect())
    }

    async fn node_fill(&mut self, row: &SessionRow, at: MessageLocation) -> Result<NodeFill> {
        self.load_node_fill(&row.session.id, at).await
    }

    async fn path_tokens(&mut self, row: &SessionRow, at: MessageLocation) -> Result<u64> {
        self.load_path_tokens(&row.session.id, at).await
    }

    async fn list_nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeHeader>> {
        self.load_node_headers(&row.session.id).await
    }

    async fn node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>> {
        self.load_node_messages(row, up_to).await
    }

    async fn insert_message(&mut self, row: &SessionRow, insert: MessageInsert<'_>) -> Result<()> {
        self.stage_message(&row.session.id, insert).await
    }
}
