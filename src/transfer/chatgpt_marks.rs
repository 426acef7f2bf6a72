//! Resolves the marks in ChatGPT's texts: the names, links and sources that its page displays in
//! their place.
//!
//! A mark is enclosed in U+E200 and U+E201, its arguments follow its kind after U+E202 each. Marks
//! of the kinds `entity`, `url` and `navlist` contain words of the sentence. Sources are listed
//! next to the text: `content_references` by the text of their mark, `citations` by their position.

use crate::domain::text::truncate_chars;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const MARK_START: char = '\u{e200}';
const MARK_END: char = '\u{e201}';
const ARGUMENT_SEPARATOR: char = '\u{e202}';
/// Characters that only highlight the text between them.
const HIGHLIGHTS: [char; 4] = ['\u{e203}', '\u{e204}', '\u{e205}', '\u{e206}'];
/// Maximum length of a mark that has no end, in characters.
const MAX_OPEN_MARK_CHARS: usize = 500;
/// Links in place of one mark. Further sources follow the text.
const MAX_MARK_LINKS: usize = 100;
/// Citations that are put in the place they name. Further ones follow the text.
const MAX_PLACED_CITATIONS: usize = 1000;
/// Bytes of links within a text. Without a bound, many marks with the same long links would expand
/// to a multiple of the file.
const MAX_LINK_BYTES: usize = 1 << 20;
/// Sources whose links are searched for in the text before they are listed below it.
const MAX_SEARCHED_SOURCES: usize = 100;

/// A text without marks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvedText {
    pub(super) text: String,
    /// Kinds of the marks that nothing could replace.
    pub(super) left_out: Vec<String>,
}

/// A web page or file that a message cites.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CitedSource {
    title: String,
    url: String,
}

impl CitedSource {
    /// The source that an object describes, if it has a link.
    fn from_value(value: &Value) -> Option<Self> {
        let url = find_text(value, &["url", "link", "cloud_doc_url"])
            .filter(|url| url.starts_with("http"))?;
        let title = find_text(value, &["title", "name", "attribution"]).unwrap_or(url);
        Some(Self { title: title.to_owned(), url: url.to_owned() })
    }

    fn to_markdown(&self) -> String {
        let title = self.title.replace(['[', ']', '\n', '\r'], " ");
        format!("[{}](<{}>)", title.trim(), self.url)
    }
}

/// The sources of a message.
#[derive(Debug, Default)]
pub(super) struct MessageSources {
    references: Vec<Reference>,
    /// Positions of the references by the text of their mark.
    references_by_text: HashMap<String, usize>,
    citations: Vec<Citation>,
}

/// An entry of `content_references`.
#[derive(Debug)]
struct Reference {
    sources: Vec<CitedSource>,
    /// The words displayed in place of the mark.
    words: Option<String>,
}

/// An entry of `citations`: a source of the text up to a position.
#[derive(Debug)]
struct Citation {
    /// Positions in characters.
    start: usize,
    end: usize,
    source: CitedSource,
}

impl MessageSources {
    pub(super) fn from_metadata(metadata: &Value) -> Self {
        let list =
            |field: &str| metadata.get(field).and_then(Value::as_array).into_iter().flatten();
        let mut references_by_text = HashMap::new();
        for (index, reference) in list("content_references").enumerate() {
            let mark = find_text(reference, &["matched_text"]).unwrap_or_default();
            references_by_text.entry(mark.to_owned()).or_insert(index);
        }
        Self {
            references: list("content_references").map(Reference::from_value).collect(),
            references_by_text,
            citations: list("citations").filter_map(Citation::from_value).collect(),
        }
    }

    fn find_reference(&self, mark: &str) -> Option<&Reference> {
        self.references.get(*self.references_by_text.get(mark)?)
    }

    fn all_sources(&self) -> impl Iterator<Item = &CitedSource> {
        let cited = self.citations.iter().map(|citation| &citation.source);
        self.references.iter().flat_map(|reference| &reference.sources).chain(cited)
    }
}

