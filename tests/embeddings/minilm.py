#!/usr/bin/env python3
"""all-MiniLM-L6-v2 outside OmniLink: reference vectors for the tests, and ONNX Runtime for the bench.

  minilm.py reference MODEL_DIR      computes reference.json in float64 with NumPy, and checks it with ONNX Runtime
  minilm.py serve MODEL_DIR THREADS  times ONNX Runtime: reads a JSON list of token lists a line, writes the seconds it took

Needs numpy, tokenizers, onnx and onnxruntime. The ONNX graph is built from the weights with the operators that ONNX Runtime's own
optimizer of transformers uses (fused Attention, SkipLayerNormalization, BiasGelu), in float32.
"""

import json
import os
import struct
import sys
import time

import numpy as np

HEADS, LAYERS, HIDDEN, EPSILON = 12, 6, 384, 1e-12
# What sentence-transformers passes to the model at most (max_seq_length of sentence_bert_config.json), [CLS] and [SEP] included.
MAX_TOKENS = 256

SENTENCES = [
    "",
    " ",
    "a",
    "OmniLink",
    "The order has been paid.",
    "The invoice was settled by the customer.",
    "A cat sleeps on the warm windowsill.",
    "How do I reset my password?",
    "I forgot my login credentials and need to sign in again.",
    "refund order 4711 and tell the customer by e-mail",
    "THE SAME TEXT IN CAPITALS, WITH (PUNCTUATION); AND 1,234.56 NUMBERS!",
    "naïve café — Ünïcödé façade, coöperation, Ångström",
    "Der Fluß überschwemmte die Straße in Köln.",
    "Les élèves ont déjà mangé à l'école.",
    "Привет, мир! Как дела?",
    "今日は天気がいいですね。",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "🚀🔥 shipping it 🎉",
    "zero\u200bwidth and no\u00a0break\tand\nlines\r\n",
    "e\u0301 as two code points, é as one",
    "[CLS] special [MASK] tokens [SEP] in the text",
    "https://example.com/orders/4711?state=paid&currency=EUR#top",
    '{"type": "order.paid", "data": {"amount": 99.5, "currency": "EUR"}}',
    "x" * 150,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "event sourcing keeps every change as a record and derives all tables from the log, " * 6,
    "the quick brown fox jumps over the lazy dog " * 28 + "and rests",
    "the quick brown fox jumps over the lazy dog " * 60 + "and this end is truncated",
    "word " * 254,
    "word " * 253 + "more words than fit",
]


