//! The console: the files of `web/`, in the binary. Debug builds read them from the disk anew for
//! each request.
//!
//! They hold nothing secret, so they need no credentials; what they show comes from the API.

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
use rust_embed::{Embed, EmbeddedFile};
use std::collections::HashMap;
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

#[derive(Embed)]
#[folder = "web/"]
struct ConsoleAssets;

/// Scripts and styles only from here and never inline, pictures only of messages themselves, and
/// HTML only where the console's one policy makes it.
const CONSOLE_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types echoic";

/// The console's page.
pub(super) async fn serve_index(headers: HeaderMap) -> Response {
    respond_with_file("index.html", &headers)
}

/// What the page consists of.
pub(super) async fn serve_asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    respond_with_file(&path, &headers)
}

fn respond_with_file(path: &str, headers: &HeaderMap) -> Response {
    let Some((file, content_type)) = ConsoleAssets::get(path).zip(content_type(path)) else {
        return Error::new(ErrorKind::RouteNotFound, "the console has no such file")
            .into_response();
    };
    // Weak: packed and unpacked it is the same file.
    let etag = format!("W/\"{}\"", URL_SAFE_NO_PAD.encode(&file.metadata.sha256_hash()[..12]));
    let mut response = if is_not_modified(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        encode_body(file, headers)
    };
    let of = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        of.insert(ETAG, etag);
    }
    // A browser asks each time whether its copy is the newest, which is the answer of a moment.
    of.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    of.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What is not opened as a page has no policy of its own.
    if content_type.starts_with("text/html") || content_type.starts_with("image/svg") {
        of.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONSOLE_CSP));
        of.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    of.insert(VARY, HeaderValue::from_static("accept-encoding"));
    of.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `None` is no file of the console.
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
        Some(packed) => ([(CONTENT_ENCODING, "gzip")], packed).into_response(),
        None => file.data.into_owned().into_response(),
    }
}

/// The file packed; each of them once.
fn gzip_file(file: &EmbeddedFile) -> Option<Bytes> {
    static GZIP_CACHE: LazyLock<Mutex<HashMap<[u8; 32], Bytes>>> = LazyLock::new(Mutex::default);
    let mut kept = GZIP_CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let hash = file.metadata.sha256_hash();
    if let Some(packed) = kept.get(&hash) {
        return Some(packed.clone());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&file.data).ok()?;
    let packed = Bytes::from(encoder.finish().ok()?);
    kept.insert(hash, packed.clone());
    Some(packed)
}
