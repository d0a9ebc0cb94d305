//! The definition of a source, as sent to `POST /v1/integrations`; all faults are reported at once.

use serde_json::{Map, Value};

use super::{
    dialect::{
        Dialect,
        hmac::{Parameters, Template},
        odoo::Fields,
        standard_webhooks,
    },
    mapping::Mapping,
    members::{Fault, Faults, Members},
    secrets::{Secret, Secrets},
    signature::{Algorithm, Encoding},
};
use crate::{controls::SECRETS_MAX, envelope::canonical_hash};

/// The maximum length of a source's name, in bytes.
const NAME_MAX: usize = 100;

/// A webhook source.
#[derive(Clone, Debug)]
pub struct Source {
    /// 1 to 100 characters of `[A-Za-z0-9._-]`, not only dots, because it is a path segment.
    pub name: String,
    /// The dialect of its senders.
    pub dialect: Dialect,
    /// The secrets of its senders.
    pub secrets: Secrets,
    /// Builds envelopes instead of the dialect.
    pub mapping: Option<Mapping>,
}

/// The body of `POST /v1/integrations`.
#[derive(Debug)]
pub struct Definition {
    /// The source that it defines.
    pub source: Source,
    /// The tenant that it names.
    pub tenant: Option<String>,
    /// The members as sent.
    pub members: Map<String, Value>,
}

impl Definition {
    /// Parses `{name, dialect, secrets, mapping?, hmac?, odoo?, tenant?}`.
    pub fn parse(definition: &[u8]) -> Result<Self, Vec<Fault>> {
        let (source, top) = Source::read(definition, true)?;
        let tenant = top.get("tenant").and_then(Value::as_str);
        Ok(Self {
            source,
            tenant: tenant.map(str::to_owned),
            members: top.members,
        })
    }
}

impl Source {
    /// Parses `{name, dialect, secrets, mapping?, hmac?, odoo?}`.
    pub fn parse(definition: &[u8]) -> Result<Self, Vec<Fault>> {
        Self::read(definition, false).map(|(source, _)| source)
    }

    fn read(definition: &[u8], may_name_tenant: bool) -> Result<(Self, Members), Vec<Fault>> {
        let mut faults = Faults::default();
        // `serde_json` would accept two members of the same name and use the last one.
        let read = canonical_hash(definition).map_err(|e| e.to_string());
        let value =
            read.and_then(|_| serde_json::from_slice(definition).map_err(|e| e.to_string()));
        let top = match value {
            Ok(Value::Object(members)) => Members {
                at: String::new(),
                members,
            },
            Ok(_) => {
                faults.add("", "the definition must be an object");
                return Err(faults.0);
            }
            Err(message) => {
                faults.add("", message);
                return Err(faults.0);
            }
        };
        let known = [
            "name", "dialect", "secrets", "mapping", "hmac", "odoo", "tenant",
        ];
        let known = if may_name_tenant {
            &known[..]
        } else {
            &known[..known.len() - 1]
        };
        top.known(known, &mut faults);
        if may_name_tenant {
            top.text("tenant", &mut faults);
        }
        let name = top.required("name", &mut faults);
        if let Some(name) = &name
            && !is_name(name)
        {
            faults.add(
                "/name",
                format!("must be 1 to {NAME_MAX} of [A-Za-z0-9._-], and not only dots"),
            );
        }
        let dialect_name = top.required("dialect", &mut faults);
        let dialect = dialect_name.and_then(|name| dialect(&name, &top, &mut faults));
        let secrets = secrets(&top, dialect.as_ref(), &mut faults);
        let mapping = top.text("mapping", &mut faults).and_then(|text| {
            let compiled = Mapping::compile(&text);
            compiled
                .map_err(|wrong| wrong.into_iter().for_each(|w| faults.add("/mapping", w)))
                .ok()
        });
        match (name, dialect) {
            (Some(name), Some(dialect)) if faults.0.is_empty() => {
                let source = Self {
                    name,
                    dialect,
                    secrets,
                    mapping,
                };
                Ok((source, top))
            }
            _ => Err(faults.0),
        }
    }
}

fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(good)
        && !name.bytes().all(|b| b == b'.')
}

fn dialect(name: &str, top: &Members, faults: &mut Faults) -> Option<Dialect> {
    for (part, of) in [("hmac", "hmac"), ("odoo", "odoo-native")] {
        if name != of && top.get(part).is_some() {
            faults.add(
                format!("/{part}"),
                format!("is only for the dialect `{of}`"),
            );
        }
    }
    Some(match name {
        "ipai" => Dialect::Ipai,
        "ipai-body" => Dialect::IpaiBody,
        "odoo-native" => Dialect::OdooNative(odoo(top, faults)),
        "standard-webhooks" => Dialect::StandardWebhooks,
        "github" => Dialect::Github,
        "stripe" => Dialect::Stripe,
        "hmac" => Dialect::Hmac(Box::new(hmac(top, faults)?)),
        _ => {
            let names = Dialect::NAMES.join(", ");
            faults.add("/dialect", format!("must be one of {names}"));
            return None;
        }
    })
}

