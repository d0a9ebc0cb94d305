//! `omnilink config`: prints the configuration in effect.

use std::fmt::Write;

use clap::builder::StyledStr;
use serde_json::Value;

use super::{Global, output};
use crate::config::{Config, Secret, SecretUrl, keys::KEYS};
use crate::node::postgres;

#[derive(clap::Args)]
#[command(after_long_help = keys_help())]
#[command(after_help = "Examples:
  omnilink config
  omnilink config --config /etc/omnilink.yaml --json
  OMNILINK__TOPICS__PARTITIONS=4 omnilink config

`omnilink config --help` lists all keys.")]
pub(super) struct Args {}

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let mut shown = config.redacted();
    if let Some(url) = embedded_url(&config) {
        shown["postgres"]["url"] = url.to_string().into();
    }
    if global.json {
        return output::json(&shown);
    }
    match &config.file {
        Some(file) => output::note(&format!(
            "# from {}, the environment and flags",
            file.display()
        )),
        None => output::note("# no file: from the environment, flags and defaults"),
    }
    let mut text = String::new();
    yaml(&shown, "", &mut text);
    output::line(text.trim_end());
    Ok(())
}

/// The URL of the embedded Postgres from its last start, with the password masked.
fn embedded_url(config: &Config) -> Option<SecretUrl> {
    if config.postgres_url.is_some() {
        return None;
    }
    let url = std::fs::read_to_string(postgres::url_file(&config.data_dir)).ok()?;
    SecretUrl::new(Secret::new(url.trim()), &["postgres", "postgresql"]).ok()
}

/// Writes JSON as YAML. Handles what a configuration has: sections, lists of strings, and scalars, which YAML reads as JSON does.
fn yaml(value: &Value, indent: &str, out: &mut String) {
    for (name, value) in value.as_object().into_iter().flatten() {
        // Writing to a `String` cannot fail.
        let _ = match value {
            Value::Object(map) if !map.is_empty() => writeln!(out, "{indent}{name}:"),
            Value::Array(items) if !items.is_empty() => writeln!(out, "{indent}{name}:"),
            other => writeln!(out, "{indent}{name}: {other}"),
        };
        for item in value.as_array().into_iter().flatten() {
            let _ = writeln!(out, "{indent}  - {item}");
        }
        if value.is_object() {
            yaml(value, &format!("{indent}  "), out);
        }
    }
}

fn keys_help() -> StyledStr {
    let mut text = String::from(
        "Examples:
  omnilink config
  omnilink config --config /etc/omnilink.yaml --json
  OMNILINK__TOPICS__PARTITIONS=4 omnilink config

Keys of omnilink.yaml, with the default of each in brackets. A dot separates a section from its key; the environment
variable of topics.prefix is OMNILINK__TOPICS__PREFIX. A password or URL may be `env:NAME` or `file:PATH`.\n\n",
    );
    for key in KEYS {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "  {:26} {}", key.name, key.doc);
    }
    text.into()
}
