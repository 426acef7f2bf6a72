//! Renders untrusted Markdown as HTML that is safe to display.
//!
//! There are three safeguards, each sufficient against the attacks we know of: HTML in the text
//! stays text, images become links (loading an image would reveal the reader to its server), and
//! the result passes a sanitizer that allows only the elements listed here. Rendering reads no
//! files, makes no requests, and takes time linear in the length of the text. Used by
//! `/api/render`.

mod highlight;

use ammonia::{Builder, UrlRelative};
use linkify::{LinkFinder, LinkKind};
use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, TextMergeStream};
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// Elements nested deeper than this are dropped, their text is kept. Ordinary text does not get
/// there, and the cost of a level in the sanitizer and in browsers grows with its depth.
const MAX_NESTING: usize = 32;

/// Renders GitHub Flavored Markdown without HTML: tables, task lists, strikethrough, footnotes and
/// bare URLs. As in chats, a line break in the text is a line break in the result.
pub fn render_html(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_FOOTNOTES;
    let events = TextMergeStream::new(Parser::new_ext(markdown, options));
    let mut writer = EventRewriter::default();
    events.for_each(|event| writer.rewrite_event(event));
    let mut html = String::with_capacity(markdown.len() * 3 / 2);
    pulldown_cmark::html::push_html(&mut html, writer.events.into_iter());
    SANITIZER.clean(&replace_align_styles(html)).to_string()
}

/// Rewrites the parser's events before they are rendered.
#[derive(Default)]
struct EventRewriter<'a> {
    events: Vec<Event<'a>>,
    depth: usize,
    is_in_link: bool,
    /// The open code block: its language and its text so far.
    code: Option<(String, String)>,
    image: Option<OpenImage<'a>>,
    /// The label of a footnote whose first block is the next event.
    footnote_label: Option<CowStr<'a>>,
    highlight_budget: highlight::HighlightBudget,
}

/// An image whose alt text is being read.
struct OpenImage<'a> {
    url: CowStr<'a>,
    alt: String,
    /// Open images in its alt text.
    nested: usize,
}

impl<'a> EventRewriter<'a> {
    fn rewrite_event(&mut self, event: Event<'a>) {
        // Inside a code block or an image, events are collected until its end.
        if self.append_to_code(&event) || self.append_to_image(&event) {
            return;
        }
        if let Some(label) = self.footnote_label.take() {
            return self.begin_footnote(label, event);
        }
        match event {
            Event::FootnoteReference(label) => self.push_superscript(label),
            Event::Start(Tag::CodeBlock(kind)) => {
                self.code = Some((fence_language(&kind), String::new()))
            }
            Event::Start(Tag::Image { dest_url, .. }) => {
                self.image = Some(OpenImage { url: dest_url, alt: String::new(), nested: 0 });
            }
            Event::Start(tag) => self.open_tag(tag),
            Event::End(tag) => self.close_tag(tag),
            Event::Text(text) if self.is_in_link => self.events.push(Event::Text(text)),
            Event::Text(text) => self.push_text(text),
            // In a chat message a line break is meant as one.
            Event::SoftBreak => self.events.push(Event::HardBreak),
            Event::InlineHtml(html) if is_line_break(&html) => self.events.push(Event::HardBreak),
            Event::Html(html) | Event::InlineHtml(html) => self.push_raw_html(&html),
            Event::TaskListMarker(is_done) => {
                let mark = if is_done { "\u{2611} " } else { "\u{2610} " };
                self.events.push(Event::Text(mark.into()));
            }
            other => self.events.push(other),
        }
    }

    fn open_tag(&mut self, tag: Tag<'a>) {
        self.depth += 1;
        if let Tag::FootnoteDefinition(label) = tag {
            self.footnote_label = Some(label);
            return;
        }
        if self.depth > MAX_NESTING {
            return;
        }
        self.is_in_link |= matches!(tag, Tag::Link { .. });
        self.events.push(Event::Start(match tag {
            Tag::HtmlBlock => Tag::Paragraph,
            // Drop ids and classes: an `id` from a message could shadow an element of the page.
            Tag::Heading { level, .. } => {
                Tag::Heading { level, id: None, classes: Vec::new(), attrs: Vec::new() }
            }
            other => other,
        }));
    }

    fn close_tag(&mut self, tag: TagEnd) {
        let was_dropped = self.depth > MAX_NESTING;
        self.depth -= 1;
        if was_dropped || tag == TagEnd::FootnoteDefinition {
            return;
        }
        self.is_in_link &= tag != TagEnd::Link;
        let tag = if tag == TagEnd::HtmlBlock { TagEnd::Paragraph } else { tag };
        self.events.push(Event::End(tag));
    }

    /// A footnote is rendered where it is written, after its label. Nothing links to it, since `id`
    /// is not allowed.
    fn begin_footnote(&mut self, label: CowStr<'a>, first: Event<'a>) {
        if first == Event::Start(Tag::Paragraph) {
            self.rewrite_event(first);
            self.push_superscript(label);
            self.events.push(Event::Text(" ".into()));
            return;
        }
        self.events.push(Event::Start(Tag::Paragraph));
        self.push_superscript(label);
        self.events.push(Event::End(TagEnd::Paragraph));
        self.rewrite_event(first);
    }

