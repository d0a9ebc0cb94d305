//! Embeddings: the vectors of the reference, whatever the backend, batch, order and load; model files that are missing or damaged.
//!
//! They need the model: OMNILINK_TEST_MODEL, or what `scripts/model` has put in the cache.

use std::{
    env,
    fs::{self, OpenOptions},
    future::{Future, poll_fn},
    io::{Seek, SeekFrom, Write},
    num::NonZeroUsize,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::OnceLock,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use omnilink::embed::{
    Backend, Class, EmbedError, Embedder, Model, QUEUE_TEXTS, Settings, Tokens, Vector,
};
use proptest::prelude::*;
use serde::Deserialize;

/// How far a float may be from the reference.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Reference {
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    text: String,
    tokens: usize,
    vector: Vec<f32>,
}

fn reference() -> Vec<Sentence> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/embeddings/reference.json"
    );
    let reference: Reference = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    reference.sentences
}

/// The folder of the model; without it, prints that the test is skipped.
pub fn model_dir() -> Option<PathBuf> {
    let of_cache = || {
        let cache = env::var_os("OMNILINK_CACHE").map(PathBuf::from);
        let of_user = || {
            let of_home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
            let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            Some(cache.or_else(of_home)?.join("omnilink"))
        };
        Some(cache.or_else(of_user)?.join("model"))
    };
    let given = env::var_os("OMNILINK_TEST_MODEL").map(PathBuf::from);
    let found = given
        .or_else(of_cache)
        .filter(|folder| folder.join("model.safetensors").is_file());
    if found.is_none() {
        eprintln!("SKIPPED: there is no model (eval \"$(scripts/model)\")");
    }
    found
}

/// A model that the tests share.
fn shared() -> Option<&'static Model> {
    static MODEL: OnceLock<Option<Model>> = OnceLock::new();
    let model = || Some(Model::load(&model_dir()?, Settings::default()).unwrap());
    MODEL.get_or_init(model).as_ref()
}

fn distance(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    let differences = one.iter().zip(other).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, f32::max)
}

fn alone(model: &Model, tokens: &Tokens) -> Vector {
    model.vectors(std::slice::from_ref(tokens)).unwrap()[0]
}

