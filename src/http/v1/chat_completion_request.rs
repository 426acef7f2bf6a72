//! The body of `POST /v1/chat/completions`: what is this server's matter is read, the rest is kept
//! as it came for the provider.

use super::message_content::MessageContent;
use crate::chat::{Prompt, PromptMessage, TurnIntent};
use crate::domain::content::MessageBody;
use crate::domain::extra_params::{ExtraParams, check_function_tools};
use crate::domain::image::find_images;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{NewToolResult, ToolCall, ToolResult};
use crate::domain::{FieldError, MessageType, Role};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::body::parse_json;
use crate::json::StrictObject;
use crate::store::{DuplicateIdPolicy, MessageParent};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// The fields that a session's turn takes over itself. The others go to the provider as they are.
const HANDLED_FIELDS: &[&str] = &[
    "session_id",
    "model",
    "messages",
    "stream",
    "stream_options",
    "n",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "functions",
    "function_call",
    "logprobs",
    "top_logprobs",
    "audio",
    "modalities",
    "prompt_cache_key",
];

/// A body whose fields were told apart, and no more.
pub(super) struct RawCompletionRequest<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    bytes: &'a Bytes,
}

impl<'a> RawCompletionRequest<'a> {
    /// Reads the fields of a JSON object.
    pub(super) fn parse(bytes: &'a Bytes) -> Result<Self> {
        Ok(Self { fields: parse_json(bytes)?, bytes })
    }

