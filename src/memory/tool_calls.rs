//! Function calls in prompts.
//!
//! Invariant: a call is sent with its result or not at all, and so is a result. Providers reject
//! prompts that contain one without the other.

use super::window::WindowMessage;
use super::{Memory, tokens};
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{self, ToolCall, ToolResult};
use crate::domain::{MessageId, Role, Session};
use crate::error::Result;
use crate::store::HistoryLimits;

/// Upper bound of the stored parts that are read with a calling reply, in bytes.
const MAX_CALL_BYTES: usize = 4 << 20;

/// A reply whose function calls the new message answers.
#[derive(Debug, Clone)]
pub struct CallingReply {
    pub id: MessageId,
    pub parent_id: Option<MessageId>,
    pub text: String,
    pub calls: Vec<ToolCall>,
    /// Tokens of text and calls, in o200k_base.
    pub tokens: u32,
}

impl Memory {
    /// The reply that a message of the role `tool` answers; `None` for other roles.
    pub async fn find_calling_reply(
        &self,
        session: &Session,
        role: Role,
        parent: Option<&MessageId>,
    ) -> Result<Option<CallingReply>> {
        let Some(parent) = parent.filter(|_| role == Role::Tool) else { return Ok(None) };
        let newest_only = HistoryLimits {
            max_messages: 1,
            max_tokens: u32::MAX,
            token_overhead: 0,
            max_part_bytes: MAX_CALL_BYTES,
        };
        let found = self.store.recent_history(&session.id, parent, newest_only).await?.pop();
        let found = found.filter(|reply| reply.id == *parent && reply.role == Role::Assistant);
        Ok(found.map(|reply| CallingReply {
            calls: tool::parse_calls(&reply.parts),
            id: reply.id,
            parent_id: reply.parent_id,
            text: reply.content,
            tokens: reply.tokens,
        }))
    }

    /// Tokens that the prompt needs because of a new message: the reply whose calls it answers, and
    /// the functions that are offered.
    pub async fn count_extra_tokens(
        &self,
        calling: Option<&CallingReply>,
        settings: &SessionSettings,
    ) -> u32 {
        let calling =
            calling.map_or(0, |calling| calling.tokens.saturating_add(MESSAGE_TOKEN_OVERHEAD));
        let functions = match settings.extra_params.get_raw("tools") {
            Some(tools) => tokens::count_tokens_async(tools.get()).await,
            None => 0,
        };
        calling.saturating_add(functions)
    }
}

/// Removes calls without a result and results without a call, and then messages that are empty.
/// `recent` is newest first. Results belong to a call only if they follow its message directly.
pub(super) fn pair_calls(recent: &mut Vec<WindowMessage>) {
    // Each round handles one message that may call (`caller`) and the run of tool messages after
    // it, from the oldest on. Later messages have lower indexes.
    let mut end = recent.len();
    while end > 0 {
        let is_tool = |message: &WindowMessage| message.role == Role::Tool;
        let begin =
            recent[..end - 1].iter().rposition(|it| !is_tool(it)).map_or(0, |next| next + 1);
        let (following, [caller]) = recent[begin..end].split_at_mut(end - begin - 1) else {
            return;
        };
        let results = following.iter().flat_map(|message| message.results.clone()).collect();
        let calls = if is_tool(caller) { Vec::new() } else { std::mem::take(&mut caller.calls) };
        let (calls, results) = match_results(calls, results);
        caller.calls = calls;
        // The window may begin with a tool message whose caller was cut off.
        if is_tool(caller) {
            caller.results.clear();
        }
        // Oldest first, so that of equal results the first one stays.
        let mut unmatched = results;
        for message in following.iter_mut().rev() {
            message.results.retain(|result| {
                let place = unmatched.iter().position(|other| other == result);
                place.map(|place| unmatched.remove(place)).is_some()
            });
        }
        end = begin;
    }
    recent.retain(|message| match message.role {
        Role::Tool => !message.results.is_empty(),
        _ => !(message.content.is_empty() && message.images.is_empty() && message.calls.is_empty()),
    });
}

