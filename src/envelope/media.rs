//! The media types that determine how an envelope is parsed.

use super::Form;

/// The form of a body, by its `content-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Media {
    /// One event, structured: `application/cloudevents+json`, or `application/json` in OmniLink's form.
    Structured(Form),
    /// A batch of events: `application/cloudevents-batch+json`.
    Batch,
    /// A CloudEvents format that is not supported: Avro, Protobuf, XML.
    OtherCloudEvents,
    /// Any other media type.
    Other,
}

impl Media {
    /// Classifies a `content-type`. Parameters are ignored: JSON is always UTF-8.
    pub fn of(content_type: &str) -> Self {
        let essence = essence(content_type);
        let is = |wanted: &str| essence.eq_ignore_ascii_case(wanted);
        if is("application/json") {
            Self::Structured(Form::OmniLink)
        } else if is("application/cloudevents+json") {
            Self::Structured(Form::CloudEvents)
        } else if is("application/cloudevents-batch+json") {
            Self::Batch
        } else if has_prefix(essence, "application/cloudevents") {
            Self::OtherCloudEvents
        } else {
            Self::Other
        }
    }
}

/// Whether a `datacontenttype` is JSON: `application/json`, `text/json`, or a type with the suffix `+json`.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    let Some((_, subtype)) = essence.split_once('/') else {
        return false;
    };
    let suffix = subtype.rsplit('+').next().unwrap_or(subtype);
    suffix.eq_ignore_ascii_case("json")
}

/// Type and subtype, without parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_are_ignored() {
        let cases = [
            ("application/json", Media::Structured(Form::OmniLink)),
            (
                "Application/CloudEvents+JSON; charset=utf-8",
                Media::Structured(Form::CloudEvents),
            ),
            ("application/cloudevents-batch+json", Media::Batch),
            ("application/cloudevents+avro", Media::OtherCloudEvents),
            ("application/cloudevents", Media::OtherCloudEvents),
            (
                "application/cloudevents-batch+protobuf",
                Media::OtherCloudEvents,
            ),
            ("text/plain", Media::Other),
            ("", Media::Other),
        ];
        for (text, media) in cases {
            assert_eq!(Media::of(text), media, "{text}");
        }
        for json in [
            "application/json",
            "text/JSON;charset=x",
            "application/vnd.acme.v1+json",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in [
            "json",
            "application/xml",
            "application/json5",
            "application/json+zip",
            "",
        ] {
            assert!(!is_json(other), "{other}");
        }
    }
}
