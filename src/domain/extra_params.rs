//! Request parameters that are passed through to the provider unchanged.

use super::FieldError;
use crate::json::limits::check_value;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Fields of a Chat Completions request that this server does not interpret: `stop`, `seed`,
/// `response_format` and anything else a provider may know. Values are kept as raw JSON because key
/// order can matter: a model writes structured output in the order of its schema.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ExtraParams(BTreeMap<String, Box<RawValue>>);

impl ExtraParams {
    pub fn new(fields: BTreeMap<String, Box<RawValue>>) -> Self {
        Self(fields)
    }

    /// A field as a JSON value; `None` if it is absent or null.
    pub fn get(&self, name: &str) -> Option<Value> {
        let value = serde_json::from_str(self.0.get(name)?.get()).ok()?;
        (value != Value::Null).then_some(value)
    }

    /// A field as the raw JSON that the client sent.
    pub fn get_raw(&self, name: &str) -> Option<&RawValue> {
        self.0.get(name).map(|value| &**value)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These fields if there are any, otherwise `under`. The two are not merged.
    #[must_use]
    pub fn or(self, under: Self) -> Self {
        if self.is_empty() { under } else { self }
    }
}

/// Maximum number of functions that a model may be offered. Vendors accept fewer.
const MAX_TOOLS: usize = 512;

/// Rejects tools other than functions. Built-in tools run at the vendor and are declared
/// differently by each vendor.
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
    let invalid = || {
        FieldError::new(
            field,
            "must be a list of {\"type\": \"function\", \"function\": {\"name\", \"description\"?, \"parameters\"?}}",
        )
    };
    check_value(tools.get()).map_err(|message| FieldError::new(field, message))?;
    let tools: Option<Vec<ToolDefinition>> =
        serde_json::from_str(tools.get()).map_err(|_| invalid())?;
    // `null` for `tools` means no tools, as in OpenAI's API.
    let is_function =
        |tool: &ToolDefinition| tool.kind == "function" && !tool.function.name.is_empty();
    let tools = tools.unwrap_or_default();
    if tools.len() > MAX_TOOLS {
        let message = format!("must not have more than {MAX_TOOLS} functions");
        return Err(FieldError::new(field, message));
    }
    if tools.iter().all(is_function) { Ok(()) } else { Err(invalid()) }
}

impl PartialEq for ExtraParams {
    fn eq(&self, other: &Self) -> bool {
        // `RawValue` has no equality of its own. Comparing the text is stricter than comparing
        // values, and key order is significant here.
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
