//! The body of `POST /v1/responses`.

use super::input::{self, Input};
use super::object::Kept;
use super::parsed_turn;
use crate::chat::{PrecedingMessage, Prompt, PromptMessage, TurnIntent};
use crate::clock;
use crate::domain::extra_params::ExtraParams;
use crate::domain::image::find_images;
use crate::domain::memory::MemoryStrategy;
use crate::domain::message::MessageBody;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{self, NewToolResult, ToolResult};
use crate::domain::{FieldError, MessageId, Role, Session, SessionId, TurnId};
use crate::error::{Error, Kind, Result};
use crate::http::Api;
use crate::http::body::parse;
use crate::http::v1::conversations::session_named;
use crate::http::v1::item::Placed;
use crate::json::StrictObject;
use crate::memory::{PlanInput, PromptInput, tokens};
use crate::store::{DuplicateIdPolicy, MessageParent};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The fields there are. Any other is refused, as OpenAI does.
const KNOWN: &[&str] = &[
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
/// Those that a provider of Chat Completions knows by the same names.
const HANDED_ON: &[&str] =
    &["frequency_penalty", "presence_penalty", "safety_identifier", "service_tier", "user"];

/// Where a response stands.
pub(super) enum Where {
    /// In no conversation yet.
    Nowhere,
    /// At the end of one.
    Conversation(SessionId),
    /// Behind another response.
    Behind(TurnId),
}

/// A response as it is asked for.
pub(super) struct Request {
    pub(super) place: Where,
    pub(super) is_stored: bool,
    /// What is said, as it was sent …
    pub(super) items: Vec<Placed>,
    /// … and as messages, once [`Request::saying`] has told.
    pub(super) input: Input,
    pub(super) settings: SessionSettings,
    pub(super) kept: Kept,
}

impl Request {
    /// Reads a body, strictly.
    pub(super) fn read(api: &Api, bytes: &[u8]) -> Result<Self> {
        let fields = Fields(parse(bytes)?);
        fields.ensure_known()?;
        let place = fields.place()?;
        let is_stored = fields.get("store", BOOLEAN)?.unwrap_or(true);
        let is_background = fields.get("background", BOOLEAN)?.unwrap_or(false);
        let is_stream = fields.get("stream", BOOLEAN)?.unwrap_or(false);
        if is_background && !is_stored {
            return Err(Error::invalid_field("background", "must come with store: true"));
        }
        fields.ensure_plain()?;
        let input = fields.0.get("input").filter(|input| input.get() != "null");
        let input = input.ok_or_else(|| Error::invalid_field("input", "is missing"))?;
        let items = input::read(input)?;
        let settings = fields.settings(api.limits.message)?;
        let echo = fields.echo(&settings, &place, api.memory.default_model())?;
        let is_own_session = matches!(place, Where::Nowhere);
        let kept = Kept { echo, inputs: 0, is_own_session, is_background, is_stream };
        Ok(Self { place, is_stored, items, input: Input::default(), settings, kept })
    }

    /// The same, with what it says.
    pub(super) fn saying(mut self, input: Input) -> Self {
        if !input.earlier.is_empty() {
            // Whoever sends a list means all of it: memory takes what the context window holds.
            self.settings.memory.strategy = Some(MemoryStrategy::Buffer);
        }
        let messages = [!input.returned.is_empty(), input.last.is_some()];
        self.kept.inputs =
            input.earlier.len() + messages.into_iter().filter(|there| *there).count();
        Self { input, ..self }
    }

    /// What comes before a turn's message, and what it is, behind a reply if one is named, else at
    /// the end of the session.
    pub(super) fn wish(
        input: Input,
        reply: Option<MessageId>,
        limit: usize,
    ) -> (Vec<PrecedingMessage>, TurnIntent) {
        let Input { returned: results, earlier, last, .. } = input;
        let Some(PrecedingMessage { role, body, .. }) = last else {
            return (
                earlier,
                TurnIntent::SubmitToolResults { results, reply_id: reply, max_bytes: limit },
            );
        };
        let parent = reply.map_or(MessageParent::Head, MessageParent::Message);
        let on_known = DuplicateIdPolicy::Reject;
        (
            earlier,
            TurnIntent::Send {
                role,
                body,
                client_message_id: None,
                parent,
                on_duplicate_id: on_known,
            },
        )
    }

    /// All of it, for a provider.
    pub(super) fn prompt(&self, default_model: &str) -> Prompt {
        let SessionSettings {
            model,
            system_prompt,
            temperature,
            top_p,
            max_output_tokens,
            extra_params: further,
            ..
        } = self.settings.clone();
        let instructions = system_prompt.map(|text| PromptMessage::from_text(Role::System, text));
        Prompt {
            model: model.unwrap_or_else(|| default_model.to_owned()),
            messages: instructions.into_iter().chain(self.said()).collect(),
            temperature,
            top_p,
            max_output_tokens,
            extra_params: further,
            cache_key: None,
        }
    }

    /// The same behind a reply of a session, with what memory keeps of it.
    pub(super) async fn prompt_behind(
        &self,
        api: &Api,
        session: &Session,
        reply: &MessageId,
    ) -> Result<Prompt> {
        let memory = &api.memory;
        let settings = self.settings.clone().with_defaults(session.settings.clone());
        let returned: Vec<ToolResult> =
            self.input.returned.iter().map(NewToolResult::to_tool_result).collect();
        // Results mean nothing without their calls: both are the new message together.
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
        let beside = memory.count_extra_tokens(calling.as_ref(), &settings).await;
        let tokens = tokens::count_tokens_async(&text).await;
        let incoming = PlanInput { text: &text, tokens, images: &images, extra_tokens: beside };
        let plan = memory.plan_turn(&settings, incoming).await?;
        let (id, text, at) = (None, text.as_str().into(), clock::now());
        let new = PromptInput {
            id,
            role,
            text,
            images,
            results: returned,
            calling_reply: calling,
            sent_at: at,
        };
        let assembled = memory.assemble_prompt(session, plan, path.as_ref(), Some(new)).await?;
        let mut prompt = assembled.to_prompt(&settings);
        // What is recalled stands in the new message, which is the user's last one.
        let asked = if role == Role::User { prompt.messages.pop() } else { None };
        if last.is_some() {
            prompt.messages.extend(self.input.earlier.iter().map(said).chain(asked));
        } else {
            prompt.messages.extend(self.said());
        }
        Ok(prompt)
    }

    fn said(&self) -> impl Iterator<Item = PromptMessage> {
        self.input.earlier.iter().chain(&self.input.last).map(said)
    }
}

fn said(PrecedingMessage { role, body, .. }: &PrecedingMessage) -> PromptMessage {
    let MessageBody { content, parts, .. } = body;
    PromptMessage {
        role: *role,
        content: content.as_str().into(),
        images: find_images(parts),
        calls: tool::parse_calls(parts),
        results: tool::parse_results(parts),
    }
}

const BOOLEAN: &str = "must be a boolean";
const OBJECT: &str = "must be an object";

/// A body whose fields were told apart, and no more.
pub(super) struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl Fields<'_> {
    /// One of the fields; `None` if it is missing or null.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        name: &str,
        wants: &'static str,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map_err(|_| Error::invalid_field(name.to_owned(), wants))
    }

    fn ensure_known(&self) -> Result<()> {
        match self.0.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                let unknown =
                    Error::new(Kind::UnknownParameter, format!("unknown parameter: '{name}'"));
                Err(unknown.with_details(json!({ name: "is not a parameter of this route" })))
            }
        }
    }

    fn place(&self) -> Result<Where> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Named {
            Id(String),
            Object { id: String },
        }
        let named: Option<Named> =
            self.get("conversation", "must be the ID of a conversation, or {id}")?;
        let previous: Option<String> =
            self.get("previous_response_id", "must be the ID of a response")?;
        match (named, previous) {
            (Some(_), Some(_)) => Err(Error::new(
                Kind::MutuallyExclusive,
                "mutually exclusive parameters: provide only one of 'previous_response_id' and 'conversation'",
            )),
            (Some(Named::Id(id) | Named::Object { id }), None) => {
                Ok(Where::Conversation(session_named("conversation", &id)?))
            }
            (None, Some(id)) => Ok(Where::Behind(parsed_turn("previous_response_id", &id)?)),
            (None, None) => Ok(Where::Nowhere),
        }
    }

    /// Refuses what this server cannot do, rather than doing something else.
    fn ensure_plain(&self) -> Result<()> {
        if self.get::<Value>("prompt", OBJECT)?.is_some() {
            return Err(Error::invalid_field(
                "prompt",
                "must be left out: no prompts are kept here",
            ));
        }
        if self.get::<u32>("top_logprobs", "must be a whole number")?.is_some_and(|count| count > 0)
        {
            return Err(Error::invalid_field(
                "top_logprobs",
                "must be left out where this server answers",
            ));
        }
        let _: Option<Vec<String>> = self.get("include", "must be a list of strings")?;
        // What is only repeated in the answer, where libraries read it by its type.
        let _: Option<bool> = self.get("parallel_tool_calls", BOOLEAN)?;
        let _: Option<u32> = self.get("max_tool_calls", "must be a whole number")?;
        for name in ["frequency_penalty", "presence_penalty"] {
            let _: Option<f64> = self.get(name, "must be a number")?;
        }
        for name in ["prompt_cache_key", "safety_identifier", "service_tier", "user"] {
            let _: Option<String> = self.get(name, "must be a string")?;
        }
        Ok(())
    }

    fn settings(&self, limit: usize) -> Result<SessionSettings> {
        let model: Option<String> = self.get("model", "must be a string")?;
        let settings = SessionSettings {
            model: model.filter(|model| !model.is_empty() && model != "default"),
            system_prompt: self.get("instructions", "must be a string")?,
            temperature: self.get("temperature", "must be a number from 0 to 2")?,
            top_p: self.get("top_p", "must be a number from 0 to 1")?,
            max_output_tokens: self
                .get("max_output_tokens", "must be a whole number of at least 1")?,
            extra_params: self.further()?,
            ..SessionSettings::default()
        };
        Ok(settings.validate(limit).map_err(in_their_names)?)
    }

    /// What is said to the provider in the words of Chat Completions.
    fn further(&self) -> Result<ExtraParams> {
        #[derive(Deserialize)]
        struct Text {
            #[serde(default)]
            format: Option<Box<RawValue>>,
            #[serde(default)]
            verbosity: Option<String>,
        }
        #[derive(Deserialize)]
        struct Reasoning {
            #[serde(default)]
            effort: Option<String>,
        }
        let mut further = BTreeMap::new();
        for name in HANDED_ON {
            if let Some(value) = self.0.get(*name).filter(|value| value.get() != "null") {
                further.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        let mut tools = Vec::new();
        let wants = "must be a list of tools, each with a type";
        for tool in self.get::<Vec<Box<RawValue>>>("tools", wants)?.unwrap_or_default() {
            tools.push(function(&tool)?);
        }
        let choice = self.0.get("tool_choice").map(|choice| tool_choice(choice)).transpose()?;
        if !tools.is_empty() {
            let parallel = self.0.get("parallel_tool_calls").map(|said| (*said).to_owned());
            let tools = to_raw_value(&tools).map_err(Error::internal)?;
            let said = [
                ("tools", Some(tools)),
                ("tool_choice", choice),
                ("parallel_tool_calls", parallel),
            ];
            let said = said.into_iter().filter_map(|(name, value)| Some((name, value?)));
            let said = said.filter(|(_, value)| value.get() != "null");
            further.extend(said.map(|(name, value)| (name.to_owned(), value)));
        }
        let mut hand_on = |name: &str, text: Option<String>| {
            let value =
                text.map(|text| to_raw_value(&text).map_err(Error::internal)).transpose()?;
            further.extend(value.map(|value| (name.to_owned(), value)));
            Ok::<_, Error>(())
        };
        let reasoning: Option<StrictObject<Reasoning>> = self.get("reasoning", OBJECT)?;
        hand_on(
            "reasoning_effort",
            reasoning.and_then(|StrictObject(reasoning)| reasoning.effort),
        )?;
        let text: Option<StrictObject<Text>> = self.get("text", OBJECT)?;
        if let Some(StrictObject(Text { format, verbosity })) = text {
            hand_on("verbosity", verbosity)?;
            let format = format.map(|format| response_format(&format)).transpose()?.flatten();
            further.extend(format.map(|format| ("response_format".to_owned(), format)));
        }
        Ok(ExtraParams::new(further))
    }
}

/// A function as Chat Completions has it. Other tools run at OpenAI.
fn function(tool: &RawValue) -> Result<Box<RawValue>> {
    let wants = |_| Error::invalid_field("tools", "must be a list of tools, each with a type");
    let StrictObject(mut fields): StrictObject<BTreeMap<String, Box<RawValue>>> =
        serde_json::from_str(tool.get()).map_err(wants)?;
    let kind = fields.remove("type").unwrap_or_default();
    let kind: String = serde_json::from_str(kind.get()).map_err(wants)?;
    if kind != "function" {
        let kind: String = kind.chars().take(64).collect();
        let wants = format!("must not have tools of the type {kind}, which do not run here");
        return Err(Error::invalid_field("tools", wants));
    }
    let name = fields.get("name").and_then(|name| serde_json::from_str(name.get()).ok());
    if name.is_none_or(|name: String| name.is_empty()) {
        return Err(Error::invalid_field("tools", "must have functions that each have a name"));
    }
    fields.retain(|_, value| value.get() != "null");
    let kind = to_raw_value("function").map_err(Error::internal)?;
    let function = to_raw_value(&fields).map_err(Error::internal)?;
    to_raw_value(&BTreeMap::from([("type", kind), ("function", function)])).map_err(Error::internal)
}

/// Which function is to be called, as Chat Completions has it.
fn tool_choice(choice: &RawValue) -> Result<Box<RawValue>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Choice {
        Word(String),
        Function {
            #[serde(rename = "type")]
            kind: String,
            name: String,
        },
        None(()),
    }
    let wants = "must be auto, none, required or {type: function, name}";
    match serde_json::from_str(choice.get()) {
        Ok(Choice::Word(word)) if matches!(word.as_str(), "auto" | "none" | "required") => {
            to_raw_value(&word)
        }
        Ok(Choice::Function { kind, name }) if kind == "function" => {
            to_raw_value(&json!({"type": "function", "function": {"name": name}}))
        }
        Ok(Choice::None(())) => to_raw_value(&Value::Null),
        _ => return Err(Error::invalid_field("tool_choice", wants)),
    }
    .map_err(Error::internal)
}