#[test]
fn vectors_are_those_of_the_reference_on_every_backend_alone_and_in_a_batch() {
    let Some(folder) = model_dir() else { return };
    let sentences = reference();
    assert!(sentences.len() >= 20);
    let backends = [
        (Backend::Best, 3),
        (Backend::Avx512, 1),
        (Backend::Avx2, 2),
        (Backend::Candle, 2),
    ];
    for (backend, threads) in backends {
        let threads = NonZeroUsize::new(threads);
        let model = match Model::load(&folder, Settings { backend, threads }) {
            Ok(model) => model,
            Err(error) if error.to_string().contains("this processor has no") => {
                eprintln!("SKIPPED: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let of_text = |sentence: &Sentence| model.tokens(&sentence.text).unwrap();
        let tokens: Vec<Tokens> = sentences.iter().map(of_text).collect();
        let together = model.vectors(&tokens).unwrap();
        for ((sentence, tokens), together) in sentences.iter().zip(&tokens).zip(&together) {
            let text = &sentence.text;
            assert_eq!(tokens.ids().len(), sentence.tokens, "{text}");
            let off = distance(together, &sentence.vector);
            assert!(
                off < TOLERANCE,
                "{backend:?} is off by {off} in a batch: {text}"
            );
            let off = distance(&alone(&model, tokens), &sentence.vector);
            assert!(off < TOLERANCE, "{backend:?} is off by {off}: {text}");
            let length: f32 = together.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_vector_of_a_text_depends_on_neither_its_neighbours_nor_their_order(
        texts in prop::collection::vec("[a-zA-Z0-9 äßç,.世界\u{301}]{0,90}", 1..16),
        turn: prop::sample::Index,
    ) {
        if let Some(model) = shared() {
            let tokens: Vec<Tokens> = texts.iter().map(|text| model.tokens(text).unwrap()).collect();
            let vectors = model.vectors(&tokens).unwrap();
            let turn = turn.index(tokens.len());
            let turned = [&tokens[turn..], &tokens[..turn]].concat();
            let mut turned = model.vectors(&turned).unwrap();
            turned.rotate_right(turn);
            for (n, tokens) in tokens.iter().enumerate() {
                prop_assert!(distance(&vectors[n], &turned[n]) < 1e-5);
                prop_assert!(distance(&vectors[n], &alone(model, tokens)) < 1e-5);
            }
        }
    }
}

#[test]
fn similar_texts_are_nearer_than_others() {
    let Some(model) = shared() else { return };
    let similarity = |one: &str, other: &str| -> f32 {
        let [one, other] = [one, other].map(|text| alone(model, &model.tokens(text).unwrap()));
        one.iter().zip(other).map(|(x, y)| x * y).sum()
    };
    let same = similarity(
        "How do I reset my password?",
        "I forgot my password, how can I change it?",
    );
    let other = similarity(
        "How do I reset my password?",
        "The ship leaves the harbour at noon.",
    );
    assert!(same > 0.7 && other < 0.2, "{same} {other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_get_their_own_vectors() {
    let Some(folder) = model_dir() else { return };
    let embedder = Embedder::load(&folder).unwrap();
    let sentences: Vec<Sentence> = reference()
        .into_iter()
        .filter(|sentence| sentence.tokens < 64)
        .collect();
    let sentences: &'static [Sentence] = sentences.leak();
    let calls = (0..40_usize).map(|call| {
        let embedder = embedder.clone();
        tokio::spawn(async move {
            let mine = sentences.iter().cycle().skip(call).take(call % 7);
            let texts: Vec<&str> = mine.clone().map(|sentence| &*sentence.text).collect();
            let vectors = embedder.embed(&texts).await.unwrap();
            assert_eq!(vectors.len(), texts.len());
            for (vector, sentence) in vectors.iter().zip(mine) {
                assert!(distance(vector, &sentence.vector) < TOLERANCE);
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    // More than a batch.
    let many: Vec<&str> = sentences
        .iter()
        .map(|s| &*s.text)
        .cycle()
        .take(150)
        .collect();
    let vectors = embedder.embed(&many).await.unwrap();
    for (vector, sentence) in vectors.iter().zip(sentences.iter().cycle()) {
        assert!(distance(vector, &sentence.vector) < TOLERANCE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_an_error_at_once_and_the_embedder_recovers() {
    let Some(folder) = model_dir() else { return };
    let embedder = Embedder::load(&folder).unwrap();
    let texts = vec!["a text of some length that waits for its turn"; QUEUE_TEXTS];
    let error = embedder.embed(&[&texts[..], &["one more"]].concat()).await;
    let error = error.unwrap_err();
    assert!(
        matches!(
            error,
            EmbedError::TooMany {
                most: QUEUE_TEXTS,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.class(), Class::Rejected);

    let mut full = Box::pin(embedder.embed(&texts));
    let first = poll_fn(|context| Poll::Ready(full.as_mut().poll(context))).await;
    assert!(first.is_pending());
    // The queue is full but for the first batch at most.
    let refused = embedder
        .embed(&texts[..QUEUE_TEXTS - 64])
        .await
        .unwrap_err();
    assert!(
        matches!(refused, EmbedError::Overloaded { .. }),
        "{refused}"
    );
    assert_eq!(refused.class(), Class::Retriable);
    // What is given up is not computed.
    drop(full);
    assert_eq!(embedder.embed(&["again"]).await.unwrap().len(), 1);
}

#[test]
fn its_threads_have_a_lower_priority() {
    let Some(folder) = model_dir() else { return };
    let threads = || {
        let of_task = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            let (head, rest) = stat.rsplit_once(") ")?;
            // After the name: state, then the 17th field is the nice value.
            let nice: i32 = rest.split(' ').nth(16)?.parse().ok()?;
            let ours = head.ends_with("(embed") || head.contains("(embed-");
            ours.then_some(nice)
        };
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks.filter_map(of_task).collect::<Vec<_>>()
    };
    // Those of other tests' embedders are among them. A thread lowers its priority once it runs.
    let _embedder = Embedder::load(&folder).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let found = threads();
        if found.len() >= 2 && found.iter().all(|nice| *nice >= 10) {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn missing_and_damaged_files_are_named() {
    let Some(folder) = model_dir() else { return };
    let dir = tempfile::tempdir().unwrap();
    let load = || match Model::load(dir.path(), Settings::default()) {
        Ok(_) => panic!("loaded"),
        Err(error) => {
            assert_eq!(error.class(), Class::Fatal);
            error.to_string()
        }
    };
    let error = load();
    assert!(
        error.contains("tokenizer.json") && error.contains("omnilink model fetch"),
        "{error}"
    );
    symlink(
        folder.join("tokenizer.json"),
        dir.path().join("tokenizer.json"),
    )
    .unwrap();
    let error = load();
    assert!(
        error.contains("there is no") && error.contains("model.safetensors"),
        "{error}"
    );

    let weights = dir.path().join("model.safetensors");
    fs::copy(folder.join("model.safetensors"), &weights).unwrap();
    let mut file = OpenOptions::new().write(true).open(&weights).unwrap();
    file.seek(SeekFrom::Start(50_000_000)).unwrap();
    file.write_all(b"x").unwrap();
    let error = load();
    assert!(error.contains("model.safetensors is damaged"), "{error}");
    file.set_len(1_000).unwrap();
    assert!(load().contains("model.safetensors is damaged"));

    fs::remove_file(&weights).unwrap();
    fs::create_dir(&weights).unwrap();
    assert!(load().contains("cannot be read"));
}
