//! What a turn has said so far: provider events in, frames and the message out. No I/O.
//!
//! Which events came together changes how text is cut into frames, never what the frames of a
//! reader add up to, nor the message.

use super::frames::{
    self, Encoder, FinishMetadata, Frame, Frames, MemorySummary, Said, SessionData, StartMetadata,
    TitleData,
};
use crate::domain::message::{FinishReason, MessageBody, MessagePart, MessageParts};
use crate::domain::tool::{self, ToolCall};
use crate::domain::{Message, MessageId, MessageType, SessionId, Status, TurnId, Usage};
use crate::provider::ProviderEvent;
use bytes::Bytes;

/// The part that deltas are going into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Reasoning,
}

/// A reply in the making.
#[derive(Debug)]
pub(super) struct Transcript {
    encoder: Encoder,
    open: Open,
    /// Text parts begun so far; it makes their ids.
    texts: u32,
    reasonings: u32,
    part_id: String,
    text: String,
    reasoning: String,
    calls: Vec<Call>,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
    /// The model that answers, if it is another than was asked.
    model: Option<String>,
}

/// A function call in the making.
#[derive(Debug)]
struct Call {
    index: u32,
    call: ToolCall,
    /// Whether the model was done with it.
    is_whole: bool,
}

/// What is known when a stream begins.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) message_id: &'a MessageId,
    /// The reply that this one goes on with, behind the results of its calls. Clients of the AI SDK
    /// show both as one message, by that one's name.
    pub(super) continues: Option<&'a MessageId>,
    pub(super) session_id: &'a SessionId,
    pub(super) title: &'a str,
    pub(super) user_message_id: &'a MessageId,
}

impl Opening<'_> {
    fn session_data(&self) -> Frame<'_> {
        let data = SessionData {
            session_id: self.session_id,
            title: self.title,
            user_message_id: self.user_message_id,
        };
        Frame::DataSession { data, transient: true }
    }
}