fn odoo(top: &Members, faults: &mut Faults) -> Fields {
    let Some(odoo) = top.object("odoo", faults) else {
        return Fields::default();
    };
    odoo.known(&["booleans", "many2one"], faults);
    Fields {
        booleans: odoo.texts("booleans", faults),
        many2one: odoo.texts("many2one", faults),
    }
}

fn hmac(top: &Members, faults: &mut Faults) -> Option<Parameters> {
    if top.get("hmac").is_none() {
        faults.missing("", "hmac");
        return None;
    }
    let hmac = top.object("hmac", faults)?;
    hmac.known(
        &[
            "header",
            "algorithm",
            "encoding",
            "prefix",
            "signed",
            "timestamp_header",
            "tolerance_s",
            "id_header",
            "id",
            "type_header",
            "type",
        ],
        faults,
    );
    let header = hmac.required("header", faults);
    hmac.header_name("header", header.as_deref(), faults);
    let algorithm = hmac.choice(
        "algorithm",
        &[("sha256", Algorithm::Sha256), ("sha1", Algorithm::Sha1)],
        faults,
    );
    let encoding = hmac.choice(
        "encoding",
        &[("hex", Encoding::Hex), ("base64", Encoding::Base64)],
        faults,
    );
    let signed = hmac.required("signed", faults).and_then(|text| {
        let template = Template::parse(&text);
        template
            .map_err(|wrong| faults.add(hmac.pointer("signed"), wrong))
            .ok()
    });
    let timestamp_header = hmac.text("timestamp_header", faults);
    hmac.header_name("timestamp_header", timestamp_header.as_deref(), faults);
    if timestamp_header.is_none() && signed.as_ref().is_some_and(Template::has_timestamp) {
        faults.add(
            hmac.pointer("signed"),
            "contains `{timestamp}`, but `timestamp_header` is missing",
        );
    }
    let tolerance_s = hmac.tolerance(timestamp_header.is_some(), faults);
    let id = hmac.place("id", faults);
    let kind = hmac.place("type", faults);
    Some(Parameters {
        header: header?,
        algorithm: algorithm?,
        encoding: encoding?,
        prefix: hmac.text("prefix", faults).unwrap_or_default(),
        signed: signed?,
        timestamp_header,
        tolerance_s,
        id,
        kind,
    })
}

/// The faults of a new secret for a source with this dialect.
pub fn secret_faults(dialect: &str, secret: &str) -> Vec<Fault> {
    let mut faults = Faults::default();
    let is_key = dialect == Dialect::StandardWebhooks.name();
    check_secret("/secret", secret, is_key, &mut faults);
    faults.0
}

/// Adds the faults of a secret; `is_key` requires base64.
fn check_secret(pointer: &str, text: &str, is_key: bool, faults: &mut Faults) {
    if text.is_empty() {
        faults.add(pointer, "must not be empty");
    } else if text.starts_with("env:") || text.starts_with("file:") {
        faults.0.push(Fault {
            pointer: pointer.into(),
            code: "reference_not_allowed".into(),
            message: "must be the secret itself: references are for configuration files".into(),
        });
    } else if is_key && standard_webhooks::key(text).is_none() {
        faults.add(pointer, "must be base64, usually after `whsec_`");
    }
}

fn secrets(top: &Members, dialect: Option<&Dialect>, faults: &mut Faults) -> Secrets {
    let texts = top.texts("secrets", faults);
    let signs = dialect.is_none_or(Dialect::signs);
    if !signs && !texts.is_empty() {
        faults.add(
            "/secrets",
            "this dialect does not sign: its URL contains a token",
        );
    }
    if signs && texts.is_empty() && top.get("secrets").is_none_or(Value::is_array) {
        faults.missing("", "secrets");
    }
    if texts.len() > SECRETS_MAX {
        faults.add("/secrets", format!("may hold {SECRETS_MAX} at most"));
    }
    let mut all = Vec::new();
    for (n, text) in texts.into_iter().enumerate() {
        let is_key = dialect == Some(&Dialect::StandardWebhooks);
        check_secret(&format!("/secrets/{n}"), &text, is_key, faults);
        all.push(Secret {
            text: text.into(),
            until: None,
        });
    }
    Secrets::new(all)
}
