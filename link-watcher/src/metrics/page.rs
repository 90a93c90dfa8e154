//! The status page: one document that needs nothing but itself and `/status.json`, `/history.json`, `/events.json`, `/stream`.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script; the last part of it begins.
const SCRIPT: &str =
    concat!(include_str!("page/page.js"), include_str!("page/history.js"), include_str!("page/incidents.js"));

/// The document.
pub(super) static HTML: LazyLock<String> =
    LazyLock::new(|| FRAME.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT));

/// What the document may do (Content Security Policy level 3): run its own script, show its own style, ask this server.
pub(super) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    // Base64 and the words above are all that there is in it; should it not be a header's value, nothing is allowed.
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});
