//! Patterns of prompt injection: words in a certain order with few others in between, and tokens of chat templates. Each pattern has a
//! weight; the weights of the patterns found are combined into a score, which grows with each pattern and never exceeds 1. Linear time.

mod marks;
mod patterns;
mod words;

use std::fmt;

/// A pattern of prompt injection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum InjectionPattern {
    /// Earlier instructions are to be ignored.
    OverridesInstructions,
    /// The author's own or someone else's instructions are to be ignored, which is mostly about work and not about the planner.
    ChangesInstructions,
    /// The planner is to reveal its own instructions.
    RevealsPrompt,
    /// The planner is to take the role of someone without restrictions.
    TakesRole,
    /// A mode without restrictions is named, such as `developer mode`.
    NamesMode,
    /// Tokens of a chat template, which imitate a turn of another role.
    FakesTurns,
    /// Safety measures are to be switched off.
    DisablesSafety,
    /// An approval is to be skipped.
    SkipsApproval,
    /// Credentials are to be sent or shown.
    TakesSecrets,
    /// All credentials, or those of the system, are to be sent or shown.
    TakesAllSecrets,
    /// All data are to be deleted.
    Destroys,
    /// The text addresses a language model.
    AddressesModel,
    /// Encoded instructions are to be decoded and followed.
    RunsHidden,
    /// The text claims that the prompt has ended.
    EndsPrompt,
    /// Words are spelled letter by letter.
    SpellsOut,
}

impl InjectionPattern {
    /// The stable name.
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

    /// The weight in the score, from 0 to 1.
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

impl fmt::Display for InjectionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The score of a cleaned text, from 0 to 1, and the patterns found, each once.
pub fn score(text: &str) -> (f64, Vec<InjectionPattern>) {
    let mut found = patterns::of(&words::of(text));
    if marks::are_in(text) {
        found.insert(InjectionPattern::FakesTurns);
    }
    let innocent: f64 = found.iter().map(|pattern| 1.0 - pattern.weight()).product();
    (1.0 - innocent, found.into_iter().collect())
}
