//! Query strings, read strictly: what is unknown or wrong is refused, all of it at once.

use crate::domain::FieldError;
use crate::error::{Error, Result};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::borrow::Cow;
use std::convert::Infallible;
use std::ops::RangeInclusive;

/// The parameters of a request. Take each one that the route knows, then [`QueryParams::finish`].
pub(super) struct QueryParams {
    params: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let given = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        Ok(Self { params: given.map(|query| query.0).unwrap_or_default(), errors: Vec::new() })
    }
}

impl QueryParams {
    /// A parameter's text; an empty one counts as absent.
    pub(super) fn take_text(&mut self, name: &'static str) -> Option<String> {
        let mut values = Vec::new();
        self.params.retain(|(key, value)| {
            if key == name {
                values.push(value.clone());
            }
            key != name
        });
        if values.len() > 1 {
            self.add_error(name, "must be given once");
        }
        values.pop().filter(|value| !value.is_empty())
    }

    /// Passes over a parameter, whatever it says.
    pub(super) fn ignore(&mut self, name: &str) {
        self.params.retain(|(key, _)| key != name);
    }

    /// A parameter that `read` understands.
    pub(super) fn take_parsed<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        let text = self.take_text(name)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.add_error(name, invalid.message);
                None
            }
        }
    }

    /// A whole number within a range.
    pub(super) fn take_number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let wants = match *range.end() {
            u32::MAX => format!("must be a whole number of at least {}", range.start()),
            end => format!("must be a whole number from {} to {end}", range.start()),
        };
        self.take_parsed(name, |text| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(FieldError::new(name, wants.clone())),
        })
    }

    /// One of a few words.
    pub(super) fn take_choice<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.take_parsed(name, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found
                .map(|(_, value)| *value)
                .ok_or_else(|| FieldError::new(name, format!("must be one of {known}")))
        })
    }

    /// Says that a parameter wants something else.
    pub(super) fn add_error(&mut self, name: &'static str, wants: impl Into<Cow<'static, str>>) {
        self.errors.push(FieldError::new(name, wants));
    }

    /// Refuses the request if anything was wrong or is left over.
    pub(super) fn finish(mut self) -> Result<()> {
        for (name, _) in self.params {
            let name: String = name.chars().take(64).collect();
            self.errors.push(FieldError::new(name, "is not a parameter of this route"));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.errors)) }
    }
}
