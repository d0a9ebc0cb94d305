//! Patterns of prompt injection: words in an order, with few others between, and marks of chat templates. Each has a weight; those that are
//! met together give a score that grows with each, and never passes 1. Takes time in proportion to the text.

mod marks;
mod patterns;
mod words;

use std::fmt;

/// A pattern that was met.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Met {
    /// What was said before shall not hold.
    OverridesInstructions,
    /// Words of one's own instructions are overridden: mostly about work, not about the planner.
    ChangesInstructions,
    /// The planner's own instructions shall be shown.
    RevealsPrompt,
    /// The planner shall be somebody without limits.
    TakesRole,
    /// A mode without limits.
    NamesMode,
    /// Marks of a chat template, as if another spoke.
    FakesTurns,
    /// The guardian and the like shall be switched off.
    DisablesSafety,
    /// Nobody shall be asked.
    SkipsApproval,
    /// Credentials shall be sent or shown.
    TakesSecrets,
    /// All of them, or those of the system.
    TakesAllSecrets,
    /// Everything shall be deleted.
    Destroys,
    /// It speaks to a language model.
    AddressesModel,
    /// Something hidden shall be decoded and done.
    RunsHidden,
    /// The prompt is said to be over.
    EndsPrompt,
    /// Words are spelled letter by letter.
    SpellsOut,
}

impl Met {
    /// Its name, which does not change.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OverridesInstructions => "overrides_instructions",
            Self::ChangesInstructions => "changes_instructions",
            Self::RevealsPrompt => "reveals_prompt",
            Self::TakesRole => "takes_role",
            Self::NamesMode => "names_mode",
            Self::FakesTurns => "fakes_turns",
            Self::DisablesSafety => "disables_safety",
            Self::SkipsApproval => "skips_approval",
            Self::TakesSecrets => "takes_secrets",
            Self::TakesAllSecrets => "takes_all_secrets",
            Self::Destroys => "destroys",
            Self::AddressesModel => "addresses_model",
            Self::RunsHidden => "runs_hidden",
            Self::EndsPrompt => "ends_prompt",
            Self::SpellsOut => "spells_out",
        }
    }

    /// How sure it makes, from 0 to 1.
    const fn weight(self) -> f64 {
        match self {
            Self::OverridesInstructions => 0.9,
            Self::RevealsPrompt => 0.85,
            Self::FakesTurns | Self::TakesRole | Self::DisablesSafety | Self::TakesAllSecrets => {
                0.8
            }
            Self::AddressesModel | Self::RunsHidden | Self::SpellsOut => 0.7,
            Self::NamesMode | Self::EndsPrompt => 0.6,
            Self::ChangesInstructions | Self::TakesSecrets | Self::Destroys => 0.35,
            Self::SkipsApproval => 0.3,
        }
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The score of a cleaned text, from 0 to 1, and the patterns met, each once.
pub fn score(text: &str) -> (f64, Vec<Met>) {
    let mut met = patterns::of(&words::of(text));
    if marks::are_in(text) {
        met.insert(Met::FakesTurns);
    }
    let innocent: f64 = met.iter().map(|met| 1.0 - met.weight()).product();
    (1.0 - innocent, met.into_iter().collect())
}
