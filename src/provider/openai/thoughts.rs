//! Thoughts that open models write at the beginning of their text, between tags.
//!
//! Servers with a parser for the model send them apart, as `reasoning_content`; others (Ollama, LM
//! Studio, llama.cpp and vLLM without one) leave them in the content.

use crate::provider::{ProviderEvent, push_reasoning, push_text};

/// Opening and closing tags in lower case, with models that use them.
const TAGS: &[(&str, &str)] = &[
    // DeepSeek, Qwen, MiniMax, GLM.
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    // Gemma and its relatives.
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    // Claude, where it is asked to think without the API's own thinking.
    ("<antthinking>", "</antthinking>"),
    // Seed.
    ("<seed:think>", "</seed:think>"),
    // Kimi.
    ("◁think▷", "◁/think▷"),
    // Magistral.
    ("[think]", "[/think]"),
    // OpenThinker.
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    // gpt-oss.
    ("<|channel|>analysis<|message|>", END_OF_MESSAGE),
];
/// Ends thoughts only after their opening tag. Some models write it at the end of an answer.
const END_OF_MESSAGE: &str = "<|end|>";
/// First byte of `◁`.
const TRIANGLE_BYTE: u8 = 0xe2;
/// Marks before the answer, which are not part of it.
const ANSWER_MARKS: &[&str] = &[
    "<|start|>assistant<|channel|>final<|message|>",
    "<|channel|>final<|message|>",
    "<|begin_of_solution|>",
];

/// Bytes of white space that are held back before thoughts or an answer.
const MAX_BLANK_BYTES: usize = 256;
/// More than the longest tag.
const MAX_TAG_BYTES: usize = 64;

