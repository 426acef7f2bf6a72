//! Where the messages that stand verbatim in the prompt begin.
//!
//! A window that drops its oldest message in each turn begins differently each time, and no
//! provider's prompt cache can use it. This one grows until it is full and then gives up half at
//! once. Nothing is remembered for that: a path may be cut at multiples of half the window, counted in
//! tokens from its root. A cut takes the messages that end before it, and a window begins at the first
//! one behind which all fits. So every instance begins at the same message, as long as the window's
//! size stays the same.

use super::window::WindowMessage;

/// Cuts are this many tokens apart, or a multiple, so that halves of halves are cuts, too.
const CUT_GRANULARITY: u32 = 64;

/// Drops the oldest of the messages that fit, until all are gone that end before the first cut behind
/// the message that does not fit any more. `recent` is newest
/// first; `steady` is the window's size from turn to turn, `room` what there is this time.
pub(super) fn trim_to_cut(recent: &mut Vec<WindowMessage>, steady: u32, room: u32) {
    let Some(oldest) = recent.last() else { return };
    let step = cut_distance(steady, room);
    let cut = oldest.tokens_before.div_ceil(step) * step;
    while cut > 0 && recent.last().is_some_and(|oldest| oldest.path_tokens <= cut) {
        recent.pop();
    }
}

/// Where a window of this size begins once it is a quarter fuller, on a path of so many tokens.
pub(super) fn next_cut(end: u64, size: u32) -> u64 {
    let step = cut_distance(size, size);
    let size = u64::from(size);
    (end + size / 4).saturating_sub(size).div_ceil(step) * step
}

/// The distance of cuts: half of the window; with less room than usual, half of that as often as it
/// takes.
pub(super) fn cut_distance(steady: u32, room: u32) -> u64 {
    let half = steady / 2;
    let mut step = if half > CUT_GRANULARITY { half - half % CUT_GRANULARITY } else { half };
    while step > (room / 2).max(1) {
        step /= 2;
    }
    u64::from(step.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MessageId, Role};
    use proptest::prelude::*;

    /// The window over the first so many of these messages, as the places of its messages.
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
        fn a_window_keeps_its_beginning_until_it_is_full_and_then_gives_up_about_half(
            sizes in proptest::collection::vec(5u32..200, 1..150),
            size in 500u32..4000,
        ) {
            let mut begun = 0;
            for end in 1..=sizes.len() {
                let window = window_range(&sizes[..end], size, size);
                if window.start != begun {
                    let kept: u32 = sizes[begun..end].iter().sum();
                    prop_assert!(kept > size, "it was not full: {kept} of {size}");
                    let rest: u32 = sizes[window.start..end].iter().sum();
                    // Messages lie across cuts, and the last one came whole.
                    let half = size / 2;
                    let bounds = half.saturating_sub(CUT_GRANULARITY + 200)..=half + 2 * (CUT_GRANULARITY + 200);
                    prop_assert!(bounds.contains(&rest), "{rest} of {size}");
                    begun = window.start;
                }
            }
        }

        #[test]
        fn with_less_room_for_a_turn_less_is_shown(
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
