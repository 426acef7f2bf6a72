//! Values of path and query parameters, which are all text.

use crate::domain::page::SortOrder;
use crate::domain::session::SessionStatus;
use crate::domain::{
    FieldError, FilePath, MessageId, ProjectId, SessionId, Timestamp, TurnId, UserId,
};
use serde::de::{Deserializer, Error, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A type that a path or query parameter is parsed into.
pub(super) trait ParseParam: Sized {
    /// Parses the text. Only the message of the error is used: its field is the parameter.
    fn parse_param(text: &str) -> Result<Self, FieldError>;
}

/// `deserialize_with` for a field that is parsed with [`ParseParam`].
pub(super) fn parse_param<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: ParseParam,
    D: Deserializer<'de>,
{
    struct TextVisitor<T>(PhantomData<T>);

    impl<T: ParseParam> Visitor<'_> for TextVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        // The error is raised in here, because axum adds the parameter's name to errors of visitors
        // only.
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            T::parse_param(text).map_err(|invalid| E::custom(invalid.message))
        }
    }

    deserializer.deserialize_str(TextVisitor(PhantomData))
}

/// `deserialize_with` for a whole number from `MIN` to `MAX`.
pub(super) fn parse_number<'de, D, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<Option<u32>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Ranged<const MIN: u32, const MAX: u32>(u32);

    impl<const MIN: u32, const MAX: u32> ParseParam for Ranged<MIN, MAX> {
        fn parse_param(text: &str) -> Result<Self, FieldError> {
            match text.parse() {
                Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
                _ if MAX == u32::MAX => {
                    Err(FieldError::new("", format!("must be a whole number of at least {MIN}")))
                }
                _ => {
                    Err(FieldError::new("", format!("must be a whole number from {MIN} to {MAX}")))
                }
            }
        }
    }

    parse_param(deserializer).map(|Ranged::<MIN, MAX>(number)| Some(number))
}

impl<T: ParseParam> ParseParam for Option<T> {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        T::parse_param(text).map(Some)
    }
}

impl ParseParam for bool {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        text.parse().map_err(|_| FieldError::new("", "must be one of true, false"))
    }
}

impl ParseParam for Timestamp {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        Self::parse(text).ok_or_else(|| FieldError::new("", "must be a time in RFC 3339"))
    }
}

/// Parses one of the given names.
pub(super) fn parse_name<'a, T: Copy + 'a>(
    text: &str,
    names: impl Iterator<Item = &'a (&'a str, T)> + Clone,
) -> Result<T, FieldError> {
    let found = names.clone().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = names.map(|(name, _)| *name).collect();
        FieldError::new("", format!("must be one of {}", known.join(", ")))
    })
}

macro_rules! impl_parse_param {
    ($($type:ty: $parse:expr),* $(,)?) => {$(
        impl ParseParam for $type {
            fn parse_param(text: &str) -> Result<Self, FieldError> {
                $parse(text)
            }
        }
    )*};
}

impl_parse_param! {
    SessionId: |text| Self::parse("", text),
    MessageId: |text| Self::parse("", text),
    TurnId: |text| Self::parse("", text),
    ProjectId: |text| Self::parse("", text),
    UserId: |text| Self::parse("", text),
    FilePath: Self::parse,
    SessionStatus: Self::parse,
    SortOrder: Self::parse,
}
