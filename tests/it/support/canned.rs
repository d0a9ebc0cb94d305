//! A server that answers each request with the next of its prepared responses, for commands that talk to a node.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
};

use parking_lot::Mutex;

/// A response.
pub struct Canned {
    pub status: u16,
    pub media: &'static str,
    pub body: String,
}

impl Canned {
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self {
            status,
            media: "application/json",
            body: body.to_string(),
        }
    }

    /// Server-sent events, after which the connection ends.
    pub fn events(body: &str) -> Self {
        Self {
            status: 200,
            media: "text/event-stream",
            body: body.to_owned(),
        }
    }
}

/// A request as it came.
#[derive(Debug)]
pub struct Asked {
    /// Such as `GET /v1/runs?limit=100`.
    pub line: String,
    /// Lower-case names with their values.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(of, _)| of == name);
        found.map(|(_, value)| value.as_str())
    }
}

pub struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    responses: mpsc::Sender<Canned>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (responses, next) = mpsc::channel::<Canned>();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let request = read(&stream);
                seen.lock().push(request);
                let Ok(canned) = next.try_recv() else {
                    // Nothing is prepared: the connection breaks.
                    continue;
                };
                respond(stream, &canned);
            }
        });
        Self {
            url,
            asked,
            responses,
        }
    }

    /// Prepares a response.
    pub fn answer(&self, canned: Canned) {
        self.responses.send(canned).unwrap();
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock())
    }
}

fn read(stream: &TcpStream) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Asked {
        line,
        headers,
        body: String::from_utf8(body).unwrap(),
    }
}

fn respond(mut stream: TcpStream, canned: &Canned) {
    let (status, media, body) = (canned.status, canned.media, &canned.body);
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {media}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    // A command that has seen enough is gone.
    let _ = stream.write_all(text.as_bytes());
}
