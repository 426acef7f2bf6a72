//! The web console: the files of `web/`, embedded in the binary. Debug builds read them from disk
//! on each request.
//!
//! The files contain no data and are public; everything they show comes from the API.

use crate::error::{Error, ErrorKind};
use axum::extract::Path;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use rust_embed::{Embed, EmbeddedFile};
use std::collections::HashMap;
use std::io::Write;
use std::sync::LazyLock;

#[derive(Embed)]
#[folder = "web/"]
struct ConsoleAssets;

/// Forbids inline scripts and styles, allows pictures only from this server and from message data
/// (`data:`, `blob:`), and HTML only through the console's one Trusted Types policy.
const CONSOLE_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types echoic";

pub(super) async fn serve_index(headers: HeaderMap) -> Response {
    respond_with_file("index.html", &headers)
}

pub(super) async fn serve_asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    respond_with_file(&path, &headers)
}

fn respond_with_file(path: &str, headers: &HeaderMap) -> Response {
    let Some((file, content_type)) = ConsoleAssets::get(path).zip(content_type(path)) else {
        return Error::new(ErrorKind::RouteNotFound, "the console has no such file")
            .into_response();
    };
    // A weak ETag, because the compressed and the plain response share it.
    let etag = format!("W/\"{}\"", URL_SAFE_NO_PAD.encode(&file.metadata.sha256_hash()[..12]));
    let mut response = if is_not_modified(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        encode_body(file, headers)
    };
    let response_headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response_headers.insert(ETAG, etag);
    }
    // Asset names carry no hash, so browsers revalidate on each load; a 304 is cheap.
    response_headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response_headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Only documents have a policy of their own; scripts and styles are subject to their page's.
    if content_type.starts_with("text/html") || content_type.starts_with("image/svg") {
        response_headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONSOLE_CSP));
        response_headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    response_headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    response_headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `None` for file types that the console does not serve.
fn content_type(path: &str) -> Option<&'static str> {
    Some(match path.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => return None,
    })
}

fn is_not_modified(headers: &HeaderMap, etag: &str) -> bool {
    let given = headers.get(IF_NONE_MATCH).and_then(|given| given.to_str().ok());
    given.is_some_and(|given| given.split(',').any(|one| one.trim() == etag))
}

fn encode_body(file: EmbeddedFile, headers: &HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|given| given.to_str().ok());
    let takes_gzip = accepted.is_some_and(|given| {
        given.split(',').any(|one| one.trim() == "gzip" || one.trim().starts_with("gzip;q=1"))
    });
    match takes_gzip.then(|| gzip_file(&file)).flatten() {
        Some(compressed) => ([(CONTENT_ENCODING, "gzip")], compressed).into_response(),
        None => file.data.into_owned().into_response(),
    }
}

/// Compresses a file. The result is cached for the lifetime of the process.
fn gzip_file(file: &EmbeddedFile) -> Option<Bytes> {
    static GZIP_CACHE: LazyLock<Mutex<HashMap<[u8; 32], Bytes>>> = LazyLock::new(Mutex::default);
    let mut cache = GZIP_CACHE.lock();
    let hash = file.metadata.sha256_hash();
    if let Some(compressed) = cache.get(&hash) {
        return Some(compressed.clone());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&file.data).ok()?;
    let compressed = Bytes::from(encoder.finish().ok()?);
    cache.insert(hash, compressed.clone());
    Some(compressed)
}
