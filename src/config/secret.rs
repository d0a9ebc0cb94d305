//! Secret values, which are never displayed.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Shown in place of a secret.
pub(crate) const MASK: &str = "***";

/// Query parameters of a URL that are safe to show.
const SAFE_PARAMETERS: [&str; 6] = [
    "sslmode",
    "host",
    "port",
    "dbname",
    "application_name",
    "protocol",
];

/// Why a secret, or a URL that holds one, cannot be used. Never holds the secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// `env:NAME` names a variable that is not set.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// `file:PATH` names a file that cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A URL of another scheme than one of these.
    #[error("must be a URL that begins with `{}://`", .0.join("://` or `"))]
    Scheme(&'static [&'static str]),
}

/// A string that no log, error or page displays. If it came from a reference (`env:NAME`, `file:PATH`), the reference is
/// displayed instead.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    reference: Option<String>,
}

impl Secret {
    /// A literal secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            reference: None,
        }
    }

    /// Resolves `env:NAME` and `file:PATH` (relative to `base`; one trailing line end is removed); any other text is the value.
    pub(crate) fn resolve(
        text: &str,
        base: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SecretError> {
        let value = if let Some(name) = text.strip_prefix("env:") {
            env(name).ok_or_else(|| SecretError::Unset(name.to_owned()))?
        } else if let Some(path) = text.strip_prefix("file:") {
            let path = base.join(path);
            let read = match std::fs::read_to_string(&path) {
                Ok(read) => read,
                Err(source) => return Err(SecretError::File { path, source }),
            };
            let line = read.strip_suffix('\n').unwrap_or(&read);
            line.strip_suffix('\r').unwrap_or(line).to_owned()
        } else {
            return Ok(Self::new(text));
        };
        Ok(Self {
            value,
            reference: Some(text.to_owned()),
        })
    }

    /// The secret value.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Whether it came from a reference.
    pub(crate) fn is_reference(&self) -> bool {
        self.reference.is_some()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reference.as_deref().unwrap_or(MASK))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

/// A URL whose password is not displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Secret);

impl SecretUrl {
    /// Checks only the scheme; the client that uses the URL parses the rest.
    pub(crate) fn new(
        secret: Secret,
        schemes: &'static [&'static str],
    ) -> Result<Self, SecretError> {
        let scheme = secret.expose().split_once("://").map_or("", |(s, _)| s);
        if schemes.contains(&scheme) {
            Ok(Self(secret))
        } else {
            Err(SecretError::Scheme(schemes))
        }
    }

    /// The whole URL, for the client that connects.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Display for SecretUrl {
    /// Writes the reference, or the URL with `***` for the password and for every query parameter that may hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_reference() {
            return write!(f, "{}", self.0);
        }
        let (scheme, rest) = self.0.expose().split_once("://").unwrap_or_default();
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // An `@` after the authority may belong to a password that was not percent-encoded: nothing is shown.
        if tail.contains('@') {
            return write!(f, "{scheme}://{MASK}");
        }
        write!(f, "{scheme}://")?;
        match authority.rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((name, _)) => write!(f, "{name}:{MASK}@{host}")?,
                None => write!(f, "{user}@{host}")?,
            },
            None => f.write_str(authority)?,
        }
        let (path, query) = tail
            .split_once('?')
            .map_or((tail, None), |(a, b)| (a, Some(b)));
        f.write_str(path)?;
        for (i, pair) in query.into_iter().flat_map(|q| q.split('&')).enumerate() {
            let name = pair.split('=').next().unwrap_or_default();
            let open = if i == 0 { '?' } else { '&' };
            if SAFE_PARAMETERS.contains(&name) {
                write!(f, "{open}{pair}")?;
            } else {
                write!(f, "{open}{name}={MASK}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let cases = [
            (
                "postgres://me:pass@h:1/db?sslmode=require&password=x",
                "postgres://me:***@h:1/db?sslmode=require&password=***",
            ),
            ("postgres://h/db", "postgres://h/db"),
            ("postgres://me@h/db", "postgres://me@h/db"),
            // Passwords that are not percent-encoded.
            ("postgres://u:a?b@h/db", "postgres://***"),
            ("postgres://u:a/b@h/db", "postgres://***"),
            ("postgres://u:a@b@h/db", "postgres://u:***@h/db"),
            ("postgres://h/db?password=a@b", "postgres://***"),
        ];
        for (url, shown) in cases {
            let url = SecretUrl::new(Secret::new(url), &["postgres"]).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("SecretUrl({shown})"));
        }
    }
}
