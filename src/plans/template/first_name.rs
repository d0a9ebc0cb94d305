//! Known first names (`names.txt`).

use std::{collections::HashMap, sync::LazyLock};

use super::token::fold;

/// Whether a first name has other meanings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// It is only a first name.
    Name,
    /// It is also a word, a month or a place.
    Ambiguous,
}

/// By the folded name.
static NAMES: LazyLock<HashMap<String, Meaning>> = LazyLock::new(|| {
    let lines = include_str!("names.txt").lines();
    let names = lines
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace);
    names
        .map(|name| match name.strip_prefix('?') {
            Some(name) => (fold(name), Meaning::Ambiguous),
            None => (fold(name), Meaning::Name),
        })
        .collect()
});

/// The meaning of a folded word as a first name.
pub(super) fn find(word: &str) -> Option<Meaning> {
    NAMES.get(word).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        assert!(NAMES.len() > 600, "{}", NAMES.len());
        assert_eq!(find("jorg"), Some(Meaning::Name));
        assert_eq!(find("mark"), Some(Meaning::Ambiguous));
        assert_eq!(find("invoice"), None);
    }
}
