//! The body of `POST /v1/responses`.

use super::input::{self, ResponseInput};
use super::response_object::StoredRequest;
use crate::chat::{PrecedingMessage, Prompt, PromptMessage, TurnIntent};
use crate::clock;
use crate::domain::content::MessageBody;
use crate::domain::extra_params::ExtraParams;
use crate::domain::image::find_images;
use crate::domain::memory::MemoryStrategy;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{self, NewToolResult, ToolResult};
use crate::domain::{MessageId, Role, Session, SessionId, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::body::parse_json;
use crate::http::v1::encrypted_reasoning::INCLUDE_NAME;
use crate::http::v1::errors::SettingNames;
use crate::http::v1::ids::{ConversationId, ResponseId};
use crate::http::v1::item_mapping::PositionedItem;
use crate::json::StrictObject;
use crate::memory::{PlanInput, PromptInput, tokens};
use crate::store::{DuplicateIdPolicy, MessageParent};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// OpenAI's parameters. Any other is refused, as OpenAI does.
const KNOWN_FIELDS: &[&str] = &[
    "background",
    "context_management",
    "conversation",
    "frequency_penalty",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "moderation",
    "parallel_tool_calls",
    "presence_penalty",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];
/// Parameters that Chat Completions has under the same names. They are passed to the provider.
const FORWARDED_FIELDS: &[&str] =
    &["frequency_penalty", "presence_penalty", "safety_identifier", "service_tier", "user"];

/// The names of settings in this body, for errors.
const SETTING_NAMES: SettingNames =
    SettingNames { max_output_tokens: "max_output_tokens", system_prompt: "instructions" };

/// The history that a response continues.
pub(super) enum ResponseParent {
    None,
    /// The active path of a session.
    Conversation(SessionId),
    /// The path that ends with the reply of another response.
    PreviousResponse(TurnId),
}

/// A parsed request for a response.
pub(super) struct CreateResponseRequest {
    pub(super) parent: ResponseParent,
    pub(super) is_stored: bool,
    /// The input as sent.
    pub(super) items: Vec<PositionedItem>,
    /// The input as messages. Empty until [`CreateResponseRequest::with_input`], because references
    /// must be resolved first.
    pub(super) input: ResponseInput,
    pub(super) settings: SessionSettings,
    pub(super) stored_request: StoredRequest,
}

impl CreateResponseRequest {
    /// Parses a body and refuses unknown and unsupported parameters.
    pub(super) fn parse(api: &ApiState, bytes: &[u8]) -> Result<Self> {
        let fields = RawCreateResponseRequest(parse_json(bytes)?);
        fields.check_known_fields()?;
        let parent = fields.parse_response_parent()?;
        let is_stored = fields.get("store", MUST_BE_BOOLEAN)?.unwrap_or(true);
        let is_background = fields.get("background", MUST_BE_BOOLEAN)?.unwrap_or(false);
        let is_stream = fields.get("stream", MUST_BE_BOOLEAN)?.unwrap_or(false);
        if is_background && !is_stored {
            return Err(Error::invalid_field("background", "requires store: true"));
        }
        let include: Option<Vec<String>> = fields.get("include", "must be a list of strings")?;
        let includes_encrypted = include.into_iter().flatten().any(|name| name == INCLUDE_NAME);
        fields.check_supported()?;
        let input = fields.0.get("input").filter(|input| input.get() != "null");
        let input = input.ok_or_else(|| Error::invalid_field("input", "is missing"))?;
        let items = input::parse_input(input)?;
        let settings = fields.parse_settings(api.size_limits.message)?;
        let echo = fields.build_echo(&settings, &parent, api.memory.default_model())?;
        let is_own_session = matches!(parent, ResponseParent::None);
        let stored_request = StoredRequest {
            echo,
            inputs: 0,
            is_own_session,
            is_background,
            is_stream,
            includes_encrypted,
        };
        Ok(Self {
            parent,
            is_stored,
            items,
            input: ResponseInput::default(),
            settings,
            stored_request,
        })
    }

    /// Adds the input as messages.
    pub(super) fn with_input(mut self, input: ResponseInput) -> Self {
        if !input.preceding.is_empty() {
            // A client that sends several messages wants all of them in the prompt, so memory takes
            // as many as the context window holds.
            self.settings.memory.strategy = Some(MemoryStrategy::Buffer);
        }
        let messages = [!input.tool_results.is_empty(), input.last.is_some()];
        self.stored_request.inputs =
            input.preceding.len() + messages.into_iter().filter(|exists| *exists).count();
        Self { input, ..self }
    }

    /// The preceding messages and the intent of a turn, after `reply` or at the session's head.
    pub(super) fn build_intent(
        input: ResponseInput,
        reply: Option<MessageId>,
        limit: usize,
    ) -> (Vec<PrecedingMessage>, TurnIntent) {
        let ResponseInput { tool_results: results, preceding, last, .. } = input;
        let Some(PrecedingMessage { role, body, .. }) = last else {
            return (
                preceding,
                TurnIntent::SubmitToolResults { results, reply_id: reply, max_bytes: limit },
            );
        };
        let parent = reply.map_or(MessageParent::Head, MessageParent::Message);
        (
            preceding,
            TurnIntent::Send {
                role,
                body,
                client_message_id: None,
                parent,
                on_duplicate_id: DuplicateIdPolicy::Reject,
            },
        )
    }

    /// The prompt of a response without a history.
    pub(super) fn build_prompt(&self, default_model: &str) -> Prompt {
        let SessionSettings {
            model,
            system_prompt,
            temperature,
            top_p,
            max_output_tokens,
            extra_params,
            ..
        } = self.settings.clone();
        let instructions = system_prompt.map(|text| PromptMessage::from_text(Role::System, text));
        Prompt {
            model: model.unwrap_or_else(|| default_model.to_owned()),
            messages: instructions.into_iter().chain(self.prompt_messages()).collect(),
            temperature,
            top_p,
            max_output_tokens,
            extra_params,
            cache_key: None,
        }
    }

    /// The prompt of an unstored response after `reply` in a session, with the session's memory.
    pub(super) async fn build_prompt_after(
        &self,
        api: &ApiState,
        session: &Session,
        reply: &MessageId,
    ) -> Result<Prompt> {
        let memory = &api.memory;
        let settings = self.settings.clone().with_defaults(session.settings.clone());
        let returned: Vec<ToolResult> =
            self.input.tool_results.iter().map(NewToolResult::to_tool_result).collect();
        // Providers refuse tool results without the calls they belong to, so the calling reply is
        // part of the new message, and the path ends before it.
        let role = if returned.is_empty() { Role::User } else { Role::Tool };
        let calling = memory.find_calling_reply(session, role, Some(reply)).await?;
        let path = calling.as_ref().map_or(Some(reply), |calling| calling.parent_id.as_ref());
        let path = path.cloned();
        let last = self.input.last.as_ref().filter(|last| returned.is_empty() && last.role == role);
        let (text, images) = match last {
            Some(PrecedingMessage { body, .. }) => (body.content.clone(), find_images(&body.parts)),
            None => {
                let outputs: Vec<_> = returned.iter().map(|result| &*result.output).collect();
                (outputs.join("\n"), Vec::new())
            }
        };
        let extra_tokens = memory.count_extra_tokens(calling.as_ref(), &settings).await;
        let tokens = tokens::count_tokens_async(&text).await;
        let plan_input = PlanInput { text: &text, tokens, images: &images, extra_tokens };
        let plan = memory.plan_turn(&settings, plan_input).await?;
        let new = PromptInput {
            id: None,
            role,
            text: text.as_str().into(),
            images,
            results: returned,
            calling_reply: calling,
            sent_at: clock::now(),
        };
        let assembled = memory.assemble_prompt(session, plan, path.as_ref(), Some(new)).await?;
        let mut prompt = assembled.to_prompt(&settings);
        // A user's new message ends the assembled prompt, together with the recalled text. The
        // preceding input belongs before it, so it is taken off and put back at the end.
        let new_message = if role == Role::User { prompt.messages.pop() } else { None };
        if last.is_some() {
            prompt
                .messages
                .extend(self.input.preceding.iter().map(to_prompt_message).chain(new_message));
        } else {
            prompt.messages.extend(self.prompt_messages());
        }
        Ok(prompt)
    }

    fn prompt_messages(&self) -> impl Iterator<Item = PromptMessage> {
        self.input.preceding.iter().chain(&self.input.last).map(to_prompt_message)
    }
}

fn to_prompt_message(PrecedingMessage { role, body, .. }: &PrecedingMessage) -> PromptMessage {
    let MessageBody { content, parts, .. } = body;
    PromptMessage {
        role: *role,
        content: content.as_str().into(),
        images: find_images(parts),
        calls: tool::parse_calls(parts),
        results: tool::parse_results(parts),
    }
}

const MUST_BE_BOOLEAN: &str = "must be a boolean";
const MUST_BE_OBJECT: &str = "must be an object";

/// A body that is split into its fields. Each field is parsed on demand.
pub(super) struct RawCreateResponseRequest<'a>(BTreeMap<String, &'a RawValue>);

