//! What a request asks of a reply beside a session's settings.

use super::FieldError;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Fields of a Chat Completions request that this server hands on without looking at them, as they
/// came: `stop`, `seed`, `response_format`, and whatever else a provider may know. The order of
/// names in them may matter: a model writes JSON in the order of its schema.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ExtraParams(BTreeMap<String, Box<RawValue>>);

impl ExtraParams {
    /// Takes fields.
    pub fn new(fields: BTreeMap<String, Box<RawValue>>) -> Self {
        Self(fields)
    }

    /// One of the fields, if it is there and not null.
    pub fn get(&self, name: &str) -> Option<Value> {
        let value = serde_json::from_str(self.0.get(name)?.get()).ok()?;
        (value != Value::Null).then_some(value)
    }

    /// One of the fields, as it came.
    pub fn get_raw(&self, name: &str) -> Option<&RawValue> {
        self.0.get(name).map(|value| &**value)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These fields; if there are none, `under`'s.
    #[must_use]
    pub fn or(self, under: Self) -> Self {
        if self.is_empty() { under } else { self }
    }
}

/// Refuses tools that are no functions: others run at their vendor, whose words for them differ.
pub fn check_function_tools(
    field: &'static str,
    tools: Option<&RawValue>,
) -> Result<(), FieldError> {
    #[derive(Deserialize)]
    struct ToolDefinition {
        #[serde(rename = "type")]
        kind: String,
        function: FunctionDefinition,
    }
    #[derive(Deserialize)]
    struct FunctionDefinition {
        name: String,
    }
    let Some(tools) = tools else { return Ok(()) };
    let wants = || {
        FieldError::new(
            field,
            "must be a list of {\"type\": \"function\", \"function\": {\"name\", \"description\"?, \"parameters\"?}}",
        )
    };
    let tools: Option<Vec<ToolDefinition>> =
        serde_json::from_str(tools.get()).map_err(|_| wants())?;
    let is_function =
        |tool: &ToolDefinition| tool.kind == "function" && !tool.function.name.is_empty();
    if tools.unwrap_or_default().iter().all(is_function) { Ok(()) } else { Err(wants()) }
}

impl PartialEq for ExtraParams {
    fn eq(&self, other: &Self) -> bool {
        let texts = |fields: &Self| -> Vec<(String, String)> {
            fields.0.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect()
        };
        texts(self) == texts(other)
    }
}

impl Serialize for ExtraParams {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}