/// How a stream ends, once the reply is stored.
#[derive(Debug)]
pub(super) enum Ending<'a> {
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
    /// Begins the stream of a reply.
    pub(super) fn begin(turn_id: TurnId, opening: &Opening<'_>) -> Self {
        let mut encoder = Encoder::new(turn_id.clone());
        let Opening { message_id, session_id, continues, .. } = *opening;
        let own_name = continues.map(|_| message_id);
        encoder.frame(&Frame::Start {
            message_id: continues.unwrap_or(message_id),
            message_metadata: StartMetadata { turn_id: &turn_id, session_id, message_id: own_name },
        });
        encoder.frame(&opening.session_data());
        encoder.frame(&Frame::StartStep);
        Self::with(encoder)
    }

    /// Goes on with a reply whose frames are in a log.
    pub(super) fn from_log(turn_id: TurnId, log: &[Bytes]) -> Self {
        let frames = Frames::counted(log.concat().into());
        let mut transcript = Self::with(Encoder::after(turn_id, frames.last));
        for said in frames::read(&frames.bytes) {
            match said {
                Said::TextStart { id } => (transcript.open, transcript.part_id) = (Open::Text, id),
                Said::ReasoningStart { id } => {
                    (transcript.open, transcript.part_id) = (Open::Reasoning, id)
                }
                Said::TextDelta { delta } => append(&mut transcript.text, delta),
                Said::ReasoningDelta { delta } => append(&mut transcript.reasoning, delta),
                Said::TextEnd | Said::ReasoningEnd => transcript.open = Open::Nothing,
                Said::ToolInputAvailable { tool_call_id: id, tool_name: name, input } => {
                    let index = u32::try_from(transcript.calls.len()).unwrap_or(u32::MAX);
                    let call = ToolCall { id, name, input: input.to_string() };
                    transcript.calls.push(Call { index, call, is_whole: true });
                }
                Said::Other => {}
            }
        }
        transcript
    }

    fn with(encoder: Encoder) -> Self {
        Self {
            encoder,
            open: Open::Nothing,
            texts: 0,
            reasonings: 0,
            part_id: String::new(),
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            usage: None,
            finish: None,
            model: None,
        }
    }

    /// Takes in what the provider sent.
    pub(super) fn fold(&mut self, events: Vec<ProviderEvent>) {
        for event in events {
            match event {
                ProviderEvent::Text(delta) => {
                    self.turn_to(Open::Text);
                    self.encoder.frame(&Frame::TextDelta { id: &self.part_id, delta: &delta });
                    append(&mut self.text, delta);
                }
                ProviderEvent::Reasoning(delta) => {
                    self.turn_to(Open::Reasoning);
                    self.encoder.frame(&Frame::ReasoningDelta { id: &self.part_id, delta: &delta });
                    append(&mut self.reasoning, delta);
                }
                ProviderEvent::ToolCall { index, id, name } => self.begin_call(index, id, name),
                ProviderEvent::ToolInput { index, delta } => self.add_to_call(index, &delta),
                ProviderEvent::Usage(usage) => self.usage = Some(usage),
                ProviderEvent::Finish(reason) => {
                    if reason == FinishReason::ToolCalls {
                        self.end_calls();
                    }
                    self.finish = Some(reason);
                }
                ProviderEvent::Model(model) => self.model = Some(model),
            }
        }
    }

    fn begin_call(&mut self, index: u32, id: String, name: String) {
        self.close_part();
        self.encoder.frame(&Frame::ToolInputStart { tool_call_id: &id, tool_name: &name });
        let call = ToolCall { id, name, input: String::new() };
        self.calls.push(Call { index, call, is_whole: false });
    }

    fn add_to_call(&mut self, index: u32, delta: &str) {
        let Some(Call { call, .. }) = self.calls.iter_mut().rfind(|call| call.index == index)
        else {
            return;
        };
        let frame = Frame::ToolInputDelta { tool_call_id: &call.id, input_text_delta: delta };
        self.encoder.frame(&frame);
        call.input.push_str(delta);
    }

    /// The model is done: its calls are whole. Those of a reply that ends otherwise are not, and
    /// nobody is to carry them out.
    fn end_calls(&mut self) {
        for Call { call, is_whole, .. } in self.calls.iter_mut().filter(|call| !call.is_whole) {
            let (tool_call_id, tool_name) = (call.id.as_str(), call.name.as_str());
            if call.input.trim().is_empty() {
                // Whoever puts the deltas together wants JSON, too.
                let nothing = "{}";
                self.encoder
                    .frame(&Frame::ToolInputDelta { tool_call_id, input_text_delta: nothing });
                call.input = nothing.to_owned();
            }
            let input = tool::encode_input(&call.input);
            self.encoder.frame(&match tool::is_valid_json(&call.input) {
                true => Frame::ToolInputAvailable { tool_call_id, tool_name, input: &input },
                false => {
                    let error_text = "the arguments of the call are not JSON";
                    Frame::ToolInputError { tool_call_id, tool_name, input: &input, error_text }
                }
            });
            *is_whole = true;
        }
    }

    /// Ends the open part if it is another, and begins this one.
    fn turn_to(&mut self, part: Open) {
        if self.open == part {
            return;
        }
        self.close_part();
        self.open = part;
        match part {
            Open::Nothing => {}
            Open::Text => {
                self.texts += 1;
                self.part_id = format!("text-{}", self.texts);
                self.encoder.frame(&Frame::TextStart { id: &self.part_id });
            }
            Open::Reasoning => {
                self.reasonings += 1;
                self.part_id = format!("reasoning-{}", self.reasonings);
                self.encoder.frame(&Frame::ReasoningStart { id: &self.part_id });
            }
        }
    }

    fn close_part(&mut self) {
        match self.open {
            Open::Nothing => {}
            Open::Text => self.encoder.frame(&Frame::TextEnd { id: &self.part_id }),
            Open::Reasoning => self.encoder.frame(&Frame::ReasoningEnd { id: &self.part_id }),
        }
        self.open = Open::Nothing;
    }

    /// Tells of the session's new title.
    pub(super) fn title(&mut self, title: &str) {
        self.encoder.frame(&Frame::DataTitle { data: TitleData { title }, transient: true });
    }

    /// Ends the stream.
    pub(super) fn end(&mut self, ending: Ending<'_>) {
        self.close_part();
        match ending {
            Ending::Finish { reason, model, usage, memory } => {
                self.encoder.frame(&Frame::FinishStep);
                let message_metadata = Some(FinishMetadata { model, usage, memory });
                self.encoder.frame(&Frame::Finish { finish_reason: reason, message_metadata });
            }
            Ending::Abort => self.encoder.frame(&Frame::Abort),
            Ending::Error(error_text) => self.encoder.frame(&Frame::Error { error_text }),
        }
        self.encoder.done();
    }

    /// The frames written since the last call.
    pub(super) fn take_frames(&mut self) -> Frames {
        self.encoder.take()
    }

    /// The functions that the model wants called.
    pub(super) fn calls(&self) -> Vec<ToolCall> {
        let whole = self.calls.iter().filter(|call| call.is_whole);
        whole.map(|call| call.call.clone()).collect()
    }

    /// Thoughts and calls so far, as a message keeps them.
    fn parts(&self) -> MessageParts {
        let thoughts = Some(self.reasoning.clone()).filter(|thoughts| !thoughts.is_empty());
        let thoughts = thoughts.map(|text| MessagePart::Reasoning { text });
        let calls = self.calls().into_iter().map(|call| MessagePart::ToolCall {
            input: tool::encode_input(&call.input),
            tool_call_id: call.id,
            tool_name: call.name,
        });
        MessageParts::from_parts(&thoughts.into_iter().chain(calls).collect::<Vec<_>>())
    }

    /// All of it, as a message keeps it.
    pub(super) fn body(&self) -> MessageBody {
        MessageBody { content: self.text.clone(), parts: self.parts(), kind: MessageType::Text }
    }

    /// The tokens that the provider says it took.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Why the model stopped by itself, if it has.
    pub(super) fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// The model that answers, if it is another than was asked.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// The stream of a message that a person will answer: nothing but where it is, and the end.
