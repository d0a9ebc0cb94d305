//! Workflows of three steps in the process, started and awaited in a closed loop.
//!
//! `dbos-peer POSTGRES_URL CONNECTIONS SECONDS [STEPS]` prints workflows per second, p50 and p99 in milliseconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dbos::{Config, DBOS, WorkflowRef};

/// Before it is measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// Outputs of 20 bytes, as those of the steps that it is compared with.
async fn step(n: u32) -> dbos::Result<String> {
    Ok(format!("output of step {n:05}"))
}

async fn drive(
    workflow: &WorkflowRef<u32, u32>,
    steps: u32,
    connections: usize,
    time: Duration,
) -> (Vec<u32>, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let (workflow, stop) = (workflow.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut taken = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    workflow.run(steps).await.expect("the workflow succeeds");
                    taken.push(began.elapsed().as_micros() as u32);
                }
                taken
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut taken = Vec::new();
    for client in clients {
        taken.extend(client.await.expect("the client ends"));
    }
    let seconds = began.elapsed().as_secs_f64();
    taken.sort_unstable();
    (taken, seconds)
}

#[tokio::main]
async fn main() -> dbos::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, connections, seconds, rest @ ..] = args.as_slice() else {
        eprintln!("usage: dbos-peer POSTGRES_URL CONNECTIONS SECONDS [STEPS]");
        std::process::exit(2);
    };
    let connections = connections.parse().expect("a number of connections");
    let seconds = seconds.parse().expect("a number of seconds");
    let steps = rest
        .first()
        .map_or(3, |steps| steps.parse().expect("a number of steps"));
    let mut config = Config::new("bench", url);
    config.app_version = Some("1".to_owned());
    config.max_connections = 32;
    let dbos = DBOS::new(config);
    let workflow = dbos.register_workflow("three", async |steps: u32| -> dbos::Result<u32> {
        for n in 0..steps {
            dbos::step("step", move || step(n)).await?;
        }
        Ok(steps)
    })?;
    dbos.launch().await?;
    drive(&workflow, steps, connections, WARM_UP).await;
    let time = Duration::from_secs_f64(seconds);
    let (taken, seconds) = drive(&workflow, steps, connections, time).await;
    let at = |share: f64| f64::from(taken[(taken.len() as f64 * share) as usize]) / 1000.0;
    println!(
        "{:.1} {:.2} {:.2}",
        taken.len() as f64 / seconds,
        at(0.5),
        at(0.99)
    );
    dbos.shutdown().await;
    Ok(())
}
