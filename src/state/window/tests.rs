use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const OPTIONS: WindowOptions = WindowOptions {
    window_ms: 600,
    payload: 16,
    seal_at: 40,
};

fn id(n: u64) -> Identity {
    Identity::of("t", &[&n.to_string()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Against a plain map: whatever is inserted is found for the whole window, nothing else is, across seals and restarts.
    #[test]
    fn remembers_what_it_saw(
        steps in prop::collection::vec((0u64..400, 0i64..12, prop::bool::weighted(0.1), prop::bool::weighted(0.02)), 1..600)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path()).unwrap();
        let space = Space::new("t", 3);
        let mut window = Window::load(&store, space.clone(), OPTIONS).unwrap();
        let mut model: HashMap<u64, i64> = HashMap::new();
        let mut now = 1_000_000;
        for (n, step, commit, reload) in steps {
            now += step;
            let seen = window.get(&id(n), Millis(now)).unwrap();
            let expected = model.get(&n).copied();
            match expected {
                Some(at) if now - at <= OPTIONS.window_ms => prop_assert_eq!(seen, Some(id(n + 1).0)),
                Some(at) if now - at > OPTIONS.window_ms + OPTIONS.window_ms / BUCKETS + 1 => prop_assert_eq!(seen, None),
                Some(_) => {}
                None => prop_assert_eq!(seen, None),
            }
            if seen.is_none() {
                window.insert(id(n), id(n + 1).0, Millis(now));
                model.insert(n, now);
            }
            if commit || reload {
                store.apply(&window.take_changes(), &[]).unwrap();
            }
            if reload {
                window = Window::load(&store, space.clone(), OPTIONS).unwrap();
            }
        }
    }
}

#[test]
fn many_runs_share_few_filters() {
    let dir = tempfile::tempdir().unwrap();
    let store = StateStore::open(dir.path()).unwrap();
    let space = Space::new("t", 0);
    let options = WindowOptions {
        window_ms: 1_000_000,
        ..OPTIONS
    };
    let mut window = Window::load(&store, space.clone(), options).unwrap();
    let now = Millis(1_000_000);
    // A run is whole, and the next may begin, some transactions after it was sealed.
    let mut many = 0;
    while window.sizes().1 <= group::first(2) && many < 50_000 {
        window.insert(id(many), id(many + 1).0, now);
        store.apply(&window.take_changes(), &[]).unwrap();
        many += 1;
    }
    for _ in 0..2 {
        let bucket = window.buckets.values().next().unwrap();
        let (runs, groups) = (bucket.runs.len(), bucket.groups.len());
        assert!(runs > group::first(2), "{runs} runs");
        assert!(group::first(groups) >= runs && group::first(groups - 1) < runs);
        for n in 0..many {
            assert_eq!(window.get(&id(n), now).unwrap(), Some(id(n + 1).0));
        }
        assert_eq!(window.get(&id(many), now).unwrap(), None);
        window = Window::load(&store, space.clone(), options).unwrap();
    }
}

/// What a compacted changelog keeps of a window that deletes its rows there; with starts on the way, and one from the changelog alone.
#[test]
fn expired_rows_leave_a_changelog_that_drops_none_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let space = Space::new("t", 0);
    let mut log: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let apply = |store: &StateStore, log: &mut BTreeMap<Bytes, Bytes>, changes: Changes| {
        for change in changes.0.iter().filter(|change| change.logged) {
            match &change.value {
                Some(value) => drop(log.insert(change.key.clone(), value.clone())),
                None => drop(log.remove(&change.key)),
            }
        }
        store.apply(&changes, &[]).unwrap();
    };
    let open = |store: &StateStore| {
        Window::load(store, space.clone(), OPTIONS)
            .unwrap()
            .log_deletes()
            .unwrap()
    };
    let mut store = StateStore::open(&dir.path().join("0")).unwrap();
    let mut window = open(&store);
    let mut most = 0;
    for n in 0..3_000_u64 {
        let now = Millis(1_000_000 + n as i64 * 7);
        window.insert(id(n), [0; 16], now);
        apply(&store, &mut log, window.take_changes());
        most = most.max(log.len());
        if n % 700 == 350 {
            window = open(&store);
        }
        if n == 2_000 {
            // Another node restores from the changelog alone.
            drop((window, store));
            store = StateStore::open(&dir.path().join("1")).unwrap();
            let mut changes = Changes::default();
            for (key, value) in &log {
                changes.put(&space, key.clone(), value.clone());
            }
            store.apply(&changes, &[]).unwrap();
            window = open(&store);
        }
        let last = (n + 1).saturating_sub(OPTIONS.window_ms as u64 / 7);
        for known in [last, n] {
            assert!(
                window.get(&id(known), now).unwrap().is_some(),
                "{known} of {n}"
            );
        }
    }
    // A window has so many rows, a sixth more, what was not deleted yet, and a row for each bucket.
    let rows = OPTIONS.window_ms as usize / 7;
    assert!(most < rows * 2 + 200, "{most} rows, a window has {rows}");
    assert!(log.len() < rows * 2, "{} rows", log.len());
}

#[test]
fn expired_rows_leave_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = StateStore::open(dir.path()).unwrap();
    let space = Space::new("t", 0);
    let mut window = Window::load(&store, space.clone(), OPTIONS).unwrap();
    for n in 0..500 {
        window.insert(id(n), [0; 16], Millis(1_000_000 + n as i64));
        store.apply(&window.take_changes(), &[]).unwrap();
    }
    assert!(store.scan(&space, b"").count() > 20);
    window.insert(id(9999), [0; 16], Millis(2_000_000));
    store.apply(&window.take_changes(), &[]).unwrap();
    assert_eq!(store.scan(&space, b"").count(), 1);
}
