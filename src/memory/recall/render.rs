//! What is recalled, as it stands in the prompt: in time order, a line for each day, a line for each
//! message, in front of the new message's own text.
//!
//! Every line ends with a line break and none begins with white space. No vocabulary joins text
//! across such a place, so the tokens of lines add up and each is counted once.

use super::path_index::PathIndex;
use crate::domain::{MessageId, Timestamp};
use crate::memory::tokens::TokenVocabulary;
use std::collections::{BTreeMap, BTreeSet};

/// What stands behind it.
const CLOSING_LINE: &str = "[That was earlier. The message to answer now:]\n";
/// What stands between passages of a message that do not follow one another, and where one is cut.
const ELLIPSIS: &str = " … ";

/// A message that is recalled.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::memory) struct RecalledMessage {
    /// The message.
    pub(in crate::memory) id: MessageId,
    /// How well it answers.
    pub(in crate::memory) score: f32,
    /// Its tokens, with what stands around it.
    pub(in crate::memory) tokens: u32,
    /// Its text with what stands around it.
    pub(in crate::memory) text: String,
}

/// Takes passages, best first, as long as they fit `room` tokens, and writes them down. A passage
/// that is too large makes way for those behind it.
pub(super) fn select_within_budget(
    kept: &mut PathIndex,
    ranked: &[(u32, f32)],
    now: Timestamp,
    room: u32,
    vocabulary: TokenVocabulary,
) -> Vec<RecalledMessage> {
    let opening = format_opening(now);
    let frame = vocabulary.count_tokens(&opening) + vocabulary.count_tokens(CLOSING_LINE);
    let Some(mut left) = room.checked_sub(frame) else { return Vec::new() };
    // The days that have a line, and what each day's line takes.
    let mut days: BTreeSet<i64> = BTreeSet::new();
    let mut lines: BTreeMap<i64, u32> = BTreeMap::new();
    let mut misses = 0;
    let mut chosen: BTreeMap<u32, SelectedMessage> = BTreeMap::new();
    for (passage, score) in ranked {
        if left < MIN_LINE_TOKENS || misses == MAX_CONSECUTIVE_MISSES {
            break;
        }
        let message = kept.index.passages()[*passage as usize].message_index;
        let day = kept.messages[message as usize].day;
        let for_day = match days.contains(&day) {
            true => 0,
            false => {
                *lines.entry(day).or_insert_with(|| vocabulary.count_tokens(&format_day_line(day)))
            }
        };
        let before = chosen.get(&message).map_or(0, |chosen| chosen.tokens);
        let (passages, tokens) = match chosen.get(&message) {
            None => (vec![*passage], kept.count_line_tokens(*passage, vocabulary)),
            Some(chosen) => {
                let mut passages = chosen.passages.clone();
                passages.push(*passage);
                passages.sort_unstable();
                let tokens = vocabulary.count_tokens(&kept.render_line(&passages));
                (passages, tokens)
            }
        };
        let Some(rest) = left.checked_sub(tokens.saturating_sub(before) + for_day) else {
            misses += 1;
            continue;
        };
        (left, misses) = (rest, 0);
        days.insert(day);
        let score = chosen.get(&message).map_or(*score, |chosen| chosen.score.max(*score));
        chosen.insert(message, SelectedMessage { passages, tokens, score });
    }
    loop {
        let written = render_messages(kept, &chosen, &opening, vocabulary);
        if written.iter().map(|message| message.tokens).sum::<u32>() <= room {
            return written;
        }
        // A path that goes back and forth in time needs more lines of days: the worst goes.
        let worst = chosen.iter().min_by(|(_, a), (_, b)| a.score.total_cmp(&b.score));
        let Some(worst) = worst.map(|(message, _)| *message) else { return Vec::new() };
        chosen.remove(&worst);
    }
}

/// What stands before everything that is recalled. The day is said here and nowhere else: what
/// changes by itself must not stand in front of what providers cache.
fn format_opening(now: Timestamp) -> String {
    format!("[It is {}. From earlier in this conversation, oldest first:]\n", now.format_day())
}

/// No line is shorter than this many tokens.
const MIN_LINE_TOKENS: u32 = 4;
/// After so many passages in a row that do not fit, nothing is expected of the others.
const MAX_CONSECUTIVE_MISSES: usize = 256;

/// What of a message is taken.
struct SelectedMessage {
    passages: Vec<u32>,
    tokens: u32,
    score: f32,
}

fn render_messages(
    kept: &PathIndex,
    chosen: &BTreeMap<u32, SelectedMessage>,
    opening: &str,
    vocabulary: TokenVocabulary,
) -> Vec<RecalledMessage> {
    let (mut written, mut last_day) = (Vec::with_capacity(chosen.len()), None);
    let last = chosen.keys().next_back().copied();
    for (message, SelectedMessage { passages, tokens, score }) in chosen {
        let mut tokens = *tokens;
        let said = &kept.messages[*message as usize];
        let mut text = String::new();
        let mut add = |line: &str| {
            text.push_str(line);
            tokens += vocabulary.count_tokens(line);
        };
        if last_day.is_none() {
            add(opening);
        }
        if last_day != Some(said.day) {
            add(&format_day_line(said.day));
            last_day = Some(said.day);
        }
        text.push_str(&kept.render_line(passages));
        if Some(*message) == last {
            text.push_str(CLOSING_LINE);
            tokens += vocabulary.count_tokens(CLOSING_LINE);
        }
        written.push(RecalledMessage { id: said.id.clone(), score: *score, tokens, text });
    }
    written
}

fn format_day_line(day: i64) -> String {
    format!("## {}\n", super::path_index::format_day(day))
}

impl PathIndex {
    /// The tokens of a passage's line, if nothing else of its message is shown.
    fn count_line_tokens(&mut self, passage: u32, vocabulary: TokenVocabulary) -> u32 {
        self.set_vocabulary(vocabulary);
        let at = passage as usize;
        if self.line_token_counts[at] == 0 {
            self.line_token_counts[at] = vocabulary.count_tokens(&self.render_line(&[passage]));
        }
        self.line_token_counts[at]
    }

    /// The line of passages of one message, in their order.
    pub(super) fn render_line(&self, passages: &[u32]) -> String {
        let of = |passage: u32| &self.index.passages()[passage as usize];
        let Some(first) = passages.first().map(|first| of(*first)) else { return String::new() };
        let said = &self.messages[first.message_index as usize];
        let mut line = format!("{}: ", self.speakers[said.speaker as usize]);
        let mut at = 0;
        for passage in passages {
            let range =
                of(*passage).byte_range.start as usize..of(*passage).byte_range.end as usize;
            if !said.text[at..range.start].trim().is_empty() {
                line.push_str(if at == 0 { ELLIPSIS.trim_start() } else { ELLIPSIS });
            } else if at > 0 {
                line.push_str(&said.text[at..range.start]);
            }
            line.push_str(&said.text[range.clone()]);
            at = range.end;
        }
        if !said.text[at..].trim().is_empty() {
            line.push_str(ELLIPSIS.trim_end());
        }
        line.push('\n');
        line
    }
}
