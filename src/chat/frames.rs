//! Frames: the AI SDK's UI message stream, as bytes.
//!
//! Each frame is `id: <turnId>:<n>` and `data: <json>`; the last one's data is `[DONE]`. Only
//! fields that every client of ai 5.0.92 and later accepts are sent: clients before 5.0.217,
//! 6.0.231 and 7.0.32 refuse a whole stream for one unknown field.
//! Protocol: <https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol>.

use crate::domain::memory::MemoryStrategy;
use crate::domain::message::FinishReason;
use crate::domain::{MessageId, SessionId, TurnId, Usage};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
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
    DataTitle {
        data: TitleData<'a>,
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
    ToolInputStart {
        tool_call_id: &'a str,
        tool_name: &'a str,
    },
    ToolInputDelta {
        tool_call_id: &'a str,
        input_text_delta: &'a str,
    },
    ToolInputAvailable {
        tool_call_id: &'a str,
        tool_name: &'a str,
        input: &'a RawValue,
    },
    /// The arguments are not JSON.
    ToolInputError {
        tool_call_id: &'a str,
        tool_name: &'a str,
        input: &'a RawValue,
        error_text: &'a str,
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
    /// The reply's own name, where the frame bears the name of the one that it continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message_id: Option<&'a MessageId>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionData<'a> {
    pub(super) session_id: &'a SessionId,
    pub(super) title: &'a str,
    pub(super) user_message_id: &'a MessageId,
}

#[derive(Debug, Serialize)]
pub(super) struct TitleData<'a> {
    pub(super) title: &'a str,
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
    pub(super) strategy: MemoryStrategy,
    /// Tokens of the whole prompt, as counted here.
    pub(super) prompt_tokens: u32,
    /// How many earlier messages were in it.
    pub(super) messages: usize,
}

/// Writes one turn's frames, numbered from 1.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    turn_id: TurnId,
    /// The number of the next frame.
    next: u64,
    /// The number of the first frame that was not taken.
    taken: u64,
    out: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(turn_id: TurnId) -> Self {
        Self::after(turn_id, 0)
    }

    /// Goes on behind frames that were written before.
    pub(super) fn after(turn_id: TurnId, last: u64) -> Self {
        Self { turn_id, next: last + 1, taken: last + 1, out: Vec::new() }
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

    /// The frames written since the last call.
    pub(super) fn take(&mut self) -> Frames {
        let first = std::mem::replace(&mut self.taken, self.next);
        Frames { first, last: self.next - 1, bytes: std::mem::take(&mut self.out).into() }
    }
}

/// Some whole frames of a turn, one behind the other.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    /// The number of the first one.
    pub(super) first: u64,
    /// The number of the last one.
    pub(super) last: u64,
    /// All of them, as they go out.
    pub(super) bytes: Bytes,
}

impl Frames {
    /// All the frames of a turn, from the first one.
    pub(super) fn counted(bytes: Bytes) -> Self {
        Self::behind(0, bytes)
    }

    /// The frames that follow the one with the number `last`.
    pub(super) fn behind(last: u64, bytes: Bytes) -> Self {
        let count = memchr::memmem::find_iter(&bytes, b"\n\n").count() as u64;
        Self { first: last + 1, last: last + count, bytes }
    }

    /// How many bytes stand before a frame.
    pub(super) fn offset_of(&self, frame: u64) -> usize {
        let before = frame.saturating_sub(self.first);
        let ends = memchr::memmem::find_iter(&self.bytes, b"\n\n").map(|at| at + 2);
        ends.take(usize::try_from(before).unwrap_or(usize::MAX)).last().unwrap_or(0)
    }
}

/// Where a reader stands: behind a frame of a turn. Clients carry it as `Last-Event-ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The turn.
    pub turn: TurnId,
    /// The number of the frame.
    pub frame: u64,
}

impl Cursor {
    /// Reads `<turnId>:<n>`; `None` is a cursor of nothing known.
    pub fn parse(text: &str) -> Option<Self> {
        let (turn, frame) = text.rsplit_once(':')?;
        let frame = frame.parse().ok().filter(|frame| (1..u64::MAX).contains(frame))?;
        Some(Self { turn: TurnId::parse("lastEventId", turn).ok()?, frame })
    }
}

/// A frame read back, as far as it matters to what was said.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(super) enum Said {
    TextStart {
        id: String,
    },
    TextDelta {
        delta: String,
    },
    ReasoningStart {
        id: String,
    },
    ReasoningDelta {
        delta: String,
    },
    TextEnd,
    ReasoningEnd,
    #[serde(alias = "tool-input-error")]
    ToolInputAvailable {
        tool_call_id: String,
        tool_name: String,
        input: Value,
    },
    #[serde(other)]
    Other,
}

/// Reads frames back, as far as the reader knows them.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> impl Iterator<Item = T> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let data = lines.filter_map(|line| line.strip_prefix(b"data: "));
    data.filter_map(|data| serde_json::from_slice(data).ok())
}
