//! Query strings, read strictly: what is unknown or wrong is refused, all of it at once.

use crate::domain::FieldError;
use crate::error::{Error, Result};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::borrow::Cow;
use std::convert::Infallible;
use std::ops::RangeInclusive;

/// The parameters of a request. Take each one that the route knows, then [`Query::finish`].
pub(super) struct Query {
    given: Vec<(String, String)>,
    complaints: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let given = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        Ok(Self { given: given.map(|query| query.0).unwrap_or_default(), complaints: Vec::new() })
    }
}

impl Query {
    /// A parameter's text; an empty one counts as absent.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let mut values = Vec::new();
        self.given.retain(|(key, value)| {
            if key == name {
                values.push(value.clone());
            }
            key != name
        });
        if values.len() > 1 {
            self.complain(name, "must be given once");
        }
        values.pop().filter(|value| !value.is_empty())
    }

    /// Passes over a parameter, whatever it says.
    pub(super) fn ignore(&mut self, name: &str) {
        self.given.retain(|(key, _)| key != name);
    }

    /// A parameter that `read` understands.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        let text = self.text(name)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.complain(name, invalid.message);
                None
            }
        }
    }

    /// A whole number within a range.
    pub(super) fn number(&mut self, name: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let wants = match *range.end() {
            u32::MAX => format!("must be a whole number of at least {}", range.start()),
            end => format!("must be a whole number from {} to {end}", range.start()),
        };
        self.parsed(name, |text| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(FieldError::new(name, wants.clone())),
        })
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.parsed(name, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| FieldError::new(name, format!("must be one of {known}")))
        })
    }

    /// Says that a parameter wants something else.
    pub(super) fn complain(&mut self, name: &'static str, wants: impl Into<Cow<'static, str>>) {
        self.complaints.push(FieldError::new(name, wants));
    }

    /// Refuses the request if anything was wrong or is left over.
    pub(super) fn finish(mut self) -> Result<()> {
        for (name, _) in self.given {
            let name: String = name.chars().take(64).collect();
            self.complaints.push(FieldError::new(name, "is not a parameter of this route"));
        }
        if self.complaints.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid_fields(self.complaints))
        }
    }
}
