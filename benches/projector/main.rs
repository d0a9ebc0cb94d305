//! The projector beside a bare `COPY` of the same rows into the same tables, in a database of its own on the Postgres of
//! `OMNILINK_TEST_POSTGRES`. `cargo bench --bench projector -- [EVENTS] [ROUNDS] [LANES]`
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

#[path = "../common/report.rs"]
mod report;

use omnilink::{
    projections::bench::{Load, Measured, Order, measure},
    store::Store,
};
use report::Row;
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

const DATABASE: &str = "omnilink_bench_projector";

fn main() {
    // `cargo bench` adds `--bench`; `cargo test` runs this with `--test`-like flags and wants nothing.
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    if std::env::args()
        .skip(1)
        .any(|a| a == "--test" || a == "--list")
    {
        return;
    }
    let Ok(url) = std::env::var("OMNILINK_TEST_POSTGRES") else {
        println!("SKIPPED: OMNILINK_TEST_POSTGRES is not set (eval \"$(scripts/stack env)\")");
        return;
    };
    let number = |at: usize, default: usize| numbers.get(at).copied().unwrap_or(default);
    let (events, rounds, lanes) = (number(0, 200_000), number(1, 3), number(2, 1) as u32);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let admin: PgConnectOptions = url.parse().unwrap();
    let run = |sql: &str| {
        runtime.block_on(async {
            let mut connection = PgConnection::connect_with(&admin).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .unwrap();
        });
    };
    run(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"));
    run(&format!("CREATE DATABASE {DATABASE}"));
    let store = Store::with(admin.clone().database(DATABASE));
    runtime.block_on(store.migrate()).unwrap();

    for (name, each, order) in [
        ("one entity to ten events, close together", 10, Order::Near),
        (
            "one entity to ten events, spread over all",
            10,
            Order::Spread,
        ),
        ("one entity to one event", 1, Order::Near),
    ] {
        let load = Load {
            events,
            each,
            order,
            bytes: 500,
            lanes,
        };
        let all: Vec<Measured> = (0..rounds)
            .map(|_| measure(runtime.handle(), &store, load).unwrap())
            .collect();
        let median = |of: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let copy = median(|m| m.copy_events.per_second);
        let both = median(|m| m.copy_both.per_second);
        let note = format!(
            "server {:.1} us, thread {:.1} us an event; median of the rounds' ratios {:.2}",
            median(|m| m.projector.server_us),
            median(|m| m.thread_us),
            median(|m| m.projector.per_second / m.copy_events.per_second),
        );
        Row::new(
            format!("COPY: events and entities, {name}"),
            both,
            "events/s",
        )
        .against(copy, "COPY of events")
        .note(format!(
            "server {:.1} us an event; of events alone {:.1} us",
            median(|m| m.copy_both.server_us),
            median(|m| m.copy_events.server_us)
        ))
        .print();
        Row::new(
            format!("projector: {name}"),
            median(|m| m.projector.per_second),
            "events/s",
        )
        .against(copy, "COPY of events")
        .note(note)
        .print();
    }
    run(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"));
}
