//! Syntax highlighting: the many scopes of the grammars are reduced to a few CSS classes.
//!
//! Grammars are regular expressions whose cost may grow with the square of a line, so crafted code
//! can make them slow. Long lines stay plain, and a text has a budget of work; code beyond it stays
//! plain as well.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use syntect::parsing::{ParseState, Scope, ScopeStack, ScopeStackOp, SyntaxReference, SyntaxSet};

/// The classes used by [`render_code_block`].
pub(super) const SPAN_CLASSES: [&str; 9] =
    ["c-key", "c-str", "c-num", "c-com", "c-fun", "c-typ", "c-var", "c-add", "c-del"];

/// The class of each scope. The innermost scope that is listed decides.
const SCOPE_CLASSES: [(&str, &str); 24] = [
    ("comment", "c-com"),
    ("string", "c-str"),
    ("punctuation.definition.string", "c-str"),
    ("constant.character", "c-str"),
    ("constant", "c-num"),
    ("keyword.operator", ""),
    ("keyword", "c-key"),
    ("storage.type.function", "c-key"),
    ("storage", "c-key"),
    ("entity.name.function", "c-fun"),
    ("support.function", "c-fun"),
    ("variable.function", "c-fun"),
    ("entity.name.tag", "c-key"),
    ("entity.name.section", "c-fun"),
    ("entity.other.attribute-name", "c-var"),
    ("entity.name", "c-typ"),
    ("entity.other.inherited-class", "c-typ"),
    ("support.type.property-name", "c-var"),
    ("support", "c-typ"),
    ("variable.language", "c-key"),
    ("variable.parameter", "c-var"),
    ("meta.property-name", "c-var"),
    ("markup.inserted", "c-add"),
    ("markup.deleted", "c-del"),
];

/// Maximum size of the code highlighted in a text, in bytes.
const MAX_CODE_BYTES: usize = 64 << 10;
/// Longer lines stay plain. The worst line of this size takes about 0.1 s in the worst grammar.
const MAX_LINE_BYTES: usize = 200;
/// Maximum sum of the squares of line lengths. 64 KiB of ordinary code stay below it.
const MAX_SQUARED_BYTES: usize = 4_000_000;
/// Maximum processor time of highlighting a text, for lines that are slow in spite of their length.
const MAX_PROCESSOR_TIME: Duration = Duration::from_millis(300);
/// Grammars that a text may use, with those embedded in others. Compiling one takes up to a second.
const MAX_GRAMMARS_PER_TEXT: usize = 12;
/// Compiled grammars that are kept; one takes some 5 MB. Ordinary use stays below this number.
const MAX_COMPILED_GRAMMARS: usize = 32;

/// The rest of a text's budget.
pub(super) struct HighlightBudget {
    bytes_left: usize,
    squares_left: usize,
    time_left: Duration,
    grammars: HashSet<Scope>,
}

impl Default for HighlightBudget {
    fn default() -> Self {
        Self {
            bytes_left: MAX_CODE_BYTES,
            squares_left: MAX_SQUARED_BYTES,
            time_left: MAX_PROCESSOR_TIME,
            grammars: HashSet::new(),
        }
    }
}

impl HighlightBudget {
    /// Takes a line of at most [`MAX_LINE_BYTES`] from the budget, if there is enough left.
    fn try_spend(&mut self, line: &str) -> bool {
        let square = line.len() * line.len();
        let is_affordable = line.len() <= self.bytes_left
            && square <= self.squares_left
            && !self.time_left.is_zero()
            && self.grammars.len() <= MAX_GRAMMARS_PER_TEXT;
        if is_affordable {
            self.bytes_left -= line.len();
            self.squares_left -= square;
        }
        is_affordable
    }
}

/// The grammars and those that have been used, whose compiled regular expressions stay in memory.
struct GrammarCache {
    grammars: Arc<SyntaxSet>,
    compiled: HashSet<Scope>,
}

impl GrammarCache {
    fn load() -> Self {
        Self { grammars: Arc::new(two_face::syntax::extra_newlines()), compiled: HashSet::new() }
    }

