//! The services of a run: Kafka, Postgres and Redis, started by `scripts/stack` in the folder of the run.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::plan::Plan;
use crate::support::LogKind;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");

/// The stack; dropping it stops it and deletes its data.
pub struct Parts {
    dir: PathBuf,
    pub brokers: String,
    pub postgres: String,
    /// Empty if the run does not use it.
    pub redis: String,
}

impl Parts {
    pub fn start(dir: &Path, plan: &Plan) -> Self {
        let mut start = vec!["start", "postgres"];
        if plan.brokers > 1 {
            start.splice(0..0, ["--brokers", "3"]);
        }
        if plan.kind == LogKind::Kafka {
            start.push("kafka");
        }
        if plan.redis_kills > 0 {
            start.push("redis");
        }
        Self::start_parts(dir, &start)
    }

    /// Starts only Kafka.
    pub fn kafka(dir: &Path) -> Self {
        Self::start_parts(dir, &["start", "kafka"])
    }

    fn start_parts(dir: &Path, start: &[&str]) -> Self {
        let mut parts = Self {
            dir: dir.join("stack"),
            brokers: String::new(),
            postgres: String::new(),
            redis: String::new(),
        };
        // Another run may take a free port before it is used.
        for attempt in 1.. {
            match parts.call(start) {
                Ok(_) => break,
                Err(error) if attempt < 3 => {
                    eprintln!("{error}");
                    drop(parts.call(&["clean"]));
                }
                Err(error) => panic!("{error}"),
            }
        }
        for line in parts.call(&["env"]).unwrap().lines() {
            let (name, value) = line
                .trim_start_matches("export ")
                .split_once('=')
                .unwrap_or_default();
            let value = value.trim_matches('\'').to_owned();
            match name {
                "OMNILINK_TEST_KAFKA" => parts.brokers = value,
                "OMNILINK_TEST_POSTGRES" => parts.postgres = value,
                "OMNILINK_TEST_REDIS" => parts.redis = value,
                _ => {}
            }
        }
        parts
    }

    /// Without a time limit, because the script has its own.
    fn call(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(SCRIPT);
        for part in ["KAFKA", "KAFKA_CONTROLLER", "POSTGRES", "REDIS"] {
            command.env_remove(format!("OMNILINK_STACK_{part}_PORT"));
        }
        let output = command
            .args(arguments)
            .env("OMNILINK_STACK_DIR", &self.dir)
            .env("OMNILINK_STACK_PORTS", "free")
            .output()
            .map_err(|e| format!("{SCRIPT}: {e}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("scripts/stack {}: {said}", arguments.join(" ")))
    }

    pub fn kill(&self, part: &str) {
        self.call(&["kill", part]).unwrap();
    }

    pub fn restart(&self, part: &str) {
        self.call(&["start", part]).unwrap();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Err(error) = self.call(&["clean"]) {
            eprintln!("{error}");
        }
    }
}