    /// One of the fields; `None` if it is missing or null.
    fn get<T: Deserialize<'a>>(
        &self,
        name: &'static str,
        wants: &'static str,
    ) -> Result<Option<T>> {
        let Some(value) = self.fields.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map_err(|_| Error::invalid_field(name, wants))
    }

    /// The session it is for.
    pub(super) fn session_id(&self) -> Result<Option<String>> {
        self.get("session_id", "must be a string")
    }

    /// Whether the reply is to be streamed.
    pub(super) fn is_stream(&self) -> Result<bool> {
        Ok(self.get("stream", "must be a boolean")?.unwrap_or(false))
    }

    /// Whether a stream is to end with what it cost.
    pub(super) fn includes_usage(&self) -> Result<bool> {
        #[derive(Deserialize)]
        struct StreamOptionsInput {
            #[serde(default)]
            include_usage: Option<bool>,
        }
        let options =
            self.get::<StrictObject<StreamOptionsInput>>("stream_options", "must be an object")?;
        Ok(options.and_then(|StrictObject(options)| options.include_usage).unwrap_or(false))
    }

    /// The model it asks for, if it names one.
    pub(super) fn model(&self) -> Result<Option<String>> {
        let named: Option<String> = self.get("model", "must be a string")?;
        Ok(named.filter(|model| !model.is_empty() && model != "default"))
    }

    /// The body for a provider: as it came, but for a model where none is named.
    pub(super) fn build_provider_body(&self, default_model: &str) -> Result<Bytes> {
        if self.model()?.is_some() && !self.fields.contains_key("session_id") {
            return Ok(self.bytes.clone());
        }
        let mut fields = self.fields.clone();
        fields.remove("session_id");
        let model = to_raw_value(default_model).map_err(Error::internal)?;
        if self.model()?.is_none() {
            fields.insert("model".to_owned(), &model);
        }
        serde_json::to_vec(&fields).map(Bytes::from).map_err(Error::internal)
    }

    /// What a turn uses: the body's own settings, and in front of them what its messages say to the
    /// model before everything else.
    pub(super) fn parse_settings(&self, api: &ApiState) -> Result<SessionSettings> {
        let instructions = self.leading_instructions()?;
        let settings = SessionSettings {
            model: self.model()?,
            system_prompt: (!instructions.is_empty()).then(|| instructions.join("\n\n")),
            ..self.parse_sampling()?
        };
        let settings = SessionSettings { extra_params: self.collect_extra_params(), ..settings };
        Ok(settings.validate(api.size_limits.message).map_err(rename_error_field)?)
    }

    fn parse_sampling(&self) -> Result<SessionSettings> {
        let tokens = "must be a whole number of at least 1";
        let most = self.get("max_completion_tokens", tokens)?;
        Ok(SessionSettings {
            temperature: self.get("temperature", "must be a number from 0 to 2")?,
            top_p: self.get("top_p", "must be a number from 0 to 1")?,
            max_output_tokens: most.or(self.get("max_tokens", tokens)?),
            ..SessionSettings::default()
        })
    }

    fn collect_extra_params(&self) -> ExtraParams {
        let theirs =
            self.fields.iter().filter(|(name, _)| !HANDLED_FIELDS.contains(&name.as_str()));
        ExtraParams::new(theirs.map(|(name, value)| (name.clone(), (*value).to_owned())).collect())
    }

    /// The new message of a turn: the last one. Those before it are what the client believes was
    /// said; the session knows.
    pub(super) fn parse_intent(&self, api: &ApiState) -> Result<TurnIntent> {
        let messages = self.parse_messages()?;
        let Some(last) = messages.last() else {
            return Err(Error::invalid_field("messages", "must hold at least one message"));
        };
        if last.role == "tool" {
            let (results, limit) = (parse_tool_results(&messages)?, api.size_limits.message);
            return Ok(TurnIntent::SubmitToolResults { results, reply_id: None, max_bytes: limit });
        }
        if last.role != "user" {
            let wants =
                "must end with a message of the role user, or of tools, where they go to a session";
            return Err(Error::invalid_field("messages", wants));
        }
        let MessageContent { text, parts } = last.parse_content(messages.len() - 1)?;
        let body = MessageBody::parse(
            "messages",
            text,
            parts,
            MessageType::Text,
            api.size_limits.message,
        )?;
        let (parent, on_known) = (MessageParent::Head, DuplicateIdPolicy::Reject);
        Ok(TurnIntent::Send {
            role: Role::User,
            body,
            client_message_id: None,
            parent,
            on_duplicate_id: on_known,
        })
    }

    /// All of it, for a provider that does not speak Chat Completions.
    pub(super) fn build_prompt(&self, default_model: &str) -> Result<Prompt> {
        let mut messages = Vec::new();
        for (index, message) in self.parse_messages()?.into_iter().enumerate() {
            let role = match message.role.as_str() {
                "system" | "developer" => Role::System,
                "user" => Role::User,
                "assistant" => Role::Assistant,
                "tool" => Role::Tool,
                _ => return Err(unknown_role_error(index)),
            };
            let MessageContent { text, parts } = message.parse_content(index)?;
            let images = find_images(&parts);
            let calls = message.parse_tool_calls(index)?;
            let result = message.tool_call_id.clone().filter(|_| role == Role::Tool);
            let results = result.map(|call_id| {
                let (output, is_error) = (text.clone(), false);
                ToolResult { call_id, output, is_error }
            });
            let results = results.into_iter().collect();
            messages.push(PromptMessage { role, content: text.into(), images, calls, results });
        }
        if messages.is_empty() {
            return Err(Error::invalid_field("messages", "must hold at least one message"));
        }
        let SessionSettings { temperature, top_p, max_output_tokens, .. } =
            self.parse_sampling()?;
        Ok(Prompt {
            model: self.model()?.unwrap_or_else(|| default_model.to_owned()),
            messages,
            temperature,
            top_p,
            max_output_tokens,
            extra_params: self.collect_extra_params(),
            cache_key: None,
        })
    }

    /// Refuses what a reply that passes through this server cannot hold.
    pub(super) fn check_supported(&self) -> Result<()> {
        let old: Option<Vec<&RawValue>> = self.get("functions", "must be a list")?;
        if old.is_some_and(|functions| !functions.is_empty()) {
            return Err(Error::invalid_field(
                "functions",
                "must be left out: tools took its place",
            ));
        }
        check_function_tools("tools", self.fields.get("tools").copied())?;
        if self.get::<u64>("n", "must be a whole number")?.is_some_and(|n| n != 1) {
            return Err(Error::invalid_field("n", "must be 1: a session has one reply at a time"));
        }
        if self.get("logprobs", "must be a boolean")? == Some(true) {
            return Err(Error::invalid_field(
                "logprobs",
                "must be left out where this server answers",
            ));
        }
        let kinds: Option<Vec<String>> = self.get("modalities", "must be a list of strings")?;
        if kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")) {
            return Err(Error::invalid_field("modalities", "must be [\"text\"]"));
        }
        Ok(())
    }

    /// System messages in front of everything else.
    fn leading_instructions(&self) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for (index, message) in self.parse_messages()?.iter().enumerate() {
            if !matches!(message.role.as_str(), "system" | "developer") {
                break;
            }
            texts.push(message.parse_content(index)?.text);
        }
        Ok(texts)
    }

    fn parse_messages(&self) -> Result<Vec<CompletionMessage<'a>>> {
        /// The one field; what it says is named in the complaint.
        #[derive(Deserialize)]
        struct MessagesField<'a> {
            #[serde(borrow)]
            messages: Vec<StrictObject<CompletionMessage<'a>>>,
        }
        if !self.fields.contains_key("messages") {
            return Err(Error::invalid_field("messages", "is missing"));
        }
        let MessagesField { messages } = parse_json(self.bytes)?;
        Ok(messages.into_iter().map(|StrictObject(message)| message).collect())
    }
}

