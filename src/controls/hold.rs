//! The controls that a node holds by itself, set by environment variables.

/// `kill_switch`: no intake, no starts, no dispatch.
pub const KILL_SWITCH: &str = "kill_switch";
/// `operator_takeover`: starts, decisions and run controls only by keys of kind `person`.
pub const OPERATOR_TAKEOVER: &str = "operator_takeover";
/// `safe_mode`: only steps that change nothing outside.
pub const SAFE_MODE: &str = "safe_mode";

/// The controls that can be held, with their variables.
const VARIABLES: [(&str, &str); 3] = [
    (KILL_SWITCH, "OMNIHUB_KILL_SWITCH"),
    (OPERATOR_TAKEOVER, "OPERATOR_TAKEOVER"),
    (SAFE_MODE, "EXECUTION_SAFE_MODE"),
];

/// The controls that a node holds, whatever the topic `controls` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `OMNIHUB_KILL_SWITCH`.
    pub kill_switch: bool,
    /// `OPERATOR_TAKEOVER`.
    pub operator_takeover: bool,
    /// `EXECUTION_SAFE_MODE`.
    pub safe_mode: bool,
}

/// A variable is neither true nor false.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {variable} must be `true` or `false`, not `{value}`")]
pub struct BadHold {
    variable: &'static str,
    value: String,
}

impl Held {
    /// Reads the variables: `true`, `1`, `yes` and `on` hold a control, in any case; `false`, `0`, `no`, `off` and an empty value do not.
    /// Anything else is an error, because a typing error must not leave something open that should be closed.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, BadHold> {
        let mut held = [false; 3];
        for (held, (_, name)) in held.iter_mut().zip(VARIABLES) {
            let value = variable(name).unwrap_or_default();
            *held = match value.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => true,
                "" | "false" | "0" | "no" | "off" => false,
                _ => {
                    return Err(BadHold {
                        variable: name,
                        value,
                    });
                }
            };
        }
        let [kill_switch, operator_takeover, safe_mode] = held;
        Ok(Self {
            kill_switch,
            operator_takeover,
            safe_mode,
        })
    }

    /// The held controls, with their variables.
    pub fn variables(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let held = [self.kill_switch, self.operator_takeover, self.safe_mode];
        let all = VARIABLES.into_iter().zip(held);
        all.filter_map(|(variable, held)| held.then_some(variable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_hold_controls() {
        let of = |value: &str| {
            Held::from_environment(|name| (name == "OPERATOR_TAKEOVER").then(|| value.to_owned()))
        };
        let takeover = Held {
            operator_takeover: true,
            ..Held::default()
        };
        for on in ["true", " TRUE ", "1", "on"] {
            assert_eq!(of(on), Ok(takeover), "{on}");
        }
        for off in ["", "false", "0", "Off"] {
            assert_eq!(of(off), Ok(Held::default()), "{off}");
        }
        let error = of("ture").unwrap_err().to_string();
        assert!(error.contains("OPERATOR_TAKEOVER") && error.contains("ture"));
        let held: Vec<_> = takeover.variables().collect();
        assert_eq!(held, [("operator_takeover", "OPERATOR_TAKEOVER")]);
    }
}