    fn push_superscript(&mut self, label: CowStr<'a>) {
        let sup =
            [Event::Start(Tag::Superscript), Event::Text(label), Event::End(TagEnd::Superscript)];
        self.events.extend(sup);
    }

    /// Collects the code of a block, which is highlighted once it is complete. Returns whether the
    /// event was consumed.
    fn append_to_code(&mut self, event: &Event<'a>) -> bool {
        let Some((language, code)) = &mut self.code else { return false };
        match event {
            Event::Text(text) => code.push_str(text),
            Event::End(TagEnd::CodeBlock) => {
                let html = highlight::render_code_block(language, code, &mut self.highlight_budget);
                self.code = None;
                self.events.push(Event::Html(html.into()));
            }
            _ => {}
        }
        true
    }

    /// Collects the alt text of an image, which then becomes a link, or plain text inside a link.
    /// Returns whether the event was consumed.
    fn append_to_image(&mut self, event: &Event<'a>) -> bool {
        let Some(image) = &mut self.image else { return false };
        match event {
            Event::Text(text) | Event::Code(text) => image.alt.push_str(text),
            Event::SoftBreak | Event::HardBreak => image.alt.push(' '),
            Event::Start(Tag::Image { .. }) => image.nested += 1,
            Event::End(TagEnd::Image) if image.nested > 0 => image.nested -= 1,
            Event::End(TagEnd::Image) => {
                if let Some(image) = self.image.take() {
                    self.push_image_link(image);
                }
            }
            _ => {}
        }
        true
    }

    fn push_image_link(&mut self, image: OpenImage<'a>) {
        let OpenImage { url: address, alt, .. } = image;
        let words = if alt.trim().is_empty() { address.as_ref() } else { alt.as_str() };
        let text = Event::Text(format!("\u{1f5bc} {words}").into());
        if self.is_in_link {
            self.events.push(text);
        } else {
            self.push_link(address, text);
        }
    }

    /// Writes text and turns bare URLs and email addresses into links.
    fn push_text(&mut self, text: CowStr<'a>) {
        // Most text has no URL, and the search is slower than this test.
        if !text.contains("://") && !text.contains('@') {
            return self.events.push(Event::Text(text));
        }
        for span in LINK_FINDER.spans(&text) {
            let words = Event::Text(span.as_str().to_owned().into());
            match span.kind() {
                Some(LinkKind::Email) => {
                    self.push_link(format!("mailto:{}", span.as_str()).into(), words);
                }
                Some(_) => self.push_link(span.as_str().to_owned().into(), words),
                None => self.events.push(words),
            }
        }
    }

    fn push_link(&mut self, address: CowStr<'a>, text: Event<'a>) {
        let link = Tag::Link {
            link_type: pulldown_cmark::LinkType::Inline,
            dest_url: address,
            title: "".into(),
            id: "".into(),
        };
        self.events.extend([Event::Start(link), text, Event::End(TagEnd::Link)]);
    }

    /// Shows HTML as text.
    fn push_raw_html(&mut self, html: &str) {
        for (index, line) in html.trim_end_matches('\n').split('\n').enumerate() {
            if index > 0 {
                self.events.push(Event::HardBreak);
            }
            self.events.push(Event::Text(line.to_owned().into()));
        }
        if html.ends_with('\n') {
            self.events.push(Event::HardBreak);
        }
    }
}

/// The first word of a code fence's info string.
fn fence_language(kind: &CodeBlockKind<'_>) -> String {
    match kind {
        CodeBlockKind::Fenced(info) => {
            info.split([' ', ',', '{']).next().unwrap_or_default().to_ascii_lowercase()
        }
        CodeBlockKind::Indented => String::new(),
    }
}

/// `<br>` is the one element that models use in tables, because Markdown has no line break there.
fn is_line_break(html: &str) -> bool {
    matches!(html.trim(), "<br>" | "<br/>" | "<br />")
}

/// Replaces the `style` of aligned table cells, which the page's Content Security Policy forbids,
/// by `align`. In text `<` is escaped, so only tags can match.
fn replace_align_styles(html: String) -> String {
    let mut html = html;
    for cell in ["td", "th"] {
        for side in ["left", "center", "right"] {
            let styled = format!("<{cell} style=\"text-align: {side}\">");
            if html.contains(&styled) {
                html = html.replace(&styled, &format!("<{cell} align=\"{side}\">"));
            }
        }
    }
    html
}

static LINK_FINDER: LazyLock<LinkFinder> = LazyLock::new(|| {
    let mut finder = LinkFinder::new();
    finder.kinds(&[LinkKind::Url, LinkKind::Email]);
    finder
});