#[derive(Deserialize)]
struct CompletionMessage<'a> {
    role: String,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    tool_calls: Option<Vec<CompletionToolCall>>,
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
struct CompletionToolCall {
    id: String,
    function: CompletionFunctionCall,
}

#[derive(Deserialize)]
struct CompletionFunctionCall {
    name: String,
    arguments: String,
}

impl CompletionMessage<'_> {
    /// The functions that it called.
    fn parse_tool_calls(&self, index: usize) -> Result<Vec<ToolCall>> {
        let calls = self.tool_calls.iter().flatten();
        if self.role != "assistant" && self.tool_calls.is_some() {
            let field = format!("messages[{index}].tool_calls");
            return Err(Error::invalid_field(field, "must be in a message of the role assistant"));
        }
        let call = |call: &CompletionToolCall| ToolCall {
            id: call.id.clone(),
            name: call.function.name.clone(),
            input: call.function.arguments.clone(),
        };
        Ok(calls.map(call).collect())
    }

    /// What it says; `index` is where the message stands.
    fn parse_content(&self, index: usize) -> Result<MessageContent> {
        let Some(content) = self.content else { return Ok(MessageContent::default()) };
        let content = MessageContent::parse(content, &["text"], "image_url")
            .map_err(|error| error.within(&format!("messages[{index}]")))?;
        content.ok_or_else(|| {
            let wants = "must be a string or a list of text and image_url parts";
            Error::invalid_field(format!("messages[{index}].content"), wants)
        })
    }
}

/// What the messages of tools at the end of a list say.
fn parse_tool_results(messages: &[CompletionMessage<'_>]) -> Result<Vec<NewToolResult>> {
    let begin = messages.iter().rposition(|message| message.role != "tool").map_or(0, |at| at + 1);
    let mut results = Vec::new();
    for (index, message) in messages.iter().enumerate().skip(begin) {
        let output = to_raw_value(&message.parse_content(index)?.text).map_err(Error::internal)?;
        let call = message.tool_call_id.clone().unwrap_or_default();
        results.push(NewToolResult::parse("messages", call, output, false)?);
    }
    Ok(results)
}

fn unknown_role_error(index: usize) -> Error {
    let wants = "must be one of system, developer, user, assistant, tool";
    Error::invalid_field(format!("messages[{index}].role"), wants)
}

/// The complaint about a setting, by the name it has in this body.
fn rename_error_field(mut invalid: FieldError) -> FieldError {
    invalid.field = match &*invalid.field {
        "topP" => "top_p".into(),
        "maxOutputTokens" => "max_completion_tokens".into(),
        "systemPrompt" => "messages".into(),
        _ => invalid.field,
    };
    invalid
}
