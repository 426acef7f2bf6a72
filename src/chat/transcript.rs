//! Builds the frames and the message of a reply from provider events. No I/O.
//!
//! The batching of events decides how text is split into frames, but neither the sum of the frames
//! nor the message depends on it.

use super::frames::{
    self, DecodedFrame, FinishMetadata, FrameBatch, FrameEncoder, MemorySummary, SessionData,
    StartMetadata, StreamFrame, TitleData,
};
use crate::domain::content::MessageBody;
use crate::domain::message::{FinishReason, MessagePart, MessageParts};
use crate::domain::tool::{self, ToolCall};
use crate::domain::{Message, MessageId, MessageType, SessionId, Status, TurnId, Usage};
use crate::provider::ProviderEvent;
use bytes::Bytes;

/// The part that receives deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenPart {
    None,
    Text,
    Reasoning,
}

/// A reply under construction.
#[derive(Debug)]
pub(super) struct Transcript {
    encoder: FrameEncoder,
    open_part: OpenPart,
    /// Number of text parts so far; used for part ids.
    text_count: u32,
    reasoning_count: u32,
    part_id: String,
    text: String,
    reasoning: String,
    calls: Vec<PartialCall>,
    usage: Option<Usage>,
    finish_reason: Option<FinishReason>,
    /// Set if a model other than the requested one answered.
    model: Option<String>,
}

#[derive(Debug)]
struct PartialCall {
    index: u32,
    call: ToolCall,
    /// Whether the model finished its arguments.
    is_complete: bool,
}

#[derive(Debug)]
pub(super) struct StreamHeader<'a> {
    pub(super) message_id: &'a MessageId,
    /// The first reply of the chain this one continues after tool results. AI SDK clients show the
    /// chain as one message, under the id of that reply.
    pub(super) continues: Option<&'a MessageId>,
    pub(super) session_id: &'a SessionId,
    pub(super) title: &'a str,
    pub(super) user_message_id: &'a MessageId,
}

impl StreamHeader<'_> {
    fn session_frame(&self) -> StreamFrame<'_> {
        let data = SessionData {
            session_id: self.session_id,
            title: self.title,
            user_message_id: self.user_message_id,
        };
        StreamFrame::DataSession { data, transient: true }
    }
}

#[derive(Debug)]
pub(super) enum StreamEnd<'a> {
    Finish {
        reason: FinishReason,
        model: Option<&'a str>,
        usage: Option<Usage>,
        memory: Option<&'a MemorySummary>,
    },
    Abort,
    Error(&'a str),
}

impl Transcript {
    /// Starts a reply with the frames `start`, `data-session` and `start-step`.
    pub(super) fn begin_stream(turn_id: TurnId, header: &StreamHeader<'_>) -> Self {
        let mut encoder = FrameEncoder::new(turn_id.clone());
        let StreamHeader { message_id, session_id, continues, .. } = *header;
        // The frame names the first reply of the chain, so the metadata carries the id under which
        // this one is stored.
        let own_id = continues.map(|_| message_id);
        encoder.write_frame(&StreamFrame::Start {
            message_id: continues.unwrap_or(message_id),
            message_metadata: StartMetadata { turn_id: &turn_id, session_id, message_id: own_id },
        });
        encoder.write_frame(&header.session_frame());
        encoder.write_frame(&StreamFrame::StartStep);
        Self::with_encoder(encoder)
    }

