//! Markdown: the HTML has no scripts, images or handlers.
#![no_main]

use echoic::markup::render_html;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|markdown: &str| {
    let html = render_html(markdown);
    for forbidden in ["<script", "<img", "<iframe", "<style", "<svg"] {
        assert!(!html.contains(forbidden), "{html}");
    }
});
