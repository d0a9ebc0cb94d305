//! Which calls of workers the emergency controls hold: as the run does, which learns of them a moment later.

use std::borrow::Cow;

use crate::{controls::Emergency, plans::Kind};

/// Why a call of a tool may not go now; `None`: it may. `kind`: what kind of thing it does, if that is known.
pub fn reason(emergency: &Emergency, tool: &str, kind: Option<Kind>) -> Option<Cow<'static, str>> {
    emergency.holds(tool, true, kind != Some(Kind::Read))
}
