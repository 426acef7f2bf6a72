//! Frames: the AI SDK's UI message stream, as bytes.
//!
//! Each frame is `id: <turnId>:<n>` and `data: <json>`; the last one's data is `[DONE]`. Only
//! fields that every client of ai 5.0.92 and later accepts are sent: clients before 5.0.217,
//! 6.0.231 and 7.0.32 refuse a whole stream for one unknown field.
//! Protocol: <https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol>.

use crate::domain::memory::Strategy;
use crate::domain::message::FinishReason;
use crate::domain::{MessageId, SessionId, TurnId, Usage};
use bytes::Bytes;
use serde::Serialize;
use std::io::Write;

/// One frame's content.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(super) enum Frame<'a> {
    Start {
        message_id: &'a MessageId,
        message_metadata: StartMetadata<'a>,
    },
    DataSession {
        data: SessionData<'a>,
        transient: bool,
    },
    StartStep,
    TextStart {
        id: &'a str,
    },
    TextDelta {
        id: &'a str,
        delta: &'a str,
    },
    TextEnd {
        id: &'a str,
    },
    ReasoningStart {
        id: &'a str,
    },
    ReasoningDelta {
        id: &'a str,
        delta: &'a str,
    },
    ReasoningEnd {
        id: &'a str,
    },
    FinishStep,
    Finish {
        finish_reason: FinishReason,
        #[serde(skip_serializing_if = "Option::is_none")]
        message_metadata: Option<FinishMetadata<'a>>,
    },
    Abort,
    Error {
        error_text: &'a str,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartMetadata<'a> {
    pub(super) turn_id: &'a TurnId,
    pub(super) session_id: &'a SessionId,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionData<'a> {
    pub(super) session_id: &'a SessionId,
    pub(super) title: &'a str,
    pub(super) user_message_id: &'a MessageId,
}

#[derive(Debug, Serialize)]
pub(super) struct FinishMetadata<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<&'a MemorySummary>,
}

/// What a reader of the reply is told of the prompt.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MemorySummary {
    /// The strategy.
    pub(super) strategy: Strategy,
    /// Tokens of the whole prompt, as counted here.
    pub(super) prompt_tokens: u32,
    /// How many earlier messages were in it.
    pub(super) messages: usize,
}

/// Writes one turn's frames, numbered from 1.
#[derive(Debug)]
pub(super) struct Encoder {
    turn_id: TurnId,
    next: u64,
    out: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(turn_id: TurnId) -> Self {
        Self { turn_id, next: 1, out: Vec::new() }
    }

    pub(super) fn turn_id(&self) -> &TurnId {
        &self.turn_id
    }

    pub(super) fn frame(&mut self, frame: &Frame<'_>) {
        self.open();
        // Strings and numbers always have a JSON form, and a vector takes every byte.
        let _ = serde_json::to_writer(&mut self.out, frame);
        self.out.extend_from_slice(b"\n\n");
    }

    pub(super) fn done(&mut self) {
        self.open();
        self.out.extend_from_slice(b"[DONE]\n\n");
    }

    fn open(&mut self) {
        let _ = write!(self.out, "id: {}:{}\ndata: ", self.turn_id, self.next);
        self.next += 1;
    }

    /// The bytes written since the last call.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.out).into()
    }
}
