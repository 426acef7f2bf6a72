//! The one way a value can be refused: which field, and what it wants.

use std::borrow::Cow;
use std::fmt;

/// A field that does not hold what it must, and a sentence's end saying what it wants
/// ("must be …").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field as the client spelled it, with dots and indexes for nested ones.
    pub field: Cow<'static, str>,
    /// What the field wants, to be read after its name: "must be a whole number from 1 to 100".
    pub message: Cow<'static, str>,
}

impl FieldError {
    /// Says that `field` wants something else than it got.
    pub fn new(field: impl Into<Cow<'static, str>>, wants: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: wants.into() }
    }

    /// The same complaint about a field nested in `outer`.
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
