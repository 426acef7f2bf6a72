//! JSON of any depth: reading and repairing it ends, and what was accepted can be read back.
#![no_main]

use echoic::json::{escapes, lenient, parse_bounded_object};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|text: &str| {
    if let Ok(fields) = parse_bounded_object::<Map<String, Value>>(text.as_bytes()) {
        let written = serde_json::to_vec(&fields).unwrap();
        assert_eq!(serde_json::from_slice::<Map<String, Value>>(&written).unwrap(), fields);
    }
    lenient::parse_value(text.as_bytes());
    if let Some(repaired) = escapes::repair_escapes(text) {
        assert!(escapes::repair_escapes(&repaired.json).is_none(), "{}", repaired.json);
    }
});
