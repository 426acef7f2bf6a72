//! Query parameters: strict, and described by the struct that they are extracted into.
//!
//! Unknown, repeated and invalid parameters are rejected, and one error names all of them. A route
//! whose OpenAPI operation has no query parameters rejects every parameter.

use super::param::parse_number;
use super::route_policy::RoutePolicy;
use crate::domain::FieldError;
use crate::domain::page::MAX_PAGE_SIZE;
use crate::error::{Error, Result};
use axum::extract::{FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::value::MapDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use std::fmt;
use utoipa::IntoParams;

/// The query parameters of a route. An absent or empty one has its default.
pub(super) trait RouteQuery: DeserializeOwned {
    /// Adds the errors of parameters that are valid by themselves but not together.
    fn check(&self, _errors: &mut Vec<FieldError>) {}
}

impl<A: RouteQuery, B: RouteQuery> RouteQuery for (A, B) {
    fn check(&self, errors: &mut Vec<FieldError>) {
        self.0.check(errors);
        self.1.check(errors);
    }
}

/// Extracts the query parameters as `T`, or as a tuple of several such structs.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: RouteQuery, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parse_query(read_pairs(parts)).map(Self)
    }
}

/// Middleware that rejects query parameters on routes that document none.
pub(super) async fn refuse_unexpected_query(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let is_free = parts.extensions.get::<RoutePolicy>().is_none_or(|policy| policy.takes_query);
    if !is_free && let Err(error) = parse_query::<NoQuery>(read_pairs(&parts)) {
        return error.into_response();
    }
    next.run(Request::from_parts(parts, body)).await
}

#[derive(Debug, Deserialize)]
struct NoQuery {}

impl RouteQuery for NoQuery {}

/// The page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Page number, from 1; a page past the end is empty
    #[serde(deserialize_with = "parse_number::<_, 1, { u32::MAX }>")]
    page: Option<u32>,
    /// Page size, 1 to 100 (default 20)
    #[serde(deserialize_with = "parse_number::<_, 1, MAX_PAGE_SIZE>")]
    limit: Option<u32>,
}

impl RouteQuery for PageQuery {}

impl PageQuery {
    pub(super) fn page(&self) -> u32 {
        self.page.unwrap_or(1)
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit.unwrap_or(20)
    }
}

type Pairs = Vec<(String, String)>;

/// The parameters of a request, without those that its route ignores.
fn read_pairs(parts: &Parts) -> Pairs {
    let pairs = Query::<Pairs>::try_from_uri(&parts.uri);
    // Pairs of strings can always be parsed: form decoding replaces invalid UTF-8.
    let mut pairs = pairs.map(|query| query.0).unwrap_or_default();
    if let Some(policy) = parts.extensions.get::<RoutePolicy>() {
        pairs.retain(|(name, _)| !policy.ignored_params.contains(&name.as_str()));
    }
    pairs
}

fn parse_query<T: RouteQuery>(mut pairs: Pairs) -> Result<T> {
    let mut errors = Vec::new();
    loop {
        let mut reader = QueryDeserializer { pairs: &pairs, known: Vec::new() };
        let error = match T::deserialize(&mut reader) {
            Ok(params) => {
                errors.extend(reader.unknown_params());
                params.check(&mut errors);
                return if errors.is_empty() {
                    Ok(params)
                } else {
                    Err(Error::invalid_fields(errors))
                };
            }
            Err(error) => error,
        };
        // serde stops at the first error, but one response names all of them. So the parameter is
        // taken out, which cannot be an error by itself, and the rest is read again.
        let count = pairs.len();
        pairs.retain(|(name, _)| *name != error.name);
        errors.push(FieldError::new(error.name, error.message));
        if pairs.len() == count {
            return Err(Error::invalid_fields(errors));
        }
    }
}

/// Deserializes structs whose fields are parameters, and tuples of such structs.
struct QueryDeserializer<'de> {
    pairs: &'de [(String, String)],
    /// The fields of the structs so far.
    known: Vec<&'static str>,
}

impl QueryDeserializer<'_> {
    fn unknown_params(&self) -> impl Iterator<Item = FieldError> {
        let unknown = self.pairs.iter().filter(|(name, _)| !self.known.contains(&name.as_str()));
        unknown.map(|(name, _)| {
            // The error repeats the name, whose length the client chose.
            let name: String = name.chars().take(64).collect();
            FieldError::new(name, "is not a parameter of this route")
        })
    }
}

