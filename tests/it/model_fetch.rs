//! `omnilink model fetch`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
};

use serde_json::{Value, json};

use crate::{
    embed::model_dir,
    support::command::{Folder, omnilink, output},
};

const FILES: [&str; 2] = ["tokenizer.json", "model.safetensors"];

fn fetch(dir: &Path, from: &str) -> (i32, String, String) {
    let mut command = omnilink(
        dir,
        &["model", "fetch", "--data-dir", "data", "--from", from],
    );
    output(command.arg("--json"))
}

/// A hub that redirects every file to another path, as Hugging Face's does; returns its URL.
fn hub(folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/resolve/main", listener.local_addr().unwrap());
    let folder = folder.to_owned();
    let answer = move |mut stream: TcpStream| -> std::io::Result<()> {
        let mut head = BufReader::new(stream.try_clone()?).lines();
        let first = head.next().unwrap()?;
        while head
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let path = first.split(' ').nth(1).unwrap_or_default();
        let (status, body) = if let Some(name) = path.strip_prefix("/cdn/") {
            match fs::read(folder.join(name)) {
                Ok(body) => ("200 OK".to_owned(), body),
                Err(_) => ("404 Not Found".to_owned(), Vec::new()),
            }
        } else {
            let name = path.rsplit('/').next().unwrap_or_default();
            let status = format!("302 Found\r\nlocation: /cdn/{name}");
            (status, Vec::new())
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        stream.write_all(&body)
    };
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away is no error of the hub.
            let _ = answer(stream.unwrap());
        }
    });
    url
}

#[test]
fn the_model_comes_from_a_hub_and_is_kept() {
    let Some(model) = model_dir() else { return };
    let dir = Folder::new();
    let dir = dir.path();
    let url = hub(&model);
    let (code, out, error) = fetch(dir, &url);
    assert_eq!(code, 0, "{error}");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["fetched"], json!(FILES));
    let folder = dir.join("data/models/all-MiniLM-L6-v2");
    for file in FILES {
        assert!(fs::read(folder.join(file)).unwrap() == fs::read(model.join(file)).unwrap());
    }
    // What is there is kept, and what is damaged is replaced.
    fs::write(folder.join(FILES[0]), "{}").unwrap();
    let (code, out, error) = fetch(dir, &url);
    assert_eq!(code, 0, "{error}");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["fetched"], json!([FILES[0]]));
    let (code, out, _) = fetch(dir, "http://127.0.0.1:1/nowhere");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &out["fetched"]), (0, &json!([])));
}

#[test]
fn the_model_comes_from_files() {
    let Some(model) = model_dir() else { return };
    let dir = Folder::new();
    let dir = dir.path();
    let text = |path: &Path| path.display().to_string();
    let (code, _, error) = fetch(dir, &text(&model.join(FILES[1])));
    assert_eq!(code, 1);
    assert!(error.contains("tokenizer.json is still missing"), "{error}");
    let (code, out, error) = fetch(dir, &text(&model));
    assert_eq!(code, 0, "{error}");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["fetched"], json!([FILES[0]]));
}

#[test]
fn what_is_not_the_model_is_refused_and_not_written() {
    let dir = Folder::new();
    let dir = dir.path();
    let wrong = dir.join("wrong");
    fs::create_dir(&wrong).unwrap();
    for file in FILES {
        fs::write(wrong.join(file), "not it").unwrap();
    }
    let folder = wrong.display().to_string();
    for from in [
        &folder,
        &format!("{folder}/model.safetensors"),
        &hub(&wrong),
    ] {
        let (code, _, error) = fetch(dir, from);
        assert_eq!(code, 1, "{from}");
        assert!(
            error.contains("SHA-256") || error.contains("checksum"),
            "{error}"
        );
    }
    let (code, _, error) = fetch(dir, &hub(&dir.join("empty")));
    assert_eq!(code, 1);
    assert!(error.contains("404"), "{error}");
    let found = fs::read_dir(dir.join("data/models/all-MiniLM-L6-v2")).unwrap();
    assert_eq!(found.count(), 0);
}
