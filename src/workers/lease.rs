//! Leases, which authorise completing a call over HTTP. A lease is a signature under `secret_key`, so any node can check it
//! without a table.

use crate::{base::hex::hex, controls::SecretKeys, runs::CallKind};

/// The purpose in the signature, which separates leases from other uses of the key.
const PURPOSE: &str = "lease of a task";

/// The parts of a task's id, `run_id:step_id:kind:attempt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskId<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The step.
    pub step_id: &'a str,
    /// The step's own call, or its compensation.
    pub kind: CallKind,
    /// From 1.
    pub attempt: u32,
}

impl<'a> TaskId<'a> {
    /// Parses an id; `None` if it is invalid.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(':');
        let (run_id, step_id) = (parts.next()?, parts.next()?);
        let kinds = [CallKind::Execute, CallKind::Compensate];
        let kind = parts.next()?;
        let kind = kinds.into_iter().find(|one| one.name() == kind)?;
        let attempt = parts.next()?.parse().ok().filter(|n| *n > 0)?;
        let whole = parts.next().is_none() && !run_id.is_empty() && !step_id.is_empty();
        whole.then_some(Self {
            run_id,
            step_id,
            kind,
            attempt,
        })
    }
}

/// The lease of a task: 64 hexadecimal digits.
pub fn lease(keys: &SecretKeys, tenant: &str, task_id: &str) -> String {
    hex(&keys.sign(PURPOSE, &[tenant.as_bytes(), task_id.as_bytes()]))
}

/// Whether it is the lease of this task of this tenant. Compares in constant time.
pub fn is_lease(keys: &SecretKeys, tenant: &str, task_id: &str, lease: &str) -> bool {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pairs = lease.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        })
        .collect();
    let parts = [tenant.as_bytes(), task_id.as_bytes()];
    bytes.is_some_and(|bytes| keys.signed(PURPOSE, &parts, &bytes))
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn a_lease_is_for_one_task_of_one_tenant() {
        let key = |n: u8| STANDARD.encode([n; 32]);
        let keys = SecretKeys::new([&*key(1)]).unwrap();
        let lease = lease(&keys, "acme", "r:s:execute:1");
        assert_eq!(lease.len(), 64);
        // After a rotation of `secret_key` it stays good.
        let rotated = SecretKeys::new([&*key(2), &key(1)]).unwrap();
        assert!(is_lease(&rotated, "acme", "r:s:execute:1", &lease));
        for (tenant, task, lease) in [
            ("other", "r:s:execute:1", &*lease),
            ("acme", "r:s:execute:2", &lease),
            ("acme", "r:s:execute:1", &lease[2..]),
            ("acme", "r:s:execute:1", ""),
            ("acme", "r:s:execute:1", "x"),
        ] {
            assert!(!is_lease(&keys, tenant, task, lease), "{tenant} {task}");
        }
    }

    #[test]
    fn task_ids_are_parsed() {
        let id = TaskId::parse("0198:pay:compensate:2").unwrap();
        assert_eq!((id.run_id, id.step_id), ("0198", "pay"));
        assert_eq!((id.kind, id.attempt), (CallKind::Compensate, 2));
        for wrong in [
            "",
            "a:b:execute",
            "a:b:execute:0",
            "a:b:undo:1",
            "a:b:execute:1:2",
            ":b:execute:1",
        ] {
            assert_eq!(TaskId::parse(wrong), None, "{wrong}");
        }
    }
}