    /// The grammars, without their compiled expressions if there are too many of them.
    fn borrow_grammars(&mut self) -> Arc<SyntaxSet> {
        if self.compiled.len() > MAX_COMPILED_GRAMMARS {
            *self = Self::load();
        }
        self.grammars.clone()
    }
}

/// Renders a code block with its language and highlighted spans.
pub(super) fn render_code_block(
    language: &str,
    code: &str,
    budget: &mut HighlightBudget,
) -> String {
    let mut html = String::with_capacity(code.len() * 2);
    html.push_str("<pre");
    if !language.is_empty() {
        html.push_str(" data-language=\"");
        escape_html(&mut html, language);
        html.push('"');
    }
    html.push_str("><code>");
    let mut rest = code;
    if let Some(name) = find_grammar_name(language) {
        let grammars = GRAMMARS.lock().borrow_grammars();
        if let Some(syntax) = grammars.find_syntax_by_token(name) {
            rest = highlight_lines(&mut html, &grammars, syntax, code, budget);
        }
        GRAMMARS.lock().compiled.extend(&budget.grammars);
    }
    escape_html(&mut html, rest);
    html.push_str("</code></pre>\n");
    html
}

fn find_grammar_name(language: &str) -> Option<&str> {
    Some(match language {
        "" | "text" | "txt" | "plain" | "plaintext" => return None,
        // Names that are common in code fences but unknown to the grammars.
        "console" | "shell" | "zsh" | "shell-session" => "bash",
        "golang" => "go",
        "json5" | "jsonc" => "json",
        "csharp" => "cs",
        other => other,
    })
}

/// Highlights lines until the budget is used up. Returns the rest.
fn highlight_lines<'a>(
    html: &mut String,
    grammars: &SyntaxSet,
    syntax: &SyntaxReference,
    code: &'a str,
    budget: &mut HighlightBudget,
) -> &'a str {
    let mut state = ParseState::new(syntax);
    let mut stack = ScopeStack::new();
    let mut spans = SpanWriter { html, open_class: "" };
    let mut rest = code;
    for line in code.split_inclusive('\n') {
        if line.len() > MAX_LINE_BYTES {
            spans.write_text("", line);
            rest = &rest[line.len()..];
            continue;
        }
        if !budget.try_spend(line) {
            break;
        }
        let known_grammars = budget.grammars.len();
        let start = read_processor_time();
        // A line that the grammar cannot parse ends the highlighting; the rest is still shown.
        let Ok(changes) = state.parse_line(line, grammars) else { break };
        budget.grammars.extend(changes.iter().filter_map(find_pushed_grammar));
        // The first use of a grammar compiles it, which says nothing about the text.
        if budget.grammars.len() == known_grammars {
            let spent = read_processor_time().saturating_sub(start);
            budget.time_left = budget.time_left.saturating_sub(spent);
        }
        let mut at = 0;
        for (index, change) in changes {
            let index = index.clamp(at, line.len());
            spans.write_text(find_class(&stack), &line[at..index]);
            at = index;
            if stack.apply(&change).is_err() {
                spans.write_text("", &line[at..]);
                spans.close_span();
                return &rest[line.len()..];
            }
        }
        spans.write_text(find_class(&stack), &line[at..]);
        rest = &rest[line.len()..];
    }
    spans.close_span();
    rest
}

/// The root scope of a grammar that begins here, such as `source.rust`.
fn find_pushed_grammar((_, change): &(usize, ScopeStackOp)) -> Option<Scope> {
    let ScopeStackOp::Push(scope) = change else { return None };
    ROOT_SCOPES.iter().any(|root| root.is_prefix_of(*scope)).then_some(*scope)
}

/// Processor time of this thread. Unlike the time of day, it does not pass while others run.
#[cfg(unix)]
fn read_processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(not(unix))]
fn read_processor_time() -> Duration {
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// Writes text with classes; adjacent text of the same class shares a span.
struct SpanWriter<'a> {
    html: &'a mut String,
    open_class: &'static str,
}

