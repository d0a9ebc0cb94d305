//! Prepared requests: numbers have a fixed width and are patched in place, so that a request costs only a few divisions. Goals have
//! texts of different lengths and are written anew.

use crate::load::{Goals, What};

/// Digits of each number.
const WIDTH: usize = 10;

/// A request whose numbers are patched.
pub struct Request {
    bytes: Vec<u8>,
    /// The offsets of digits: for each item those of its own number, then those of its entity's.
    items: Vec<([usize; 2], [usize; 2])>,
    entities: u64,
    goals: Option<GoalParts>,
}

/// A request with a goal, without its number and its text.
struct GoalParts {
    /// Up to the number in the idempotency key.
    head: Vec<u8>,
    texts: &'static [String],
}

/// The body of a goal before and after its text.
const GOAL: (&str, &str) = (
    r#"{"id":"1","source":"/bench/shop","type":"bench","goal":""#,
    r#""}"#,
);

impl Request {
    /// `run` is a prefix of ids, so that runs do not repeat them.
    pub fn new(key: &str, run: &str, what: What) -> Self {
        match what {
            What::Events { batch, entities } => Self::of_events(key, run, batch, entities),
            What::Runs(workflow) => Self::of_run(key, run, workflow, true),
            What::Parked(workflow) => Self::of_run(key, run, workflow, false),
            What::Goals(goals) => Self::of_goals(key, run, goals),
        }
    }

    /// A batch of events of about 500 bytes each.
    fn of_events(key: &str, run: &str, batch: usize, entities: u64) -> Self {
        let mut body = Vec::new();
        let mut events = Vec::with_capacity(batch);
        let single = batch == 1;
        for n in 0..batch {
            body.extend_from_slice(match (single, n) {
                (true, _) => b"",
                (false, 0) => b"[",
                (false, _) => b",",
            });
            events.push(event(&mut body, run));
        }
        if !single {
            body.push(b']');
        }
        let mut bytes = format!(
            "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        let offset = bytes.len();
        let items = events.into_iter().map(|at| {
            let [id, sequence, external_id, order] = at.map(|at| at + offset);
            ([id, sequence], [external_id, order])
        });
        let items = items.collect();
        bytes.append(&mut body);
        Self {
            bytes,
            items,
            entities,
            goals: None,
        }
    }

    fn of_goals(key: &str, run: &str, goals: Goals) -> Self {
        let prefer = if goals.wait {
            "Prefer: wait=30\r\n"
        } else {
            ""
        };
        let head = format!(
            "POST /v1/goals HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n{prefer}Idempotency-Key: {run}-"
        );
        Self {
            bytes: Vec::new(),
            items: Vec::new(),
            entities: u64::MAX,
            goals: Some(GoalParts {
                head: head.into_bytes(),
                texts: goals.texts,
            }),
        }
    }

    /// The start of a run: with params of 64 bytes, answered when it has ended, or with params of 1 KiB, answered at once.
    fn of_run(key: &str, run: &str, workflow: &str, ends: bool) -> Self {
        let zeros = "0".repeat(WIDTH);
        let (params, prefer) = if ends {
            let params = r#"{"amount":125,"customer":"Jane Q. Public","city":"Lyon","n":100}"#;
            (params.to_owned(), "Prefer: wait=30\r\n")
        } else {
            (parked_params(), "")
        };
        let body = format!(
            r#"{{"id":"1","source":"/bench/shop","type":"bench","workflow":{{"name":"{workflow}"}},"input":{params}}}"#
        );
        let head = format!(
            "POST /v1/workflows HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n{prefer}Content-Length: {}\r\nIdempotency-Key: {run}-",
            body.len()
        );
        let at = head.len();
        Self {
            bytes: format!("{head}{zeros}\r\n\r\n{body}").into_bytes(),
            items: vec![([at, at], [at, at])],
            entities: u64::MAX,
            goals: None,
        }
    }

    /// Request number `n`: its items are numbered from `n` × batch, with their entities round robin.
    pub fn number(&mut self, n: u64) -> &[u8] {
        if let Some(goals) = &self.goals {
            goals.write(n, &mut self.bytes);
            return &self.bytes;
        }
        let first = n * self.items.len() as u64;
        for (number, (own, entity)) in (first..).zip(&self.items) {
            let (own_digits, entity_digits) = (digits(number), digits(number % self.entities));
            for at in own {
                self.bytes[*at..*at + WIDTH].copy_from_slice(&own_digits);
            }
            for at in entity {
                self.bytes[*at..*at + WIDTH].copy_from_slice(&entity_digits);
            }
        }
        &self.bytes
    }
}

impl GoalParts {
    fn write(&self, n: u64, bytes: &mut Vec<u8>) {
        let text = self.texts[n as usize % self.texts.len()].as_bytes();
        let (before, after) = (GOAL.0.as_bytes(), GOAL.1.as_bytes());
        let length = (before.len() + text.len() + after.len()).to_string();
        bytes.clear();
        for part in [
            &self.head,
            &digits(n)[..],
            b"\r\nContent-Length: ",
            length.as_bytes(),
            b"\r\n\r\n",
            before,
            text,
            after,
        ] {
            bytes.extend_from_slice(part);
        }
    }
}

/// Params of 1 KiB.
pub fn parked_params() -> String {
    let text = "A parcel for Jane Q. Public, Lyon. ".repeat(30);
    format!(r#"{{"amount":125,"note":"{}"}}"#, &text[..1000])
}

fn event(out: &mut Vec<u8>, run: &str) -> [usize; 4] {
    let mut numbers = [0; 4];
    let zeros = [b'0'; WIDTH];
    // A JSON number may not begin with a zero.
    let parts = [
        format!(r#"{{"specversion":"1.0","id":"{run}-"#),
        r#"","source":"/bench/shop","type":"order.updated","data":{"sequence":1"#.to_owned(),
        r#","status":"paid","customer":{"name":"Jane Q. Public","email":"jane@example.com","city":"Lyon"},"lines":[{"sku":"A-1001","quantity":2,"price":19.95},{"sku":"B-2002","quantity":1,"price":5.5}],"total":45.4,"currency":"EUR","note":"Please leave the parcel with the neighbours. Thank you."},"entity":{"type":"order","external_id":""#.to_owned(),
        r#""},"subject":""#.to_owned(),
    ];
    for (part, at) in parts.iter().zip(&mut numbers) {
        out.extend_from_slice(part.as_bytes());
        *at = out.len();
        out.extend_from_slice(&zeros);
    }
    out.extend_from_slice(br#""}"#);
    numbers
}

fn digits(mut n: u64) -> [u8; WIDTH] {
    let mut digits = [b'0'; WIDTH];
    for digit in digits.iter_mut().rev() {
        *digit += (n % 10) as u8;
        n /= 10;
    }
    digits
}
