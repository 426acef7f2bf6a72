//! Tests of frames and messages built from provider events.

use super::*;
use proptest::prelude::*;

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
    assert_eq!(transcript.message_parts().as_json(), r#"[{"type":"reasoning","text":"hm yes"}]"#);
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
fn text_that_turns_out_to_be_thoughts_is_stored_as_such() {
    let (transcript, frames) = run_transcript(vec![
        vec![text_event("hm "), text_event("yes\n")],
        vec![ProviderEvent::ThoughtsEnd, text_event("Yes.")],
    ]);
    assert_eq!(transcript.message_body().content, "Yes.");
    assert_eq!(transcript.message_parts().as_json(), r#"[{"type":"reasoning","text":"hm yes\n"}]"#);
    let text_starts = frames.iter().filter(|frame| frame["type"] == "text-start");
    assert_eq!(text_starts.count(), 2);
}

#[test]
fn tool_call_input_streams_then_completes() {
    let call = |index| ProviderEvent::ToolCall {
        index,
        provider_id: None,
        name: "look".into(),
        opaque_data: None,
    };
    let input = |index, delta: &str| ProviderEvent::ToolInput { index, delta: delta.into() };
    let (transcript, frames) = run_transcript(vec![
        vec![text_event("Let me see."), call(0), input(0, "{\"x\":"), call(1)],
        vec![input(0, " 1}"), input(1, "{\"cut"), ProviderEvent::Finish(FinishReason::ToolCalls)],
    ]);
    insta::assert_json_snapshot!(frames[4..]);
    let id = |number| tool::derive_call_id(&TurnId::new_unchecked("t"), number);
    let parts = format!(
        r#"[{{"type":"tool-call","toolCallId":"{}","toolName":"look","input":{{"x": 1}}}},{{"type":"tool-call","toolCallId":"{}","toolName":"look","input":"{{\"cut"}}]"#,
        id(0),
        id(1)
    );
    assert_eq!(transcript.message_parts().as_json(), parts);
}

#[test]
fn unfinished_call_is_discarded() {
    let (transcript, _) = run_transcript(vec![vec![
        ProviderEvent::ToolCall {
            index: 0,
            provider_id: None,
            name: "look".into(),
            opaque_data: None,
        },
        ProviderEvent::ToolInput { index: 0, delta: "{\"x\":".into() },
    ]]);
    assert!(transcript.message_parts().is_empty());
}

#[test]
fn reply_restored_from_its_log_is_the_same() {
    let call = |index: u32, signature: &str| ProviderEvent::ToolCall {
        index,
        provider_id: Some("call-1".into()),
        name: "look".into(),
        opaque_data: Some(serde_json::json!({ "signature": signature })),
    };
    let input = |index, delta: &str| ProviderEvent::ToolInput { index, delta: delta.into() };
    let late = serde_json::json!({"signature": ": origin c2ln"});
    let (session_id, message_id) = (SessionId::new_unchecked("s"), MessageId::new_unchecked("m"));
    let header = StreamHeader {
        message_id: &message_id,
        continues: None,
        session_id: &session_id,
        title: "Title",
        user_message_id: &message_id,
    };
    let mut transcript = Transcript::begin_stream(TurnId::new_unchecked("t"), &header);
    transcript.set_answering_model("openai", "m".to_owned());
    let mut log = vec![transcript.take_frames().log_bytes()];
    for batch in [
        vec![text_event("First "), call(0, "a"), input(0, "{\"x\":"), input(0, " 1.0}")],
        vec![ProviderEvent::Reasoning("\n: origin {}\n".into()), text_event("Second.")],
        vec![call(1, "b"), input(1, "{\"cut"), text_event("Third."), call(2, "c")],
        vec![ProviderEvent::ToolCallData { index: 1, opaque_data: late }],
        vec![ProviderEvent::Finish(FinishReason::ToolCalls)],
    ] {
        transcript.apply_events(batch);
        let frames = transcript.take_frames();
        assert!(!String::from_utf8_lossy(&frames.bytes).contains("call-1"), "it is not shown");
        log.push(frames.log_bytes());
        let stored = transcript.message_body();
        let restored = Transcript::from_log(TurnId::new_unchecked("t"), &log).message_body();
        assert_eq!(restored.content, stored.content);
        assert_eq!(restored.parts.as_json(), stored.parts.as_json());
    }
    let stored = transcript.message_body();
    assert_eq!(stored.parts.as_json().matches("call-1").count(), 3, "{stored:?}");
    assert!(stored.parts.as_json().contains(": origin c2ln"), "{stored:?}");
    let shown = FrameBatch::from_bytes(log.concat().into());
    assert!(!String::from_utf8_lossy(&shown.bytes).contains("call-1"));
    assert_eq!(shown.bytes.len(), shown.offset_of(shown.last + 1));
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

/// Applies batches of events until the reply is full, and returns the number of its parts and
/// the bytes of its frames.
fn fill_reply(mut event_of: impl FnMut(u32) -> Vec<ProviderEvent>) -> (usize, usize) {
    let (mut transcript, _) = run_transcript(Vec::new());
    for batch in 0.. {
        transcript.apply_events(event_of(batch));
        if transcript.is_full() {
            break;
        }
        assert!(batch < 10_000_000);
    }
    let bytes = transcript.message_body().parts.as_json().len();
    assert!(bytes <= 2 * MAX_REPLY_BYTES, "{bytes}");
    (transcript.parts.len(), transcript.encoder.written_bytes())
}

fn call_event(index: u32, name: &str) -> ProviderEvent {
    let name = name.to_owned();
    ProviderEvent::ToolCall { index, provider_id: None, name, opaque_data: None }
}

#[test]
fn every_kind_of_part_fills_a_reply() {
    let source = |at: u32| ProviderEvent::Source { url: format!("https://a.b/{at}"), title: None };
    let (sources, _) = fill_reply(|at| vec![source(0), source(at)]);
    assert!((10_000..20_000).contains(&sources), "{sources}");
    let (calls, _) = fill_reply(|at| vec![call_event(at, "f"), call_event(0, "g")]);
    assert_eq!(calls, MAX_CALLS);
    let (names, _) = fill_reply(|at| vec![call_event(at, &"n".repeat(100_000))]);
    assert_eq!(names, 41);
    let reasoning = || ProviderEvent::Reasoning("y".to_owned());
    let (texts, _) = fill_reply(|_| vec![text_event("x"), reasoning()]);
    assert!((10_000..20_000).contains(&texts), "{texts}");
}

#[test]
fn frames_of_tiny_deltas_are_bounded() {
    let (parts, frames) = fill_reply(|_| vec![text_event("x"), text_event("")]);
    assert_eq!(parts, 1);
    assert!((MAX_STREAM_BYTES..MAX_STREAM_BYTES + 1000).contains(&frames), "{frames}");
}