    /// Rebuilds a reply from its log, to continue after the last logged frame.
    pub(super) fn from_log(turn_id: TurnId, log: &[Bytes]) -> Self {
        let frames = FrameBatch::from_bytes(log.concat().into());
        let mut transcript = Self::with_encoder(FrameEncoder::resume_after(turn_id, frames.last));
        for frame in frames::decode_frames(&frames.bytes) {
            match frame {
                DecodedFrame::TextStart { id } => {
                    transcript.open_part = OpenPart::Text;
                    transcript.part_id = id;
                }
                DecodedFrame::ReasoningStart { id } => {
                    transcript.open_part = OpenPart::Reasoning;
                    transcript.part_id = id;
                }
                DecodedFrame::TextDelta { delta } => append_text(&mut transcript.text, delta),
                DecodedFrame::ReasoningDelta { delta } => {
                    append_text(&mut transcript.reasoning, delta)
                }
                DecodedFrame::TextEnd | DecodedFrame::ReasoningEnd => {
                    transcript.open_part = OpenPart::None
                }
                DecodedFrame::ToolInputAvailable { tool_call_id: id, tool_name: name, input } => {
                    let index = u32::try_from(transcript.calls.len()).unwrap_or(u32::MAX);
                    // Only complete calls are restored: this frame is written when a call is
                    // complete.
                    let call = ToolCall { id, name, input: input.to_string() };
                    transcript.calls.push(PartialCall { index, call, is_complete: true });
                }
                DecodedFrame::Other => {}
            }
        }
        transcript
    }

    fn with_encoder(encoder: FrameEncoder) -> Self {
        Self {
            encoder,
            open_part: OpenPart::None,
            text_count: 0,
            reasoning_count: 0,
            part_id: String::new(),
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            usage: None,
            finish_reason: None,
            model: None,
        }
    }

    pub(super) fn apply_events(&mut self, events: Vec<ProviderEvent>) {
        for event in events {
            match event {
                ProviderEvent::Text(delta) => {
                    self.switch_part(OpenPart::Text);
                    self.encoder
                        .write_frame(&StreamFrame::TextDelta { id: &self.part_id, delta: &delta });
                    append_text(&mut self.text, delta);
                }
                ProviderEvent::Reasoning(delta) => {
                    self.switch_part(OpenPart::Reasoning);
                    self.encoder.write_frame(&StreamFrame::ReasoningDelta {
                        id: &self.part_id,
                        delta: &delta,
                    });
                    append_text(&mut self.reasoning, delta);
                }
                ProviderEvent::ToolCall { index, id, name } => self.begin_call(index, id, name),
                ProviderEvent::ToolInput { index, delta } => self.append_call_input(index, &delta),
                ProviderEvent::Usage(usage) => self.usage = Some(usage),
                ProviderEvent::Finish(reason) => {
                    // Calls of a reply that ended for another reason, such as the token limit, may
                    // be cut off.
                    if reason == FinishReason::ToolCalls {
                        self.complete_calls();
                    }
                    self.finish_reason = Some(reason);
                }
                ProviderEvent::Model(model) => self.model = Some(model),
            }
        }
    }

    fn begin_call(&mut self, index: u32, id: String, name: String) {
        self.close_part();
        self.encoder
            .write_frame(&StreamFrame::ToolInputStart { tool_call_id: &id, tool_name: &name });
        let call = ToolCall { id, name, input: String::new() };
        self.calls.push(PartialCall { index, call, is_complete: false });
    }

    fn append_call_input(&mut self, index: u32, delta: &str) {
        // If an index is used again, the delta belongs to the latest call with that index.
        let Some(PartialCall { call, .. }) =
            self.calls.iter_mut().rfind(|call| call.index == index)
        else {
            return;
        };
        let frame = StreamFrame::ToolInputDelta { tool_call_id: &call.id, input_text_delta: delta };
        self.encoder.write_frame(&frame);
        call.input.push_str(delta);
    }

