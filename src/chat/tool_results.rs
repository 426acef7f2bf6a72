//! Results of function calls: which reply they belong to, and the message that holds them.

use super::{ChatService, TurnIntent, TurnRequest};
use crate::domain::message::MessageBody;
use crate::domain::page::{MessageSlice, MessageView};
use crate::domain::tool::{self, NewToolResult, ToolCall};
use crate::domain::{Message, MessageId, MessageType, Role};
use crate::error::{Error, Result};
use crate::store::{DuplicateIdPolicy, MessageParent, MessageQuery};

/// The calls are in one of so many last messages of the path.
const MAX_LOOKBACK_MESSAGES: u32 = 50;

impl ChatService {
    /// Makes a message of results that a turn begins with. Other turns stay as they are.
    ///
    /// They belong to the newest reply whose calls they all answer, so that a request that comes
    /// twice means the same both times. Errors: `invalid_request` if there is none.
    pub(super) async fn resolve_tool_results(&self, new: TurnRequest) -> Result<TurnRequest> {
        let TurnIntent::SubmitToolResults { results, reply_id: of, max_bytes: limit } = &new.intent
        else {
            return Ok(new);
        };
        let path = match of {
            Some(reply) => self.load_reply_with_parent(&new, reply).await?,
            None => {
                let (view, slice, limit) =
                    (MessageView::Path, MessageSlice::Newest, MAX_LOOKBACK_MESSAGES);
                let query = MessageQuery { view, slice, limit };
                self.store.list_messages(&new.principal, new.session.id(), query).await?.messages
            }
        };
        let (reply, calls) = find_answered_reply(&path, results)?;
        let is_own = |result: &&NewToolResult| calls.iter().any(|call| call.id == result.call_id);
        let own: Vec<NewToolResult> = results.iter().filter(is_own).cloned().collect();
        let (content, parts) =
            tool::build_result_message(&own, &calls, Some(&first_reply_id(&path, reply)));
        let wish = TurnIntent::Send {
            role: Role::Tool,
            body: MessageBody::parse("messages", content, parts, MessageType::Text, *limit)?,
            client_message_id: Some(MessageId::new_unchecked(format!("results:{}", reply.id))),
            parent: MessageParent::Message(reply.id.clone()),
            on_duplicate_id: DuplicateIdPolicy::Edit,
        };
        Ok(TurnRequest { intent: wish, ..new })
    }

    /// The end of the path up to a reply.
    async fn load_reply_with_parent(
        &self,
        new: &TurnRequest,
        reply: &MessageId,
    ) -> Result<Vec<Message>> {
        let reply = self.store.get_message(&new.principal, new.session.id(), reply).await?;
        let Some(question) = &reply.parent_id else { return Ok(vec![reply]) };
        Ok(vec![self.store.get_message(&new.principal, new.session.id(), question).await?, reply])
    }
}

/// The newest reply all of whose calls have a result, and the calls. One of which only some have is
/// not passed over: its client has not finished.
fn find_answered_reply<'a>(
    path: &'a [Message],
    results: &[NewToolResult],
) -> Result<(&'a Message, Vec<ToolCall>)> {
    let has_result = |call: &&ToolCall| results.iter().any(|result| result.call_id == call.id);
    for (at, reply) in
        path.iter().enumerate().rev().filter(|(_, reply)| reply.is_awaiting_tool_results())
    {
        let calls = tool::parse_calls(&reply.parts);
        let is_begun = calls.iter().any(|call| has_result(&call));
        match calls.iter().find(|call| !has_result(call)) {
            // Else what was said since would be left aside.
            None if is_begun && path.get(at + 1).is_some_and(|next| next.role != Role::Tool) => {
                let wants = "hold outputs of a reply that the conversation has gone on from";
                return Err(Error::invalid_field("messages", wants));
            }
            None if is_begun => return Ok((reply, calls)),
            Some(call) if is_begun => {
                let wants = "must hold an output for each function call of the reply";
                return Err(Error::invalid_field(
                    "messages",
                    format!("{wants}: {} has none", call.id),
                ));
            }
            _ => {}
        }
    }
    Err(Error::invalid_field("messages", "hold outputs, but no reply waits for them"))
}

/// The first reply of those that follow one another with nothing but results between them.
fn first_reply_id(path: &[Message], reply: &Message) -> MessageId {
    let parent = path.iter().find(|message| Some(&message.id) == reply.parent_id.as_ref());
    let results = parent.filter(|parent| parent.role == Role::Tool);
    results
        .and_then(|results| tool::find_continued_reply(results.role, &results.parts))
        .unwrap_or_else(|| reply.id.clone())
}