/// `text.format` as Chat Completions calls it. The order of names in a schema stays: a model writes
/// in that order.
fn response_format(format: &RawValue) -> Result<Option<Box<RawValue>>> {
    let wants = "must be {type: text}, {type: json_object} or {type: json_schema, name, schema}";
    let wants = |_| Error::invalid_field("text.format", wants);
    let StrictObject(mut fields): StrictObject<BTreeMap<String, Box<RawValue>>> =
        serde_json::from_str(format.get()).map_err(wants)?;
    let kind = fields.remove("type").unwrap_or_default();
    let kind: String = serde_json::from_str(kind.get()).map_err(wants)?;
    let format = match kind.as_str() {
        "text" => return Ok(None),
        "json_object" => to_raw_value(&json!({"type": "json_object"})),
        "json_schema" => {
            for name in ["name", "schema"] {
                if !fields.contains_key(name) {
                    return Err(Error::invalid_field(format!("text.format.{name}"), "is missing"));
                }
            }
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

/// The complaint about a setting, by the name it has in this body.
fn in_their_names(mut invalid: FieldError) -> FieldError {
    invalid.field = match &*invalid.field {
        "topP" => "top_p".into(),
        "maxOutputTokens" => "max_output_tokens".into(),
        "systemPrompt" => "instructions".into(),
        _ => invalid.field,
    };
    invalid
}