    /// Completes the open calls once the model asks for them to be executed. Calls of a reply that
    /// ends otherwise stay incomplete and are dropped.
    fn complete_calls(&mut self) {
        for PartialCall { call, is_complete, .. } in
            self.calls.iter_mut().filter(|call| !call.is_complete)
        {
            let tool_call_id = call.id.as_str();
            let tool_name = call.name.as_str();
            if call.input.trim().is_empty() {
                // Models send no arguments for functions without parameters. Clients that
                // concatenate the deltas expect valid JSON.
                let empty_object = "{}";
                self.encoder.write_frame(&StreamFrame::ToolInputDelta {
                    tool_call_id,
                    input_text_delta: empty_object,
                });
                call.input = empty_object.to_owned();
            }
            // Invalid arguments are kept as a string, so that the client can show them and the
            // model can see its mistake.
            let input = tool::encode_input(&call.input);
            self.encoder.write_frame(&match tool::is_valid_json(&call.input) {
                true => StreamFrame::ToolInputAvailable { tool_call_id, tool_name, input: &input },
                false => {
                    let error_text = "the arguments of the call are not JSON";
                    StreamFrame::ToolInputError {
                        tool_call_id,
                        tool_name,
                        input: &input,
                        error_text,
                    }
                }
            });
            *is_complete = true;
        }
    }

    /// Makes `part` the open part: ends another open part and starts a new one.
    fn switch_part(&mut self, part: OpenPart) {
        if self.open_part == part {
            return;
        }
        self.close_part();
        self.open_part = part;
        match part {
            OpenPart::None => {}
            OpenPart::Text => {
                self.text_count += 1;
                self.part_id = format!("text-{}", self.text_count);
                self.encoder.write_frame(&StreamFrame::TextStart { id: &self.part_id });
            }
            OpenPart::Reasoning => {
                self.reasoning_count += 1;
                self.part_id = format!("reasoning-{}", self.reasoning_count);
                self.encoder.write_frame(&StreamFrame::ReasoningStart { id: &self.part_id });
            }
        }
    }

    fn close_part(&mut self) {
        match self.open_part {
            OpenPart::None => {}
            OpenPart::Text => self.encoder.write_frame(&StreamFrame::TextEnd { id: &self.part_id }),
            OpenPart::Reasoning => {
                self.encoder.write_frame(&StreamFrame::ReasoningEnd { id: &self.part_id })
            }
        }
        self.open_part = OpenPart::None;
    }

    /// Writes a frame with the new title of the session.
    pub(super) fn write_title_frame(&mut self, title: &str) {
        self.encoder
            .write_frame(&StreamFrame::DataTitle { data: TitleData { title }, transient: true });
    }

    pub(super) fn end_stream(&mut self, ending: StreamEnd<'_>) {
        self.close_part();
        match ending {
            StreamEnd::Finish { reason, model, usage, memory } => {
                self.encoder.write_frame(&StreamFrame::FinishStep);
                let message_metadata = Some(FinishMetadata { model, usage, memory });
                self.encoder
                    .write_frame(&StreamFrame::Finish { finish_reason: reason, message_metadata });
            }
            StreamEnd::Abort => self.encoder.write_frame(&StreamFrame::Abort),
            StreamEnd::Error(error_text) => {
                self.encoder.write_frame(&StreamFrame::Error { error_text })
            }
        }
        self.encoder.write_done();
    }

    /// Returns the frames written since the last call.
    pub(super) fn take_frames(&mut self) -> FrameBatch {
        self.encoder.take_frames()
    }

    /// The complete function calls.
    pub(super) fn completed_calls(&self) -> Vec<ToolCall> {
        let completed = self.calls.iter().filter(|call| call.is_complete);
        completed.map(|call| call.call.clone()).collect()
    }

    fn message_parts(&self) -> MessageParts {
        let reasoning = Some(self.reasoning.clone()).filter(|reasoning| !reasoning.is_empty());
        let reasoning = reasoning.map(|text| MessagePart::Reasoning { text });
        let calls = self.completed_calls().into_iter().map(|call| MessagePart::ToolCall {
            input: tool::encode_input(&call.input),
            tool_call_id: call.id,
            tool_name: call.name,
        });
        MessageParts::from_parts(&reasoning.into_iter().chain(calls).collect::<Vec<_>>())
    }

    /// The message as far as it has been generated.
    pub(super) fn message_body(&self) -> MessageBody {
        MessageBody {
            content: self.text.clone(),
            parts: self.message_parts(),
            kind: MessageType::Text,
        }
    }