impl RawCreateResponseRequest<'_> {
    /// Parses a field; `None` if it is absent or null. `expected` is the error message.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        name: &str,
        expected: &'static str,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        serde_json::from_str(value.get())
            .map_err(|_| Error::invalid_field(name.to_owned(), expected))
    }

    fn check_known_fields(&self) -> Result<()> {
        match self.0.keys().find(|name| !KNOWN_FIELDS.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                let unknown =
                    Error::new(ErrorKind::UnknownParameter, format!("unknown parameter: '{name}'"));
                Err(unknown.with_details(json!({ name: "is not a parameter of this route" })))
            }
        }
    }

    fn parse_response_parent(&self) -> Result<ResponseParent> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum ConversationRef {
            Id(String),
            Object { id: String },
        }
        let conversation: Option<ConversationRef> =
            self.get("conversation", "must be the ID of a conversation, or {id}")?;
        let previous: Option<String> =
            self.get("previous_response_id", "must be the ID of a response")?;
        match (conversation, previous) {
            (Some(_), Some(_)) => Err(Error::new(
                ErrorKind::MutuallyExclusive,
                "mutually exclusive parameters: provide only one of 'previous_response_id' and 'conversation'",
            )),
            (Some(ConversationRef::Id(id) | ConversationRef::Object { id }), None) => {
                let ConversationId(session) = ConversationId::parse("conversation", &id)?;
                Ok(ResponseParent::Conversation(session))
            }
            (None, Some(id)) => {
                let ResponseId(turn) = ResponseId::parse("previous_response_id", &id)?;
                Ok(ResponseParent::PreviousResponse(turn))
            }
            (None, None) => Ok(ResponseParent::None),
        }
    }

    /// Refuses parameters that the server cannot honor, instead of ignoring them.
    fn check_supported(&self) -> Result<()> {
        if self.get::<Value>("prompt", MUST_BE_OBJECT)?.is_some() {
            return Err(Error::invalid_field(
                "prompt",
                "is not supported: the server stores no prompts",
            ));
        }
        if self.get::<u32>("top_logprobs", "must be a whole number")?.is_some_and(|count| count > 0)
        {
            return Err(Error::invalid_field("top_logprobs", "is not supported"));
        }
        // The response only repeats these, but libraries parse them by their type.
        let _: Option<bool> = self.get("parallel_tool_calls", MUST_BE_BOOLEAN)?;
        let _: Option<u32> = self.get("max_tool_calls", "must be a whole number")?;
        for name in ["frequency_penalty", "presence_penalty"] {
            let _: Option<f64> = self.get(name, "must be a number")?;
        }
        for name in ["prompt_cache_key", "safety_identifier", "service_tier", "user"] {
            let _: Option<String> = self.get(name, "must be a string")?;
        }
        Ok(())
    }

    fn parse_settings(&self, limit: usize) -> Result<SessionSettings> {
        let model: Option<String> = self.get("model", "must be a string")?;
        let settings = SessionSettings {
            model: model.filter(|model| !model.is_empty() && model != "default"),
            system_prompt: self.get("instructions", "must be a string")?,
            temperature: self.get("temperature", "must be a number from 0 to 2")?,
            top_p: self.get("top_p", "must be a number from 0 to 1")?,
            max_output_tokens: self
                .get("max_output_tokens", "must be a whole number of at least 1")?,
            extra_params: self.collect_extra_params()?,
            ..SessionSettings::default()
        };
        Ok(settings.validate(limit).map_err(|invalid| SETTING_NAMES.rename(invalid))?)
    }

    /// Converts parameters for the provider to those of Chat Completions.
    fn collect_extra_params(&self) -> Result<ExtraParams> {
        #[derive(Deserialize)]
        struct TextFieldInput {
            #[serde(default)]
            format: Option<Box<RawValue>>,
            #[serde(default)]
            verbosity: Option<String>,
        }
        #[derive(Deserialize)]
        struct ReasoningInput {
            #[serde(default)]
            effort: Option<String>,
        }
        let mut extra = BTreeMap::new();
        for name in FORWARDED_FIELDS {
            if let Some(value) = self.0.get(*name).filter(|value| value.get() != "null") {
                extra.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        let mut tools = Vec::new();
        let expected = "must be a list of tools, each with a type";
        for tool in self.get::<Vec<Box<RawValue>>>("tools", expected)?.unwrap_or_default() {
            tools.push(convert_function_tool(&tool)?);
        }
        let choice =
            self.0.get("tool_choice").map(|choice| convert_tool_choice(choice)).transpose()?;
        if !tools.is_empty() {
            // Chat Completions refuses these two without tools.
            let parallel = self.0.get("parallel_tool_calls").map(|value| (*value).to_owned());
            let tools = to_raw_value(&tools).map_err(Error::internal)?;
            let params = [
                ("tools", Some(tools)),
                ("tool_choice", choice),
                ("parallel_tool_calls", parallel),
            ];
            let params = params.into_iter().filter_map(|(name, value)| Some((name, value?)));
            let params = params.filter(|(_, value)| value.get() != "null");
            extra.extend(params.map(|(name, value)| (name.to_owned(), value)));
        }
        let mut insert_text = |name: &str, text: Option<String>| {
            let value =
                text.map(|text| to_raw_value(&text).map_err(Error::internal)).transpose()?;
            extra.extend(value.map(|value| (name.to_owned(), value)));
            Ok::<_, Error>(())
        };
        let reasoning: Option<StrictObject<ReasoningInput>> =
            self.get("reasoning", MUST_BE_OBJECT)?;
        insert_text(
            "reasoning_effort",
            reasoning.and_then(|StrictObject(reasoning)| reasoning.effort),
        )?;
        let text: Option<StrictObject<TextFieldInput>> = self.get("text", MUST_BE_OBJECT)?;
        if let Some(StrictObject(TextFieldInput { format, verbosity })) = text {
            insert_text("verbosity", verbosity)?;
            let format = format.map(|format| convert_text_format(&format)).transpose()?.flatten();
            extra.extend(format.map(|format| ("response_format".to_owned(), format)));
        }
        Ok(ExtraParams::new(extra))
    }
}

/// Converts a function tool to the format of Chat Completions. Tools that OpenAI hosts, such as
/// `web_search`, are refused.
fn convert_function_tool(tool: &RawValue) -> Result<Box<RawValue>> {
    let expected = |_| Error::invalid_field("tools", "must be a list of tools, each with a type");
    let StrictObject(mut fields): StrictObject<BTreeMap<String, Box<RawValue>>> =
        serde_json::from_str(tool.get()).map_err(expected)?;
    let kind = fields.remove("type").unwrap_or_default();
    let kind: String = serde_json::from_str(kind.get()).map_err(expected)?;
    if kind != "function" {
        let kind: String = kind.chars().take(64).collect();
        let message = format!("must be functions: tools of the type {kind} are not supported");
        return Err(Error::invalid_field("tools", message));
    }
    let name = fields.get("name").and_then(|name| serde_json::from_str(name.get()).ok());
    if name.is_none_or(|name: String| name.is_empty()) {
        return Err(Error::invalid_field("tools", "must be functions, each with a name"));
    }
    // In Responses null means absent; the schema of Chat Completions does not allow it everywhere.
    fields.retain(|_, value| value.get() != "null");
    let kind = to_raw_value("function").map_err(Error::internal)?;
    let function = to_raw_value(&fields).map_err(Error::internal)?;
    to_raw_value(&BTreeMap::from([("type", kind), ("function", function)])).map_err(Error::internal)
}

/// Converts `tool_choice` to the format of Chat Completions.
fn convert_tool_choice(choice: &RawValue) -> Result<Box<RawValue>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ToolChoiceInput {
        Word(String),
        Function {
            #[serde(rename = "type")]
            kind: String,
            name: String,
        },
        None(()),
    }
    let expected = "must be auto, none, required or {type: function, name}";
    match serde_json::from_str(choice.get()) {
        Ok(ToolChoiceInput::Word(word))
            if matches!(word.as_str(), "auto" | "none" | "required") =>
        {
            to_raw_value(&word)
        }
        Ok(ToolChoiceInput::Function { kind, name }) if kind == "function" => {
            to_raw_value(&json!({"type": "function", "function": {"name": name}}))
        }
        Ok(ToolChoiceInput::None(())) => to_raw_value(&Value::Null),
        _ => return Err(Error::invalid_field("tool_choice", expected)),
    }
    .map_err(Error::internal)
}

