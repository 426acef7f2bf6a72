//! Translates `tools` and `tool_choice` of Chat Completions to the Messages API. Source:
//! <https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use>.

use crate::domain::extra_params::ExtraParams;
use crate::domain::tool::encode_input;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[derive(Serialize)]
pub(super) struct AnthropicTool<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    input_schema: InputSchema<'a>,
}

/// JSON schema of the arguments; a function without parameters accepts any object.
#[derive(Serialize)]
#[serde(untagged)]
enum InputSchema<'a> {
    Provided(&'a RawValue),
    AnyObject(Value),
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct AnthropicToolChoice {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_parallel_tool_use: bool,
}

/// The functions that a request offers. Entries that are not functions are ignored.
pub(super) fn build_tools(extra_params: &ExtraParams) -> Vec<AnthropicTool<'_>> {
    #[derive(Deserialize)]
    struct OfferedTool<'a> {
        #[serde(borrow)]
        function: OfferedFunction<'a>,
    }
    #[derive(Deserialize)]
    struct OfferedFunction<'a> {
        name: String,
        description: Option<String>,
        #[serde(borrow)]
        parameters: Option<&'a RawValue>,
    }
    let Some(tools) = extra_params.get_raw("tools") else { return Vec::new() };
    let tools: Vec<&RawValue> = serde_json::from_str(tools.get()).unwrap_or_default();
    let offers = tools.into_iter().filter_map(|tool| serde_json::from_str(tool.get()).ok());
    offers
        .map(|OfferedTool { function: OfferedFunction { name, description, parameters } }| {
            AnthropicTool {
                name,
                description,
                input_schema: parameters.map_or_else(
                    || InputSchema::AnyObject(json!({"type": "object"})),
                    InputSchema::Provided,
                ),
            }
        })
        .collect()
}

/// `None` leaves the choice to the model, which is the API's default.
pub(super) fn build_tool_choice(extra_params: &ExtraParams) -> Option<AnthropicToolChoice> {
    // The API rejects a choice without tools.
    extra_params.get_raw("tools")?;
    let disable_parallel_tool_use = extra_params.get("parallel_tool_calls") == Some(false.into());
    let chosen = extra_params.get("tool_choice").unwrap_or_default();
    let (kind, name) = match (chosen.as_str(), chosen["function"]["name"].as_str()) {
        (Some("required"), _) => ("any", None),
        (Some("none"), _) => ("none", None),
        (_, Some(name)) => ("tool", Some(name.to_owned())),
        _ if disable_parallel_tool_use => ("auto", None),
        _ => return None,
    };
    // `none` does not have this field.
    let disable_parallel_tool_use = disable_parallel_tool_use && kind != "none";
    Some(AnthropicToolChoice { kind, name, disable_parallel_tool_use })
}

/// Arguments of an earlier call, to be sent back. The API accepts objects only, so anything else
/// that the model wrote becomes an empty object.
pub(super) fn normalize_input(arguments: &str) -> Box<RawValue> {
    let input = encode_input(arguments);
    if input.get().starts_with('{') { input } else { encode_input("{}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn extra_params(fields: Value) -> ExtraParams {
        let fields: BTreeMap<String, Value> = serde_json::from_value(fields).unwrap();
        let raw = |value: Value| serde_json::value::to_raw_value(&value).unwrap();
        ExtraParams::new(fields.into_iter().map(|(name, value)| (name, raw(value))).collect())
    }

    #[test]
    fn functions_become_anthropic_tools() {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let params = extra_params(json!({"tools": [
            {"type": "function", "function": {"name": "weather", "description": "Says it.", "parameters": parameters}},
            {"type": "function", "function": {"name": "time"}},
            {"type": "moon"},
        ]}));
        let tools = serde_json::to_value(build_tools(&params)).unwrap();
        let expected = json!([
            {"name": "weather", "description": "Says it.", "input_schema": parameters},
            {"name": "time", "input_schema": {"type": "object"}},
        ]);
        assert_eq!(tools, expected);
    }

    #[test]
    fn tool_choice_is_translated() {
        let translate = |choice: Value, parallel: Value| {
            let fields =
                json!({"tools": [], "tool_choice": choice, "parallel_tool_calls": parallel});
            serde_json::to_value(super::build_tool_choice(&extra_params(fields))).unwrap()
        };
        let one = json!({"type": "function", "function": {"name": "time"}});
        assert_eq!(translate(Value::Null, Value::Null), Value::Null);
        assert_eq!(translate("auto".into(), true.into()), Value::Null);
        assert_eq!(translate("none".into(), false.into()), json!({"type": "none"}));
        assert_eq!(translate("required".into(), Value::Null), json!({"type": "any"}));
        assert_eq!(translate(one, Value::Null), json!({"type": "tool", "name": "time"}));
        let single = json!({"type": "auto", "disable_parallel_tool_use": true});
        assert_eq!(translate("auto".into(), false.into()), single);
    }

    #[test]
    fn non_object_arguments_become_empty_object() {
        for (written, sent) in
            [("{\"a\": 1}", "{\"a\": 1}"), ("", "{}"), ("{\"cut", "{}"), ("[1]", "{}")]
        {
            assert_eq!(normalize_input(written).get(), sent);
        }
    }
}
