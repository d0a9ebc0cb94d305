//! Notices: what happened and is over, but that an operator must hear of. `/readyz` shows them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How many notices are kept, and how long.
const MOST: usize = 16;
const SHOWN_FOR: Duration = Duration::from_hours(24);

static NOTICED: Mutex<VecDeque<(Instant, String)>> = Mutex::new(VecDeque::new());

/// Notes what happened and is over, but that an operator must hear of: `/readyz` and `doctor` show it for a day, the last
/// 16 of all.
pub fn notice(text: String) {
    let mut notices = NOTICED.lock();
    notices.retain(|(_, known)| *known != text);
    if notices.len() == MOST {
        notices.pop_front();
    }
    notices.push_back((Instant::now(), text));
}

/// What was noted within a day, the oldest first.
pub fn notices() -> Vec<String> {
    let mut notices = NOTICED.lock();
    notices.retain(|(at, _)| at.elapsed() < SHOWN_FOR);
    notices.iter().map(|(_, text)| text.clone()).collect()
}
