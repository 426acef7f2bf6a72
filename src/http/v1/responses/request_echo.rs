//! The parameters of a request that its response repeats.

use super::request::{RawCreateResponseRequest, ResponseParent};
use crate::domain::session::SessionSettings;
use crate::error::{Error, Result};
use crate::http::v1::conversations::check_metadata;
use crate::http::v1::ids::format_conversation_id;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Size of the repeated parameters as JSON. They are stored, and sent three times in a stream.
const MAX_ECHO_BYTES: usize = 1 << 20;

impl RawCreateResponseRequest<'_> {
    /// Builds the parameters to repeat, with OpenAI's defaults for those that are absent.
    pub(super) fn build_echo(
        &self,
        settings: &SessionSettings,
        parent: &ResponseParent,
        default_model: &str,
    ) -> Result<Map<String, Value>> {
        let metadata: BTreeMap<String, String> =
            self.get("metadata", "must be an object of strings")?.unwrap_or_default();
        check_metadata(&metadata)?;
        let truncation = self.get::<String>("truncation", "must be auto or disabled")?;
        if truncation.as_ref().is_some_and(|value| !matches!(value.as_str(), "auto" | "disabled")) {
            return Err(Error::invalid_field("truncation", "must be auto or disabled"));
        }
        let param = |name: &str| self.get::<Value>(name, "must be JSON");
        // OpenAI always returns a format, even if only `verbosity` was given.
        let mut text = param("text")?.unwrap_or_else(|| json!({}));
        if text["format"].is_null() {
            text["format"] = json!({"type": "text"});
        }
        let conversation = match parent {
            ResponseParent::Conversation(session) => json!({"id": format_conversation_id(session)}),
            _ => Value::Null,
        };
        let model = settings.model.as_deref().unwrap_or(default_model);
        let mut echo = Map::from_iter([
            ("conversation".to_owned(), conversation),
            ("metadata".to_owned(), json!(metadata)),
            ("model".to_owned(), model.into()),
            ("text".to_owned(), text),
        ]);
        for (name, default) in [
            ("background", json!(false)),
            ("frequency_penalty", json!(0.0)),
            ("instructions", Value::Null),
            ("max_output_tokens", Value::Null),
            ("max_tool_calls", Value::Null),
            ("parallel_tool_calls", json!(true)),
            ("presence_penalty", json!(0.0)),
            ("previous_response_id", Value::Null),
            ("prompt_cache_key", Value::Null),
            ("reasoning", json!({"effort": null, "summary": null})),
            ("safety_identifier", Value::Null),
            ("service_tier", json!("default")),
            ("store", json!(true)),
            ("temperature", json!(1.0)),
            ("tool_choice", json!("auto")),
            ("tools", json!([])),
            ("top_logprobs", json!(0)),
            ("top_p", json!(1.0)),
            ("truncation", json!("disabled")),
            ("user", Value::Null),
        ] {
            echo.insert(name.to_owned(), param(name)?.unwrap_or(default));
        }
        // `tools` and `text.format` hold schemas of any size.
        if serde_json::to_string(&echo).map_err(Error::internal)?.len() > MAX_ECHO_BYTES {
            return Err(Error::too_large("the parameters of a response", MAX_ECHO_BYTES));
        }
        Ok(echo)
    }
}