pub(super) fn handed_over(turn_id: TurnId, opening: &Opening<'_>) -> Bytes {
    let mut encoder = Encoder::new(turn_id);
    encoder.frame(&opening.session_data());
    encoder.frame(&Frame::Finish { finish_reason: FinishReason::Stop, message_metadata: None });
    encoder.done();
    encoder.take().bytes
}

/// The stream of a turn that waited and will not run.
pub(super) fn aborted(turn_id: TurnId) -> Frames {
    aborted_behind(turn_id, 0)
}

/// The end, behind the frame with the number `last`, of a stream that was aborted.
pub(super) fn aborted_behind(turn_id: TurnId, last: u64) -> Frames {
    let mut encoder = Encoder::after(turn_id, last);
    encoder.frame(&Frame::Abort);
    encoder.done();
    encoder.take()
}

/// The end of a stream whose reply could not be stored, in place of the end that was to begin with
/// the frame `first`.
pub(super) fn failed(turn_id: TurnId, first: u64, error_text: &str) -> Frames {
    let mut encoder = Encoder::after(turn_id, first - 1);
    encoder.frame(&Frame::Error { error_text });
    encoder.done();
    encoder.take()
}

/// The stream of a reply that is stored: the same message, framed anew.
pub(super) fn replay(turn: TurnId, reply: &Message, opening: &Opening<'_>) -> Bytes {
    let mut transcript = Transcript::begin(turn, opening);
    let reasoning = reply.parts.reasoning().map(ProviderEvent::Reasoning);
    let text = Some(reply.content.clone()).filter(|text| !text.is_empty()).map(ProviderEvent::Text);
    transcript.fold(reasoning.into_iter().chain(text).collect());
    for (index, call) in (0..).zip(tool::parse_calls(&reply.parts)) {
        let ToolCall { id, name, input } = call;
        let input = ProviderEvent::ToolInput { index, delta: input };
        transcript.fold(vec![ProviderEvent::ToolCall { index, id, name }, input]);
    }
    transcript.end_calls();
    let cause = reply.error.as_ref().map(|error| error.message.as_str());
    transcript.end(match (reply.status, cause) {
        (Status::Complete, _) => Ending::Finish {
            reason: reply.finish_reason.unwrap_or(FinishReason::Other),
            model: reply.model.as_deref(),
            usage: reply.usage,
            memory: None,
        },
        (Status::Interrupted, None) => Ending::Abort,
        (_, cause) => Ending::Error(cause.unwrap_or("the reply failed")),
    });
    transcript.take_frames().bytes
}

