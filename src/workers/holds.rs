//! Which calls the emergency controls hold. The rule is the run's; checking it here too makes a control effective before the run
//! has read it.

use std::borrow::Cow;

use crate::{controls::Emergency, plans::Kind};

/// Why a call of a tool may not be sent now; `None`: it may. `kind`: the tool's kind, if it is known.
pub fn reason(emergency: &Emergency, tool: &str, kind: Option<Kind>) -> Option<Cow<'static, str>> {
    emergency.holds(tool, true, kind != Some(Kind::Read))
}
