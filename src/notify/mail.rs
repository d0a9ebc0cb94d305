//! Notifications by mail: what happened and where to find more, without payloads.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp,
};

use super::notice::Notice;
use crate::{base::clock::Millis, config::SecretUrl};

/// The time limit for the server's answer to one command.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A mail server, and the recipients.
pub(super) struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

/// A mail was not accepted, or cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server has not accepted it. The error text contains no password.
    #[error("the mail server has not accepted it: {}", described(.0))]
    Smtp(#[from] smtp::Error),
    /// The mail cannot be composed.
    #[error("the mail cannot be composed: {0}")]
    Message(#[from] lettre::error::Error),
}

/// The error and its causes, because the outer error only names its kind.
fn described(error: &smtp::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

impl Mail {
    pub(super) fn new(url: &SecretUrl, from: &Mailbox, to: &[Mailbox]) -> Result<Self, MailError> {
        let url = with_tls(url.expose());
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url)?;
        Ok(Self {
            transport: builder.timeout(Some(TIMEOUT)).build(),
            from: from.clone(),
            to: to.to_vec(),
        })
    }

    pub(super) async fn send(&self, notice: &Notice, base: &str) -> Result<(), MailError> {
        self.transport.send(self.message(notice, base)?).await?;
        Ok(())
    }

    fn message(&self, notice: &Notice, base: &str) -> Result<Message, MailError> {
        let domain = self.from.email.domain();
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(format!("[OmniLink] {}", notice.subject))
            // The id lets mail servers recognize a repeated mail.
            .message_id(Some(format!("<{}@{domain}>", notice.id.replace(':', "."))))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        Ok(message.body(text(notice, base))?)
    }
}

fn text(notice: &Notice, base: &str) -> String {
    let Notice {
        subject,
        path,
        command,
        at: Millis(at),
        ..
    } = notice;
    let at = jiff::Timestamp::from_millisecond(*at).unwrap_or_default();
    let tenant = match &notice.tenant {
        Some(tenant) => format!("Tenant: {tenant}\n"),
        None => String::new(),
    };
    format!("{subject}.\n\nWhen: {at}\n{tenant}{base}{path}\n{command}\n")
}

/// `smtp://` means STARTTLS, except for this machine or a URL with its own query string.
fn with_tls(url: &str) -> String {
    let Some(rest) = url.strip_prefix("smtp://") else {
        return url.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let own = ["localhost", "127.0.0.1", "[::1]"];
    let is_own = own.iter().any(|name| {
        host == *name
            || host
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(':'))
    });
    if is_own || url.contains('?') {
        url.to_owned()
    } else {
        format!("{url}?tls=required")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NotifyOn;

    #[test]
    fn only_this_machine_is_talked_to_without_tls() {
        for (url, expected) in [
            ("smtps://u:p@h:465", "smtps://u:p@h:465"),
            ("smtp://u:p@h:587", "smtp://u:p@h:587?tls=required"),
            (
                "smtp://localhost.example.com",
                "smtp://localhost.example.com?tls=required",
            ),
            ("smtp://127.0.0.1:2525", "smtp://127.0.0.1:2525"),
            ("smtp://h?tls=opportunistic", "smtp://h?tls=opportunistic"),
        ] {
            assert_eq!(with_tls(url), expected);
            assert!(
                AsyncSmtpTransport::<Tokio1Executor>::from_url(&with_tls(url)).is_ok(),
                "{url}"
            );
        }
    }

    #[test]
    fn a_mail_says_what_happened_and_where_to_look() {
        let url = "smtp://127.0.0.1:1".to_owned();
        let from: Mailbox = "OmniLink <o@example.com>".parse().unwrap();
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url).unwrap();
        let mail = Mail {
            transport: transport.build(),
            from,
            to: vec!["ops@example.com".parse().unwrap()],
        };
        let notice = Notice {
            on: NotifyOn::RunFailed,
            id: "run.failed:r.9".into(),
            tenant: Some("acme".into()),
            at: Millis(0),
            subject: "Run r has failed".into(),
            path: "/v1/runs/r".into(),
            command: "omnilink runs show r".into(),
            data: serde_json::Map::from_iter([("code".to_owned(), "hidden".into())]),
            suppression_key: None,
        };
        let message = mail.message(&notice, "https://omni.example.com").unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        for part in [
            "From: OmniLink <o@example.com>",
            "To: ops@example.com",
            "Subject: [OmniLink] Run r has failed",
            "Message-ID: <run.failed.r.9@example.com>",
            "Run r has failed.\r\n\r\nWhen: 1970-01-01T00:00:00Z\r\nTenant: acme\r\nhttps://omni.example.com/v1/runs/r\r\nomnilink runs show r",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("hidden"), "{text}");
    }
}
