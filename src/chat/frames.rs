//! Frames: the AI SDK's UI message stream as server-sent events.
//!
//! Each frame is `id: <turnId>:<n>` and `data: <json>`; the data of the last frame is `[DONE]`.
//! Only fields that every client since ai 5.0.92 accepts are sent: clients before 5.0.217, 6.0.231
//! and 7.0.32 reject the whole stream for one unknown field. Protocol:
//! <https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol>.

use crate::domain::memory::MemoryStrategy;
use crate::domain::message::{CallOrigin, FinishReason};
use crate::domain::{MessageId, SessionId, TurnId, Usage};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io::Write;

/// Variants and fields are those of the protocol.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(super) enum StreamFrame<'a> {
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
    /// Sent when the arguments of a call are not valid JSON.
    ToolInputError {
        tool_call_id: &'a str,
        tool_name: &'a str,
        input: &'a RawValue,
        error_text: &'a str,
    },
    SourceUrl {
        source_id: &'a str,
        url: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
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
    /// Id of this reply, if `messageId` of the frame is the id of the reply it continues.
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

/// Facts about the prompt, sent with the `finish` frame.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MemorySummary {
    pub(super) strategy: MemoryStrategy,
    /// Tokens of the whole prompt by our own count.
    pub(super) prompt_tokens: u32,
    /// Number of earlier messages in the prompt.
    pub(super) messages: usize,
}

/// Encodes the frames of one turn, numbered from 1.
#[derive(Debug, Clone)]
pub(super) struct FrameEncoder {
    turn_id: TurnId,
    next_frame: u64,
    /// First frame not yet returned by `take_frames`.
    first_untaken: u64,
    /// Bytes of all frames that were taken.
    taken_bytes: usize,
    buffer: Vec<u8>,
    log_only: Vec<u8>,
}

impl FrameEncoder {
    pub(super) fn new(turn_id: TurnId) -> Self {
        Self::resume_after(turn_id, 0)
    }

    /// Continues after frame `last`.
    pub(super) fn resume_after(turn_id: TurnId, last: u64) -> Self {
        let next_frame = last + 1;
        let (buffer, log_only) = (Vec::new(), Vec::new());
        Self { turn_id, next_frame, first_untaken: next_frame, taken_bytes: 0, buffer, log_only }
    }

    pub(super) fn write_frame(&mut self, frame: &StreamFrame<'_>) {
        self.begin_frame();
        // Cannot fail: every field has a JSON form, and writing to a `Vec` succeeds.
        let _ = serde_json::to_writer(&mut self.buffer, frame);
        self.buffer.extend_from_slice(b"\n\n");
    }

    pub(super) fn write_done(&mut self) {
        self.begin_frame();
        self.buffer.extend_from_slice(b"[DONE]\n\n");
    }

    /// Writes data that clients do not get, in the log of the turn only.
    pub(super) fn write_log_record(&mut self, record: &LogRecord) {
        self.log_only.extend_from_slice(LOG_RECORD_PREFIX);
        // Cannot fail, like a frame.
        let _ = serde_json::to_writer(&mut self.log_only, record);
        self.log_only.push(b'\n');
    }

    /// Bytes of all frames of this encoder.
    pub(super) fn written_bytes(&self) -> usize {
        self.taken_bytes + self.buffer.len()
    }

    fn begin_frame(&mut self) {
        let _ = write!(self.buffer, "id: {}:{}\ndata: ", self.turn_id, self.next_frame);
        self.next_frame += 1;
    }

    /// Returns the frames written since the last call.
    pub(super) fn take_frames(&mut self) -> FrameBatch {
        let first = std::mem::replace(&mut self.first_untaken, self.next_frame);
        self.taken_bytes = self.written_bytes();
        FrameBatch {
            first,
            last: self.next_frame - 1,
            bytes: std::mem::take(&mut self.buffer).into(),
            log_only: std::mem::take(&mut self.log_only).into(),
        }
    }
}

/// Consecutive complete frames of a turn.
#[derive(Debug, Clone)]
pub(super) struct FrameBatch {
    /// Number of the first frame.
    pub(super) first: u64,
    /// Number of the last frame; less than `first` if there are none.
    pub(super) last: u64,
    /// The encoded frames, as sent to clients.
    pub(super) bytes: Bytes,
    /// Lines that precede the frames in the log and are not sent to clients.
    pub(super) log_only: Bytes,
}