def weights(folder):
    """The tensors of model.safetensors, float32."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return tensors


def tokenizer(folder):
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokens.enable_truncation(MAX_TOKENS)
    tokens.no_padding()
    return tokens


def layer(n, name):
    return f"encoder.layer.{n}.{name}"


def embed(tensors, ids):
    """One text's vector in float64, written as the model is defined, without any fusing."""
    from math import erf

    def dense(x, name):
        return x @ tensors[f"{name}.weight"].astype(np.float64).T + tensors[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def heads(x):
        return x.reshape(len(ids), HEADS, HIDDEN // HEADS).transpose(1, 0, 2)

    words = tensors["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    places = tensors["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(words + places + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for n in range(LAYERS):
        q, k, v = (heads(dense(x, layer(n, f"attention.self.{part}"))) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(HIDDEN / HEADS)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ v
        context = context.transpose(1, 0, 2).reshape(len(ids), HIDDEN)
        x = norm(x + dense(context, layer(n, "attention.output.dense")), layer(n, "attention.output.LayerNorm"))
        up = dense(x, layer(n, "intermediate.dense"))
        up = up * (1 + np.vectorize(erf)(up / np.sqrt(2))) / 2
        x = norm(x + dense(up, layer(n, "output.dense")), layer(n, "output.LayerNorm"))
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def graph(tensors):
    """The model as ONNX: ids and mask, [batch, tokens], int32, to vectors, [batch, 384]."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(op, inputs, outputs, domain="", **attributes):
        nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def weight(name):
        return constant(name, tensors[f"{name}.weight"].T)

    def norm(x, skip, bias, name, out):
        gamma = constant(f"{name}.gamma", tensors[f"{name}.weight"])
        beta = constant(f"{name}.beta", tensors[f"{name}.bias"])
        inputs = [x, skip, gamma, beta, bias]
        return node("SkipLayerNormalization", inputs, [out], "com.microsoft", epsilon=EPSILON)

    embeddings = [
        constant(f"embeddings.{name}", tensors[f"embeddings.{name}.weight"])
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
    ]
    gamma = constant("embeddings.gamma", tensors["embeddings.LayerNorm.weight"])
    beta = constant("embeddings.beta", tensors["embeddings.LayerNorm.bias"])
    node("Sub", ["ids", "ids"], ["types"])
    node(
        "EmbedLayerNormalization",
        ["ids", "types", *embeddings, gamma, beta, "mask"],
        ["x", "lengths"],
        "com.microsoft",
        epsilon=EPSILON,
    )
    x = "x"
    for n in range(LAYERS):
        parts = [layer(n, f"attention.self.{part}") for part in ("query", "key", "value")]
        qkv = constant(f"qkv{n}", np.concatenate([tensors[f"{part}.weight"].T for part in parts], 1))
        bias = constant(f"qkv_bias{n}", np.concatenate([tensors[f"{part}.bias"] for part in parts]))
        node("Attention", [x, qkv, bias, "lengths"], [f"context{n}"], "com.microsoft", num_heads=HEADS)
        name = layer(n, "attention.output.dense")
        node("MatMul", [f"context{n}", weight(name)], [f"attention{n}"])
        bias = constant(f"{name}.bias", tensors[f"{name}.bias"])
        x = norm(f"attention{n}", x, bias, layer(n, "attention.output.LayerNorm"), f"middle{n}")
        name = layer(n, "intermediate.dense")
        node("MatMul", [x, weight(name)], [f"up{n}"])
        bias = constant(f"{name}.bias", tensors[f"{name}.bias"])
        node("BiasGelu", [f"up{n}", bias], [f"gelu{n}"], "com.microsoft")
        name = layer(n, "output.dense")
        node("MatMul", [f"gelu{n}", weight(name)], [f"down{n}"])
        bias = constant(f"{name}.bias", tensors[f"{name}.bias"])
        x = norm(f"down{n}", x, bias, layer(n, "output.LayerNorm"), f"x{n}")
    node("Cast", ["mask"], ["mask_float"], to=TensorProto.FLOAT)
    node("Unsqueeze", ["mask_float", constant("axis2", np.array([2]))], ["weights"])
    node("Mul", [x, "weights"], ["weighted"])
    node("ReduceSum", ["weighted", constant("axis1", np.array([1]))], ["sum"], keepdims=0)
    # The mean's divisor falls out when the vector is normalised.
    node("LpNormalization", ["sum"], ["vectors"], axis=-1, p=2)
    ids = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "tokens"]) for name in ("ids", "mask")]
    out = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", HIDDEN])
    made = helper.make_model(
        helper.make_graph(nodes, "minilm", ids, [out], constants),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    checker.check_model(made)
    return made.SerializeToString()


def session(folder, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(graph(weights(folder)), options, providers=["CPUExecutionProvider"])


def padded(batch):
    longest = max(map(len, batch))
    ids = np.array([tokens + [0] * (longest - len(tokens)) for tokens in batch], np.int32)
    mask = np.array([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in batch], np.int32)
    return {"ids": ids, "mask": mask}


def reference(folder):
    tensors, tokens, runtime = weights(folder), tokenizer(folder), session(folder, 1)
    entries, worst = [], 0.0
    # sentence-transformers strips texts before it tokenizes them.
    batch = [tokens.encode(text.strip()).ids for text in SENTENCES]
    together = runtime.run(None, padded(batch))[0]
    for text, ids, padded_vector in zip(SENTENCES, batch, together):
        vector = embed(tensors, ids)
        alone = runtime.run(None, padded([ids]))[0][0]
        worst = max(worst, np.abs(vector - alone).max(), np.abs(vector - padded_vector).max())
        entries.append({"text": text, "tokens": len(ids), "vector": [round(float(v), 8) for v in vector]})
    if worst > 1e-5:
        sys.exit(f"NumPy and ONNX Runtime differ by {worst}")
    made = (
        "tests/embeddings/minilm.py reference: the definition of BERT in float64 (NumPy), tokens of Hugging Face's tokenizers cut at "
        "256, mean of all tokens, normalised, as sentence-transformers does"
    )
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference.json")
    with open(target, "w", encoding="utf-8") as file:
        lines = ",\n".join(json.dumps(entry, ensure_ascii=True) for entry in entries)
        file.write(f'{{"made": {json.dumps(made)},\n"sentences": [\n{lines}\n]}}\n')
    print(f"{len(entries)} sentences; largest difference from ONNX Runtime (float32): {worst:.1e}")


def serve(folder, threads):
    runtime = session(folder, threads)
    for line in sys.stdin:
        feed = padded(json.loads(line))
        begun = time.perf_counter()
        runtime.run(None, feed)
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["reference", folder]:
            reference(folder)
        case ["serve", folder, threads]:
            serve(folder, int(threads))
        case _:
            sys.exit(__doc__)
