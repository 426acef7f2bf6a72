//! Bounds of JSON text, checked before anything is built of it: a tree of values takes up to a
//! hundred times the bytes of its text.

use super::JsonError;
use memchr::memchr2;

/// Maximum number of values in one field of a request. Objects take the most memory, about 700
/// bytes each.
pub const MAX_FIELD_VALUES: usize = 100_000;

/// Maximum nesting of a value in a request. JSON parsers read 128 levels; the rest is for the
/// messages, responses and exports that a value becomes part of.
pub const MAX_FIELD_DEPTH: usize = 100;

/// A bound that JSON text exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    Values,
    Depth,
}

impl Excess {
    fn message(self) -> String {
        match self {
            Self::Values => format!("must not have more than {MAX_FIELD_VALUES} values"),
            Self::Depth => format!("must not be nested deeper than {MAX_FIELD_DEPTH} levels"),
        }
    }
}

/// Checks one value. Errors: the rest of a sentence that begins with the name of its field.
pub fn check_value(json: &str) -> Result<(), String> {
    let mut scan = Scan::default();
    scan.run(json.as_bytes()).map_err(Excess::message)
}

/// Checks a value that `levels` of lists and objects will be put around.
pub fn check_nested_value(json: &str, levels: usize) -> Result<(), String> {
    let mut scan = Scan { depth: levels, ..Scan::default() };
    scan.run(json.as_bytes()).map_err(Excess::message)
}

/// Checks each field of an object. Text that is not JSON is left to the parser.
pub(super) fn check_fields(json: &[u8]) -> Result<(), JsonError> {
    let mut scan = Scan { is_object: true, ..Scan::default() };
    scan.run(json).map_err(|excess| {
        let name: Option<String> =
            scan.field.and_then(|(begin, end)| serde_json::from_slice(json.get(begin..end)?).ok());
        JsonError { field: name.unwrap_or_else(|| "body".to_owned()), message: excess.message() }
    })
}

/// Counts values and nesting without looking at what they are.
#[derive(Default)]
struct Scan {
    /// Whether bounds apply to each field of an object rather than to the whole.
    is_object: bool,
    depth: usize,
    values: usize,
    /// Where the name of the current field is, with its quotes.
    field: Option<(usize, usize)>,
}

impl Scan {
    fn run(&mut self, json: &[u8]) -> Result<(), Excess> {
        let mut at = 0;
        let mut is_field_name = self.is_object;
        let outer = usize::from(self.is_object);
        while at < json.len() {
            match json[at] {
                b'"' => {
                    let end = find_string_end(json, at);
                    if is_field_name && self.depth == outer {
                        self.field = Some((at, end));
                        is_field_name = false;
                    }
                    at = end;
                    continue;
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    self.values += 1;
                    if self.depth > MAX_FIELD_DEPTH + outer {
                        return Err(Excess::Depth);
                    }
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' if self.is_object && self.depth == outer => {
                    self.values = 0;
                    is_field_name = true;
                }
                b',' => self.values += 1,
                _ => {}
            }
            if self.values > MAX_FIELD_VALUES {
                return Err(Excess::Values);
            }
            at += 1;
        }
        Ok(())
    }
}

/// The position after the string that begins at `begin`.
fn find_string_end(json: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn value_is_bounded_in_number_and_depth() {
        let list = |count: usize| format!("[{}]", vec![r#""a,[\"{""#; count].join(","));
        assert_eq!(check_value(&list(MAX_FIELD_VALUES)), Ok(()));
        assert!(check_value(&list(MAX_FIELD_VALUES + 1)).unwrap_err().contains("100000 values"));
        assert_eq!(check_value(&nested(MAX_FIELD_DEPTH)), Ok(()));
        assert!(check_value(&nested(MAX_FIELD_DEPTH + 1)).unwrap_err().contains("100 levels"));
        assert_eq!(check_nested_value(&nested(MAX_FIELD_DEPTH - 2), 2), Ok(()));
        assert!(check_nested_value(&nested(MAX_FIELD_DEPTH - 1), 2).is_err());
        for odd in ["", "\"", "\"\\", "]]]", "{", "\"a"] {
            assert_eq!(check_value(odd), Ok(()), "{odd}");
        }
    }

    #[test]
    fn error_names_the_field_that_is_too_large() {
        let many = vec!["{}"; MAX_FIELD_VALUES / 2 + 1].join(",");
        let body = format!(r#"{{"a":[{{"x":1}}],"m\u0065ta":[{many}],"z":1}}"#);
        let error = check_fields(body.as_bytes()).unwrap_err();
        assert_eq!(error.field, "meta");
        let body = format!(r#"{{"a":1,"deep":{},"z":1}}"#, nested(MAX_FIELD_DEPTH + 1));
        assert_eq!(check_fields(body.as_bytes()).unwrap_err().field, "deep");
        let body = format!(r#"{{"a":{},"b":{}}}"#, nested(100), nested(MAX_FIELD_DEPTH));
        assert_eq!(check_fields(body.as_bytes()), Ok(()));
    }
}
