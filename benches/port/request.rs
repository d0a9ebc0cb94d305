//! Prepared requests: numbers have a fixed width and are patched in place, so that a request costs only a few divisions.

/// Digits of each number.
const WIDTH: usize = 10;

/// A request for a batch of events of about 500 bytes each.
pub struct Request {
    bytes: Vec<u8>,
    /// For each event the offsets of its digits: twice the event's number, twice the entity's.
    events: Vec<[usize; 4]>,
}

impl Request {
    /// `run` is a prefix of ids, so that runs do not repeat events.
    pub fn new(key: &str, run: &str, batch: usize) -> Self {
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
        for at in events.iter_mut().flatten() {
            *at += bytes.len();
        }
        bytes.append(&mut body);
        Self { bytes, events }
    }

    /// Request number `n`: its events are numbered from `n` × batch, with this many entities round robin.
    pub fn number(&mut self, n: u64, entities: u64) -> &[u8] {
        let first = n * self.events.len() as u64;
        for (number, [id, sequence, external_id, order]) in (first..).zip(&self.events) {
            let own = digits(number);
            let entity = digits(number % entities);
            for (at, digits) in [
                (id, own),
                (sequence, own),
                (external_id, entity),
                (order, entity),
            ] {
                self.bytes[*at..*at + WIDTH].copy_from_slice(&digits);
            }
        }
        &self.bytes
    }
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