impl Reference {
    fn from_value(value: &Value) -> Self {
        let mut sources = Vec::new();
        let mut seen = HashSet::new();
        let mut push = |value: &Value| {
            let source = CitedSource::from_value(value);
            sources.extend(source.filter(|source| seen.insert(source.clone())));
        };
        push(value);
        for field in ["items", "sources", "fallback_items"] {
            for item in value.get(field).and_then(Value::as_array).into_iter().flatten() {
                push(item);
                for more in
                    item.get("supporting_websites").and_then(Value::as_array).into_iter().flatten()
                {
                    push(more);
                }
            }
        }
        let words = find_text(value, &["name", "title", "alt", "prompt_text"]);
        Self { sources, words: words.map(str::to_owned) }
    }
}

impl Citation {
    fn from_value(value: &Value) -> Option<Self> {
        let position = |field: &str| {
            let position = value.get(field)?.as_u64()?;
            usize::try_from(position).ok()
        };
        let source = CitedSource::from_value(value.get("metadata")?)?;
        let start = position("start_ix").unwrap_or(usize::MAX);
        Some(Self { start, end: position("end_ix").unwrap_or(start), source })
    }
}

/// Replaces the marks of a text by what they stand for. Sources that belong to no mark follow the
/// text as a list.
pub(super) fn resolve_marks(text: &str, sources: &MessageSources) -> ResolvedText {
    let mut resolver = MarkResolver {
        sources,
        linked: HashSet::new(),
        link_bytes: 0,
        resolved: ResolvedText::default(),
    };
    resolver.resolve_text(text);
    resolver.append_sources();
    resolver.resolved
}

struct MarkResolver<'a> {
    sources: &'a MessageSources,
    /// Links that are in the text already.
    linked: HashSet<&'a str>,
    /// Size of the links that were put in place of marks.
    link_bytes: usize,
    resolved: ResolvedText,
}

impl<'a> MarkResolver<'a> {
    fn resolve_text(&mut self, text: &str) {
        let mut rest = text;
        // Position in characters, by which citations refer to the text.
        let mut position = 0;
        while let Some(start) = rest.find([MARK_START, '【']) {
            let (before, mark) = rest.split_at(start);
            self.push_words(before);
            position += before.chars().count();
            let length = if mark.starts_with(MARK_START) {
                self.push_mark(mark, position)
            } else {
                self.push_bracket(mark, position)
            };
            let (mark, after) = mark.split_at(length);
            position += mark.chars().count();
            rest = after;
        }
        self.push_words(rest);
    }

    fn push_words(&mut self, words: &str) {
        self.resolved.text.extend(words.chars().filter(|c| !HIGHLIGHTS.contains(c)));
    }

