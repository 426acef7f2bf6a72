//! Tool results: finds the reply whose calls they answer, and builds the message that holds them.

use super::{ChatService, TurnIntent, TurnRequest};
use crate::domain::content::MessageBody;
use crate::domain::page::{MessageSlice, MessageView};
use crate::domain::tool::{self, NewToolResult, ToolCall};
use crate::domain::{Message, MessageId, MessageType, Role};
use crate::error::{Error, Result};
use crate::store::{DuplicateIdPolicy, MessageParent, MessageQuery};

/// How far back on the path the calling reply is searched, in messages.
const MAX_LOOKBACK_MESSAGES: u32 = 50;

impl ChatService {
    /// Replaces submitted tool results by the message that holds them. Other requests are returned
    /// unchanged.
    ///
    /// The results belong to the newest reply whose calls they answer completely, so a retry
    /// resolves to the same reply. Errors: `invalid_request` if there is no such reply.
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
                    with_siblings: false,
                };
                self.store
                    .list_messages(&request.principal, request.session.id(), query)
                    .await?
                    .messages
            }
        };
        let (reply, calls) = find_answered_reply(&path, results)?;
        // AI SDK clients send the results of the whole chain again; only those of this reply are
        // new.
        let result_of = |call: &ToolCall| {
            let result = find_result(results, call)?.clone();
            Some(NewToolResult { call_id: call.id.clone(), ..result })
        };
        let reply_results: Vec<NewToolResult> = calls.iter().filter_map(result_of).collect();
        let (content, parts) =
            tool::build_result_message(&reply_results, &calls, Some(&first_reply_id(&path, reply)));
        let intent = TurnIntent::Send {
            role: Role::Tool,
            body: MessageBody::parse("messages", content, parts, MessageType::Text, *max_bytes)?,
            // Derived from the reply: a retry, even without an idempotency key, finds the message
            // that is already stored.
            client_message_id: Some(MessageId::new_unchecked(format!("results:{}", reply.id))),
            parent: MessageParent::Message(reply.id.clone()),
            on_duplicate_id: DuplicateIdPolicy::Edit,
        };
        Ok(TurnRequest { intent, ..request })
    }

    /// The reply and its parent.
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

/// The newest reply whose calls all have a result, and its calls. A reply with only some results is
/// an error: its client has not finished.
fn find_answered_reply<'a>(
    path: &'a [Message],
    results: &[NewToolResult],
) -> Result<(&'a Message, Vec<ToolCall>)> {
    let has_result = |call: &&ToolCall| find_result(results, call).is_some();
    for (at, reply) in
        path.iter().enumerate().rev().filter(|(_, reply)| reply.is_awaiting_tool_results())
    {
        let calls = tool::parse_calls(&reply.parts);
        let has_any_result = calls.iter().any(|call| has_result(&call));
        match calls.iter().find(|call| !has_result(call)) {
            // Answering an earlier reply would branch off and hide the messages that followed it.
            None if has_any_result
                && path.get(at + 1).is_some_and(|next| next.role != Role::Tool) =>
            {
                let message = "contains outputs for a reply that later messages already follow";
                return Err(Error::invalid_field("messages", message));
            }
            None if has_any_result => return Ok((reply, calls)),
            Some(call) if has_any_result => {
                let message = "must contain an output for every function call of the reply";
                return Err(Error::invalid_field(
                    "messages",
                    format!("{message}: {} has none", call.id),
                ));
            }
            _ => {}
        }
    }
    Err(Error::invalid_field("messages", "contains outputs, but no reply is waiting for them"))
}

/// The result of a call. Clients that know the model's own id of the call may use it; as a model
/// may give the same id again, the newest such result counts.
fn find_result<'a>(results: &'a [NewToolResult], call: &ToolCall) -> Option<&'a NewToolResult> {
    let original = call.origin.as_ref().and_then(|origin| origin.call_id.as_deref());
    let by_id = results.iter().find(|result| result.call_id == call.id);
    by_id.or_else(|| results.iter().rfind(|result| Some(&*result.call_id) == original))
}

/// The first reply of the chain that ends with `reply`, linked by tool results only.
fn first_reply_id(path: &[Message], reply: &Message) -> MessageId {
    let parent = path.iter().find(|message| Some(&message.id) == reply.parent_id.as_ref());
    let results = parent.filter(|parent| parent.role == Role::Tool);
    results
        .and_then(|results| tool::find_continued_reply(results.role, &results.parts))
        .unwrap_or_else(|| reply.id.clone())
}
