//! Renders recalled messages for the prompt: in chronological order, one line per day and per
//! message, in front of the new message's own text.
//!
//! Every line ends with a line break and none begins with white space. No vocabulary has a token
//! across such a boundary, so the tokens of lines add up and each line is counted once.

use super::path_index::PathIndex;
use crate::domain::model::TokenVocabulary;
use crate::domain::{MessageId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Last line of the recalled text; the new message's own text follows.
const CLOSING_LINE: &str = "[That was earlier. The message to answer now:]\n";
/// Replaces omitted text between, before and after the passages of a message.
const ELLIPSIS: &str = " … ";

#[derive(Debug, Clone, PartialEq)]
pub(in crate::memory) struct RecalledMessage {
    pub(in crate::memory) id: MessageId,
    /// Score of its best passage.
    pub(in crate::memory) score: f32,
    /// Tokens of `text`.
    pub(in crate::memory) tokens: u32,
    /// Its line, with the opening, day and closing lines that the prompt has around it.
    pub(in crate::memory) text: String,
}

/// Selects passages, best first, as long as they fit `available` tokens, and renders them. A
/// passage that is too large is skipped in favor of the following ones.
pub(super) fn select_within_budget(
    path: &mut PathIndex,
    ranked: &[(u32, f32)],
    now: Timestamp,
    available: u32,
    vocabulary: TokenVocabulary,
) -> Vec<RecalledMessage> {
    let opening = format_opening(now);
    let frame = vocabulary.count_tokens(&opening) + vocabulary.count_tokens(CLOSING_LINE);
    let Some(left) = available.checked_sub(frame) else { return Vec::new() };
    let mut selection = PassageSelection::new(left, vocabulary);
    let mut misses = 0;
    for (passage, score) in ranked {
        if selection.left < MIN_LINE_TOKENS
            || misses == MAX_CONSECUTIVE_MISSES
            || selection.counted_bytes > MAX_COUNTED_BYTES
        {
            break;
        }
        let is_added = selection.try_add(path, *passage, *score);
        misses = if is_added { 0 } else { misses + 1 };
    }
    let mut selected = selection.messages;
    loop {
        let messages = render_messages(path, &selected, &opening, vocabulary);
        if messages.iter().map(|message| message.tokens).sum::<u32>() <= available {
            return messages;
        }
        // Imported messages need not be in chronological order. A path that goes back in time
        // repeats day lines, which the selection counted once, so the worst message is dropped.
        let worst = selected.iter().min_by(|(_, a), (_, b)| a.score.total_cmp(&b.score));
        let Some(worst) = worst.map(|(message, _)| *message) else { return Vec::new() };
        selected.remove(&worst);
    }
}

/// First line of the recalled text. It is the only place of a prompt that states the day: text that
/// changes by itself must not be in the prefix that providers cache.
fn format_opening(now: Timestamp) -> String {
    format!("[It is {}. From earlier in this conversation, oldest first:]\n", now.format_day())
}

/// No line has fewer tokens than this.
const MIN_LINE_TOKENS: u32 = 4;
/// Search ends after this many passages in a row that do not fit.
const MAX_CONSECUTIVE_MISSES: usize = 256;
/// Search ends after this much text was counted. A message of many passages is counted again with
/// each of them. Ordinary prompts take less than a tenth of it.
const MAX_COUNTED_BYTES: usize = 4 << 20;

/// A message with the passages selected so far.
struct SelectedMessage {
    passages: Vec<u32>,
    tokens: u32,
    score: f32,
}

/// Passages selected within a budget.
struct PassageSelection {
    vocabulary: TokenVocabulary,
    /// Bytes of the lines whose tokens were counted.
    counted_bytes: usize,
    /// Tokens that further lines may take.
    left: u32,
    /// Days whose line is already paid for.
    days: BTreeSet<i64>,
    /// Tokens of the lines of these and other days.
    day_line_tokens: BTreeMap<i64, u32>,
    /// By index on the path.
    messages: BTreeMap<u32, SelectedMessage>,
}

impl PassageSelection {
    fn new(left: u32, vocabulary: TokenVocabulary) -> Self {
        Self {
            vocabulary,
            counted_bytes: 0,
            left,
            days: BTreeSet::new(),
            day_line_tokens: BTreeMap::new(),
            messages: BTreeMap::new(),
        }
    }

    /// Adds a passage and pays for it. Returns `false` if it does not fit.
    fn try_add(&mut self, path: &mut PathIndex, passage: u32, score: f32) -> bool {
        let message = path.index.passages()[passage as usize].message_index;
        let day = path.messages[message as usize].day;
        let for_day = self.unpaid_day_tokens(day);
        // All selected passages of a message share one line, so a further passage costs the
        // difference between the two lines.
        let (before, extended) = match self.messages.get(&message) {
            None => {
                let tokens = path.count_line_tokens(passage, self.vocabulary);
                (0, SelectedMessage { passages: vec![passage], tokens, score })
            }
            Some(selected) => {
                let mut passages = selected.passages.clone();
                passages.push(passage);
                passages.sort_unstable();
                let line = path.render_line(&passages);
                self.counted_bytes += line.len();
                let tokens = self.vocabulary.count_tokens(&line);
                let score = selected.score.max(score);
                (selected.tokens, SelectedMessage { passages, tokens, score })
            }
        };
        let cost = extended.tokens.saturating_sub(before) + for_day;
        let Some(left) = self.left.checked_sub(cost) else { return false };
        self.left = left;
        self.days.insert(day);
        self.messages.insert(message, extended);
        true
    }

    /// Tokens of a day's line; 0 if the selection has it already.
    fn unpaid_day_tokens(&mut self, day: i64) -> u32 {
        if self.days.contains(&day) {
            return 0;
        }
        let count = || self.vocabulary.count_tokens(&format_day_line(day));
        *self.day_line_tokens.entry(day).or_insert_with(count)
    }
}

fn render_messages(
    path: &PathIndex,
    selected: &BTreeMap<u32, SelectedMessage>,
    opening: &str,
    vocabulary: TokenVocabulary,
) -> Vec<RecalledMessage> {
    let mut rendered = Vec::with_capacity(selected.len());
    let mut last_day = None;
    let last = selected.keys().next_back().copied();
    for (message, SelectedMessage { passages, tokens, score }) in selected {
        let mut tokens = *tokens;
        let source = &path.messages[*message as usize];
        let mut text = String::new();
        let mut add = |line: &str| {
            text.push_str(line);
            tokens += vocabulary.count_tokens(line);
        };
        if last_day.is_none() {
            add(opening);
        }
        if last_day != Some(source.day) {
            add(&format_day_line(source.day));
            last_day = Some(source.day);
        }
        text.push_str(&path.render_line(passages));
        if Some(*message) == last {
            text.push_str(CLOSING_LINE);
            tokens += vocabulary.count_tokens(CLOSING_LINE);
        }
        rendered.push(RecalledMessage { id: source.id.clone(), score: *score, tokens, text });
    }
    rendered
}

fn format_day_line(day: i64) -> String {
    format!("## {}\n", super::path_index::format_day(day))
}

impl PathIndex {
    /// Tokens of the line that shows this passage of its message alone.
    fn count_line_tokens(&mut self, passage: u32, vocabulary: TokenVocabulary) -> u32 {
        self.set_vocabulary(vocabulary);
        let at = passage as usize;
        if self.line_token_counts[at] == 0 {
            self.line_token_counts[at] = vocabulary.count_tokens(&self.render_line(&[passage]));
        }
        self.line_token_counts[at]
    }

    /// The line that shows these passages of one message. `passages` is in ascending order.
    pub(super) fn render_line(&self, passages: &[u32]) -> String {
        let of = |passage: u32| &self.index.passages()[passage as usize];
        let Some(first) = passages.first().map(|first| of(*first)) else { return String::new() };
        let message = &self.messages[first.message_index as usize];
        let mut line = format!("{}: ", self.speakers[message.speaker as usize]);
        let mut at = 0;
        for passage in passages {
            let range =
                of(*passage).byte_range.start as usize..of(*passage).byte_range.end as usize;
            if !message.text[at..range.start].trim().is_empty() {
                line.push_str(if at == 0 { ELLIPSIS.trim_start() } else { ELLIPSIS });
            } else if at > 0 {
                // Adjacent passages are separated by white space only, which is kept.
                line.push_str(&message.text[at..range.start]);
            }
            line.push_str(&message.text[range.clone()]);
            at = range.end;
        }
        if !message.text[at..].trim().is_empty() {
            line.push_str(ELLIPSIS.trim_end());
        }
        line.push('\n');
        line
    }
}
