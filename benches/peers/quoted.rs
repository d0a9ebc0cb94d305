//! Earlier figures of peers, on a similar machine: two cores shared by everything, records of 500 bytes.

use crate::report;

const DATE: &str = "2026-11";

/// A peer, its figure, and the part of this bench that measures it.
const FIGURES: [(&str, &str, &str); 8] = [
    (
        "Kafka Streams exactly_once_v2, dedupe + count",
        "65,000 to 84,000 rec/s",
        "streams",
    ),
    (
        "Kafka Streams at 200/s, default commit interval",
        "p50 57 ms, p99 114 ms",
        "streams",
    ),
    (
        "Kafka Streams at 200/s, commit interval 10 ms",
        "p50 8 ms, p99 29 ms",
        "streams",
    ),
    (
        "Kafka Connect, Debezium's JDBC sink",
        "49,000 to 90,000 rec/s, not exactly once",
        "connect",
    ),
    (
        "hand-written Java consumer, JDBC batches",
        "50,000 to 83,000 rec/s",
        "",
    ),
    ("bare Vert.x to Kafka bridge", "62,000 posts/s", ""),
    ("Spring Boot + spring-kafka", "16,000 to 18,000 posts/s", ""),
    ("bare axum answer", "66,000 to 72,000 posts/s", ""),
];

/// Prints the figures of parts that have not run.
pub fn print(ran: impl Fn(&str) -> bool) {
    for (name, figure, part) in FIGURES {
        if !ran(part) {
            report::quoted(name, figure, DATE);
        }
    }
}
