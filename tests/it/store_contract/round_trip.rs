//! All stored text can be exported and imported again.

use super::import::session_file;
use super::{at, id, message, user};
use echoic::domain::content::MessageBody;
use echoic::domain::export_format::ExportFormat;
use echoic::domain::message::{FinishReason, MessageError, MessagePart, MessageParts};
use echoic::domain::{MessageId, MessageType, Principal, Role, Status, Usage, tool};
use echoic::store::{MessageParent, NewMessage, ReplyFields, Store};
use echoic::transfer::export::{ExportScope, SessionExporter};
use echoic::transfer::import::{ImportReport, SessionImporter};
use echoic::transfer::session_record::ImportOptions;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::sync::Arc;
use tokio::runtime::Handle;

const CASES: usize = 40;

/// Text as users and models write it. NUL and halves of emoji never reach a store.
fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        "",
        " \n\t",
        "\u{feff}x",
        "\u{2028}\u{202e}\u{fffd}\u{ffff}",
        "\u{1f600}\u{1f3fd}e\u{301}",
        "\u{e200}cite\u{e202}turn0\u{e201}",
        "\\u0000 \\ud83d \" \\",
        "{\"a\": [1]}",
        "\u{1}\u{7f}\u{9b}",
    ]);
    prop_oneof![
        4 => any::<String>().prop_map(|text| text.replace('\0', "")),
        3 => odd.prop_map(str::to_owned),
        1 => Just("long ".repeat(70_000)),
    ]
}

/// Arguments of a call as models write them.
fn arguments() -> impl Strategy<Value = String> {
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let odd = vec![
        r#"{"a":"\ud83d","b":"\u0000","c":"\ud83d\ude00"}"#.to_owned(),
        r#"{"a":1.50,"a":1e400}"#.to_owned(),
        "{\"cut\":".to_owned(),
        deep(120),
        deep(126),
        deep(5000),
    ];
    prop_oneof![text(), prop::sample::select(odd)]
}

fn part() -> impl Strategy<Value = MessagePart> {
    prop_oneof![
        text().prop_map(|text| MessagePart::Reasoning { text }),
        text().prop_map(|text| MessagePart::Text { text }),
        (text(), text()).prop_map(|(url, title)| MessagePart::SourceUrl {
            source_id: "s".to_owned(),
            url,
            title: Some(title)
        }),
        (text(), arguments()).prop_map(|(name, input)| MessagePart::ToolCall {
            tool_call_id: "call_1".to_owned(),
            tool_name: name,
            input: tool::encode_input(&input),
            origin: None,
        }),
        (text(), any::<bool>()).prop_map(|(output, is_error)| MessagePart::ToolResult {
            tool_call_id: "call_1".to_owned(),
            tool_name: "f".to_owned(),
            output: to_raw_value(&output).unwrap(),
            is_error,
            message_id: Some(MessageId::new_unchecked("m")),
        }),
    ]
}

/// The parts of a message: those that the server writes, or those that a client sends.
fn parts() -> impl Strategy<Value = MessageParts> {
    let own =
        prop::collection::vec(part(), 0..4).prop_map(|parts| MessageParts::from_parts(&parts));
    let sent = text().prop_map(|text| {
        let sent = serde_json::json!([
            {"type": "file", "mediaType": "text/plain", "url": "data:text/plain;base64,eA==", "filename": text},
            {"type": "data-x", "data": {"z": text, "a": [1.5, null]}}]);
        MessageParts::parse("parts", &to_raw_value(&sent).unwrap()).unwrap()
    });
    prop_oneof![3 => own, 1 => sent]
}

fn reply_fields() -> impl Strategy<Value = ReplyFields> {
    let status = prop::sample::select(vec![Status::Complete, Status::Interrupted, Status::Failed]);
    let reasons = vec![None, Some(FinishReason::Stop), Some(FinishReason::ToolCalls)];
    // Names of models and errors are short, unlike texts.
    let name = || text().prop_map(|text| text.chars().take(200).collect::<String>());
    let error = prop::option::of((name(), name()));
    (status, prop::sample::select(reasons), error, prop::option::of(name())).prop_map(
        |(status, finish_reason, error, model)| ReplyFields {
            status,
            model,
            finish_reason,
            error: error.map(|(code, message)| MessageError { code, message }),
            usage: Some(Usage { prompt_tokens: 3, estimated: true, ..Usage::default() }),
            // As after an import, which is what it is compared with.
            imported: true,
        },
    )
}

fn any_message() -> impl Strategy<Value = NewMessage> {
    let roles = vec![Role::User, Role::Assistant, Role::System, Role::Tool];
    (prop::sample::select(roles), text(), parts(), reply_fields(), any::<bool>()).prop_map(
        |(role, content, parts, reply, is_image)| {
            let kind = if is_image { MessageType::Image } else { MessageType::Text };
            let body = MessageBody { content, parts, kind };
            let reply = if role == Role::Assistant { reply } else { ReplyFields::default() };
            NewMessage { body, reply, ..message("ada", role, "", 0) }
        },
    )
}

async fn export(store: &Arc<dyn Store>, who: &Principal, format: ExportFormat) -> Vec<u8> {
    let scope = ExportScope::Session(id("s"));
    let mut export =
        SessionExporter::open(store.clone(), who.clone(), scope, format).await.unwrap();
    let mut file = Vec::new();
    while let Some(chunk) = export.next_chunk().await.unwrap() {
        file.extend(chunk);
    }
    file
}

async fn import(store: &Arc<dyn Store>, who: &Principal, file: Vec<u8>) -> ImportReport {
    let options =
        ImportOptions { max_message: 1000, trusts_participants: true, needs_consent: false };
    let mut import = SessionImporter::new(store.clone(), who.clone(), options, Handle::current());
    let task = tokio::task::spawn_blocking(move || {
        let read = import.read_file(file.as_slice());
        import.finish(read).unwrap()
    });
    task.await.unwrap()
}

/// The exported session without the fields that an import always sets itself.
fn comparable(file: &[u8]) -> Value {
    let mut file: Value = serde_json::from_slice(file).unwrap();
    let session = file["sessions"][0].as_object_mut().unwrap();
    session.retain(|field, _| !matches!(field.as_str(), "version" | "updatedAt" | "activeTurn"));
    file
}

pub async fn any_stored_text_survives_export_and_import(store: &Arc<dyn Store>) {
    let ada = user("ada");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..CASES {
        let messages = prop::collection::vec(any_message(), 1..5);
        let messages = messages.new_tree(&mut runner).unwrap().current();
        let stored = messages.iter().cloned().map(|message| (message, MessageParent::Head));
        store.import_session(&ada, session_file("s", stored.collect()), at(0)).await.unwrap();
        let file = export(store, &ada, ExportFormat::Json).await;
        let lines = export(store, &ada, ExportFormat::Jsonl).await;
        for copy in [&file, &lines] {
            store.delete_session(&ada, &id("s")).await.unwrap();
            let report = import(store, &ada, copy.clone()).await;
            assert!(report.skipped.is_empty(), "{messages:?}: {report:?}");
            let imported = &report.sessions[0];
            assert!(imported.left_out.is_empty(), "{messages:?}: {report:?}");
            assert!(imported.mended.iter().all(|note| note.kind == "blank content"), "{report:?}");
            let again = export(store, &ada, ExportFormat::Json).await;
            assert_eq!(comparable(&again), comparable(&file));
            let report = import(store, &ada, file.clone()).await;
            assert_eq!(report.sessions[0].messages, 0);
        }
        store.delete_session(&ada, &id("s")).await.unwrap();
    }
}
