//! `planner` and `guardian.llm`: language models behind OpenAI-compatible servers.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Secret, SecretUrl, secret::SecretError};

/// The most endpoints of `planner`: one is asked after the other.
const ENDPOINTS_MAX: usize = 10;
/// The longest time limit of a request, in seconds.
const TIMEOUT_MAX_S: u64 = 600;
/// The default time limit of a request to a planner.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The time limit of a request to `guardian.llm`.
const GUARDIAN_TIMEOUT: Duration = Duration::from_secs(10);

/// A language model.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    /// The base URL of an OpenAI-compatible server, such as `https://api.openai.com/v1`.
    pub url: SecretUrl,
    /// The model's name.
    pub model: String,
    /// The key of the server, if it needs one.
    pub api_key: Option<Secret>,
    /// The time limit of a request.
    pub timeout: Duration,
    /// What tokens cost.
    pub price: Option<Price>,
}

/// The price of a million tokens, in any currency.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of the prompt.
    pub input: f64,
    /// Of the answer.
    pub output: f64,
}

/// What is wrong with `planner` or `guardian.llm`, all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(super) struct BadModels(Vec<String>);

/// What is wrong with one model.
#[derive(Debug, thiserror::Error)]
enum BadModel {
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    #[error("`url` {0}")]
    Url(#[source] SecretError),
    #[error("`model` must not be empty")]
    NoModel,
    #[error("`api_key` {0}")]
    ApiKey(#[source] SecretError),
    #[error("`api_key` must be visible ASCII characters")]
    UnsendableApiKey,
    #[error("`timeout_s` must be a whole number from 1 to {TIMEOUT_MAX_S}")]
    Timeout,
    #[error("`price` must not be negative")]
    NegativePrice,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    url: String,
    model: String,
    api_key: Option<String>,
    timeout_s: Option<u64>,
    price: Option<Price>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecondLook {
    url: String,
    model: String,
    api_key: Option<String>,
}

/// How references are followed.
type Resolve<'a> = &'a dyn Fn(&str) -> Result<Secret, SecretError>;

/// Reads `planner`.
pub(super) fn parse(value: Json, resolve: Resolve<'_>) -> Result<Vec<LanguageModel>, BadModels> {
    let Json::Array(items) = value else {
        let takes = "must be a list, such as [{url: https://api.openai.com/v1, model: …, api_key: env:KEY}]";
        return Err(BadModels(vec![takes.into()]));
    };
    let mut problems = Vec::new();
    if items.len() > ENDPOINTS_MAX {
        problems.push(format!("has more than {ENDPOINTS_MAX} items"));
    }
    let mut parsed = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let item = serde_json::from_value::<Endpoint>(item).map_err(BadModel::from);
        match item.and_then(|item| item.checked(resolve)) {
            Ok(endpoint) => parsed.push(endpoint),
            Err(problem) => problems.push(format!("item {}: {problem}", index + 1)),
        }
    }
    if problems.is_empty() {
        Ok(parsed)
    } else {
        Err(BadModels(problems))
    }
}

/// Reads `guardian.llm`.
pub(super) fn parse_second_look(
    value: Json,
    resolve: Resolve<'_>,
) -> Result<LanguageModel, BadModels> {
    let wrong = |problem: BadModel| BadModels(vec![problem.to_string()]);
    let item: SecondLook = serde_json::from_value(value).map_err(|e| wrong(e.into()))?;
    let mut endpoint = Endpoint {
        url: item.url,
        model: item.model,
        api_key: item.api_key,
        timeout_s: None,
        price: None,
    }
    .checked(resolve)
    .map_err(wrong)?;
    endpoint.timeout = GUARDIAN_TIMEOUT;
    Ok(endpoint)
}

impl Endpoint {
    fn checked(self, resolve: Resolve<'_>) -> Result<LanguageModel, BadModel> {
        let url = resolve(&self.url).and_then(|url| SecretUrl::new(url, &["http", "https"]));
        let url = url.map_err(BadModel::Url)?;
        if self.model.trim().is_empty() {
            return Err(BadModel::NoModel);
        }
        let api_key = self.api_key.as_deref().map(resolve).transpose();
        let api_key = api_key.map_err(BadModel::ApiKey)?;
        let unsendable = |key: &Secret| {
            let key = key.expose();
            key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic())
        };
        if api_key.as_ref().is_some_and(unsendable) {
            return Err(BadModel::UnsendableApiKey);
        }
        let timeout = match self.timeout_s {
            None => TIMEOUT,
            Some(seconds) if (1..=TIMEOUT_MAX_S).contains(&seconds) => Duration::from_secs(seconds),
            Some(_) => return Err(BadModel::Timeout),
        };
        let negative = |price: &Price| price.input < 0.0 || price.output < 0.0;
        if self.price.as_ref().is_some_and(negative) {
            return Err(BadModel::NegativePrice);
        }
        Ok(LanguageModel {
            url,
            model: self.model,
            api_key,
            timeout,
            price: self.price,
        })
    }
}

impl LanguageModel {
    /// As an item of `planner` is shown: without secrets.
    pub(super) fn show(&self) -> Json {
        let mut shown = self.show_second_look();
        shown["timeout_s"] = self.timeout.as_secs().into();
        if let Some(Price { input, output }) = self.price {
            shown["price"] = json!({ "input": input, "output": output });
        }
        shown
    }

