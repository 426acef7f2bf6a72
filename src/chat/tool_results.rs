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
    pub(super) async fn resolve_tool_results(&self, request: TurnRequest) -> Result<TurnRequest> {
        let TurnIntent::SubmitToolResults { results, reply_id, max_bytes } = &request.intent else {
            return Ok(request);
        };
        let path = match reply_id {
            Some(reply) => self.load_reply_with_parent(&request, reply).await?,
            None => {
                let query = MessageQuery {
                    view: MessageView::Path,
                    slice: MessageSlice::Newest,
                    limit: MAX_LOOKBACK_MESSAGES,
                };
                self.store
                    .list_messages(&request.principal, request.session.id(), query)
                    .await?
                    .messages
            }
        };
        let (reply, calls) = find_answered_reply(&path, results)?;
        let belongs = |result: &&NewToolResult| calls.iter().any(|call| call.id == result.call_id);
        let reply_results: Vec<NewToolResult> = results.iter().filter(belongs).cloned().collect();
        let (content, parts) =
            tool::build_result_message(&reply_results, &calls, Some(&first_reply_id(&path, reply)));
        let intent = TurnIntent::Send {
            role: Role::Tool,
            body: MessageBody::parse("messages", content, parts, MessageType::Text, *max_bytes)?,
            client_message_id: Some(MessageId::new_unchecked(format!("results:{}", reply.id))),
            parent: MessageParent::Message(reply.id.clone()),
            on_duplicate_id: DuplicateIdPolicy::Edit,
        };
        Ok(TurnRequest { intent, ..request })
    }

    /// The end of the path up to a reply.
    async fn load_reply_with_parent(
        &self,
        request: &TurnRequest,
        reply: &MessageId,
    ) -> Result<Vec<Message>> {
        let reply = self.store.get_message(&request.principal, request.session.id(), reply).await?;
        let Some(parent_id) = &reply.parent_id else { return Ok(vec![reply]) };
        Ok(vec![
            self.store.get_message(&request.principal, request.session.id(), parent_id).await?,
            reply,
        ])
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
        let has_any_result = calls.iter().any(|call| has_result(&call));
        match calls.iter().find(|call| !has_result(call)) {
            // Else what was said since would be left aside.
            None if has_any_result
                && path.get(at + 1).is_some_and(|next| next.role != Role::Tool) =>
            {
                let message = "hold outputs of a reply that the conversation has gone on from";
                return Err(Error::invalid_field("messages", message));
            }
            None if has_any_result => return Ok((reply, calls)),
            Some(call) if has_any_result => {
                let message = "must hold an output for each function call of the reply";
                return Err(Error::invalid_field(
                    "messages",
                    format!("{message}: {} has none", call.id),
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
