//! The model: text to tokens to vectors, on threads of low priority.

use std::{num::NonZeroUsize, path::Path, sync::Arc, thread};

use candle_core::Device;
#[cfg(target_arch = "x86_64")]
use omnilink_kernels::Isa;
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

#[cfg(target_arch = "x86_64")]
use super::kernels::Kernels;
use super::{
    EmbedError, Vector,
    files::{TOKENIZER, WEIGHTS},
    tensors::Tensors,
    tokens::{Tokenizer, Tokens},
    weights::Weights,
};

/// Added to the nice value of the embedder's threads: when one competes with a thread of the log for a core, it gets about a
/// tenth of the core.
const NICE: i32 = 10;

/// The implementation of the forward pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// A GPU if candle was built for one and there is one, else the best instruction set of this processor.
    #[default]
    Best,
    /// Own kernels for AVX-512.
    Avx512,
    /// Own kernels for AVX2.
    Avx2,
    /// candle on the CPU.
    Candle,
}

/// Settings of a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// The implementation of the forward pass.
    pub backend: Backend,
    /// Number of threads; by default the number of cores that this process may use (affinity mask and cgroup).
    pub threads: Option<NonZeroUsize>,
}

enum Pass {
    #[cfg(target_arch = "x86_64")]
    Kernels(Kernels),
    Tensors(Tensors),
}

/// all-MiniLM-L6-v2, ready to run. Calls block the calling thread while the threads of the model work.
pub struct Model {
    tokenizer: Tokenizer,
    pass: Pass,
    threads: ThreadPool,
}

impl Model {
    /// Reads the model's files in `folder`, and checks their checksums. Takes about 0.2 s and twice the size of the weights (90 MB).
    pub fn load(folder: &Path, settings: Settings) -> Result<Self, EmbedError> {
        let tokenizer = Tokenizer::new(&TOKENIZER.read(folder)?)?;
        let weights = WEIGHTS.read(folder)?;
        let pass = Weights::new(weights).and_then(|weights| Pass::new(&weights, settings.backend));
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = ThreadPoolBuilder::new()
            .num_threads(settings.threads.unwrap_or_else(cores).get())
            .thread_name(|n| format!("embed-{n}"))
            .start_handler(|_| yield_to_others())
            .build();
        Ok(Self {
            tokenizer,
            pass: pass.map_err(EmbedError::Weights)?,
            threads: threads.map_err(EmbedError::ThreadPool)?,
        })
    }

    /// Splits a text into tokens.
    pub fn tokens(&self, text: &str) -> Result<Tokens, EmbedError> {
        self.tokenizer.split(text)
    }

    /// Splits texts into tokens, on the model's threads.
    pub fn tokens_of<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<Result<Tokens, EmbedError>> {
        let split = |text: &T| self.tokens(text.as_ref());
        if texts.len() == 1 {
            return texts.iter().map(split).collect();
        }
        self.threads
            .install(|| texts.par_iter().map(split).collect())
    }

    /// The vectors of texts, in their order.
    pub fn vectors(&self, texts: &[Tokens]) -> Result<Vec<Vector>, EmbedError> {
        let ids: Vec<&[u32]> = texts.iter().map(Tokens::ids).collect();
        self.run(&ids).map_err(|e| EmbedError::Pass(Arc::new(e)))
    }

    pub(super) fn run(&self, texts: &[&[u32]]) -> candle_core::Result<Vec<Vector>> {
        self.threads.install(|| match &self.pass {
            #[cfg(target_arch = "x86_64")]
            Pass::Kernels(kernels) => Ok(kernels.vectors(texts)),
            Pass::Tensors(tensors) => tensors.vectors(texts),
        })
    }
}

impl Pass {
    fn new(weights: &Weights, backend: Backend) -> candle_core::Result<Self> {
        if backend == Backend::Best && candle_core::utils::cuda_is_available() {
            return Tensors::new(weights, Device::new_cuda(0)?).map(Self::Tensors);
        }
        #[cfg(target_arch = "x86_64")]
        {
            let isa = match backend {
                Backend::Best => Isa::avx512().or_else(Isa::avx2),
                Backend::Avx512 => Isa::avx512(),
                Backend::Avx2 => Isa::avx2(),
                Backend::Candle => None,
            };
            if let Some(isa) = isa {
                return Kernels::new(weights, isa).map(Self::Kernels);
            }
        }
        if matches!(backend, Backend::Avx512 | Backend::Avx2) {
            candle_core::bail!("this processor has no {backend:?}");
        }
        Tensors::new(weights, Device::Cpu).map(Self::Tensors)
    }
}

/// Lowers the priority of the calling thread, so that it yields its core to the log when all cores are busy.
pub(super) fn yield_to_others() {
    // On Linux the nice value is the thread's own. Raising it needs no privilege.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "the priority of a thread that embeds cannot be lowered");
    }
}
