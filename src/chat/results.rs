//! Results of function calls: which reply they belong to, and the message that holds them.

use super::{Chat, NewTurn, Wish};
use crate::domain::message::{Body, FinishReason};
use crate::domain::page::{Slice, View};
use crate::domain::tool::{self, NewResult, ToolCall};
use crate::domain::{Message, MessageId, MessageType, Role, Status};
use crate::error::{Error, Result};
use crate::store::{MessageQuery, OnKnownId, Parent};

/// The calls are in one of so many last messages of the path.
const LOOK_BACK: u32 = 50;

impl Chat {
    /// Makes a message of results that a turn begins with. Other turns stay as they are.
    ///
    /// They belong to the newest reply whose calls they all answer, so that a request that comes
    /// twice means the same both times. Errors: `invalid_request` if there is none.
    pub(super) async fn with_results_as_message(&self, new: NewTurn) -> Result<NewTurn> {
        let Wish::Return { results, limit } = &new.wish else { return Ok(new) };
        let query = MessageQuery { view: View::Path, slice: Slice::Newest, limit: LOOK_BACK };
        let path = self.store.messages(&new.who, new.session.id(), query).await?.messages;
        let (reply, calls) = answered(&path, results)?;
        let is_own = |result: &&NewResult| calls.iter().any(|call| call.id == result.call_id);
        let own: Vec<NewResult> = results.iter().filter(is_own).cloned().collect();
        let (content, parts) = tool::message_of(&own, &calls, Some(&first(&path, reply)));
        let wish = Wish::Say {
            role: Role::Tool,
            body: Body::parse("messages", content, parts, MessageType::Text, *limit)?,
            client_message_id: Some(MessageId::trusted(format!("results:{}", reply.id))),
            parent: Parent::Message(reply.id.clone()),
            on_known: OnKnownId::Edit,
        };
        Ok(NewTurn { wish, ..new })
    }
}

/// The newest reply all of whose calls have a result, and the calls.
fn answered<'a>(
    path: &'a [Message],
    results: &[NewResult],
) -> Result<(&'a Message, Vec<ToolCall>)> {
    let is_calling = |message: &&Message| {
        message.status == Status::Complete && message.finish_reason == Some(FinishReason::ToolCalls)
    };
    let missing = |calls: &[ToolCall]| {
        calls.iter().find(|call| results.iter().all(|result| result.call_id != call.id)).cloned()
    };
    let mut wanted = None;
    for reply in path.iter().rev().filter(is_calling) {
        let calls = tool::calls(&reply.parts);
        match missing(&calls) {
            None if !calls.is_empty() => return Ok((reply, calls)),
            missing => wanted = wanted.or(missing),
        }
    }
    Err(match wanted {
        Some(call) => Error::invalid(
            "messages",
            format!(
                "must hold an output for each function call of the last reply: that of {} is missing",
                call.id
            ),
        ),
        None => Error::invalid("messages", "hold outputs, but no reply waits for any"),
    })
}

/// The first reply of those that follow one another with nothing but results between them.
fn first(path: &[Message], reply: &Message) -> MessageId {
    let parent = path.iter().find(|message| Some(&message.id) == reply.parent_id.as_ref());
    let results = parent.filter(|parent| parent.role == Role::Tool);
    results.and_then(|results| tool::continued(&results.parts)).unwrap_or_else(|| reply.id.clone())
}