/// Begins a line of the log that is not sent to clients. It is a comment of the event stream, which
/// clients would ignore.
const LOG_RECORD_PREFIX: &[u8] = b": origin ";

/// The origin of a call. It is not shown, but a reply that is restored from the log needs it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogRecord {
    pub(super) tool_call_id: String,
    pub(super) origin: CallOrigin,
}

impl FrameBatch {
    /// All frames of a turn, starting at frame 1, from its log.
    pub(super) fn from_bytes(bytes: Bytes) -> Self {
        Self::from_bytes_after(0, bytes)
    }

    /// The frames after frame `last`.
    pub(super) fn from_bytes_after(last: u64, bytes: Bytes) -> Self {
        let bytes = remove_log_records(bytes);
        // Every frame ends with an empty line, and JSON escapes line breaks, so this counts frames
        // exactly.
        let count = memchr::memmem::find_iter(&bytes, b"\n\n").count() as u64;
        Self { first: last + 1, last: last + count, bytes, log_only: Bytes::new() }
    }

    /// The batch as it is written to the log.
    pub(super) fn log_bytes(&self) -> Bytes {
        // `Bytes` is reference counted: the common batch without records is not copied.
        match self.log_only.is_empty() {
            true => self.bytes.clone(),
            false => [&*self.log_only, &*self.bytes].concat().into(),
        }
    }

    /// Byte offset of a frame.
    pub(super) fn offset_of(&self, frame: u64) -> usize {
        let before = frame.saturating_sub(self.first);
        let ends = memchr::memmem::find_iter(&self.bytes, b"\n\n").map(|at| at + 2);
        ends.take(usize::try_from(before).unwrap_or(usize::MAX)).last().unwrap_or(0)
    }
}

/// Position in a stream: the last frame a client has seen. Sent as `Last-Event-ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCursor {
    pub turn_id: TurnId,
    pub frame: u64,
}

impl StreamCursor {
    /// Parses `<turnId>:<n>`; `None` if it has another form.
    pub fn parse(text: &str) -> Option<Self> {
        let (turn, frame) = text.rsplit_once(':')?;
        // Frame numbers start at 1; `u64::MAX` is excluded because readers compute `frame + 1`.
        let frame = frame.parse().ok().filter(|frame| (1..u64::MAX).contains(frame))?;
        Some(Self { turn_id: TurnId::parse("lastEventId", turn).ok()?, frame })
    }
}

/// A logged frame, reduced to what is needed to rebuild the message.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(super) enum DecodedFrame {
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
    ToolInputStart {
        tool_call_id: String,
        tool_name: String,
    },
    ToolInputDelta {
        tool_call_id: String,
        input_text_delta: String,
    },
    /// The call is complete, whether its arguments are JSON or not.
    #[serde(alias = "tool-input-error")]
    ToolInputAvailable {
        tool_call_id: String,
    },
    SourceUrl {
        url: String,
        title: Option<String>,
    },
    #[serde(other)]
    Other,
}

fn is_log_record(line: &[u8]) -> bool {
    line.starts_with(LOG_RECORD_PREFIX)
}

/// Only whole lines are records: JSON escapes line breaks, so none begins inside a frame.
fn remove_log_records(bytes: Bytes) -> Bytes {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    if memchr::memmem::find(&bytes, LOG_RECORD_PREFIX).is_none() || !lines.any(is_log_record) {
        return bytes;
    }
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !is_log_record(line)).collect::<Vec<_>>().concat().into()
}

/// Decodes the records of a log.
pub(super) fn decode_log_records(log: &[u8]) -> impl Iterator<Item = LogRecord> {
    let lines = log.split(|byte| *byte == b'\n');
    let records = lines.filter_map(|line| line.strip_prefix(LOG_RECORD_PREFIX));
    records.filter_map(|record| serde_json::from_slice(record).ok())
}

/// Decodes frames as `T` and skips frames that are not a `T`, such as `[DONE]`.
pub(super) fn decode_frames<T: DeserializeOwned>(bytes: &[u8]) -> impl Iterator<Item = T> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let data = lines.filter_map(|line| line.strip_prefix(b"data: "));
    // A batch never ends inside a frame, so a line that does not parse is `[DONE]`.
    data.filter_map(|data| serde_json::from_slice(data).ok())
}