/// Keeps the calls that have a result and the results that have a call; of several results to one
/// call, the first in the list.
pub(super) fn match_results(
    calls: Vec<ToolCall>,
    results: Vec<ToolResult>,
) -> (Vec<ToolCall>, Vec<ToolResult>) {
    let mut matched: Vec<ToolResult> = Vec::new();
    for result in results {
        let is_called = calls.iter().any(|call| call.id == result.call_id);
        if is_called && matched.iter().all(|other| other.call_id != result.call_id) {
            matched.push(result);
        }
    }
    let has_result = |call: &ToolCall| matched.iter().any(|result| result.call_id == call.id);
    (calls.into_iter().filter(has_result).collect(), matched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tool_call(id: u8) -> ToolCall {
        ToolCall {
            id: id.to_string(),
            name: "look".to_owned(),
            input: "{}".to_owned(),
            origin: None,
        }
    }

    fn tool_result(id: u8) -> ToolResult {
        ToolResult { call_id: id.to_string(), output: "seen".to_owned(), is_error: false }
    }

    fn window_message(role: Role, content: &str, calls: &[u8], results: &[u8]) -> WindowMessage {
        WindowMessage {
            id: MessageId::new_unchecked("m"),
            role,
            content: content.to_owned(),
            tokens: 1,
            parent_id: None,
            tokens_before: 0,
            path_tokens: 1,
            images: Vec::new(),
            calls: calls.iter().copied().map(tool_call).collect(),
            results: results.iter().copied().map(tool_result).collect(),
        }
    }

    /// Role, number of calls and of results of each message after pairing. `messages` is oldest
    /// first.
    fn pair_and_summarize(mut messages: Vec<WindowMessage>) -> Vec<(Role, usize, usize)> {
        messages.reverse();
        pair_calls(&mut messages);
        let counts = |it: &WindowMessage| (it.role, it.calls.len(), it.results.len());
        messages.iter().rev().map(counts).collect()
    }

    #[test]
    fn calls_and_results_stay_paired() {
        use Role::{Assistant, Tool, User};
        let user = || window_message(User, "hi", &[], &[]);
        let whole = vec![
            user(),
            window_message(Assistant, "", &[1, 2], &[]),
            window_message(Tool, "", &[], &[2, 1]),
            window_message(Assistant, "so", &[3], &[]),
            window_message(Tool, "", &[], &[3]),
        ];
        let expected =
            [(User, 0, 0), (Assistant, 2, 0), (Tool, 0, 2), (Assistant, 1, 0), (Tool, 0, 1)];
        assert_eq!(pair_and_summarize(whole), expected);
        // One message per result, and one result is missing.
        let apart = vec![
            window_message(Assistant, "", &[1, 2, 3], &[]),
            window_message(Tool, "", &[], &[1]),
            window_message(Tool, "", &[], &[2]),
        ];
        assert_eq!(pair_and_summarize(apart), [(Assistant, 2, 0), (Tool, 0, 1), (Tool, 0, 1)]);
        // The window begins after the calls.
        let started = vec![
            window_message(Tool, "seen", &[], &[1]),
            window_message(Assistant, "so", &[], &[]),
            user(),
        ];
        assert_eq!(pair_and_summarize(started), [(Assistant, 0, 0), (User, 0, 0)]);
        // Calls that were never answered.
        let left = vec![
            window_message(Assistant, "", &[1], &[]),
            window_message(Assistant, "x", &[2], &[]),
            user(),
        ];
        assert_eq!(pair_and_summarize(left), [(Assistant, 0, 0), (User, 0, 0)]);
    }

    proptest! {
        #[test]
        fn any_window_has_calls_with_results_only(
            kinds in proptest::collection::vec((0u8..3, proptest::collection::vec(0u8..4, 0..3)), 0..12),
        ) {
            let of = |(kind, ids): (u8, Vec<u8>)| match kind {
                0 => window_message(Role::User, "hi", &[], &[]),
                1 => window_message(Role::Assistant, "", &ids, &[]),
                _ => window_message(Role::Tool, "", &[], &ids),
            };
            let mut messages: Vec<WindowMessage> = kinds.into_iter().map(of).collect();
            messages.reverse();
            pair_calls(&mut messages);
            messages.reverse();
            let mut open: Vec<String> = Vec::new();
            for message in &messages {
                if message.role != Role::Tool {
                    prop_assert!(open.is_empty(), "{messages:?}");
                    open = message.calls.iter().map(|call| call.id.clone()).collect();
                }
                for result in &message.results {
                    let place = open.iter().position(|id| *id == result.call_id);
                    prop_assert!(place.is_some(), "{messages:?}");
                    open.retain(|id| *id != result.call_id);
                }
            }
            prop_assert!(open.is_empty(), "{messages:?}");
        }
    }
}
