//! `/api/render`: Markdown becomes harmless HTML.

use crate::support::Server;
use serde_json::json;

/// Each of these tries to run a script, to load a resource, or to break out of its element.
const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<style>body{display:none}</style>",
    "<base href=https://evil.example/>",
    "<form action=https://evil.example><input name=a autofocus onfocus=alert(1)></form>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](java\tscript:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](vbscript:x)",
    "[a](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[a](//evil.example)",
    "[a](/api/me/data)",
    "<javascript:alert(1)>",
    "![a](javascript:alert(1))",
    "![a](https://evil.example/pixel.png \"onload=alert(1)\")",
    "![![a](https://evil.example/a)](https://evil.example/b)",
    "![\"><script>alert(1)</script>](x)",
    "[a](https://x.example \"\\\" onmouseover=alert(1) x=\\\"\")",
    "[a]: javascript:alert(1)\n[a]",
    "a[^<script>]\n\n[^<script>]: <script>alert(1)</script>",
    "```\"><script>alert(1)</script>\ncode\n```",
    "```html\n<script>alert(1)</script>\n```",
    "`<script>alert(1)</script>`",
    "# x {#id onclick=alert(1)}",
    "| a | <img src=x onerror=alert(1)> |\n|-|-|\n| <script>1</script> | b |",
    "a<br onclick=alert(1)>b",
    "</p></div></main><script>alert(1)</script>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "https://x.example/\"><script>alert(1)</script>",
    "<!--<script>alert(1)</script>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php echo 1 ?><script>alert(1)</script>",
];

async fn rendered(server: &Server, markdown: &str) -> String {
    let answer = server.post("/api/render", json!({ "markdown": markdown })).await;
    answer.data()["html"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn hostile_markdown_renders_harmless() {
    let server = Server::start().await;
    for hostile in HOSTILE {
        let html = rendered(&server, hostile).await;
        let tags: Vec<&str> =
            html.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()).collect();
        for tag in tags {
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            let harmless = [
                "a",
                "blockquote",
                "br",
                "code",
                "del",
                "em",
                "h1",
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
            ];
            assert!(harmless.contains(&name), "{hostile}: <{tag}> in {html}");
            // Attribute values contain no quotes, so every second part is a value.
            let names: String = tag.split('"').step_by(2).collect();
            assert!(
                !names.contains(" on") && !names.contains("style") && !names.contains("src"),
                "{hostile}: {html}"
            );
            for address in tag.split("href=\"").skip(1) {
                let is_plain = ["http://", "https://", "mailto:", "tel:"]
                    .iter()
                    .any(|scheme| address.starts_with(scheme));
                assert!(is_plain, "{hostile}: {html}");
            }
        }
    }
}

#[tokio::test]
async fn html_in_markdown_is_shown_as_text() {
    let server = Server::start().await;
    let html = rendered(&server, "<b>hi</b> & <script>\nalert(1)\n</script>").await;
    assert!(html.contains("&lt;b&gt;hi&lt;/b&gt; &amp; &lt;script&gt;"), "{html}");
    let html = rendered(&server, "<div>\nblock\n</div>").await;
    assert!(html.contains("&lt;div&gt;") && html.contains("&lt;/div&gt;"), "{html}");
}

#[tokio::test]
async fn unusual_text_keeps_its_characters() {
    let server = Server::start().await;
    let line = "x".repeat(200_000);
    assert!(rendered(&server, &line).await.contains(&line));
    for odd in
        ["\u{202e}abc\u{202c}", "a\u{200b}b", "e\u{301}\u{301}\u{301}", "👩‍👩‍👧‍👦", "שלום", "\u{feff}x"]
    {
        assert!(
            rendered(&server, odd).await.contains(odd.trim_start_matches('\u{feff}')),
            "{odd:?}"
        );
    }
    assert_eq!(rendered(&server, "").await, "");
}

#[tokio::test]
async fn body_without_markdown_is_rejected() {
    let server = Server::with(&["--max-message=1KiB"]).await;
    let post = async |body| {
        let answer = server.post("/api/render", body).await;
        let (status, code) = answer.failure();
        (status, code.to_owned())
    };
    let invalid = (400, "invalid_request".to_owned());
    assert_eq!(post(json!({})).await, invalid);
    assert_eq!(post(json!({"markdown": 7})).await, invalid);
    assert_eq!(post(json!("text")).await, invalid);
    let too_long = json!({"markdown": "x".repeat(1025)});
    assert_eq!(post(too_long).await, (413, "payload_too_large".to_owned()));
}
