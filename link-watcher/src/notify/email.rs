//! Mail over SMTP, by the crate `lettre`.

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message as Mail, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        self,
        authentication::Credentials,
        client::{Tls, TlsParameters},
        extension::ClientId,
    },
};
use tokio::task::spawn_blocking;

use super::{
    delivery::{Delivery, DeliveryError, one_line},
    message::Message,
};
use crate::{
    config::{EmailConfig, SmtpTls},
    error::chain,
    random,
};

/// "I am no human": so nobody's holiday answers (RFC 3834, section 5).
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");

pub(super) async fn send(
    delivery: &Delivery,
    config: &EmailConfig,
    message: &Message,
) -> Result<String, DeliveryError> {
    let mail = mail(config, message)?;
    let server = &config.server;
    let shown = format!("{}:{}", server.host, server.port);
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&server.host)
        .port(server.port)
        .timeout(Some(delivery.limit))
        .tls(tls(config).await?);
    // Many servers refuse a name that is none of the domain name system's; an address in brackets they take.
    if message.host.contains('.') {
        transport = transport.hello_name(ClientId::Domain(message.host.clone()));
    }
    if let Some((user, password)) = &config.login {
        let password =
            password.read().map_err(|error| DeliveryError::unreached(format!("{error}; {}", error.remedy())))?;
        transport = transport.credentials(Credentials::new(user.clone(), password.as_str().to_owned()));
    }
    match transport.build().send(mail).await {
        Ok(response) => {
            Ok(format!("{shown} answered {} {}", response.code(), one_line(response.first_line().unwrap_or_default())))
        }
        Err(error) => Err(failed(&shown, &error)),
    }
}

fn failed(server: &str, error: &smtp::Error) -> DeliveryError {
    let why = format!("{server}: {}", one_line(&chain(error)));
    if error.is_permanent() { DeliveryError::refused(why) } else { DeliveryError::unreached(why) }
}

fn mail(config: &EmailConfig, message: &Message) -> Result<Mail, DeliveryError> {
    let (one, two) = (random::nonzero(), random::nonzero());
    let id = format!("<{one:08x}{two:08x}.link-watcher@{}>", config.from.email.domain());
    let builder = Mail::builder().from(config.from.clone()).subject(message.subject.clone()).message_id(Some(id));
    let builder = config.to.iter().cloned().fold(builder, |builder, to: Mailbox| builder.to(to));
    builder
        .raw_header(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".to_owned()))
        .header(ContentType::TEXT_PLAIN)
        .body(message.text.clone())
        .map_err(|error| DeliveryError::refused(format!("writing the mail: {error}")))
}

async fn tls(config: &EmailConfig) -> Result<Tls, DeliveryError> {
    if config.server.tls == SmtpTls::None {
        return Ok(Tls::None);
    }
    let host = config.server.host.clone();
    // Reading a hundred certificates must not keep others of this thread waiting.
    let parameters = spawn_blocking(|| TlsParameters::new(host)).await.map_err(|error| error.to_string());
    let parameters = parameters.and_then(|made| made.map_err(|error| chain(&error)));
    let parameters = parameters.map_err(|error| DeliveryError::unreached(format!("TLS: {error}")))?;
    Ok(if config.server.tls == SmtpTls::Implicit { Tls::Wrapper(parameters) } else { Tls::Required(parameters) })
}