impl SpanWriter<'_> {
    fn write_text(&mut self, class: &'static str, text: &str) {
        // White space looks the same in any class, so it needs no span of its own.
        if class != self.open_class && !text.trim().is_empty() {
            self.close_span();
            if !class.is_empty() {
                self.html.push_str("<span class=\"");
                self.html.push_str(class);
                self.html.push_str("\">");
                self.open_class = class;
            }
        }
        escape_html(self.html, text);
    }

    fn close_span(&mut self) {
        if !std::mem::take(&mut self.open_class).is_empty() {
            self.html.push_str("</span>");
        }
    }
}

fn find_class(stack: &ScopeStack) -> &'static str {
    let of = |scope: &Scope| {
        SELECTORS.iter().find(|(prefix, _)| prefix.is_prefix_of(*scope)).map(|(_, class)| *class)
    };
    stack.as_slice().iter().rev().find_map(of).unwrap_or_default()
}

fn escape_html(html: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            other => html.push(other),
        }
    }
}

static GRAMMARS: LazyLock<Mutex<GrammarCache>> = LazyLock::new(|| Mutex::new(GrammarCache::load()));

static ROOT_SCOPES: LazyLock<Vec<Scope>> =
    LazyLock::new(|| ["source", "text"].iter().filter_map(|name| Scope::new(name).ok()).collect());

static SELECTORS: LazyLock<Vec<(Scope, &'static str)>> = LazyLock::new(|| {
    let parsed =
        SCOPE_CLASSES.iter().filter_map(|(name, class)| Some((Scope::new(name).ok()?, *class)));
    parsed.collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highlighting_keeps_all_code() {
        let code = "fn main() { let s = \"<b>\"; } // done\n";
        let html = render_code_block("rust", code, &mut HighlightBudget::default());
        assert!(
            html.starts_with("<pre data-language=\"rust\"><code><span class=\"c-key\">fn </span>"),
            "{html}"
        );
        assert!(html.contains("&lt;b&gt;") && html.contains("c-com"), "{html}");
        for language in
            ["ts", "typescript", "python", "sh", "toml", "json", "dockerfile", "sql", "tsx"]
        {
            let grammars = GRAMMARS.lock().borrow_grammars();
            assert!(grammars.find_syntax_by_token(language).is_some(), "{language}");
        }
    }

    #[test]
    fn long_line_stays_plain_and_the_next_is_highlighted() {
        let code = format!("let a = 1;\nlet b = \"{}\";\nlet c = 3;\n", "x".repeat(MAX_LINE_BYTES));
        let html = render_code_block("rust", &code, &mut HighlightBudget::default());
        assert!(html.contains(&"x".repeat(MAX_LINE_BYTES)), "{html}");
        assert_eq!(html.matches("c-num").count(), 2, "{html}");
        assert_eq!(html.matches("c-str").count(), 0, "{html}");
    }

    #[test]
    fn lines_of_a_text_have_a_budget_of_squares() {
        let line = format!("{}\n", "1 ".repeat(MAX_LINE_BYTES / 2 - 1));
        let code = line.repeat(MAX_CODE_BYTES / line.len());
        let mut budget = HighlightBudget::default();
        let html = render_code_block("json", &code, &mut budget);
        assert!(MAX_CODE_BYTES - budget.bytes_left <= MAX_SQUARED_BYTES / line.len());
        assert_eq!(html.matches('1').count(), code.matches('1').count());
    }

    #[test]
    fn text_uses_a_bounded_number_of_grammars() {
        let mut budget = HighlightBudget::default();
        for syntax in GrammarCache::load().grammars.syntaxes().iter().take(40) {
            render_code_block(&syntax.name, "x\n", &mut budget);
        }
        // The last line may begin several.
        assert!(budget.grammars.len() <= MAX_GRAMMARS_PER_TEXT + 3, "{:?}", budget.grammars);
    }

    #[test]
    fn compiled_grammars_are_dropped_beyond_a_number() {
        let mut cache = GrammarCache::load();
        let first = cache.borrow_grammars();
        assert!(Arc::ptr_eq(&first, &cache.borrow_grammars()));
        let scopes =
            (0..=MAX_COMPILED_GRAMMARS).map(|n| Scope::new(&format!("source.g{n}")).unwrap());
        cache.compiled.extend(scopes);
        assert!(!Arc::ptr_eq(&first, &cache.borrow_grammars()));
        assert!(cache.compiled.is_empty());
    }
}