    /// Resolves the mark at the beginning of `text`. Returns its length.
    fn push_mark(&mut self, text: &str, position: usize) -> usize {
        let inner = &text[MARK_START.len_utf8()..];
        let (inner, end_length) = match inner.find([MARK_END, MARK_START]) {
            Some(end) if inner[end..].starts_with(MARK_END) => (&inner[..end], MARK_END.len_utf8()),
            // A mark that was cut off ends with its line.
            next => {
                let inner = &inner[..next.unwrap_or(inner.len())];
                let inner = truncate_chars(inner, MAX_OPEN_MARK_CHARS);
                (&inner[..inner.find('\n').unwrap_or(inner.len())], 0)
            }
        };
        let length = MARK_START.len_utf8() + inner.len() + end_length;
        let mark = &text[..length];
        let mut parts = inner.split(ARGUMENT_SEPARATOR);
        let kind = parts.next().unwrap_or_default().trim();
        let arguments: Vec<&str> = parts.collect();
        let reference = self.sources.find_reference(mark);
        let words = match kind {
            "entity" => arguments.iter().find_map(|argument| entity_name(argument)),
            "url" | "link" => url_words(&arguments),
            "navlist" => arguments.first().map(|title| (*title).to_owned()),
            "cite" | "filecite" => None,
            // No arguments: not a mark, but a text after a stray character.
            _ if arguments.is_empty() && end_length == 0 => Some(kind.to_owned()),
            _ => argument_words(&arguments),
        };
        let words = words.filter(|words| !words.trim().is_empty());
        let words = words.or_else(|| {
            let reference = reference.filter(|reference| reference.sources.is_empty())?;
            reference.words.clone().filter(|words| !words.contains([MARK_START, MARK_END]))
        });
        let mut links = self.find_sources(mark, position);
        // The link of a `url` mark is in its words.
        links.retain(|link| !words.as_ref().is_some_and(|words| words.contains(&link.url)));
        if words.is_none() && links.is_empty() {
            let kind = if kind.is_empty() { "mark" } else { kind };
            self.resolved.left_out.push(kind.to_owned());
        }
        self.resolved.text.push_str(words.as_deref().unwrap_or_default());
        self.push_links(&links);
        length
    }

    /// Resolves a reference in brackets, such as `【4†source】`. Returns its length, or that of the
    /// bracket if it is no reference.
    fn push_bracket(&mut self, text: &str, position: usize) -> usize {
        let bracket = '【'.len_utf8();
        let inner = truncate_chars(text, MAX_OPEN_MARK_CHARS);
        let end = inner.find('】').map(|end| end + '】'.len_utf8());
        if let Some(end) = end.filter(|end| inner[..*end].contains('†')) {
            let mark = &text[..end];
            let links = self.find_sources(mark, position);
            if !links.is_empty() {
                self.push_links(&links);
                return end;
            }
        }
        self.resolved.text.push('【');
        bracket
    }

    /// The sources of a mark: those of its reference, otherwise those of the citations that overlap
    /// it.
    fn find_sources(&self, mark: &str, start: usize) -> Vec<&'a CitedSource> {
        if let Some(reference) = self.sources.find_reference(mark) {
            return reference.sources.iter().take(MAX_MARK_LINKS).collect();
        }
        let end = start + mark.chars().count();
        let citations = self.sources.citations.iter().take(MAX_PLACED_CITATIONS);
        let overlapping =
            citations.filter(|citation| citation.start < end && citation.end >= start);
        overlapping.map(|citation| &citation.source).take(MAX_MARK_LINKS).collect()
    }

    fn push_links(&mut self, links: &[&'a CitedSource]) {
        if links.is_empty() || self.link_bytes > MAX_LINK_BYTES {
            return;
        }
        let list: Vec<String> = links.iter().map(|link| link.to_markdown()).collect();
        self.link_bytes += list.iter().map(String::len).sum::<usize>();
        let text = &mut self.resolved.text;
        if !text.is_empty() && !text.ends_with(char::is_whitespace) {
            text.push(' ');
        }
        text.push('(');
        text.push_str(&list.join(", "));
        text.push(')');
        self.linked.extend(links.iter().map(|link| link.url.as_str()));
    }

    fn append_sources(&mut self) {
        let mut list = String::new();
        let mut searched = 0;
        for source in self.sources.all_sources() {
            if !self.linked.insert(source.url.as_str()) {
                continue;
            }
            searched += 1;
            if searched > MAX_SEARCHED_SOURCES || !self.resolved.text.contains(&source.url) {
                list.push_str("\n- ");
                list.push_str(&source.to_markdown());
            }
        }
        if !list.is_empty() {
            let text = self.resolved.text.trim_end();
            self.resolved.text = format!("{text}\n\nSources:\n{list}").trim_start().to_owned();
        }
    }
}

/// The first of the fields that is a string with words.
fn find_text<'a>(value: &'a Value, fields: &[&str]) -> Option<&'a str> {
    fields
        .iter()
        .filter_map(|field| value.get(field)?.as_str())
        .find(|text| !text.trim().is_empty())
}

