//! Faults of a plan or a tool: what is wrong, and where.

use std::fmt;

/// The place of a value in a JSON document (RFC 6901).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// The member or the item `name` of this value.
    #[must_use]
    pub fn at(&self, name: impl fmt::Display) -> Self {
        let mut path = self.0.clone();
        path.push(name.to_string());
        Self(path)
    }

    /// Its path: member names and item indexes, from the root.
    pub fn path(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// This place within the value at `outer`.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        Self([&outer.0[..], &self.0[..]].concat())
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.0 {
            write!(f, "/{}", name.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

/// A fault in a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The value that is wrong.
    pub at: Pointer,
    /// It is the member's name that is wrong, not its value.
    pub name: bool,
    /// The id of the step that contains it.
    pub step: Option<String>,
    /// What is wrong, as text for people.
    pub message: String,
    /// What to do about it.
    pub note: Option<String>,
}

impl Fault {
    /// A fault of the value at `at`.
    pub fn new(at: &Pointer, message: impl Into<String>) -> Self {
        Self {
            at: at.clone(),
            name: false,
            step: None,
            message: message.into(),
            note: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step) = &self.step {
            write!(f, "step `{step}`: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(note) = &self.note {
            write!(f, " ({note})")?;
        }
        Ok(())
    }
}
