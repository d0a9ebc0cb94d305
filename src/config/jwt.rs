//! `auth.jwt`: issuers whose tokens (JWT) the port accepts.

use std::path::{Path, PathBuf};

use hyper::Uri;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::base::{
    id::{Tenant, text_is_good},
    scopes::{Constraints, Scopes},
};

/// Size limit of `issuer` and of an audience, in bytes.
const NAME_MAX: usize = 512;

/// An issuer of tokens, and what its tokens mean here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtIssuer {
    /// The claim `iss` of its tokens, compared byte for byte.
    pub issuer: String,
    /// What the claim `aud` must hold one of.
    pub audience: Texts,
    /// Where its public keys are.
    pub jwks: Jwks,
    /// The principal that a token acts as.
    #[serde(default = "subject")]
    pub principal: FromToken<String>,
    /// The tenant that a token belongs to.
    pub tenant: FromToken<String>,
    /// The permissions of a token.
    pub permissions: FromToken<Texts>,
    /// The constraints of all its tokens; those of a key unless given.
    #[serde(default)]
    pub constraints: Constraints,
}

/// A claim of the token, or a fixed value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromToken<T> {
    /// The same for all tokens. First, because serde reads a list as a struct too.
    Fixed(T),
    /// The claim of this name, or where it begins with `/`, of this JSON pointer.
    Claim(Claim),
}

/// `{claim: NAME}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its name, or a JSON pointer.
    pub claim: String,
}

/// One text or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    /// A single text.
    One(String),
    /// A list of texts.
    Several(Vec<String>),
}

/// Where a set of public keys (RFC 7517) is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Jwks {
    /// An `http://` or `https://` URL.
    Url(String),
    /// A file.
    File(PathBuf),
}

impl From<String> for Jwks {
    fn from(text: String) -> Self {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Self::Url(text);
        }
        Self::File(text.strip_prefix("file:").unwrap_or(&text).into())
    }
}

impl From<Jwks> for String {
    fn from(jwks: Jwks) -> Self {
        match jwks {
            Jwks::Url(url) => url,
            Jwks::File(path) => path.display().to_string(),
        }
    }
}

impl Texts {
    /// All texts, in order.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        }
    }
}

impl FromToken<Texts> {
    /// The fixed permissions: one text holds several with spaces between.
    pub fn fixed_permissions(&self) -> Option<Vec<String>> {
        Some(match self.fixed()? {
            Texts::One(text) => text.split_whitespace().map(str::to_owned).collect(),
            Texts::Several(texts) => texts.clone(),
        })
    }
}

impl<T> FromToken<T> {
    /// The fixed value.
    pub fn fixed(&self) -> Option<&T> {
        match self {
            Self::Fixed(value) => Some(value),
            Self::Claim(_) => None,
        }
    }
}

fn subject() -> FromToken<String> {
    FromToken::Claim(Claim {
        claim: "sub".into(),
    })
}

/// A value of `auth.jwt` is not what it takes: all that is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(super) struct BadIssuers(Vec<String>);

/// Reads the list; paths are relative to `base`.
pub(super) fn parse(value: Json, base: &Path) -> Result<Vec<JwtIssuer>, BadIssuers> {
    let Json::Array(items) = value else {
        let takes =
            "must be a list, such as [{issuer: https://id.example.com, audience: omnilink, …}]";
        return Err(BadIssuers(vec![takes.into()]));
    };
    let mut problems = Vec::new();
    let mut issuers: Vec<JwtIssuer> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let mut problem = |what: String| problems.push(format!("item {}: {what}", index + 1));
        let mut issuer: JwtIssuer = match serde_json::from_value(item) {
            Ok(issuer) => issuer,
            Err(error) => {
                problem(described(&error));
                continue;
            }
        };
        if let Jwks::File(path) = &mut issuer.jwks {
            *path = base.join(&path);
        }
        issuer.problems().into_iter().for_each(&mut problem);
        let same = |other: &JwtIssuer| {
            let audiences = other.audience.as_slice();
            other.issuer == issuer.issuer
                && issuer
                    .audience
                    .as_slice()
                    .iter()
                    .any(|a| audiences.contains(a))
        };
        if issuers.iter().any(same) {
            problem("an earlier item has the same `issuer` and `audience`".into());
        }
        issuers.push(issuer);
    }
    if problems.is_empty() {
        Ok(issuers)
    } else {
        Err(BadIssuers(problems))
    }
}

/// Serde names no variant of an untagged enum.
fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.contains("untagged enum FromToken") {
        return "`principal`, `tenant` and `permissions` take `{claim: NAME}` or a fixed text (`permissions` also a list)".into();
    }
    if text.contains("untagged enum Texts") {
        return "`audience` takes a text or a list of texts".into();
    }
    text
}