/// The name in the JSON of an entity: `["people","Ada Lovelace","mathematician"]`.
fn entity_name(argument: &str) -> Option<String> {
    let name = match serde_json::from_str(argument) {
        Ok(Value::Array(list)) => {
            let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            // The kind of entity comes first.
            (*texts.get(1).or(texts.first())?).to_owned()
        }
        Ok(object @ Value::Object(_)) => find_text(&object, &["name", "title", "text"])?.to_owned(),
        Ok(Value::String(name)) => name,
        _ => argument.to_owned(),
    };
    (!is_source_id(&name)).then_some(name)
}

/// A link: its label and, unless it is an id, its address.
fn url_words(arguments: &[&str]) -> Option<String> {
    let label = arguments.iter().find(|argument| !is_source_id(argument))?;
    let url = arguments.iter().find(|argument| argument.starts_with("http"));
    Some(match url {
        Some(url) if url == label => format!("<{url}>"),
        Some(url) => {
            CitedSource { title: (*label).to_owned(), url: (*url).to_owned() }.to_markdown()
        }
        None => (*label).to_owned(),
    })
}

/// The words among the arguments of a mark of another kind.
fn argument_words(arguments: &[&str]) -> Option<String> {
    let mut words = Vec::new();
    for argument in arguments {
        match serde_json::from_str::<Value>(argument) {
            Ok(value @ (Value::Array(_) | Value::Object(_))) => collect_texts(&value, &mut words),
            _ if argument.trim().is_empty() || is_source_id(argument) => {}
            _ => words.push((*argument).to_owned()),
        }
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// All strings in a value, except for the ids of sources.
fn collect_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.trim().is_empty() && !is_source_id(text) => {
            texts.push(text.clone());
        }
        Value::Array(list) => list.iter().for_each(|value| collect_texts(value, texts)),
        Value::Object(fields) => fields.values().for_each(|value| collect_texts(value, texts)),
        _ => {}
    }
}

