//! The embedder: a bounded queue in front of the model, and a thread that takes batches from it.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::{sync::oneshot, time::timeout};

use super::{EmbedError, Model, Settings, Tokens, Vector, model::yield_to_others};
use crate::base::panics::panic_message;

/// Maximum number of queued texts: about a second of work for two cores.
pub const QUEUE_TEXTS: usize = 1_024;
/// How long a call waits for its vectors.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of texts in a batch.
const BATCH_TEXTS: usize = 64;

type Answer = Result<Vec<Vector>, EmbedError>;

/// Embeds texts. Cheap to clone; clones share the model and its queue. Its threads end when the last clone is dropped.
#[derive(Clone)]
pub struct Embedder {
    queue: Arc<Queue>,
    /// Closes the queue when the last clone is dropped.
    #[expect(dead_code, reason = "only its drop matters")]
    open: Arc<CloseOnDrop>,
}

/// Texts of a call, at most [`BATCH_TEXTS`].
struct Request {
    texts: Vec<String>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    /// Number of texts in `requests`.
    waiting: usize,
    closed: bool,
}

impl State {
    /// Removes requests whose callers have given up.
    fn drop_abandoned(&mut self) {
        self.requests.retain(|request| !request.answer.is_closed());
        self.waiting = self.requests.iter().map(|r| r.texts.len()).sum();
    }
}

/// Closes the queue when it is dropped.
struct CloseOnDrop(Arc<Queue>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Embedder {
    /// Loads the model in `folder`, with the default [`Settings`]. Blocks for about 0.2 s.
    pub fn load(folder: &Path) -> Result<Self, EmbedError> {
        Self::new(Model::load(folder, Settings::default())?)
    }

    /// Starts the thread that takes batches for `model` from the queue.
    pub fn new(model: Model) -> Result<Self, EmbedError> {
        let queue = Arc::new(Queue::default());
        let of_thread = queue.clone();
        thread::Builder::new()
            .name("embed".to_owned())
            .spawn(move || {
                yield_to_others();
                while let Some(batch) = of_thread.next_batch() {
                    answer(&model, batch);
                }
            })
            .map_err(EmbedError::Thread)?;
        let open = Arc::new(CloseOnDrop(queue.clone()));
        Ok(Self { queue, open })
    }

    /// The vectors of `texts`, in their order. Calls that come while a batch is computed share the next one.
    ///
    /// Fails at once if more than [`QUEUE_TEXTS`] texts would be queued, and after [`TIMEOUT`] without an answer. Queued texts of
    /// a cancelled call are not computed.
    pub async fn embed(&self, texts: &[&str]) -> Answer {
        let answers = self.queue.enqueue(texts)?;
        let all = async {
            let mut vectors = Vec::with_capacity(texts.len());
            for answer in answers {
                vectors.extend(answer.await.unwrap_or(Err(EmbedError::Stopped))?);
            }
            Ok(vectors)
        };
        timeout(TIMEOUT, all)
            .await
            .unwrap_or(Err(EmbedError::Timeout(TIMEOUT)))
    }
}

impl Queue {
    /// Adds all texts to the queue, or none.
    fn enqueue(&self, texts: &[&str]) -> Result<Vec<oneshot::Receiver<Answer>>, EmbedError> {
        let most = QUEUE_TEXTS;
        if texts.len() > most {
            let texts = texts.len();
            return Err(EmbedError::TooMany { texts, most });
        }
        let of_batch = |texts: &[&str]| {
            let texts = texts.iter().map(|&text| text.to_owned()).collect();
            let (answer, answered) = oneshot::channel();
            (Request { texts, answer }, answered)
        };
        let requests = texts.chunks(BATCH_TEXTS).map(of_batch);
        let (requests, answers): (Vec<_>, Vec<_>) = requests.unzip();
        let mut state = self.state.lock();
        if state.waiting + texts.len() > most {
            state.drop_abandoned();
        }
        let waiting = state.waiting;
        if waiting + texts.len() > most {
            return Err(EmbedError::Overloaded { waiting, most });
        }
        state.waiting += texts.len();
        state.requests.extend(requests);
        drop(state);
        self.changed.notify_one();
        Ok(answers)
    }

    /// Waits for requests and takes a batch. `None`: the queue is closed.
    fn next_batch(&self) -> Option<Vec<Request>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                state.requests.clear();
                return None;
            }
            let mut batch = Vec::new();
            let mut texts = 0;
            while let Some(request) = state.requests.front() {
                let more = request.texts.len();
                let abandoned = request.answer.is_closed();
                if !abandoned && !batch.is_empty() && texts + more > BATCH_TEXTS {
                    break;
                }
                state.waiting -= more;
                let request = state.requests.pop_front().filter(|_| !abandoned);
                if let Some(request) = request {
                    texts += more;
                    batch.push(request);
                }
            }
            if !batch.is_empty() {
                return Some(batch);
            }
            self.changed.wait(&mut state);
        }
    }
}

/// Computes a batch, and answers each of its requests. A caller that has given up needs no answer.
fn answer(model: &Model, batch: Vec<Request>) {
    match catch_unwind(AssertUnwindSafe(|| compute(model, &batch))) {
        Ok(answers) => {
            for (request, answer) in batch.into_iter().zip(answers) {
                let _ = request.answer.send(answer);
            }
        }
        Err(panic) => {
            let message = panic_message(&*panic);
            for request in batch {
                let _ = request
                    .answer
                    .send(Err(EmbedError::Panicked(message.clone())));
            }
        }
    }
}

/// The answer for each request of `batch`. A text that cannot be split fails only its own request.
fn compute(model: &Model, batch: &[Request]) -> Vec<Answer> {
    let texts: Vec<&String> = batch.iter().flat_map(|request| &request.texts).collect();
    let mut tokens = model.tokens_of(&texts).into_iter();
    let of_request = |request: &Request| {
        // Takes all tokens of the request, even if one of its texts failed.
        let tokens: Vec<_> = tokens.by_ref().take(request.texts.len()).collect();
        tokens.into_iter().collect::<Result<Vec<Tokens>, _>>()
    };
    let tokens: Vec<_> = batch.iter().map(of_request).collect();
    let ids: Vec<&[u32]> = tokens.iter().flatten().flatten().map(Tokens::ids).collect();
    let run = model.run(&ids).map_err(Arc::new);
    let mut vectors = run.map(Vec::into_iter);
    let answers = tokens.into_iter().map(|tokens| {
        let texts = tokens?.len();
        match &mut vectors {
            Ok(vectors) => Ok(vectors.by_ref().take(texts).collect()),
            Err(error) => Err(EmbedError::Pass(Arc::clone(error))),
        }
    });
    answers.collect()
}
