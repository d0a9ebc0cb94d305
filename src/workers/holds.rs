//! Which calls of workers the emergency controls hold: as the run does, which learns of them a moment later.

use std::borrow::Cow;

use crate::{controls::Emergency, plans::Kind};

/// Why a call of a tool may not go now; `None`: it may. `kind`: what kind of thing it does, if that is known.
pub fn reason(emergency: &Emergency, tool: &str, kind: Option<Kind>) -> Option<Cow<'static, str>> {
    if emergency.kill_switch() {
        return Some(Cow::Borrowed("kill_switch"));
    }
    if !emergency.state.disabled.is_empty() {
        let feature = format!("tool:{tool}");
        if emergency.disabled(&feature).is_some() {
            return Some(Cow::Owned(feature));
        }
        if emergency.disabled("workers").is_some() {
            return Some(Cow::Borrowed("workers"));
        }
    }
    let held = emergency.safe_mode() && kind != Some(Kind::Read) && !emergency.allows(tool);
    held.then_some(Cow::Borrowed("safe_mode"))
}
