//! Keyed state of transforms, one space for each processor and input partition. On Kafka it is restored from a changelog topic, on the
//! embedded log it is committed together with the log.
//!
//! | file | what |
//! |---|---|
//! | `store` | [`StateStore`]: rows by space and key, on disk (`disk`) or in memory (`memory`) |
//! | `change` | [`Space`] and [`Changes`]: a batch of writes |
//! | `table` | [`Table`]: typed rows of a processor |
//! | `window` | [`Window`]: a set of hashes that forgets what is old |
//! | `keeper`, `journal`, `ahead` | upkeep of the store on disk: memtables, failures, repair after a power loss, blocks for syncs |

mod ahead;
mod change;
mod disk;
mod error;
mod filter;
mod journal;
mod keeper;
mod memory;
mod store;
mod table;
mod window;

pub use change::{Change, Changes, Space};
pub use disk::in_use;
pub(crate) use disk::{DiskStore, keyspace};
pub use error::StateError;
pub(crate) use filter::{Filter, Probe};
pub use store::{Row, StateStore};
pub use table::{AsKey, CodecError, Key, PrefixOf, Table, Value, Versioned};
pub use window::{Located, Page, Window, WindowOptions};
