//! Chat completions as OpenAI-compatible servers take and give them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A message of a conversation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(in crate::planner) struct Message {
    role: &'static str,
    content: String,
}

impl Message {
    /// A message with instructions (role `system`).
    pub(in crate::planner) fn system(content: impl Into<String>) -> Self {
        Self {
            role: "system",
            content: content.into(),
        }
    }

    /// A message with a question (role `user`).
    pub(in crate::planner) fn user(content: impl Into<String>) -> Self {
        Self {
            role: "user",
            content: content.into(),
        }
    }

    /// An earlier answer of the model (role `assistant`).
    pub(in crate::planner) fn assistant(content: impl Into<String>) -> Self {
        Self {
            role: "assistant",
            content: content.into(),
        }
    }
}

/// What is asked: the messages, and the schema of the answer. The schema is in the subset that strict servers take: all members of objects
/// are required, and there are no others.
pub(in crate::planner) struct Chat<'a> {
    /// The conversation so far, in order.
    pub(in crate::planner) messages: &'a [Message],
    /// The name of the schema.
    pub(in crate::planner) name: &'static str,
    /// The schema of the answer.
    pub(in crate::planner) schema: &'a Value,
}

/// The number of tokens of requests and answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::planner) struct Usage {
    /// Of the prompts.
    pub(in crate::planner) input: u64,
    /// Of the answers.
    pub(in crate::planner) output: u64,
}

/// The answer of a model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::planner) struct Completion {
    /// The text of the answer.
    pub(in crate::planner) content: String,
    /// The tokens that were used.
    pub(in crate::planner) usage: Usage,
}

/// Why an answer cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its answer is not a chat completion: {0}")]
    NotACompletion(String),
    #[error("its answer is empty")]
    Empty,
    #[error("the model refuses to answer")]
    Refused,
    #[error("its answer was cut off")]
    CutOff,
}

#[derive(Deserialize)]
struct Body {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<BodyUsage>,
}

#[derive(Deserialize)]
struct Choice {
    message: BodyMessage,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct BodyMessage {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Default, Deserialize)]
struct BodyUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// The body of a request.
pub(super) fn request(model: &str, chat: &Chat<'_>) -> Vec<u8> {
    let body = json!({
        "model": model,
        "messages": chat.messages,
        "response_format": {
            "type": "json_schema",
            "json_schema": { "name": chat.name, "strict": true, "schema": chat.schema }
        }
    });
    body.to_string().into_bytes()
}

/// Reads the body of an answer. What it took counts even if it is not usable.
pub(super) fn response(body: &[u8]) -> (Result<String, Unusable>, Usage) {
    let body: Body = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(error) => {
            let error = Unusable::NotACompletion(error.to_string());
            return (Err(error), Usage::default());
        }
    };
    let usage = body.usage.unwrap_or_default();
    let usage = Usage {
        input: usage.prompt_tokens,
        output: usage.completion_tokens,
    };
    (content(body.choices), usage)
}

fn content(choices: Vec<Choice>) -> Result<String, Unusable> {
    let choice = choices.into_iter().next().ok_or(Unusable::Empty)?;
    let refusal = choice.message.refusal.is_some_and(|text| !text.is_empty());
    match choice.finish_reason.as_deref() {
        Some("length") => return Err(Unusable::CutOff),
        Some("content_filter") => return Err(Unusable::Refused),
        _ if refusal => return Err(Unusable::Refused),
        _ => {}
    }
    let text = choice.message.content.unwrap_or_default();
    if text.trim().is_empty() {
        return Err(Unusable::Empty);
    }
    Ok(text)
}

/// The JSON value in the text of an answer. Models that do not honour the response format put it into a code block.
pub(in crate::planner) fn json_of(text: &str) -> Result<Value, serde_json::Error> {
    let text = text.trim();
    let fenced = text.strip_prefix("```").and_then(|t| t.strip_suffix("```"));
    let text = fenced.map_or(text, |inner| {
        inner.strip_prefix("json").unwrap_or(inner).trim()
    });
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_asks_for_json_of_the_schema() {
        let schema = json!({ "type": "object" });
        let messages = [Message::system("s"), Message::user("u")];
        let chat = Chat {
            messages: &messages,
            name: "plan",
            schema: &schema,
        };
        let body: Value = serde_json::from_slice(&request("m", &chat)).unwrap();
        assert_eq!(body["model"], "m");
        assert_eq!(
            body["messages"][1],
            json!({ "role": "user", "content": "u" })
        );
        assert_eq!(body["response_format"]["json_schema"]["strict"], true);
        assert_eq!(body["response_format"]["json_schema"]["schema"], schema);
    }

    #[test]
    fn answers_are_read_with_what_they_took() {
        let of = |choice: Value| {
            let body = json!({ "choices": [choice], "usage": { "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10 } });
            response(body.to_string().as_bytes())
        };
        let (text, usage) = of(json!({ "message": { "content": "{}" }, "finish_reason": "stop" }));
        assert_eq!(text.unwrap(), "{}");
        assert_eq!((usage.input, usage.output), (7, 3));
        for (choice, expected) in [
            (json!({ "message": {} }), Unusable::Empty),
            (
                json!({ "message": { "content": "{", }, "finish_reason": "length" }),
                Unusable::CutOff,
            ),
            (
                json!({ "message": { "content": null, "refusal": "no" } }),
                Unusable::Refused,
            ),
        ] {
            let (text, usage) = of(choice);
            assert_eq!(text.unwrap_err(), expected);
            assert_eq!(usage.input, 7);
        }
        assert!(response(b"<html>").0.is_err());
        assert!(response(br#"{"choices":[]}"#).0.is_err());
    }

    #[test]
    fn json_may_stand_in_a_code_block() {
        for text in [
            "{\"a\":1}",
            "```json\n{\"a\":1}\n```",
            "```\n{\"a\":1}```\n",
        ] {
            assert_eq!(json_of(text).unwrap()["a"], 1, "{text}");
        }
        assert!(json_of("I cannot").is_err());
    }
}