    /// As reported by the provider.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// `None` while the model has not finished.
    pub(super) fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }

    /// `None` if the requested model answered.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// The stream for a message that a human agent will answer: session data and the end.
pub(super) fn human_takeover_stream(turn_id: TurnId, header: &StreamHeader<'_>) -> Bytes {
    let mut encoder = FrameEncoder::new(turn_id);
    encoder.write_frame(&header.session_frame());
    encoder.write_frame(&StreamFrame::Finish {
        finish_reason: FinishReason::Stop,
        message_metadata: None,
    });
    encoder.write_done();
    encoder.take_frames().bytes
}

/// The stream of a queued turn that will not run.
pub(super) fn aborted_stream(turn_id: TurnId) -> FrameBatch {
    abort_frames_after(turn_id, 0)
}

/// The end of an aborted stream, after frame `last`.
pub(super) fn abort_frames_after(turn_id: TurnId, last: u64) -> FrameBatch {
    let mut encoder = FrameEncoder::resume_after(turn_id, last);
    encoder.write_frame(&StreamFrame::Abort);
    encoder.write_done();
    encoder.take_frames()
}

/// The end of a stream whose reply could not be stored. It replaces the unpublished frames from
/// `first` on.
pub(super) fn error_frames(turn_id: TurnId, first: u64, error_text: &str) -> FrameBatch {
    let mut encoder = FrameEncoder::resume_after(turn_id, first - 1);
    encoder.write_frame(&StreamFrame::Error { error_text });
    encoder.write_done();
    encoder.take_frames()
}

