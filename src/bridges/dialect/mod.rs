//! The dialects of senders: how a request is signed, and which event it becomes. One dialect per file.

pub(super) mod github;
pub(super) mod hmac;
pub(super) mod ipai;
pub(super) mod odoo;
pub(super) mod standard_webhooks;
pub(super) mod stripe;

use super::{call::Call, content::Content, draft::Draft, refusal::Refusal};

/// The dialect of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// `ipai`: a signed timestamp and body.
    Ipai,
    /// `ipai-body`: a signed body.
    IpaiBody,
    /// `odoo-native`: Odoo's webhook action, which does not sign.
    OdooNative(odoo::Fields),
    /// `standard-webhooks`.
    StandardWebhooks,
    /// `github`.
    Github,
    /// `stripe`.
    Stripe,
    /// `hmac`: with the source's own parameters.
    Hmac(Box<hmac::Parameters>),
}

impl Dialect {
    /// The names of all dialects.
    pub const NAMES: [&str; 7] = [
        "ipai",
        "ipai-body",
        "odoo-native",
        "standard-webhooks",
        "github",
        "stripe",
        "hmac",
    ];

    /// The name in a definition.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ipai => "ipai",
            Self::IpaiBody => "ipai-body",
            Self::OdooNative(_) => "odoo-native",
            Self::StandardWebhooks => "standard-webhooks",
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Hmac(_) => "hmac",
        }
    }

    /// Whether senders sign. Those that do not are only authenticated by the token in the URL.
    pub fn signs(&self) -> bool {
        !matches!(self, Self::OdooNative(_))
    }

    /// The header with the id of a delivery, if the dialect has one.
    pub(super) fn delivery_header(&self) -> Option<&str> {
        match self {
            Self::Ipai => Some(ipai::DELIVERY),
            Self::StandardWebhooks => Some(standard_webhooks::DELIVERY),
            Self::Github => Some(github::DELIVERY),
            Self::Hmac(parameters) => parameters.id_header(),
            Self::IpaiBody | Self::OdooNative(_) | Self::Stripe => None,
        }
    }

    /// Checks the signature and the signed values. Returns the id that the sender gave this delivery, or one derived from what is signed.
    pub(super) fn verify(&self, call: &Call<'_>) -> Result<String, Refusal> {
        match self {
            Self::Ipai => ipai::verify(call),
            Self::IpaiBody => ipai::verify_body(call),
            Self::OdooNative(_) => Ok(odoo::delivery(call)),
            Self::StandardWebhooks => standard_webhooks::verify(call),
            Self::Github => github::verify(call),
            Self::Stripe => stripe::verify(call),
            Self::Hmac(parameters) => parameters.verify(call),
        }
    }

    /// Builds the event of a verified request.
    pub(super) fn read<'a>(
        &self,
        call: &Call<'a>,
        delivery: &'a str,
        content: &'a Content<'_>,
    ) -> Result<Draft<'a>, Refusal> {
        match self {
            Self::Ipai => ipai::read(call, delivery, content),
            Self::IpaiBody => ipai::read_body(call, delivery, content),
            Self::OdooNative(fields) => fields.read(call, delivery, content),
            Self::StandardWebhooks => standard_webhooks::read(delivery, content),
            Self::Github => github::read(call, delivery, content),
            Self::Stripe => stripe::read(content),
            Self::Hmac(parameters) => parameters.read(call, delivery, content),
        }
    }
}
