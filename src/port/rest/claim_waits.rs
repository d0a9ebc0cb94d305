//! Claims that wait for tasks. While there are any, one background task polls the queue for all of them ten times a second and wakes as
//! many claims as there are tasks. Polling also finds tasks of other nodes, and expired leases.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::audit::Tables;
use crate::store::tasks;

/// The average poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The time limit of a poll.
const TIMEOUT: Duration = Duration::from_secs(5);

/// All waiting claims of a node. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ClaimWaits(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// In order of arrival.
    waiting: Vec<Waiter>,
    next: u64,
    /// Whether the poll task is running.
    polling: bool,
}

struct Waiter {
    id: u64,
    tenant: String,
    tools: Vec<String>,
    wake: oneshot::Sender<()>,
}

/// A waiting claim. Dropping it ends the wait.
pub(crate) struct Waiting {
    id: u64,
    waits: ClaimWaits,
    woken: oneshot::Receiver<()>,
}

impl Waiting {
    /// Returns when a task may be available.
    pub(crate) async fn woken(&mut self) {
        // The sender is only dropped after it has woken this claim.
        let _ = (&mut self.woken).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waits.0.lock().waiting.retain(|one| one.id != self.id);
    }
}

impl ClaimWaits {
    /// Starts to wait for tasks of these tools of a tenant.
    pub(crate) fn wait(
        &self,
        tables: &Arc<dyn Tables>,
        tenant: &str,
        tools: Vec<String>,
    ) -> Waiting {
        let (wake, woken) = oneshot::channel();
        let mut state = self.0.lock();
        let id = state.next;
        state.next += 1;
        state.waiting.push(Waiter {
            id,
            tenant: tenant.to_owned(),
            tools,
            wake,
        });
        if !std::mem::replace(&mut state.polling, true) {
            tokio::spawn(poll(self.clone(), Arc::clone(tables)));
        }
        drop(state);
        Waiting {
            id,
            waits: self.clone(),
            woken,
        }
    }

    /// The tenants and tools that claims wait for, without duplicates. If there are none, returns `None`, and the poll task ends.
    fn wanted(&self) -> Option<Vec<(String, String)>> {
        let mut state = self.0.lock();
        if state.waiting.is_empty() {
            state.polling = false;
            return None;
        }
        let mut all = BTreeSet::new();
        for waiter in &state.waiting {
            let of = |tool: &String| (waiter.tenant.clone(), tool.clone());
            all.extend(waiter.tools.iter().map(of));
        }
        Some(all.into_iter().collect())
    }

    /// Wakes as many claims as there are tasks of this tool, in order of arrival.
    fn wake(&self, tenant: &str, tool: &str, tasks: u64) {
        let mut left = tasks;
        let mut state = self.0.lock();
        let takes = |waiter: &mut Waiter| {
            let wants = waiter.tenant == tenant && waiter.tools.iter().any(|one| one == tool);
            let takes = wants && left > 0;
            left -= u64::from(takes);
            takes
        };
        for waiter in state.waiting.extract_if(.., takes) {
            // The claim may have been dropped just now.
            let _ = waiter.wake.send(());
        }
    }

    fn wake_all(&self) {
        for waiter in self.0.lock().waiting.drain(..) {
            let _ = waiter.wake.send(());
        }
    }
}

/// Polls the queue until no claim is waiting.
async fn poll(waits: ClaimWaits, tables: Arc<dyn Tables>) {
    loop {
        tokio::time::sleep(POLL_INTERVAL.mul_f64(rand::random_range(0.75..1.25))).await;
        let Some(wanted) = waits.wanted() else {
            return;
        };
        let counts = async {
            let store = tables.store().ok()?;
            let counted = tokio::time::timeout(TIMEOUT, tasks::waiting(&store, &wanted));
            counted.await.ok()?.ok()
        };
        match counts.await {
            Some(counts) => {
                for ((tenant, tool), tasks) in wanted.iter().zip(counts) {
                    if tasks > 0 {
                        waits.wake(tenant, tool, tasks);
                    }
                }
            }
            // The claims find out themselves why the queue cannot be read.
            None => waits.wake_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::audit::TablesError, *};

    struct NoTables;

    impl Tables for NoTables {
        fn store(&self) -> Result<crate::store::Store, TablesError> {
            Err(TablesError::Starting)
        }
    }

    fn is_woken(waiting: &mut Waiting) -> bool {
        waiting.woken.try_recv().is_ok()
    }

    #[tokio::test]
    async fn as_many_are_woken_as_there_are_tasks() {
        let waits = ClaimWaits::default();
        let tables: Arc<dyn Tables> = Arc::new(NoTables);
        let wait = |tenant: &str, tool: &str| waits.wait(&tables, tenant, vec![tool.into()]);
        let mut all = [
            wait("acme", "pay"),
            wait("acme", "pay"),
            wait("beta", "pay"),
            wait("acme", "call"),
        ];
        let wanted = waits.wanted().unwrap();
        assert_eq!(wanted.len(), 3);
        waits.wake("acme", "pay", 1);
        assert_eq!(all.each_mut().map(is_woken), [true, false, false, false]);
        waits.wake("acme", "pay", 5);
        assert!(is_woken(&mut all[1]) && !is_woken(&mut all[2]));
        // The queue cannot be read, so all are woken and find out themselves.
        all[3].woken().await;
        assert!(is_woken(&mut all[2]));
        drop(all);
        assert!(waits.wanted().is_none());
    }
}
