//! Decides where the window of verbatim messages begins.
//!
//! A window that drops its oldest message in each turn begins differently each time, so no
//! provider's prompt cache can reuse it. This one grows until it is full and then drops about half
//! at once. That needs no stored state: a path may be cut at multiples of half the window, counted
//! in tokens from its root, and the window begins after the first cut from which everything fits.
//! Every instance begins at the same message as long as the size of the window stays the same.

use super::window::WindowMessage;

/// Cut distances are multiples of this many tokens, so that half a distance is a cut position, too.
const CUT_GRANULARITY: u32 = 64;

/// Drops the oldest messages until the window starts at the first cut after the message that no
/// longer fits. `recent` is newest first; `stable_size` is the window's size from turn to turn,
/// `available` that of this turn, both in tokens.
pub(super) fn trim_to_cut(recent: &mut Vec<WindowMessage>, stable_size: u32, available: u32) {
    let Some(oldest) = recent.last() else { return };
    let distance = cut_distance(stable_size, available);
    let cut = oldest.tokens_before.div_ceil(distance) * distance;
    // A message that crosses the cut stays: only messages that end at or before it are dropped.
    while cut > 0 && recent.last().is_some_and(|oldest| oldest.path_tokens <= cut) {
        recent.pop();
    }
}

/// Position at which a window of `size` tokens will begin once the path of `end` tokens has grown
/// by another quarter window. Summaries are written up to here, before the window is cut.
pub(super) fn next_cut(end: u64, size: u32) -> u64 {
    let distance = cut_distance(size, size);
    let size = u64::from(size);
    (end + size / 4).saturating_sub(size).div_ceil(distance) * distance
}

/// Tokens between two cuts: half of the window, halved again until it is at most half of what is
/// available in this turn. Halving keeps the cuts of the full window among those of a smaller one.
pub(super) fn cut_distance(stable_size: u32, available: u32) -> u64 {
    let half = stable_size / 2;
    let mut distance = if half > CUT_GRANULARITY { half - half % CUT_GRANULARITY } else { half };
    while distance > (available / 2).max(1) {
        distance /= 2;
    }
    // A distance of 0 would divide by zero.
    u64::from(distance.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MessageId, Role};
    use proptest::prelude::*;

    /// Indexes of the messages in the window over messages of these sizes.
    fn window_range(sizes: &[u32], size: u32, room: u32) -> std::ops::Range<usize> {
        let (mut left, mut recent, mut before) = (room, Vec::new(), 0);
        let starts: Vec<u64> = sizes
            .iter()
            .map(|size| {
                before += u64::from(*size);
                before - u64::from(*size)
            })
            .collect();
        for (size, tokens_before) in sizes.iter().zip(starts).rev() {
            let Some(rest) = left.checked_sub(*size) else { break };
            left = rest;
            recent.push(WindowMessage {
                id: MessageId::new_unchecked("m"),
                parent_id: None,
                role: Role::User,
                content: String::new(),
                tokens: *size,
                tokens_before,
                path_tokens: tokens_before + u64::from(*size),
                images: Vec::new(),
                calls: Vec::new(),
                results: Vec::new(),
            });
        }
        trim_to_cut(&mut recent, size, room);
        sizes.len() - recent.len()..sizes.len()
    }

    proptest! {
        #[test]
        fn window_keeps_start_until_full_then_drops_half(
            sizes in proptest::collection::vec(5u32..200, 1..150),
            size in 500u32..4000,
        ) {
            let mut start = 0;
            for end in 1..=sizes.len() {
                let window = window_range(&sizes[..end], size, size);
                if window.start != start {
                    let before: u32 = sizes[start..end].iter().sum();
                    prop_assert!(before > size, "it was not full: {before} of {size}");
                    let after: u32 = sizes[window.start..end].iter().sum();
                    // Messages cross cuts, and the last message is never split.
                    let half = size / 2;
                    let bounds = half.saturating_sub(CUT_GRANULARITY + 200)..=half + 2 * (CUT_GRANULARITY + 200);
                    prop_assert!(bounds.contains(&after), "{after} of {size}");
                    start = window.start;
                }
            }
        }

        #[test]
        fn smaller_turn_budget_shows_fewer_messages(
            sizes in proptest::collection::vec(5u32..100, 20..150),
            size in 1000u32..4000,
            part in 10u32..100,
        ) {
            let room = size * part / 100;
            let less = window_range(&sizes, size, room);
            prop_assert!(sizes[less.clone()].iter().sum::<u32>() <= room);
            prop_assert!(sizes[less].iter().sum::<u32>() + 200 + room / 2 + room / 4 >= room.min(sizes.iter().sum()));
        }
    }
}
