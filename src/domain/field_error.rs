//! The validation error of a single field: which field, and what it must hold.

use std::borrow::Cow;
use std::fmt;

/// A field with an invalid value. Displayed as one sentence, the field followed by the message:
/// "temperature must be a number from 0 to 2".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field as the client spells it; nested fields with dots and indexes (`settings.topP`,
    /// `messages[3].id`).
    pub field: Cow<'static, str>,
    /// The rest of the sentence after the field name: "must be a whole number from 1 to 100".
    pub message: Cow<'static, str>,
}

impl FieldError {
    pub fn new(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// The same error for a field nested in `outer`.
    #[must_use]
    pub fn within(self, outer: impl fmt::Display) -> Self {
        let field = format!("{outer}.{}", self.field);
        Self { field: field.into(), message: self.message }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

impl std::error::Error for FieldError {}