impl JwtIssuer {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let named = |text: &String| !text.is_empty() && text.len() <= NAME_MAX;
        if !named(&self.issuer) {
            problems.push(format!("`issuer` must have 1 to {NAME_MAX} bytes"));
        }
        let audiences = self.audience.as_slice();
        if audiences.is_empty() || !audiences.iter().all(named) {
            problems.push(format!("`audience` must have 1 to {NAME_MAX} bytes"));
        }
        if let Jwks::Url(url) = &self.jwks
            && !is_plain_url(url)
        {
            problems.push(
                "`jwks` must be a URL with a host, without user and password, or a file".into(),
            );
        }
        for claim in [
            claim(&self.principal),
            claim(&self.tenant),
            claim(&self.permissions),
        ] {
            if claim.is_some_and(str::is_empty) {
                problems.push("a claim's name must not be empty".into());
            }
        }
        if self.principal.fixed().is_some_and(|p| !text_is_good(p)) {
            problems.push("`principal` must have 1 to 256 bytes, and no control characters".into());
        }
        if let Some(Err(error)) = self.tenant.fixed().map(|tenant| Tenant::new(tenant)) {
            problems.push(format!("`tenant`: {error}"));
        }
        let fixed = self.permissions.fixed_permissions();
        let scopes = Scopes {
            // A claim's permissions are known with the token.
            permissions: fixed.unwrap_or_else(|| vec!["*".into()]),
            constraints: self.constraints.clone(),
        };
        problems.extend(scopes.problem());
        problems
    }
}

fn claim<T>(from: &FromToken<T>) -> Option<&str> {
    match from {
        FromToken::Claim(Claim { claim }) => Some(claim),
        FromToken::Fixed(_) => None,
    }
}

fn is_plain_url(url: &str) -> bool {
    let parsed: Result<Uri, _> = url.parse();
    parsed.is_ok_and(|uri| {
        let authority = uri.authority().map_or("", |a| a.as_str());
        uri.host().is_some_and(|host| !host.is_empty()) && !authority.contains('@')
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Json {
        json!({
            "issuer": "https://id.example.com/realms/acme",
            "audience": "omnilink",
            "jwks": "https://id.example.com/certs?p=1",
            "tenant": { "claim": "org" },
            "permissions": { "claim": "/realm_access/roles" },
        })
    }

    #[test]
    fn an_issuer_has_defaults_and_fixed_values() {
        let base = Path::new("/etc/omnilink");
        let mut fixed = good();
        fixed["audience"] = json!(["other", "second"]);
        fixed["jwks"] = json!("keys.json");
        fixed["principal"] = json!("robot");
        fixed["tenant"] = json!("acme");
        fixed["permissions"] = json!(["events:write"]);
        fixed["constraints"] = json!({ "max_rpm": 600 });
        let issuers = parse(json!([good(), fixed]), base).unwrap();
        assert_eq!(issuers[0].principal, subject());
        assert_eq!(issuers[0].constraints, Constraints::default());
        assert_eq!(issuers[1].principal.fixed().unwrap(), "robot");
        assert_eq!(
            issuers[1].permissions.fixed_permissions().unwrap(),
            ["events:write"]
        );
        assert_eq!(issuers[0].permissions.fixed(), None);
        assert_eq!(issuers[1].constraints.max_rpm, 600);
        assert_eq!(issuers[1].jwks, Jwks::File(base.join("keys.json")));
        // What is shown is what can be read.
        let shown = serde_json::to_value(&issuers).unwrap();
        assert_eq!(parse(shown, Path::new("")).unwrap(), issuers);
    }

    #[test]
    fn everything_wrong_is_reported_with_its_item() {
        let cases = [
            ("issuer", json!(""), "`issuer` must have"),
            ("audience", json!([]), "`audience` must have"),
            ("audience", json!(5), "`audience` takes"),
            (
                "jwks",
                json!("https://me:secret@id/certs"),
                "without user and password",
            ),
            ("jwks", json!("https:///certs"), "a URL with a host"),
            ("principal", json!({ "claim": "" }), "a claim's name"),
            ("principal", json!("a\nb"), "`principal` must have"),
            ("tenant", json!("no/name"), "`tenant`: a tenant's name"),
            ("tenant", json!({ "clam": "x" }), "take `{claim: NAME}`"),
            ("permissions", json!(["a*b"]), "`a*b` is not a permission"),
            ("permissions", json!([]), "at least one permission"),
            (
                "constraints",
                json!({ "max_rmp": 1 }),
                "unknown field `max_rmp`",
            ),
            ("isuer", json!("x"), "unknown field `isuer`"),
        ];
        for (field, value, expected) in cases {
            let mut bad = good();
            bad[field] = value;
            let mut worse = good();
            worse["tenant"] = json!("");
            worse["audience"] = json!("another");
            let error = parse(json!([bad, worse]), Path::new(""))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("item 1: ") && error.contains(expected),
                "{error}"
            );
            assert!(
                error.contains("item 2: `tenant`") && !error.contains("secret"),
                "{error}"
            );
        }
        let twice = parse(json!([good(), good()]), Path::new("")).unwrap_err();
        assert!(
            twice.to_string().contains("item 2: an earlier item"),
            "{twice}"
        );
        assert!(parse(json!({}), Path::new("")).is_err());
    }
}