/// The first piece, which is often the whole, moves instead of being copied.
fn append(text: &mut String, delta: String) {
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

    fn transcript(batches: Vec<Vec<ProviderEvent>>) -> (Transcript, Vec<Value>) {
        let session_id = SessionId::trusted("s");
        let message_id = MessageId::trusted("reply");
        let user_message_id = MessageId::trusted("question");
        let opening = Opening {
            message_id: &message_id,
            continues: None,
            session_id: &session_id,
            title: "Title",
            user_message_id: &user_message_id,
        };
        let mut transcript = Transcript::begin(TurnId::trusted("t"), &opening);
        for batch in batches {
            transcript.fold(batch);
        }
        let reason = transcript.finish().unwrap_or(FinishReason::Other);
        transcript.end(Ending::Finish { reason, model: Some("m"), usage: None, memory: None });
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

    fn text(text: &str) -> ProviderEvent {
        ProviderEvent::Text(text.to_owned())
    }

    #[test]
    fn a_plain_reply_has_the_order_of_the_protocol() {
        let (_, frames) = transcript(vec![
            vec![text("Hel"), text("lo")],
            vec![ProviderEvent::Finish(FinishReason::Stop)],
        ]);
        insta::assert_json_snapshot!(frames);
    }

    #[test]
    fn reasoning_is_kept_apart_from_the_answer() {
        let thought = |text: &str| ProviderEvent::Reasoning(text.to_owned());
        let (told, frames) = transcript(vec![vec![thought("hm "), thought("yes"), text("Yes.")]]);
        let kinds: Vec<_> =
            frames.iter().map(|frame| frame["type"].as_str().unwrap_or("[DONE]")).collect();
        assert_eq!(told.body().content, "Yes.");
        assert_eq!(told.parts().as_json(), r#"[{"type":"reasoning","text":"hm yes"}]"#);
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
    fn calls_are_told_while_they_are_written_and_whole_at_the_end() {
        let call =
            |index, id: &str| ProviderEvent::ToolCall { index, id: id.into(), name: "look".into() };
        let input = |index, delta: &str| ProviderEvent::ToolInput { index, delta: delta.into() };
        let (told, frames) = transcript(vec![
            vec![text("Let me see."), call(0, "a"), input(0, "{\"x\":"), call(1, "b")],
            vec![
                input(0, " 1}"),
                input(1, "{\"cut"),
                ProviderEvent::Finish(FinishReason::ToolCalls),
            ],
        ]);
        insta::assert_json_snapshot!(frames[4..]);
        let parts = r#"[{"type":"tool-call","toolCallId":"a","toolName":"look","input":{"x": 1}},{"type":"tool-call","toolCallId":"b","toolName":"look","input":"{\"cut"}]"#;
        assert_eq!(told.parts().as_json(), parts);
    }

    #[test]
    fn a_call_that_the_model_was_not_done_with_is_none() {
        let (told, _) = transcript(vec![vec![
            ProviderEvent::ToolCall { index: 0, id: "a".into(), name: "look".into() },
            ProviderEvent::ToolInput { index: 0, delta: "{\"x\":".into() },
        ]]);
        assert!(told.calls().is_empty() && told.parts().is_empty());
    }

    proptest! {
        #[test]
        fn any_batching_of_the_events_adds_up_to_the_same_reply(
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
            let (once, frames) = transcript(vec![events]);
            let (cut, cut_frames) = transcript(batches);
            prop_assert_eq!(once.body().content, cut.body().content);
            prop_assert_eq!(once.parts().reasoning(), cut.parts().reasoning());
            prop_assert_eq!(frames, cut_frames);
        }
    }
}
