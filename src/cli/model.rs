//! `omnilink model`: fetches the model of the embeddings.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::{Request, Uri, header::LOCATION};

use super::{Global, output};
use crate::{
    base::backoff::Backoff,
    embed::{
        EmbedError,
        files::{FILES, HUB, ModelFile},
    },
    http::{Client, Options, Reach},
};

/// The time limit for a file. The weights have 91 MB.
const LIMIT: Duration = Duration::from_mins(15);
const ATTEMPTS: u32 = 3;
const PAUSE: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_secs(10),
};
/// The hub redirects to another host for the weights.
const REDIRECTS: usize = 5;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Get the model of the embeddings (91 MB), checked by its checksums
    Fetch(Fetch),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink model fetch                                          # from Hugging Face's hub
  omnilink model fetch --from https://mirror.example.com/models/all-MiniLM-L6-v2
  omnilink model fetch --from ./all-MiniLM-L6-v2                # a folder with model.safetensors and tokenizer.json
  omnilink model fetch --from ~/Downloads/model.safetensors     # one of the files, whatever its name
  omnilink model fetch --data-dir /var/lib/omnilink

The files go to embed.model_dir. Files that are there already are kept if they are intact. A file with an unexpected
SHA-256 is never used, whatever its source.")]
pub(super) struct Fetch {
    /// URL of a folder (the files' names are appended), folder, or file
    #[arg(long, value_name = "URL|PATH", default_value = HUB)]
    from: String,
}

pub(super) fn main(global: &Global, command: &Command) -> anyhow::Result<()> {
    let Command::Fetch(Fetch { from }) = command;
    let folder = global.load(|sources| sources)?.model_dir();
    let mut missing = Vec::new();
    for file in FILES {
        match file.read(&folder) {
            Ok(_) => {}
            Err(EmbedError::Missing(_) | EmbedError::Corrupt { .. }) => missing.push(file),
            Err(error) => return Err(error.into()),
        }
    }
    let fetched = if missing.is_empty() {
        Vec::new()
    } else {
        fs::create_dir_all(&folder)
            .with_context(|| format!("{} cannot be created", folder.display()))?;
        fetch(from, &folder, &missing, global.json)?
    };
    if global.json {
        return output::json(&serde_json::json!({ "folder": folder, "fetched": fetched }));
    }
    output::line(&format!("the model is in {}", folder.display()));
    Ok(())
}

/// Puts the missing files into `folder`; returns their names.
fn fetch(
    from: &str,
    folder: &Path,
    missing: &[ModelFile],
    quiet: bool,
) -> anyhow::Result<Vec<&'static str>> {
    let mut fetched = Vec::new();
    let mut put = |file: &ModelFile, contents: &[u8], source: &str| {
        if let Err(other) = file.check(contents) {
            bail!(
                "{source} is not the model's {} ({} bytes, SHA-256 {}; expected {} bytes, {})",
                file.name,
                contents.len(),
                other.found,
                file.bytes,
                other.expected
            );
        }
        write(&folder.join(file.name), contents)?;
        fetched.push(file.name);
        Ok(())
    };
    if from.contains("://") {
        let client = Client::new(Options {
            connect_timeout: Duration::from_secs(10),
            timeout: LIMIT,
            max_body_bytes: 128 << 20,
            reach: Reach::Configured,
        });
        let runtime = super::runtime()?;
        for file in missing {
            let url = format!("{}/{}", from.trim_end_matches('/'), file.name);
            if !quiet {
                output::line(&format!("fetching {url} ({} kB)", file.bytes / 1000));
            }
            put(file, &runtime.block_on(download(&client, &url))?, &url)?;
        }
        return Ok(fetched);
    }
    let path = PathBuf::from(from);
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    if path.is_dir() {
        for file in missing {
            let path = path.join(file.name);
            put(file, &read(&path)?, &path.display().to_string())?;
        }
        return Ok(fetched);
    }
    let contents = read(&path)?;
    let Some(file) = FILES.iter().find(|file| file.check(&contents).is_ok()) else {
        bail!(
            "{from} is not one of the model's files ({}): its checksum differs from theirs",
            FILES.map(|file| file.name).join(", ")
        );
    };
    put(file, &contents, from)?;
    let others = missing.iter().filter(|other| other.name != file.name);
    let others: Vec<_> = others.map(|other| other.name).collect();
    if !others.is_empty() {
        bail!(
            "{} is in place, and {} is still missing",
            file.name,
            others.join(", ")
        );
    }
    Ok(fetched)
}

/// Writes the whole file or nothing.
fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let attempt = || {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(contents)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        anyhow::Ok(())
    };
    attempt().with_context(|| format!("{} cannot be written", path.display()))
}

/// The body behind a URL, with retries.
async fn download(client: &Client, url: &str) -> anyhow::Result<Bytes> {
    let mut attempt = 0;
    loop {
        match get(client, url).await {
            Ok(Answer::Body(body)) => return Ok(body),
            Ok(Answer::Refused(status)) => bail!("{url} answers {status}"),
            Err(error) if attempt + 1 == ATTEMPTS => {
                return Err(error.context(format!(
                    "{url} cannot be fetched; with the files from elsewhere: `omnilink model fetch --from FOLDER`"
                )));
            }
            Err(_) => tokio::time::sleep(PAUSE.pause(attempt)).await,
        }
        attempt += 1;
    }
}

enum Answer {
    Body(Bytes),
    /// The server refuses the request; a retry is useless.
    Refused(hyper::StatusCode),
}

async fn get(client: &Client, url: &str) -> anyhow::Result<Answer> {
    let mut url: Uri = url.parse().context("not a URL")?;
    for _ in 0..=REDIRECTS {
        let response = client
            .send(Request::get(url.clone()).body(Bytes::new())?)
            .await?;
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get(LOCATION);
            let location = location.context("a redirect without a location")?;
            url = redirected(&url, location.to_str()?)?;
        } else if status.is_success() {
            return Ok(Answer::Body(response.into_body()));
        } else if status.is_client_error() && status != 429 {
            return Ok(Answer::Refused(status));
        } else {
            bail!("the server answers {status}");
        }
    }
    bail!("more than {REDIRECTS} redirects")
}

/// The target of a redirect from `from`. A location without a host stays on the same host.
fn redirected(from: &Uri, location: &str) -> anyhow::Result<Uri> {
    let next: Uri = location.parse().context("a redirect to an invalid URL")?;
    if next.host().is_some() {
        return Ok(next);
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = next.into_parts().path_and_query;
    Ok(Uri::from_parts(parts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_absolute_or_stay_at_their_host() {
        let from: Uri = "https://hub.example/a/resolve/main/f".parse().unwrap();
        let to = |location| redirected(&from, location).unwrap().to_string();
        assert_eq!(
            to("/api/cache/f?x=1"),
            "https://hub.example/api/cache/f?x=1"
        );
        assert_eq!(to("https://cdn.example/f"), "https://cdn.example/f");
    }
}
