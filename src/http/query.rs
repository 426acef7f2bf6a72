//! Strict parsing of query strings: unknown, repeated and invalid parameters are refused, and one
//! error names all of them.

use crate::domain::FieldError;
use crate::error::{Error, Result};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::borrow::Cow;
use std::convert::Infallible;
use std::ops::RangeInclusive;

/// The query parameters of a request. A handler takes each one it knows, then calls
/// [`QueryParams::finish`].
pub(super) struct QueryParams {
    params: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let params = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        // Pairs of strings can always be parsed: form decoding replaces invalid UTF-8.
        Ok(Self { params: params.map(|query| query.0).unwrap_or_default(), errors: Vec::new() })
    }
}

impl QueryParams {
    /// Takes a parameter as text. An empty value counts as absent.
    pub(super) fn take_text(&mut self, name: &'static str) -> Option<String> {
        let mut values = Vec::new();
        self.params.retain(|(key, value)| {
            if key == name {
                values.push(value.clone());
            }
            key != name
        });
        // Which of two values wins differs between parsers, so neither does.
        if values.len() > 1 {
            self.add_error(name, "must be given once");
        }
        values.pop().filter(|value| !value.is_empty())
    }

    /// Accepts a parameter without reading it.
    pub(super) fn ignore(&mut self, name: &str) {
        self.params.retain(|(key, _)| key != name);
    }

    /// Takes a parameter and parses it with `read`.
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

    /// Takes a parameter as a whole number within a range.
    pub(super) fn take_number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let expected = match *range.end() {
            u32::MAX => format!("must be a whole number of at least {}", range.start()),
            end => format!("must be a whole number from {} to {end}", range.start()),
        };
        self.take_parsed(name, |text| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(FieldError::new(name, expected.clone())),
        })
    }

    /// Takes a parameter that must be one of the given words.
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

    /// Records an error, which [`QueryParams::finish`] returns.
    pub(super) fn add_error(&mut self, name: &'static str, expected: impl Into<Cow<'static, str>>) {
        self.errors.push(FieldError::new(name, expected));
    }

    /// Returns all recorded errors, and one for each parameter that was not taken.
    pub(super) fn finish(mut self) -> Result<()> {
        for (name, _) in self.params {
            // The error repeats the name, whose length the client chose.
            let name: String = name.chars().take(64).collect();
            self.errors.push(FieldError::new(name, "is not a parameter of this route"));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.errors)) }
    }
}
