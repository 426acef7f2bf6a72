//! The reader of server-sent events: any split of any bytes gives the same events.
#![no_main]

#[path = "../../src/provider/http/sse.rs"]
mod sse;

use libfuzzer_sys::fuzz_target;

fn events(pieces: &[&[u8]]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut decoder, mut seen) = (sse::SseDecoder::default(), Vec::new());
    for piece in pieces {
        assert!(decoder.push(piece, |name, data| seen.push((name.to_vec(), data.to_vec()))));
    }
    seen
}

// The first bytes say where the rest is cut.
fuzz_target!(|input: &[u8]| {
    let Some((cuts, wire)) = input.split_at_checked(4) else { return };
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut).min(wire.len())).collect();
    cuts.extend([0, wire.len()]);
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
    let whole = events(&[wire]);
    assert_eq!(events(&pieces), whole);
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(events(&bytes), whole);
});
