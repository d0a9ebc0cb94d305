//! `guardian.*`: how goals are checked before anything is planned from them.

/// The settings of the guardian.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GuardianSettings {
    /// `guardian.enabled`: whether goals are scored. Personal data are replaced all the same.
    pub enabled: bool,
    /// `guardian.max_goal_length`: the most characters of a goal.
    pub max_goal_length: usize,
    /// `guardian.flag_at`: from this score on a person must approve the run.
    pub flag_at: f64,
    /// `guardian.deny_at`: from this score on the run is denied.
    pub deny_at: f64,
}

impl Default for GuardianSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_goal_length: 20_000,
            flag_at: 0.5,
            deny_at: 0.95,
        }
    }
}
