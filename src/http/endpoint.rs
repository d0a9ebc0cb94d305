//! A server's base URL, with the credentials split off.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{Uri, header::HeaderValue};
use percent_encoding::percent_decode_str;

use crate::config::SecretUrl;

/// The address of a server, and the credentials for it.
#[derive(Clone)]
pub struct Endpoint {
    base: String,
    authorization: Option<HeaderValue>,
}

/// The URL cannot be used. Messages show it without user and password.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It has no host, or it has a query or fragment, which a base URL cannot have.
    #[error("{0} must be a URL such as http://host:8081")]
    Url(String),
    /// User and password cannot be encoded as a header value.
    #[error("{0}: user and password cannot be sent as an `Authorization` header")]
    Authorization(String),
}

impl Endpoint {
    /// Splits a URL into the base URL and the credentials, which become HTTP basic authentication.
    pub fn new(url: &SecretUrl) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.expose().split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let base = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        let parsed: Result<Uri, _> = base.parse();
        let has_host = parsed.is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        if path.contains(['?', '#']) || !has_host {
            return Err(EndpointError::Url(url.to_string()));
        }
        let authorization = user.map(|user| {
            let plain = percent_decode_str(user).collect::<Vec<u8>>();
            let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(plain)))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let authorization =
            authorization
                .transpose()
                .map_err(|_: hyper::header::InvalidHeaderValue| {
                    EndpointError::Authorization(url.to_string())
                })?;
        Ok(Self {
            base,
            authorization,
        })
    }

    /// Scheme, host and path, without a trailing `/` and without user and password.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The value of the `Authorization` header, if the URL has a user.
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(&SecretUrl::new(Secret::new(url), &["http", "https"]).unwrap())
    }

    #[test]
    fn credentials_are_split_from_the_base_url() {
        let cases = [
            ("http://h:8081", "http://h:8081", None),
            ("http://h/apis/v7/", "http://h/apis/v7", None),
            // A password with an `@` in it, plain and percent-encoded.
            ("http://me:p@ss@h", "http://h", Some("Basic bWU6cEBzcw==")),
            (
                "https://me:p%40ss@[::1]:1/",
                "https://[::1]:1",
                Some("Basic bWU6cEBzcw=="),
            ),
        ];
        for (url, base, authorization) in cases {
            let endpoint = endpoint(url).unwrap();
            assert_eq!(endpoint.base(), base);
            let sent = endpoint.authorization().map(|v| v.to_str().unwrap());
            assert_eq!(sent, authorization, "{url}");
        }
        for wrong in [
            "http://",
            "http:///x",
            "http://u:secret@/",
            "http://h?a=b",
            "http://h/#x",
            "http://h h",
        ] {
            let error = endpoint(wrong).err().expect(wrong).to_string();
            assert!(
                error.contains("http://host:8081") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