impl<'de> Deserializer<'de> for &mut QueryDeserializer<'de> {
    type Error = ParamError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        self.known.extend(fields);
        let mut params = Vec::new();
        for name in fields {
            let mut values = self.pairs.iter().filter(|(given, _)| given == name);
            let Some((_, value)) = values.next() else { continue };
            // Which of two values wins differs between parsers, so neither does.
            if values.next().is_some() {
                return Err(ParamError::new(*name, "must be given once"));
            }
            // An empty value counts as absent.
            if !value.is_empty() {
                params.push((*name, ParamDeserializer { name, value }));
            }
        }
        visitor.visit_map(MapDeserializer::new(params.into_iter()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        visitor.visit_seq(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, ParamError> {
        Err(de::Error::custom("only structs are read from a query"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple_struct map enum identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for QueryDeserializer<'de> {
    type Error = ParamError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ParamError> {
        seed.deserialize(self).map(Some)
    }
}

/// Deserializes the value of one parameter: text, or a word of an enum.
struct ParamDeserializer<'de> {
    name: &'static str,
    value: &'de str,
}

impl<'de> Deserializer<'de> for ParamDeserializer<'de> {
    type Error = ParamError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        let named = |error: ParamError| ParamError { name: self.name.to_owned(), ..error };
        visitor.visit_borrowed_str(self.value).map_err(named)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParamError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParamError> {
        if !variants.contains(&self.value) {
            let expected = format!("must be one of {}", variants.join(", "));
            return Err(ParamError::new(self.name, expected));
        }
        visitor.visit_enum(self.value.into_deserializer())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, ParamError> for ParamDeserializer<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A parameter that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{name} {message}")]
struct ParamError {
    name: String,
    message: String,
}

impl ParamError {
    fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), message: message.into() }
    }
}

impl de::Error for ParamError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // The deserializer of the value adds the name.
        Self::new("", message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Role, SessionId};
    use crate::http::param::parse_param;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct TestQuery {
        #[serde(deserialize_with = "parse_param")]
        session_id: Option<SessionId>,
        #[serde(deserialize_with = "parse_number::<_, 1, 100>")]
        limit: Option<u32>,
        role: Option<Role>,
        text: String,
    }

    impl RouteQuery for TestQuery {
        fn check(&self, errors: &mut Vec<FieldError>) {
            if self.text == "lonely" && self.session_id.is_none() {
                errors.push(FieldError::new("text", "needs a sessionId"));
            }
        }
    }

    fn parse<T: RouteQuery>(query: &str) -> Result<T, serde_json::Value> {
        let uri = format!("/?{query}").parse().unwrap();
        let pairs = Query::<Pairs>::try_from_uri(&uri).unwrap().0;
        parse_query(pairs).map_err(|error| error.details.unwrap())
    }

    #[test]
    fn parameters_are_parsed_into_their_types() {
        let query: TestQuery = parse("sessionId=a&limit=7&role=tool&text=a%20b").unwrap();
        assert_eq!(
            query,
            TestQuery {
                session_id: Some(SessionId::new_unchecked("a")),
                limit: Some(7),
                role: Some(Role::Tool),
                text: "a b".to_owned(),
            }
        );
    }

    #[test]
    fn absent_and_empty_parameters_have_their_defaults() {
        for query in ["", "sessionId=&limit=&role=&text="] {
            assert_eq!(parse::<TestQuery>(query).unwrap(), TestQuery::default(), "{query}");
        }
    }

    #[test]
    fn one_error_names_every_wrong_parameter() {
        let errors = parse::<TestQuery>("limit=0&role=king&sessionId=a/b&color=red&text=lonely")
            .unwrap_err();
        assert_eq!(errors["limit"], "must be a whole number from 1 to 100");
        assert_eq!(errors["role"], "must be one of user, assistant, system, tool");
        assert_eq!(errors["color"], "is not a parameter of this route");
        assert_eq!(errors["text"], "needs a sessionId");
        assert!(errors["sessionId"].is_string(), "{errors}");
    }

    #[test]
    fn repeated_parameter_is_refused() {
        let errors = parse::<TestQuery>("limit=1&limit=2").unwrap_err();
        assert_eq!(errors, serde_json::json!({"limit": "must be given once"}));
    }

    #[test]
    fn tuple_takes_the_parameters_of_all_its_structs() {
        let (page, query): (PageQuery, TestQuery) = parse("page=3&role=user").unwrap();
        assert_eq!((page.page(), page.limit(), query.role), (3, 20, Some(Role::User)));
        let errors = parse::<(PageQuery, TestQuery)>("page=0&role=x&y=1").unwrap_err();
        let names: Vec<_> = errors.as_object().unwrap().keys().collect();
        assert_eq!(names, ["page", "role", "y"]);
    }

    #[test]
    fn route_without_parameters_refuses_any() {
        assert!(parse::<NoQuery>("").is_ok());
        assert_eq!(
            parse::<NoQuery>("a=1&a=2").map(|_| ()).unwrap_err(),
            serde_json::json!({"a": "is not a parameter of this route"})
        );
    }
}