/// Converts `text.format` to `response_format` of Chat Completions. `None` for plain text.
fn convert_text_format(format: &RawValue) -> Result<Option<Box<RawValue>>> {
    let expected = "must be {type: text}, {type: json_object} or {type: json_schema, name, schema}";
    let expected = |_| Error::invalid_field("text.format", expected);
    let StrictObject(mut fields): StrictObject<BTreeMap<String, Box<RawValue>>> =
        serde_json::from_str(format.get()).map_err(expected)?;
    let kind = fields.remove("type").unwrap_or_default();
    let kind: String = serde_json::from_str(kind.get()).map_err(expected)?;
    let format = match kind.as_str() {
        "text" => return Ok(None),
        "json_object" => to_raw_value(&json!({"type": "json_object"})),
        "json_schema" => {
            for name in ["name", "schema"] {
                if !fields.contains_key(name) {
                    return Err(Error::invalid_field(format!("text.format.{name}"), "is missing"));
                }
            }
            // The schema is raw JSON, so its properties keep their order: models write them in it.
            let schema = to_raw_value(&fields).map_err(Error::internal)?;
            let kind = to_raw_value(&kind).map_err(Error::internal)?;
            to_raw_value(&BTreeMap::from([("type", kind), ("json_schema", schema)]))
        }
        _ => {
            return Err(Error::invalid_field(
                "text.format.type",
                "must be text, json_object or json_schema",
            ));
        }
    };
    format.map(Some).map_err(Error::internal)
}
