//! An HTTP worker in a process of its own, which answers each call at once.

use std::{
    net::SocketAddr,
    process::{Child, Command},
};

use crate::server;

pub struct Worker {
    child: Child,
    pub address: SocketAddr,
}

impl Worker {
    pub fn start() -> Self {
        let address = server::free_port();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["worker", &address.to_string()])
            .spawn()
            .unwrap();
        server::wait_for(address, "/", &mut child);
        Self { child, address }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the process `worker`: one thread, as there are few cores and many processes.
pub fn serve(address: &str) {
    use axum::{
        Router,
        body::Bytes,
        http::header::CONTENT_TYPE,
        routing::{get, post},
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let answer = |_: Bytes| async {
            (
                [(CONTENT_TYPE, "application/json")],
                r#"{"n":1234,"ok":true}"#,
            )
        };
        let app = Router::new()
            .route("/", post(answer))
            .route("/", get(|| async { "" }));
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        axum::serve(listener, app).await.unwrap();
    });
}
