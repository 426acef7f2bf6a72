//! Restores a transcript from the log of its turn, or from the stored reply.

use super::{OpenPart, ProviderData, ReplyPart, StreamEnd, StreamHeader, Transcript};
use crate::chat::frames::{self, DecodedFrame, FrameBatch, FrameEncoder, LogRecord};
use crate::domain::message::FinishReason;
use crate::domain::tool::{self, ToolCall};
use crate::domain::{Message, Status, TurnId};
use crate::provider::ProviderEvent;
use bytes::Bytes;
use serde_json::Value;

impl Transcript {
    /// Rebuilds a reply from its log, to continue after the last logged frame.
    pub(in crate::chat) fn from_log(turn_id: TurnId, log: &[Bytes]) -> Self {
        let log = log.concat();
        let frames = FrameBatch::from_bytes(log.clone().into());
        let encoder = FrameEncoder::resume_after(turn_id.clone(), frames.last);
        let mut transcript = Self::with_encoder(turn_id, encoder);
        for frame in frames::decode_frames(&frames.bytes) {
            match frame {
                DecodedFrame::TextStart { id } => {
                    transcript.open_part(OpenPart::Text, id);
                }
                DecodedFrame::ReasoningStart { id } => {
                    transcript.open_part(OpenPart::Reasoning, id);
                }
                DecodedFrame::TextDelta { delta } | DecodedFrame::ReasoningDelta { delta } => {
                    transcript.append_delta(delta);
                }
                DecodedFrame::TextEnd | DecodedFrame::ReasoningEnd => {
                    transcript.open_part = OpenPart::None
                }
                DecodedFrame::ToolInputStart { tool_call_id: id, tool_name: name } => {
                    transcript.open_part = OpenPart::None;
                    let index = u32::try_from(transcript.counts.calls).unwrap_or(u32::MAX);
                    transcript.push_call(index, id, name, ProviderData::default());
                }
                DecodedFrame::ToolInputDelta { tool_call_id, input_text_delta } => {
                    if let Some(partial) = transcript.find_call_by_id(&tool_call_id) {
                        partial.call.input.push_str(&input_text_delta);
                    }
                }
                // Calls without this frame are dropped, as in a reply that was stopped.
                DecodedFrame::ToolInputAvailable { tool_call_id } => {
                    if let Some(partial) = transcript.find_call_by_id(&tool_call_id) {
                        partial.is_complete = true;
                    }
                }
                DecodedFrame::SourceUrl { url, title } => {
                    transcript.parts.push(ReplyPart::Source { url, title });
                }
                DecodedFrame::Other => {}
            }
        }
        for LogRecord { tool_call_id, origin } in frames::decode_log_records(&log) {
            if let Some(partial) = transcript.find_call_by_id(&tool_call_id) {
                partial.call.origin = Some(origin);
            }
        }
        transcript
    }

    /// Writes the parts of a stored reply in their order.
    fn restore_parts(&mut self, reply: &Message) {
        let has_texts = reply.ordered_parts().is_some();
        let parts: Vec<Value> = serde_json::from_str(reply.parts.as_json()).unwrap_or_default();
        let text_of = |part: &Value| part["text"].as_str().unwrap_or_default().to_owned();
        let mut content = Some(reply.content.clone()).filter(|text| !text.is_empty() && !has_texts);
        let mut calls = tool::parse_calls(&reply.parts).into_iter();
        for part in &parts {
            let kind = part["type"].as_str().unwrap_or_default();
            if kind == "reasoning" {
                self.apply_events(vec![ProviderEvent::Reasoning(text_of(part))]);
                continue;
            }
            self.apply_events(content.take().map(ProviderEvent::Text).into_iter().collect());
            match (kind, part["url"].as_str()) {
                ("text", _) if has_texts => {
                    self.apply_events(vec![ProviderEvent::Text(text_of(part))])
                }
                ("tool-call", _) => {
                    let Some(ToolCall { id, name, input, .. }) = calls.next() else { continue };
                    let index = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
                    self.begin_call(index, id, name, ProviderData::default());
                    self.append_call_input(index, &input);
                }
                ("source-url", Some(url)) => {
                    self.push_source(url.to_owned(), part["title"].as_str().map(str::to_owned))
                }
                _ => {}
            }
        }
        self.apply_events(content.take().map(ProviderEvent::Text).into_iter().collect());
        self.complete_calls();
    }
}

/// The frame stream of a stored reply. Splits text differently than the original stream, but adds
/// up to the same message.
pub(in crate::chat) fn replay_reply(
    turn: TurnId,
    reply: &Message,
    header: &StreamHeader<'_>,
) -> Bytes {
    let mut transcript = Transcript::begin_stream(turn, header);
    transcript.restore_parts(reply);
    let cause = reply.error.as_ref().map(|error| error.message.as_str());
    transcript.end_stream(match (reply.status, cause) {
        (Status::Complete, _) => StreamEnd::Finish {
            reason: reply.finish_reason.unwrap_or(FinishReason::Other),
            model: reply.model.as_deref(),
            usage: reply.usage,
            memory: None,
        },
        (Status::Interrupted, None) => StreamEnd::Abort,
        (_, cause) => StreamEnd::Error(cause.unwrap_or("the reply failed")),
    });
    transcript.take_frames().bytes
}
