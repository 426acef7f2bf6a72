//! The reader of exports: any bytes are read to an end or refused.
#![no_main]

use echoic::transfer::import_pace::ImportPace;
use echoic::transfer::session_reader::read_sessions;
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;

fuzz_target!(|file: &[u8]| {
    let _ = read_sessions(file, &ImportPace::default(), |_| ControlFlow::Continue(()));
});