    /// As `guardian.llm` is shown: without secrets.
    pub(super) fn show_second_look(&self) -> Json {
        let mut shown = json!({ "url": self.url.to_string(), "model": self.model });
        if let Some(key) = &self.api_key {
            shown["api_key"] = key.to_string().into();
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Secret, SecretError> {
        match text.strip_prefix("env:") {
            Some("KEY") => Ok(Secret::new("sk-hunter2")),
            Some(name) => Err(SecretError::Unset(name.to_owned())),
            None => Ok(Secret::new(text)),
        }
    }

    fn endpoint() -> Json {
        json!({
            "url": "https://llm.example/v1", "model": "m", "api_key": "env:KEY", "timeout_s": 5,
            "price": { "input": 0.15, "output": 0.6 }
        })
    }

    #[test]
    fn endpoints_are_read_and_shown_without_secrets() {
        let parsed = parse(
            json!([endpoint(), { "url": "http://localhost:11434/v1", "model": "n" }]),
            &resolve,
        )
        .unwrap();
        assert_eq!(parsed[0].api_key.as_ref().unwrap().expose(), "sk-hunter2");
        assert!((parsed[0].price.unwrap().output - 0.6).abs() < 1e-9);
        assert_eq!(parsed[1].timeout, TIMEOUT);
        let shown = json!(parsed.iter().map(LanguageModel::show).collect::<Vec<_>>());
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        assert_eq!(shown[1]["timeout_s"], 60);
        let look = json!({ "url": "https://llm.example/v1", "model": "m" });
        let parsed = parse_second_look(look.clone(), &resolve).unwrap();
        assert_eq!(parsed.show_second_look(), look);
        assert!(parse_second_look(json!({ "model": "m" }), &resolve).is_err());
    }

    #[test]
    fn everything_wrong_is_reported_with_its_item() {
        for (field, value, expected) in [
            ("url", json!("ftp://h"), "`url` must be a URL"),
            ("model", json!(" "), "`model` must not be empty"),
            ("api_key", json!("env:NONE"), "NONE is not set"),
            ("api_key", json!("a b"), "visible ASCII"),
            ("timeout_s", json!(0), "from 1 to 600"),
            ("timeout_s", json!(1.5), "invalid type"),
            (
                "price",
                json!({ "input": -1, "output": 0 }),
                "must not be negative",
            ),
            ("price", json!({ "input": 1 }), "missing field `output`"),
            ("temperature", json!(1), "unknown field `temperature`"),
        ] {
            let mut bad = endpoint();
            bad[field] = value;
            let error = parse(json!([endpoint(), bad]), &resolve).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("item 2: ") && error.contains(expected),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(parse(json!({}), &resolve).is_err());
        assert!(parse(json!(vec![endpoint(); 11]), &resolve).is_err());
    }
}
