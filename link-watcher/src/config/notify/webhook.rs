//! `kind = "webhook"`.

use std::path::Path;

use url::Url;

use crate::config::{Severity, secret::SecretFile, section::Section};

const EXAMPLE: &str = "\"https://chat.example.com/hook\"";

pub(super) const TEMPLATES: [(&str, Template); 4] = [
    ("json", Template::Json),
    ("slack", Template::Slack),
    ("ntfy", Template::Ntfy),
    ("alertmanager", Template::Alertmanager),
];

/// A message as an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where to: `http` or `https`, with a host, without a user.
    pub url: Url,
    /// What the body is.
    pub template: Template,
    /// What the body is signed with.
    pub secret: Option<SecretFile>,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// Everything that is known, as JSON.
    Json,
    /// Slack's incoming webhooks, which Mattermost and Rocket.Chat have too.
    Slack,
    /// A topic of ntfy.
    Ntfy,
    /// Alerts, for Prometheus Alertmanager's API v2.
    Alertmanager,
}

pub(super) fn read(section: &Section<'_>, directory: &Path, absent: Severity) -> Option<WebhookConfig> {
    if section.get("url").is_none() {
        section.missing("url", EXAMPLE);
    }
    let template = section.choice("template", &TEMPLATES).unwrap_or(Template::Json);
    let secret = SecretFile::of(section, "secret-file", directory, absent);
    let text = section.string("url", EXAMPLE)?;
    let wrong = |message: String, help: String| section.findings.error(&text.span(), message, help);
    let url = match Url::parse(text.get_ref()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        // It is not repeated: whoever knows such a URL may use it. Here and below.
        _ => {
            wrong("`url` is not one of HTTP".to_owned(), format!("write url = {EXAMPLE}"));
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        wrong("`url` has a user in it, which is not sent".to_owned(), "leave out what stands before the @".to_owned());
    }
    Some(WebhookConfig { url, template, secret })
}
