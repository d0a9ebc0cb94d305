//! Notices: past incidents that an operator should know of. `/readyz` shows them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How many notices are kept, and for how long.
const CAPACITY: usize = 16;
const SHOWN_FOR: Duration = Duration::from_hours(24);

static NOTICES: Mutex<VecDeque<(Instant, String)>> = Mutex::new(VecDeque::new());

/// Adds a notice. `/readyz` and `doctor` show the last 16 notices for a day; a repeated text replaces the earlier one.
pub fn notice(text: String) {
    let mut notices = NOTICES.lock();
    notices.retain(|(_, known)| *known != text);
    if notices.len() == CAPACITY {
        notices.pop_front();
    }
    notices.push_back((Instant::now(), text));
}

/// The notices of the last day, oldest first.
pub fn notices() -> Vec<String> {
    let mut notices = NOTICES.lock();
    notices.retain(|(at, _)| at.elapsed() < SHOWN_FOR);
    notices.iter().map(|(_, text)| text.clone()).collect()
}