static SANITIZER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let tags = HashSet::from([
        "a",
        "blockquote",
        "br",
        "code",
        "del",
        "em",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "li",
        "ol",
        "p",
        "pre",
        "span",
        "strong",
        "sup",
        "table",
        "tbody",
        "td",
        "th",
        "thead",
        "tr",
        "ul",
    ]);
    let attributes = HashMap::from([
        ("a", HashSet::from(["href", "title"])),
        ("ol", HashSet::from(["start"])),
        ("pre", HashSet::from(["data-language"])),
        ("td", HashSet::from(["align"])),
        ("th", HashSet::from(["align"])),
    ]);
    let mut sanitizer = Builder::empty();
    sanitizer
        .tags(tags)
        .tag_attributes(attributes)
        .generic_attributes(HashSet::new())
        .allowed_classes(HashMap::from([("span", HashSet::from(highlight::SPAN_CLASSES))]))
        .url_schemes(HashSet::from(["http", "https", "mailto", "tel"]))
        // Relative links would lead into the console.
        .url_relative(UrlRelative::Deny)
        // The link's target learns neither the page's address nor gets access to its window.
        .link_rel(Some("noopener noreferrer nofollow"))
        .set_tag_attribute_value("a", "target", "_blank");
    sanitizer
});

#[cfg(test)]
mod tests {
    use super::render_html;
    use proptest::prelude::*;

    #[test]
    fn common_markdown_renders_as_expected() {
        for (markdown, expected) in [
            ("two\nlines", "<p>two<br>\nlines</p>\n"),
            (
                "**bold** _soft_ ~~gone~~",
                "<p><strong>bold</strong> <em>soft</em> <del>gone</del></p>\n",
            ),
            ("3. c\n4. d", "<ol start=\"3\">\n<li>c</li>\n<li>d</li>\n</ol>\n"),
            (
                "- [x] done\n- [ ] open",
                "<ul>\n<li>\u{2611} done</li>\n<li>\u{2610} open</li>\n</ul>\n",
            ),
            ("a<br>b", "<p>a<br>\nb</p>\n"),
            (
                "so[^1], and[^b]\n\n[^1]: one\n[^b]: - two",
                "<p>so<sup>1</sup>, and<sup>b</sup></p>\n<p><sup>1</sup> one</p>\n\
                 <p><sup>b</sup></p>\n<ul>\n<li>two</li>\n</ul>\n",
            ),
            ("so[^1]", "<p>so[^1]</p>\n"),
        ] {
            assert_eq!(render_html(markdown), expected, "{markdown}");
        }
        let table = render_html("|a|b|\n|-|-:|\n|1|2|");
        assert!(table.contains("<th align=\"right\">b</th>"), "{table}");
    }

    #[test]
    fn bare_urls_become_links_without_referrer() {
        let expected = "<p>see <a href=\"https://a.example/x_y_z\" target=\"_blank\" \
                        rel=\"noopener noreferrer nofollow\">https://a.example/x_y_z</a>.</p>\n";
        assert_eq!(render_html("see https://a.example/x_y_z."), expected);
        assert_eq!(render_html("[a](https://a.example/) b").matches("<a ").count(), 1);
        assert_eq!(render_html("[https://a.example](https://b.example)").matches("<a ").count(), 1);
    }

    #[test]
    fn image_is_rendered_as_link() {
        let image = render_html("![a cat](https://a.example/cat.png)");
        assert!(!image.contains("<img") && image.contains("a cat</a>"), "{image}");
        let badge = render_html("[![build](https://a.example/b.svg)](https://a.example)");
        assert_eq!(badge.matches("<a ").count(), 1, "{badge}");
        let nested = render_html("![a ![b *c*](https://a.example/b)](https://a.example/a) end");
        assert!(nested.contains("a b c</a> end"), "{nested}");
    }

    proptest! {
        #[test]
        fn any_markdown_renders_safely(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
            let html = render_html(&pieces.concat());
            prop_assert!(!html.contains("<img") && !html.contains("<i>"), "{html}");
        }
    }

    const PIECES: &[&str] = &[
        "![",
        "[",
        "](https://a.example/)",
        "]",
        "*",
        "**",
        "_",
        "~~",
        "`",
        "```",
        "~~~rust\n",
        "\n",
        "\n\n",
        "> ",
        "- ",
        "1. ",
        "    ",
        "# ",
        "|",
        "|-|\n",
        "<i>",
        "</i>",
        "<!--",
        "-->",
        "&amp;",
        "a",
        " ",
        "fn x() {}",
        "https://a.example/x",
        "a@b.example",
        "- [x] ",
        "[^1]",
        "[^1]: ",
        "\t",
        "\\",
        "é\u{301}",
    ];

    #[test]
    fn deep_nesting_renders_in_linear_time() {
        for deep in [
            ">".repeat(100_000),
            "- ".repeat(50_000),
            "*a _b ".repeat(20_000),
            "[".repeat(100_000),
            "![".repeat(50_000),
        ] {
            let html = render_html(&(deep + "x"));
            assert!(html.contains('x'));
        }
    }
}
