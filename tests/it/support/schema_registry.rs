//! A schema registry for tests: Confluent's protocol over HTTP, with faults to inject.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

/// How the registry responds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Normally.
    Works = 0,
    /// With 503, like a proxy whose registry is down.
    Down = 1,
    /// Not at all: it accepts the request and never responds.
    Hangs = 2,
    /// With 404 without the registry's error code: another server is at the address.
    Foreign = 3,
}

struct Shared {
    mode: AtomicU8,
    /// Schemas by id, from 1 on.
    schemas: Mutex<Vec<Value>>,
    /// The schema ids of each subject's versions.
    subjects: Mutex<HashMap<String, Vec<usize>>>,
    /// The requests: method and path.
    requests: Mutex<Vec<String>>,
    /// The required `Authorization` header.
    authorization: Option<String>,
}

/// A running registry. Its threads end with the process.
pub struct TestRegistry {
    pub url: String,
    shared: Arc<Shared>,
}

impl TestRegistry {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts one that requires this `Authorization` header.
    pub fn start_with(authorization: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(0),
            schemas: Mutex::default(),
            subjects: Mutex::default(),
            requests: Mutex::default(),
            authorization: authorization.map(str::to_owned),
        });
        let there = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&there);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { url, shared }
    }

    pub fn set_mode(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Registers a schema; returns its id.
    pub fn register(&self, subject: &str, schema: &str, more: &Value) -> u32 {
        let mut body = json!({ "schema": schema });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.shared.register(subject, body) as u32
    }

    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }
}

fn refusal(status: u16, error_code: u32, message: &str) -> (u16, Value) {
    (
        status,
        json!({ "error_code": error_code, "message": message }),
    )
}

impl Shared {
    fn mode(&self) -> u8 {
        self.mode.load(Ordering::SeqCst)
    }

    fn register(&self, subject: &str, body: Value) -> usize {
        let mut schemas = self.schemas.lock();
        let known = schemas.iter().position(|known| *known == body);
        if known.is_none() {
            schemas.push(body);
        }
        let id = known.map_or(schemas.len(), |at| at + 1);
        let mut subjects = self.subjects.lock();
        let versions = subjects.entry(subject.to_owned()).or_default();
        if !versions.contains(&id) {
            versions.push(id);
        }
        id
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut request = String::new();
            if reader.read_line(&mut request).unwrap_or(0) == 0 {
                return;
            }
            let (mut length, mut authorization) = (0, None);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let Some((name, value)) = line.trim().split_once(": ") else {
                    break;
                };
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.parse().unwrap(),
                    "authorization" => authorization = Some(value.to_owned()),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let mut words = request.split_whitespace();
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            self.requests.lock().push(format!("{method} {target}"));
            while self.mode() == Mode::Hangs as u8 {
                std::thread::sleep(Duration::from_millis(20));
            }
            let (status, response) = if self.mode() == Mode::Down as u8 {
                (503, json!("no healthy upstream"))
            } else if self.mode() == Mode::Foreign as u8 {
                (404, json!("nothing here"))
            } else if self.authorization.is_some() && authorization != self.authorization {
                refusal(401, 401, "Unauthorized")
            } else {
                self.response(method, target, &body)
            };
            let response = response.to_string();
            let sent = write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n{response}",
                response.len()
            );
            if sent.is_err() {
                return;
            }
        }
    }

    fn response(&self, method: &str, target: &str, body: &[u8]) -> (u16, Value) {
        let path = target.split('?').next().unwrap();
        let parts: Vec<String> = path
            .split('/')
            .skip(1)
            .map(|part| {
                percent_encoding::percent_decode_str(part)
                    .decode_utf8()
                    .unwrap()
                    .into()
            })
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let schemas = || self.schemas.lock().clone();
        match (method, &parts[..]) {
            ("GET", ["schemas", "ids", id]) => {
                let id: usize = id.parse().unwrap();
                match schemas().get(id.wrapping_sub(1)) {
                    Some(schema) => (200, schema.clone()),
                    None => refusal(404, 40403, "Schema not found"),
                }
            }
            ("GET", ["subjects", subject, "versions", version]) => {
                let subjects = self.subjects.lock();
                let Some(versions) = subjects.get(*subject) else {
                    return refusal(404, 40401, "Subject not found");
                };
                let at = match *version {
                    "latest" => versions.len(),
                    number => number.parse().unwrap(),
                };
                let Some(id) = versions.get(at.wrapping_sub(1)) else {
                    return refusal(404, 40402, "Version not found");
                };
                let mut response = schemas()[id - 1].clone();
                response["subject"] = (*subject).into();
                response["version"] = at.into();
                response["id"] = (*id).into();
                (200, response)
            }
            ("POST", ["subjects", subject, "versions"]) => {
                let body: Value = serde_json::from_slice(body).unwrap();
                let id = self.register(subject, json!({ "schema": body["schema"] }));
                (200, json!({ "id": id }))
            }
            ("POST", ["subjects", subject]) => {
                let body: Value = serde_json::from_slice(body).unwrap();
                let id = self.register(subject, json!({ "schema": body["schema"] }));
                (
                    200,
                    json!({ "subject": subject, "version": 1, "id": id, "schema": body["schema"] }),
                )
            }
            _ => refusal(404, 404, "HTTP 404 Not Found"),
        }
    }
}
