//! The history of a prompt: which messages of a path it holds, and which parts they keep.

use crate::domain::Role;
use crate::domain::message::FinishReason;
use crate::store::HistoryLimits;

/// Roles whose parts a prompt needs: what users attached, and the results of function calls.
pub(in crate::store) const ROLES_WITH_PARTS: [Role; 2] = [Role::User, Role::Tool];
/// The replies whose parts a prompt needs: those that end with function calls, which are parts.
pub(in crate::store) const FINISH_REASON_WITH_PARTS: FinishReason = FinishReason::ToolCalls;

/// Whether a prompt needs the parts of a message. Others need not even be read: they are large.
pub(in crate::store) fn needs_parts(role: Role, finish_reason: Option<FinishReason>) -> bool {
    ROLES_WITH_PARTS.contains(&role) || finish_reason == Some(FINISH_REASON_WITH_PARTS)
}

/// The rest of the limits while a path is read, newest message first.
#[derive(Debug)]
pub(in crate::store) struct HistoryBudget {
    messages: u32,
    tokens: u32,
    token_overhead: u32,
    part_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum HistoryDecision {
    Include {
        with_parts: bool,
    },
    /// Leave this message out and read on.
    Skip,
    /// The history is complete without this message.
    End,
}

impl HistoryBudget {
    pub(in crate::store) fn new(limits: HistoryLimits) -> Self {
        Self {
            messages: limits.max_messages,
            tokens: limits.max_tokens,
            token_overhead: limits.token_overhead,
            part_bytes: limits.max_part_bytes,
        }
    }

    /// Decides about the next message. `part_bytes` is the size of the parts that it
    /// [needs](needs_parts), 0 without any.
    pub(in crate::store) fn admit(
        &mut self,
        text: &str,
        part_bytes: usize,
        tokens: u32,
    ) -> HistoryDecision {
        // Parts that exceed the limit are left out; the text still counts.
        let with_parts = part_bytes > 0 && part_bytes <= self.part_bytes;
        // Nothing that a model could read, so it does not use up the limits.
        if text.is_empty() && !with_parts {
            return HistoryDecision::Skip;
        }
        // The first message that does not fit ends the history: a gap would falsify the
        // conversation.
        let size = tokens.saturating_add(self.token_overhead);
        if self.messages == 0 || size > self.tokens {
            return HistoryDecision::End;
        }
        self.messages -= 1;
        self.tokens -= size;
        if with_parts {
            self.part_bytes -= part_bytes;
        }
        HistoryDecision::Include { with_parts }
    }
}
