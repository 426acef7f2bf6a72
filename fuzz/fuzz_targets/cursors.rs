//! Cursors and search terms: what is decoded can be encoded and decoded again.
#![no_main]

use echoic::domain::page::{SessionCursor, SortOrder};
use echoic::domain::search::{SearchCursor, build_snippet, parse_terms};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for sort in ["-lastMessageAt", "title"] {
        let Ok(sort) = SortOrder::parse(sort) else { unreachable!("{sort} is a sort order") };
        if let Ok(cursor) = SessionCursor::decode(text, sort) {
            assert_eq!(SessionCursor::decode(&cursor.encode(), sort).ok(), Some(cursor));
        }
    }
    if let Ok(cursor) = SearchCursor::decode(text) {
        assert_eq!(SearchCursor::decode(&cursor.encode()).ok(), Some(cursor));
    }
    if let Ok(terms) = parse_terms(text) {
        build_snippet(text, &terms);
    }
});
