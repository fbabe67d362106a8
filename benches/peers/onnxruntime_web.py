"""The models of `onnxruntime_web.mjs`: attention operators of onnxruntime at the sizes of workload V1. Needs the package `onnx`.

    python3 onnxruntime_web.py FOLDER
"""

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

HEADS, KV_HEADS, LENGTH, CACHE, WIDTH = 8, 2, 256, 512, 64


def floats(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def save(folder, name, node, inputs, outputs):
    graph = helper.make_graph([node], name, inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / f"{name}.onnx")


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [1, LENGTH, HEADS * WIDTH]
    for name, causal in (("full", 0), ("causal", 1)):
        node = helper.make_node(
            "MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft", num_heads=HEADS, unidirectional=causal
        )
        save(folder, name, node, [floats(n, rows) for n in "qkv"], [floats("out", rows)])
    cache = [1, KV_HEADS, CACHE - 1, WIDTH]
    # Shape inference of the operator knows the cache's capacity only.
    present = [1, KV_HEADS, "capacity", WIDTH]
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "past_k", "past_v", "last", "total"],
        ["out", "present_k", "present_v"],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
    )
    integers = [helper.make_tensor_value_info(n, TensorProto.INT32, s) for n, s in (("last", [1, 1]), ("total", [1]))]
    step = [floats("q", [1, 1, HEADS * WIDTH]), floats("k", [1, 1, KV_HEADS * WIDTH]), floats("v", [1, 1, KV_HEADS * WIDTH])]
    outputs = [floats("out", [1, 1, HEADS * WIDTH]), floats("present_k", present), floats("present_v", present)]
    save(folder, "decode", node, step + [floats("past_k", cache), floats("past_v", cache)] + integers, outputs)


main(Path(sys.argv[1]))
