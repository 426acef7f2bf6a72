//! What is recalled, as it stands in the prompt: in time order, a line for each day, a line for each
//! message, in front of the new message's own text.
//!
//! Every line ends with a line break and none begins with white space. No vocabulary joins text
//! across such a place, so the tokens of lines add up and each is counted once.

use super::kept::Kept;
use crate::domain::{MessageId, Timestamp};
use crate::memory::tokens::Vocabulary;
use std::collections::{BTreeMap, BTreeSet};

/// What stands behind it.
const CLOSING: &str = "[That was earlier. The message to answer now:]\n";
/// What stands between passages of a message that do not follow one another, and where one is cut.
const GAP: &str = " … ";

/// A message that is recalled.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::memory) struct Recalled {
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
pub(super) fn fill(
    kept: &mut Kept,
    ranked: &[(u32, f32)],
    now: Timestamp,
    room: u32,
    vocabulary: Vocabulary,
) -> Vec<Recalled> {
    let opening = opening(now);
    let frame = vocabulary.count(&opening) + vocabulary.count(CLOSING);
    let Some(mut left) = room.checked_sub(frame) else { return Vec::new() };
    // The days that have a line, and what each day's line takes.
    let mut days: BTreeSet<i64> = BTreeSet::new();
    let mut lines: BTreeMap<i64, u32> = BTreeMap::new();
    let mut misses = 0;
    let mut chosen: BTreeMap<u32, Chosen> = BTreeMap::new();
    for (passage, score) in ranked {
        if left < SMALLEST || misses == MISSES {
            break;
        }
        let message = kept.index.passages()[*passage as usize].message;
        let day = kept.messages[message as usize].day;
        let for_day = match days.contains(&day) {
            true => 0,
            false => *lines.entry(day).or_insert_with(|| vocabulary.count(&day_line(day))),
        };
        let before = chosen.get(&message).map_or(0, |chosen| chosen.tokens);
        let (passages, tokens) = match chosen.get(&message) {
            None => (vec![*passage], kept.line_tokens(*passage, vocabulary)),
            Some(chosen) => {
                let mut passages = chosen.passages.clone();
                passages.push(*passage);
                passages.sort_unstable();
                let tokens = vocabulary.count(&kept.line(&passages));
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
        chosen.insert(message, Chosen { passages, tokens, score });
    }
    loop {
        let written = write(kept, &chosen, &opening, vocabulary);
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
fn opening(now: Timestamp) -> String {
    format!("[It is {}. From earlier in this conversation, oldest first:]\n", now.format_day())
}

/// No line is shorter than this many tokens.
const SMALLEST: u32 = 4;
/// After so many passages in a row that do not fit, nothing is expected of the others.
const MISSES: usize = 256;

/// What of a message is taken.
struct Chosen {
    passages: Vec<u32>,
    tokens: u32,
    score: f32,
}

fn write(
    kept: &Kept,
    chosen: &BTreeMap<u32, Chosen>,
    opening: &str,
    vocabulary: Vocabulary,
) -> Vec<Recalled> {
    let (mut written, mut last_day) = (Vec::with_capacity(chosen.len()), None);
    let last = chosen.keys().next_back().copied();
    for (message, Chosen { passages, tokens, score }) in chosen {
        let mut tokens = *tokens;
        let said = &kept.messages[*message as usize];
        let mut text = String::new();
        let mut add = |line: &str| {
            text.push_str(line);
            tokens += vocabulary.count(line);
        };
        if last_day.is_none() {
            add(opening);
        }
        if last_day != Some(said.day) {
            add(&day_line(said.day));
            last_day = Some(said.day);
        }
        text.push_str(&kept.line(passages));
        if Some(*message) == last {
            text.push_str(CLOSING);
            tokens += vocabulary.count(CLOSING);
        }
        written.push(Recalled { id: said.id.clone(), score: *score, tokens, text });
    }
    written
}

fn day_line(day: i64) -> String {
    format!("## {}\n", super::kept::day_in_words(day))
}

impl Kept {
    /// The tokens of a passage's line, if nothing else of its message is shown.
    fn line_tokens(&mut self, passage: u32, vocabulary: Vocabulary) -> u32 {
        self.count_in(vocabulary);
        let at = passage as usize;
        if self.lines[at] == 0 {
            self.lines[at] = vocabulary.count(&self.line(&[passage]));
        }
        self.lines[at]
    }

    /// The line of passages of one message, in their order.
    pub(super) fn line(&self, passages: &[u32]) -> String {
        let of = |passage: u32| &self.index.passages()[passage as usize];
        let Some(first) = passages.first().map(|first| of(*first)) else { return String::new() };
        let said = &self.messages[first.message as usize];
        let mut line = format!("{}: ", self.speakers[said.speaker as usize]);
        let mut at = 0;
        for passage in passages {
            let range = of(*passage).range.start as usize..of(*passage).range.end as usize;
            if !said.text[at..range.start].trim().is_empty() {
                line.push_str(if at == 0 { GAP.trim_start() } else { GAP });
            } else if at > 0 {
                line.push_str(&said.text[at..range.start]);
            }
            line.push_str(&said.text[range.clone()]);
            at = range.end;
        }
        if !said.text[at..].trim().is_empty() {
            line.push_str(GAP.trim_end());
        }
        line.push('\n');
        line
    }
}