/// The frame stream of a stored reply. Splits text differently than the original stream, but adds
/// up to the same message.
pub(super) fn replay_reply(turn: TurnId, reply: &Message, header: &StreamHeader<'_>) -> Bytes {
    let mut transcript = Transcript::begin_stream(turn, header);
    let reasoning = reply.parts.reasoning().map(ProviderEvent::Reasoning);
    let text = Some(reply.content.clone()).filter(|text| !text.is_empty()).map(ProviderEvent::Text);
    transcript.apply_events(reasoning.into_iter().chain(text).collect());
    for (index, call) in (0..).zip(tool::parse_calls(&reply.parts)) {
        let ToolCall { id, name, input } = call;
        let input = ProviderEvent::ToolInput { index, delta: input };
        transcript.apply_events(vec![ProviderEvent::ToolCall { index, id, name }, input]);
    }
    transcript.complete_calls();
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

/// Moves the first delta instead of copying it: often it is the whole text.
fn append_text(text: &mut String, delta: String) {
    if text.is_empty() {
        *text = delta;
    } else {
        text.push_str(&delta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn run_transcript(batches: Vec<Vec<ProviderEvent>>) -> (Transcript, Vec<Value>) {
        let session_id = SessionId::new_unchecked("s");
        let message_id = MessageId::new_unchecked("reply");
        let user_message_id = MessageId::new_unchecked("question");
        let header = StreamHeader {
            message_id: &message_id,
            continues: None,
            session_id: &session_id,
            title: "Title",
            user_message_id: &user_message_id,
        };
        let mut transcript = Transcript::begin_stream(TurnId::new_unchecked("t"), &header);
        for batch in batches {
            transcript.apply_events(batch);
        }
        let reason = transcript.finish_reason().unwrap_or(FinishReason::Other);
        transcript.end_stream(StreamEnd::Finish {
            reason,
            model: Some("m"),
            usage: None,
            memory: None,
        });
        let bytes = transcript.take_frames().bytes;
        let frames = std::str::from_utf8(&bytes)
            .unwrap()
            .split_terminator("\n\n")
            .enumerate()
            .map(|(index, frame)| {
                let (id, data) = frame.split_once('\n').unwrap();
                assert_eq!(id, format!("id: t:{}", index + 1));
                let data = data.strip_prefix("data: ").unwrap();
                serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))
            })
            .collect();
        (transcript, frames)
    }

    fn text_event(text: &str) -> ProviderEvent {
        ProviderEvent::Text(text.to_owned())
    }

    #[test]
    fn plain_reply_frames_follow_protocol_order() {
        let (_, frames) = run_transcript(vec![
            vec![text_event("Hel"), text_event("lo")],
            vec![ProviderEvent::Finish(FinishReason::Stop)],
        ]);
        insta::assert_json_snapshot!(frames);
    }

    #[test]
    fn reasoning_is_stored_apart_from_text() {
        let thought = |text: &str| ProviderEvent::Reasoning(text.to_owned());
        let (transcript, frames) =
            run_transcript(vec![vec![thought("hm "), thought("yes"), text_event("Yes.")]]);
        let kinds: Vec<_> =
            frames.iter().map(|frame| frame["type"].as_str().unwrap_or("[DONE]")).collect();
        assert_eq!(transcript.message_body().content, "Yes.");
        assert_eq!(
            transcript.message_parts().as_json(),
            r#"[{"type":"reasoning","text":"hm yes"}]"#
        );
        assert_eq!(
            kinds[3..],
            [
                "reasoning-start",
                "reasoning-delta",
                "reasoning-delta",
                "reasoning-end",
                "text-start",
                "text-delta",
                "text-end",
                "finish-step",
                "finish",
                "[DONE]"
            ]
        );
    }

    #[test]
    fn tool_call_input_streams_then_completes() {
        let call =
            |index, id: &str| ProviderEvent::ToolCall { index, id: id.into(), name: "look".into() };
        let input = |index, delta: &str| ProviderEvent::ToolInput { index, delta: delta.into() };
        let (transcript, frames) = run_transcript(vec![
            vec![text_event("Let me see."), call(0, "a"), input(0, "{\"x\":"), call(1, "b")],
            vec![
                input(0, " 1}"),
                input(1, "{\"cut"),
                ProviderEvent::Finish(FinishReason::ToolCalls),
            ],
        ]);
        insta::assert_json_snapshot!(frames[4..]);
        let parts = r#"[{"type":"tool-call","toolCallId":"a","toolName":"look","input":{"x": 1}},{"type":"tool-call","toolCallId":"b","toolName":"look","input":"{\"cut"}]"#;
        assert_eq!(transcript.message_parts().as_json(), parts);
    }

    #[test]
    fn unfinished_call_is_discarded() {
        let (transcript, _) = run_transcript(vec![vec![
            ProviderEvent::ToolCall { index: 0, id: "a".into(), name: "look".into() },
            ProviderEvent::ToolInput { index: 0, delta: "{\"x\":".into() },
        ]]);
        assert!(transcript.completed_calls().is_empty() && transcript.message_parts().is_empty());
    }

    proptest! {
        #[test]
        fn batching_does_not_change_the_reply(
            pieces in proptest::collection::vec((any::<bool>(), "\\PC{0,6}"), 0..30),
            cuts in proptest::collection::vec(0usize..30, 0..8),
        ) {
            let events: Vec<ProviderEvent> = pieces
                .into_iter()
                .map(|(thinks, text)| if thinks { ProviderEvent::Reasoning(text) } else { ProviderEvent::Text(text) })
                .collect();
            let mut batches = vec![Vec::new()];
            for (index, event) in events.iter().enumerate() {
                if cuts.contains(&index) {
                    batches.push(Vec::new());
                }
                batches.last_mut().unwrap().push(event.clone());
            }
            let (once, frames) = run_transcript(vec![events]);
            let (cut, cut_frames) = run_transcript(batches);
            prop_assert_eq!(once.message_body().content, cut.message_body().content);
            prop_assert_eq!(once.message_parts().reasoning(), cut.message_parts().reasoning());
            prop_assert_eq!(frames, cut_frames);
        }
    }
}