/// Whether a text consists of ids such as `turn0search3`, which stand for sources.
fn is_source_id(text: &str) -> bool {
    let is_id = |id: &str| {
        id.trim().strip_prefix("turn").is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_digit())
                && rest.ends_with(|c: char| c.is_ascii_digit())
                && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
    };
    !text.is_empty() && text.split(',').all(is_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn mark(parts: &[&str]) -> String {
        format!("\u{e200}{}\u{e201}", parts.join("\u{e202}"))
    }

    fn resolve(text: &str, metadata: &Value) -> String {
        resolve_marks(text, &MessageSources::from_metadata(metadata)).text
    }

    #[test]
    fn words_in_marks_stay_in_the_sentence() {
        for (parts, words) in [
            (&["entity", r#"["people","Ada Lovelace","mathematician"]"#][..], "Ada Lovelace"),
            (&["entity", r#"["Ada"]"#], "Ada"),
            (&["entity", r#"{"name":"Ada"}"#], "Ada"),
            (&["entity", "Ada"], "Ada"),
            (&["url", "her notes", "https://a.b/c"], "[her notes](<https://a.b/c>)"),
            (&["url", "her notes", "turn0search1"], "her notes"),
            (&["url", "https://a.b"], "<https://a.b>"),
            (&["navlist", "In the news", "turn0news1,turn0news2"], "In the news"),
            (&["forecast", "Rain in Paris", "turn0forecast0"], "Rain in Paris"),
            (&["image_group", r#"{"query":["cats","dogs"]}"#], "cats, dogs"),
        ] {
            let text = format!("So {}.", mark(parts));
            assert_eq!(resolve(&text, &json!(null)), format!("So {words}."), "{parts:?}");
        }
    }

    #[test]
    fn citations_become_links() {
        let cite = mark(&["cite", "turn0search0", "turn0search4"]);
        let text = format!("So they say{cite}.");
        let link = "So they say ([Biography](<https://a.b>)).";
        let references = json!({"content_references": [
            {"matched_text": cite, "type": "grouped_webpages", "items": [{"title": "Biography", "url": "https://a.b"}]}]});
        assert_eq!(resolve(&text, &references), link);
        let citations = json!({"citations": [
            {"start_ix": 11, "end_ix": 12, "metadata": {"title": "Biography", "url": "https://a.b"}}]});
        assert_eq!(resolve(&text, &citations), link);
        assert_eq!(resolve("So they say【1†source】.", &citations), link);
        // Without a mark in the text.
        assert_eq!(resolve("So.", &citations), "So.\n\nSources:\n\n- [Biography](<https://a.b>)");
    }

    #[test]
    fn mark_without_a_source_is_reported() {
        let text =
            format!("It is so.{} And so.{}", mark(&["cite", "turn0search1"]), mark(&["cite"]));
        let resolved = resolve_marks(&text, &MessageSources::default());
        assert_eq!(resolved.text, "It is so. And so.");
        assert_eq!(resolved.left_out, ["cite", "cite"]);
    }

    #[test]
    fn broken_mark_takes_no_text_with_it() {
        for (text, resolved) in [
            ("cut \u{e200}cite", "cut "),
            ("\u{e201}", "\u{e201}"),
            ("a \u{e200}entity\u{e202}[\"people\",\"Ada\"]\nb", "a Ada\nb"),
            ("a \u{e200}url\u{e202}b \u{e200}cite\u{e201} c", "a b  c"),
            ("a \u{e203}b\u{e204}", "a b"),
            ("a \u{e200} long text", "a long text"),
            ("【x】", "【x】"),
            ("【", "【"),
        ] {
            assert_eq!(resolve(text, &json!({})), resolved, "{text:?}");
        }
    }

    /// Takes hours if the time per mark grows with the length of the text or the number of sources.
    #[test]
    fn many_marks_and_sources_are_resolved_in_linear_time() {
        const MARKS: usize = 100_000;
        let source =
            |number: usize| json!({"title": "T", "url": format!("https://a.b/{number}/{MARKS}")});
        let reference = |number: usize| json!({"matched_text": mark(&["cite", &number.to_string()]), "items": [source(number)]});
        let marks: String = (0..MARKS).map(|number| mark(&["cite", &number.to_string()])).collect();
        let references: Vec<Value> = (0..MARKS).map(reference).collect();
        let resolved = resolve(&marks, &json!({"content_references": references}));
        assert!(resolved.contains("(<https://a.b/0/100000>)"));
        assert!(resolved.contains("\n- [T](<https://a.b/99999/100000>)"));

        // The same sources in one mark, which has too many to be put in its place.
        let sources: Vec<Value> = (0..MARKS).map(source).collect();
        let one =
            json!({"content_references": [{"matched_text": mark(&["cite"]), "items": sources}]});
        let resolved = resolve(&mark(&["cite"]).repeat(MARKS), &one);
        assert_eq!(resolved.matches("\n- [T](").count(), MARKS - MAX_MARK_LINKS);
        assert!(resolved.len() < 10 << 20, "{}", resolved.len());

        let open = "\u{e200}cite".repeat(MARKS * 10);
        assert_eq!(resolve_marks(&open, &MessageSources::default()).left_out.len(), MARKS * 10);
    }

    proptest! {
        #[test]
        fn any_marks_are_resolved(pieces in proptest::collection::vec(prop_oneof![
            Just("\u{e200}"), Just("\u{e201}"), Just("\u{e202}"), Just("cite"), Just("entity"),
            Just("[\"a\""), Just("]"), Just("\n"), Just("【"), Just("†】"), Just("é"),
        ], 0..20)) {
            let text = resolve(&pieces.concat(), &json!({}));
            prop_assert!(!text.contains(MARK_START));
        }
    }
}
