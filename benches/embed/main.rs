//! Embeddings, compared with ONNX Runtime on the same weights and tokens in the same run.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    num::NonZeroUsize,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use omnilink::embed::{Backend, Embedder, Model, Settings, Tokens};

#[path = "../common/report.rs"]
mod report;

use report::{Arguments, Row, median};

const ROUNDS: usize = 9;
/// Passes of a round; the best counts, because the machine's other work only ever adds time.
const PASSES: usize = 60;
const BATCHES: usize = 8;
const BATCH: usize = 32;

/// ONNX Runtime in a process of its own (`tests/embeddings/minilm.py serve`).
struct OnnxRuntime {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl OnnxRuntime {
    fn start(python: &str, model: &str, threads: usize) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/embeddings/minilm.py");
        let mut process = Command::new(python)
            .args([script, "serve", model, &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            requests: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    /// Seconds of a pass.
    fn pass(&mut self, batch: &[Tokens]) -> f64 {
        let ids: Vec<&[u32]> = batch.iter().map(Tokens::ids).collect();
        let request = serde_json::to_string(&ids).unwrap();
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim().parse().unwrap()
    }
}

impl Drop for OnnxRuntime {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ours(model: &Model, batch: &[Tokens]) -> f64 {
    let begun = Instant::now();
    assert_eq!(model.vectors(batch).unwrap().len(), batch.len());
    begun.elapsed().as_secs_f64()
}

fn best(passes: usize, mut pass: impl FnMut() -> f64) -> f64 {
    (0..passes).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

/// Medians of `rounds` of ours and theirs in turns, each after a pause in which the other's threads go to sleep.
fn in_turns(
    rounds: usize,
    passes: usize,
    mut one: impl FnMut() -> f64,
    mut other: Option<impl FnMut() -> f64>,
) -> (f64, Option<f64>) {
    let pause = || thread::sleep(Duration::from_millis(100));
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        pause();
        ones.push(best(passes, &mut one));
        if let Some(other) = &mut other {
            pause();
            others.push(best(passes, other));
        }
    }
    (median(ones), (!others.is_empty()).then(|| median(others)))
}

fn main() {
    let Some(arguments) = Arguments::given() else {
        return;
    };
    let rounds = arguments.number(0, ROUNDS);
    let model_dir = env::var("OMNILINK_TEST_MODEL").unwrap_or_default();
    assert!(
        !model_dir.is_empty(),
        "OMNILINK_TEST_MODEL is not set: eval \"$(scripts/model)\""
    );
    let python = env::var("OMNILINK_BENCH_ONNXRUNTIME").ok();
    let cores = thread::available_parallelism().unwrap().get();
    let load = |threads, backend| {
        let threads = NonZeroUsize::new(threads);
        Model::load(Path::new(&model_dir), Settings { backend, threads }).unwrap()
    };
    let backend = if arguments.named("avx2") {
        Backend::Avx2
    } else if arguments.named("candle") {
        Backend::Candle
    } else {
        Backend::Best
    };
    let both = load(cores, backend);
    let text = "the refund of this order was paid to the card of the customer who lives in paris";
    let twenty = vec![both.tokens(text).unwrap()];
    assert_eq!(twenty[0].ids().len(), 20, "{:?}", twenty[0]);

    for (threads, target_ms) in [(1, 4.0), (cores, 2.5)] {
        let model = load(threads, backend);
        let mut theirs = python
            .as_ref()
            .map(|p| OnnxRuntime::start(p, &model_dir, threads));
        let other = theirs.as_mut().map(|theirs| || theirs.pass(&twenty));
        let (ours, theirs) = in_turns(rounds, PASSES, || ours(&model, &twenty), other);
        let row = Row::new(
            format!("one text of 20 tokens, {threads} threads"),
            ours * 1e3,
            "ms",
        );
        let row = row.target_below(target_ms);
        match theirs {
            Some(theirs) => row.against(theirs * 1e3, "ONNX Runtime").print(),
            None => row.print(),
        }
    }

    let same = vec![twenty[0].clone(); BATCH];
    let words: Vec<&str> = text.split(' ').collect();
    // 3 to 33 tokens, in no order.
    let mixed: Vec<Tokens> = (0..BATCH)
        .map(|n| {
            let words: Vec<&str> = words
                .iter()
                .cycle()
                .take(1 + n * 13 % BATCH)
                .copied()
                .collect();
            both.tokens(&words.join(" ")).unwrap()
        })
        .collect();
    for (name, batch) in [("20 tokens each", &same), ("3 to 34 tokens", &mixed)] {
        let mut theirs = python
            .as_ref()
            .map(|p| OnnxRuntime::start(p, &model_dir, cores));
        let other = theirs.as_mut().map(|theirs| || theirs.pass(batch));
        let (ours, theirs) = in_turns(rounds, BATCHES, || ours(&both, batch), other);
        let rate = |seconds: f64| BATCH as f64 / seconds;
        let row = Row::new(format!("batches of {BATCH}, {name}"), rate(ours), "texts/s");
        match theirs {
            Some(theirs) => row
                .against(rate(theirs), "ONNX Runtime")
                .target_ratio(1.0)
                .print(),
            None => row.print(),
        }
    }

    // With tokenizing and the queue.
    let embedder = Embedder::new(both).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let none = None::<fn() -> f64>;
    for (name, texts) in [("one text", 1), ("32 texts", BATCH)] {
        let texts = vec![text; texts];
        let call = || {
            let begun = Instant::now();
            runtime.block_on(embedder.embed(&texts)).unwrap();
            begun.elapsed().as_secs_f64()
        };
        let (seconds, _) = in_turns(rounds, BATCHES, call, none);
        Row::new(
            format!("Embedder::embed, {name} of 20 tokens"),
            seconds * 1e3,
            "ms",
        )
        .print();
    }
}