/// Splits the text of a reply into thoughts and answer. The deltas may be cut anywhere.
#[derive(Debug, Default)]
pub(super) struct ThoughtSplitter {
    state: SplitState,
    /// Text that may be the beginning of a tag.
    pending: String,
    /// Whether the text so far ends within Markdown code, judging by its backticks.
    is_within_code: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum SplitState {
    /// No text so far, apart from white space.
    #[default]
    Start,
    /// In thoughts that end with this tag.
    Thinking(&'static str),
    /// After thoughts, before the answer. White space between them is dropped.
    AfterThoughts,
    /// In text that may turn out to be thoughts: some templates open them in the prompt, so that
    /// the reply holds only the closing tag.
    Unmarked,
    /// In the answer, which may contain such tags as text.
    Answer,
}

impl ThoughtSplitter {
    pub(super) fn push(&mut self, events: &mut Vec<ProviderEvent>, text: String) {
        if self.state == SplitState::Answer {
            push_text(events, Some(text));
            return;
        }
        let may_begin_tag =
            || memchr::memchr3(b'<', b'[', TRIANGLE_BYTE, text.as_bytes()).is_some();
        if self.state == SplitState::Unmarked && self.pending.is_empty() && !may_begin_tag() {
            self.is_within_code ^= has_odd_backticks(&text);
            push_text(events, Some(text));
            return;
        }
        self.pending.push_str(&text);
        while self.advance(events) {}
    }

    /// Emits text that was held back as a possible tag. Call where the text ends.
    pub(super) fn flush(&mut self, events: &mut Vec<ProviderEvent>) {
        let pending = std::mem::take(&mut self.pending);
        match self.state {
            SplitState::Thinking(_) => push_reasoning(events, Some(pending)),
            // White space after thoughts is not an answer.
            SplitState::AfterThoughts if pending.trim().is_empty() => {}
            SplitState::Unmarked if is_closing_tag(&pending) => {
                events.push(ProviderEvent::ThoughtsEnd);
            }
            SplitState::Start
            | SplitState::AfterThoughts
            | SplitState::Unmarked
            | SplitState::Answer => push_text(events, Some(pending)),
        }
    }

    /// Emits the part of the pending text that is decided. Returns whether more may be.
    fn advance(&mut self, events: &mut Vec<ProviderEvent>) -> bool {
        match self.state {
            SplitState::Start | SplitState::AfterThoughts => self.begin_part(),
            SplitState::Thinking(closing) => {
                let lower = self.pending.to_ascii_lowercase();
                if let Some(at) = lower.find(closing) {
                    let rest = self.pending.split_off(at + closing.len());
                    self.pending.truncate(at);
                    push_reasoning(events, Some(std::mem::replace(&mut self.pending, rest)));
                    self.state = SplitState::AfterThoughts;
                    return true;
                }
                let rest = self.pending.split_off(lower.len() - partial_tag_len(&lower, closing));
                push_reasoning(events, Some(std::mem::replace(&mut self.pending, rest)));
                false
            }
            SplitState::Unmarked => self.find_closing_tag(events),
            SplitState::Answer => {
                push_text(events, Some(std::mem::take(&mut self.pending)));
                false
            }
        }
    }

    /// Emits text up to the first tag, or up to an end that may become one. The first tag decides:
    /// only a closing tag outside of code ends thoughts.
    fn find_closing_tag(&mut self, events: &mut Vec<ProviderEvent>) -> bool {
        let lower = self.pending.to_ascii_lowercase();
        let tags = || TAGS.iter().filter(|(_, closing)| *closing != END_OF_MESSAGE);
        let find = |tag: &'static str| Some((lower.find(tag)?, tag));
        let opening = tags().filter_map(|(opening, _)| find(opening)).min();
        let closing = tags().filter_map(|(_, closing)| find(closing)).min();
        let Some((at, tag)) = opening.into_iter().chain(closing).min() else {
            let ends = tags().flat_map(|(opening, closing)| [opening, closing]);
            let held_back = ends.map(|tag| partial_tag_len(&lower, tag)).max().unwrap_or(0);
            let rest = self.pending.split_off(lower.len() - held_back);
            let text = std::mem::replace(&mut self.pending, rest);
            self.is_within_code ^= has_odd_backticks(&text);
            push_text(events, Some(text));
            return false;
        };
        let is_within_code = self.is_within_code ^ has_odd_backticks(&self.pending[..at]);
        let next = self.pending[at + tag.len()..].chars().next();
        if opening == Some((at, tag)) || is_within_code || next.is_some_and(continues_sentence) {
            self.state = SplitState::Answer;
            return true;
        }
        if next.is_none() {
            // The next character decides.
            let rest = self.pending.split_off(at);
            let text = std::mem::replace(&mut self.pending, rest);
            self.is_within_code ^= has_odd_backticks(&text);
            push_text(events, Some(text));
            return false;
        }
        let rest = self.pending.split_off(at + tag.len());
        self.pending.truncate(at);
        push_text(events, Some(std::mem::replace(&mut self.pending, rest)));
        events.push(ProviderEvent::ThoughtsEnd);
        self.state = SplitState::AfterThoughts;
        true
    }

    /// Decides whether thoughts or the answer begin.
    fn begin_part(&mut self) -> bool {
        let text = self.pending.trim_start();
        let skipped = self.pending.len() - text.len();
        let start = truncate_bytes(text, MAX_TAG_BYTES).to_ascii_lowercase();
        let start = start.as_str();
        // A model that writes nothing but white space must not fill the memory.
        if start.is_empty() && skipped > MAX_BLANK_BYTES {
            if self.state == SplitState::AfterThoughts {
                self.pending.clear();
            } else {
                self.state = SplitState::Unmarked;
                return true;
            }
            return false;
        }
        if let Some((opening, closing)) = TAGS.iter().find(|(open, _)| start.starts_with(open)) {
            self.pending.drain(..skipped + opening.len());
            self.state = SplitState::Thinking(closing);
            return true;
        }
        if let Some(mark) = ANSWER_MARKS.iter().find(|mark| start.starts_with(**mark)) {
            self.pending.drain(..skipped + mark.len());
            self.state = SplitState::AfterThoughts;
            return true;
        }
        let mut tags = TAGS.iter().map(|(open, _)| open).chain(ANSWER_MARKS);
        if tags.any(|tag| tag.starts_with(start)) {
            return false;
        }
        if self.state == SplitState::AfterThoughts {
            self.pending.drain(..skipped);
            self.state = SplitState::Answer;
        } else {
            self.state = SplitState::Unmarked;
        }
        true
    }
}

fn is_closing_tag(text: &str) -> bool {
    let is_same = |(_, closing): &(&str, &str)| text.eq_ignore_ascii_case(closing);
    text != END_OF_MESSAGE && TAGS.iter().any(is_same)
}

/// Whether a tag before this character is a word of a sentence.
const fn continues_sentence(next: char) -> bool {
    matches!(next, ' ' | '.' | ',' | ';' | ':' | '!' | '?' | ')' | '"' | '\'')
}

fn has_odd_backticks(text: &str) -> bool {
    memchr::memchr_iter(b'`', text.as_bytes()).count() % 2 == 1
}

/// At most this many bytes of a text, without cutting a character.
fn truncate_bytes(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Length of the longest end of a text that begins the tag.
fn partial_tag_len(text: &str, tag: &str) -> usize {
    let lengths = tag.char_indices().map(|(at, _)| at).rev();
    lengths.into_iter().find(|length| text.ends_with(&tag[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thoughts and answer, with the text cut into pieces of this many characters.
    fn split(text: &str, size: usize) -> (String, String) {
        let mut splitter = ThoughtSplitter::default();
        let mut events = Vec::new();
        let letters: Vec<char> = text.chars().collect();
        for piece in letters.chunks(size) {
            splitter.push(&mut events, piece.iter().collect());
        }
        splitter.flush(&mut events);
        let (mut thoughts, mut answer) = (String::new(), String::new());
        for event in events {
            match event {
                ProviderEvent::Text(text) => answer.push_str(&text),
                ProviderEvent::Reasoning(text) => thoughts.push_str(&text),
                ProviderEvent::ThoughtsEnd => thoughts.push_str(&std::mem::take(&mut answer)),
                other => panic!("{other:?}"),
            }
        }
        (thoughts, answer)
    }

    #[test]
    fn thoughts_are_split_off_wherever_the_text_is_cut() {
        let spellings = TAGS.iter().flat_map(|(opening, closing)| {
            let upper = (opening.to_ascii_uppercase(), closing.to_ascii_uppercase());
            [((*opening).to_owned(), (*closing).to_owned()), upper]
        });
        for (opening, closing) in spellings {
            let text = format!("\n{opening}\nI < you.</ {closing}\n\nHello <b>Ada</b>.");
            for size in 1..text.chars().count() {
                let (thoughts, answer) = split(&text, size);
                assert_eq!(thoughts.trim(), "I < you.</", "{text} by {size}");
                assert_eq!(answer, "Hello <b>Ada</b>.", "{text} by {size}");
            }
        }
    }

    #[test]
    fn closing_tag_alone_ends_thoughts_opened_in_the_prompt() {
        for (_, closing) in TAGS.iter().filter(|(_, closing)| *closing != END_OF_MESSAGE) {
            for before in ["They say `hi`.\n<b>\n", "hm"] {
                let text = format!("{before}{closing}\n\nHello **Ada**.\n");
                for size in 1..text.chars().count() {
                    let (thoughts, answer) = split(&text, size);
                    assert_eq!(thoughts, before, "{text} by {size}");
                    assert_eq!(answer, "Hello **Ada**.\n", "{text} by {size}");
                }
            }
        }
        assert_eq!(split("hm</think>", 3), ("hm".to_owned(), String::new()));
        assert_eq!(split("</think>\nHi", 3), (String::new(), "Hi".to_owned()));
    }

    #[test]
    fn text_without_thoughts_is_unchanged() {
        for text in [
            "",
            " ",
            "<",
            "<thin",
            "Hi",
            "<b>bold</b>",
            " a <think>b</think> c",
            "It ends with `</think>`, a <b>tag</b>.",
            "```\n</think>\n```\n</thin\n<\n",
            "It ends with </think> and then answers.",
            "The last tag is </think>.",
            "Between <think> and </think> it thinks. </think>",
            "Done.<|end|>",
            "[thing]",
            "◁",
            "\n\n",
        ] {
            for size in 1..=text.chars().count().max(1) {
                assert_eq!(split(text, size), (String::new(), text.to_owned()), "{size}");
            }
        }
    }

    #[test]
    fn endless_white_space_is_not_held_back() {
        let blank = " ".repeat(10_000);
        assert_eq!(split(&blank, 7), (String::new(), blank.clone()));
        let after = format!("<think>hm</think>{blank}Hi");
        assert_eq!(split(&after, 7), ("hm".to_owned(), "Hi".to_owned()));
    }

    #[test]
    fn thoughts_alone_leave_no_answer() {
        assert_eq!(split("<think>hm</think>\n", 3), ("hm".to_owned(), String::new()));
        assert_eq!(split("<think>hm</thi", 3), ("hm</thi".to_owned(), String::new()));
        let twice = "<think>a</think><think>b</think>c";
        assert_eq!(split(twice, 2), ("ab".to_owned(), "c".to_owned()));
        let harmony = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi";
        assert_eq!(split(harmony, 4), ("hm".to_owned(), "Hi".to_owned()));
    }
}
