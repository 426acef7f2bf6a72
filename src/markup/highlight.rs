//! Syntax highlighting: the many scopes of the grammars are reduced to a few CSS classes.
//!
//! Grammars are regular expressions, so crafted code can make them slow. A text has a budget of
//! bytes and time; code beyond it stays plain.

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxReference, SyntaxSet};

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

/// Maximum size of the code highlighted in a text, and of one line of it, in bytes.
const MAX_CODE_BYTES: usize = 64 << 10;
const MAX_LINE_BYTES: usize = 2000;
/// Maximum time spent on highlighting a text.
const MAX_DURATION: Duration = Duration::from_millis(250);

/// The rest of a text's budget.
pub(super) struct HighlightBudget {
    bytes_left: usize,
    deadline: Option<Instant>,
}

impl Default for HighlightBudget {
    fn default() -> Self {
        Self { bytes_left: MAX_CODE_BYTES, deadline: None }
    }
}

impl HighlightBudget {
    fn try_spend(&mut self, line: &str) -> bool {
        // The time starts to run with the first line of code.
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + MAX_DURATION);
        if line.len() > self.bytes_left.min(MAX_LINE_BYTES) || Instant::now() > deadline {
            return false;
        }
        self.bytes_left -= line.len();
        true
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
    if let Some(syntax) = find_syntax(language) {
        rest = highlight_lines(&mut html, syntax, code, budget);
    }
    escape_html(&mut html, rest);
    html.push_str("</code></pre>\n");
    html
}

fn find_syntax(language: &str) -> Option<&'static SyntaxReference> {
    let name = match language {
        "" | "text" | "txt" | "plain" | "plaintext" => return None,
        // Names that are common in code fences but unknown to the grammars.
        "console" | "shell" | "zsh" | "shell-session" => "bash",
        "golang" => "go",
        "json5" | "jsonc" => "json",
        "csharp" => "cs",
        other => other,
    };
    GRAMMARS.find_syntax_by_token(name)
}

/// Highlights lines until the budget is used up. Returns the rest.
fn highlight_lines<'a>(
    html: &mut String,
    syntax: &SyntaxReference,
    code: &'a str,
    budget: &mut HighlightBudget,
) -> &'a str {
    let mut state = ParseState::new(syntax);
    let mut stack = ScopeStack::new();
    let mut spans = SpanWriter { html, open_class: "" };
    let mut rest = code;
    for line in code.split_inclusive('\n') {
        if !budget.try_spend(line) {
            break;
        }
        // A line that the grammar cannot parse ends the highlighting; the rest is still shown.
        let Ok(changes) = state.parse_line(line, &GRAMMARS) else { break };
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

static GRAMMARS: LazyLock<SyntaxSet> = LazyLock::new(two_face::syntax::extra_newlines);

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
            assert!(find_syntax(language).is_some(), "{language}");
        }
    }

    #[test]
    fn code_beyond_budget_stays_plain() {
        let code = format!("let a = 1;\nlet b = \"{}\";\nlet c = 3;\n", "x".repeat(MAX_LINE_BYTES));
        let html = render_code_block("rust", &code, &mut HighlightBudget::default());
        assert!(html.contains("let c = 3;") && html.matches("c-num").count() == 1, "{html}");
    }
}
