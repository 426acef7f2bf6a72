//! The body of `POST /v1/chat/completions`. Fields that concern this server are parsed; all others
//! are passed to the provider unchanged.

use super::errors::SettingNames;
use super::message_content::MessageContent;
use crate::chat::{Prompt, PromptMessage, TurnIntent};
use crate::domain::content::MessageBody;
use crate::domain::extra_params::{ExtraParams, check_function_tools};
use crate::domain::image::find_images;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{NewToolResult, ToolCall, ToolResult};
use crate::domain::{MessageType, Role};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::body::parse_json;
use crate::json::StrictObject;
use crate::store::{DuplicateIdPolicy, MessageParent};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

/// Fields that a turn handles itself or does not support. All others are passed to the provider.
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

/// The names of settings in this body, for errors.
const SETTING_NAMES: SettingNames =
    SettingNames { max_output_tokens: "max_completion_tokens", system_prompt: "messages" };

/// A body that is split into its fields. Each field is parsed on demand.
pub(super) struct RawCompletionRequest<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    bytes: &'a Bytes,
}

impl<'a> RawCompletionRequest<'a> {
    pub(super) fn parse(bytes: &'a Bytes) -> Result<Self> {
        Ok(Self { fields: parse_json(bytes)?, bytes })
    }

    /// Parses a field; `None` if it is absent or null. `expected` is the error message.
    fn get<T: Deserialize<'a>>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>> {
        let Some(value) = self.fields.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map_err(|_| Error::invalid_field(name, expected))
    }

    pub(super) fn session_id(&self) -> Result<Option<String>> {
        self.get("session_id", "must be a string")
    }

    pub(super) fn is_stream(&self) -> Result<bool> {
        Ok(self.get("stream", "must be a boolean")?.unwrap_or(false))
    }

    /// Whether a stream should end with a chunk that reports the token usage.
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

    /// The requested model; `None` for an empty name or `default`.
    pub(super) fn model(&self) -> Result<Option<String>> {
        let named: Option<String> = self.get("model", "must be a string")?;
        Ok(named.filter(|model| !model.is_empty() && model != "default"))
    }

    /// The body to forward to a provider: without `session_id`, and with a model.
    pub(super) fn build_provider_body(&self, default_model: &str) -> Result<Bytes> {
        // If no field must change, the client's bytes are forwarded without encoding them again.
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

    /// The settings of a turn. Leading system messages become its system prompt.
    pub(super) fn parse_settings(&self, api: &ApiState) -> Result<SessionSettings> {
        let instructions = self.leading_instructions()?;
        let settings = SessionSettings {
            model: self.model()?,
            system_prompt: (!instructions.is_empty()).then(|| instructions.join("\n\n")),
            ..self.parse_sampling()?
        };
        let settings = SessionSettings { extra_params: self.collect_extra_params(), ..settings };
        Ok(settings
            .validate(api.size_limits.message)
            .map_err(|invalid| SETTING_NAMES.rename(invalid))?)
    }

    fn parse_sampling(&self) -> Result<SessionSettings> {
        let expected = "must be a whole number of at least 1";
        // `max_tokens` is the deprecated name.
        let max_tokens = self.get("max_completion_tokens", expected)?;
        Ok(SessionSettings {
            temperature: self.get("temperature", "must be a number from 0 to 2")?,
            top_p: self.get("top_p", "must be a number from 0 to 1")?,
            max_output_tokens: max_tokens.or(self.get("max_tokens", expected)?),
            ..SessionSettings::default()
        })
    }

    fn collect_extra_params(&self) -> ExtraParams {
        let extra = self.fields.iter().filter(|(name, _)| !HANDLED_FIELDS.contains(&name.as_str()));
        ExtraParams::new(extra.map(|(name, value)| (name.clone(), (*value).to_owned())).collect())
    }

    /// The new message of a turn, which is the last one. The messages before it are ignored: the
    /// session's own history is authoritative.
    pub(super) fn parse_intent(&self, api: &ApiState) -> Result<TurnIntent> {
        let messages = self.parse_messages()?;
        let Some(last) = messages.last() else {
            return Err(Error::invalid_field("messages", "must hold at least one message"));
        };
        if last.role == "tool" {
            return Ok(TurnIntent::SubmitToolResults {
                results: parse_tool_results(&messages)?,
                reply_id: None,
                max_bytes: api.size_limits.message,
            });
        }
        if last.role != "user" {
            let expected =
                "must end with a message of the role user or tool if they have a session";
            return Err(Error::invalid_field("messages", expected));
        }
        let MessageContent { text, parts } = last.parse_content(messages.len() - 1)?;
        let body = MessageBody::parse(
            "messages",
            text,
            parts,
            MessageType::Text,
            api.size_limits.message,
        )?;
        Ok(TurnIntent::Send {
            role: Role::User,
            body,
            client_message_id: None,
            parent: MessageParent::Head,
            on_duplicate_id: DuplicateIdPolicy::Reject,
        })
    }

    /// The whole request as a prompt, for a provider that does not support Chat Completions.
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
            // Chat Completions has no flag for a failed call.
            let results = result
                .map(|call_id| ToolResult { call_id, output: text.clone(), is_error: false })
                .into_iter()
                .collect();
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

    /// Refuses parameters that a stored or translated reply cannot honor. They are fine in a
    /// request that is forwarded unchanged.
    pub(super) fn check_supported(&self) -> Result<()> {
        let deprecated: Option<Vec<&RawValue>> = self.get("functions", "must be a list")?;
        if deprecated.is_some_and(|functions| !functions.is_empty()) {
            return Err(Error::invalid_field("functions", "is not supported; use tools instead"));
        }
        check_function_tools("tools", self.fields.get("tools").copied())?;
        if self.get::<u64>("n", "must be a whole number")?.is_some_and(|n| n != 1) {
            return Err(Error::invalid_field("n", "must be 1: a session has one reply at a time"));
        }
        if self.get("logprobs", "must be a boolean")? == Some(true) {
            return Err(Error::invalid_field(
                "logprobs",
                "is not supported in a session, or with this provider",
            ));
        }
        let modalities: Option<Vec<String>> =
            self.get("modalities", "must be a list of strings")?;
        if modalities.is_some_and(|modalities| modalities.iter().any(|kind| kind != "text")) {
            return Err(Error::invalid_field("modalities", "must be [\"text\"]"));
        }
        Ok(())
    }

    /// The texts of system and developer messages at the beginning.
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
        // Parsed from the whole body, so that errors name the full path, such as
        // `messages[2].role`.
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
            origin: None,
        };
        Ok(calls.map(call).collect())
    }

    /// Parses the content. `index` is the position of the message, for errors.
    fn parse_content(&self, index: usize) -> Result<MessageContent> {
        let Some(content) = self.content else { return Ok(MessageContent::default()) };
        let content = MessageContent::parse(content, &["text"], "image_url")
            .map_err(|error| error.within(&format!("messages[{index}]")))?;
        content.ok_or_else(|| {
            let expected = "must be a string or a list of text and image_url parts";
            Error::invalid_field(format!("messages[{index}].content"), expected)
        })
    }
}

/// The results in the tool messages at the end of a list.
fn parse_tool_results(messages: &[CompletionMessage<'_>]) -> Result<Vec<NewToolResult>> {
    // Earlier tool messages belong to turns that the session already has.
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
    let expected = "must be one of system, developer, user, assistant, tool";
    Error::invalid_field(format!("messages[{index}].role"), expected)
}
