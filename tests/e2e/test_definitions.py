"""The page of definitions says how every byte follows: decoders and encoders that were written from
it alone (definitions.py, definition_*.py) give what the programs give."""

import json
import struct

import definition_ggml
import grpc
import numpy as np
import pytest
from conftest import MODEL, ROOT, error_of, quantctl, quantctl_json
from definition_schemes import MX, SEARCHED, decode, encode
from definitions import (FILE_TYPES, decoded, narrow, packed_tensors, parse_spec, read_file, restore_outliers,
                         take_outliers, working)

INPUT_TYPES = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "I8": "int8", "I16": "int16",
               "I32": "int32", "I64": "int64", "U8": "uint8", "U16": "uint16", "U32": "uint32"}
ROUNDINGS = ["half_even", "half_away", "half_up", "half_down", "truncate", "floor", "ceil", "stochastic"]
SMALL_FLOATS = ["fp8_e5m2", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1"]
SCHEMES = ["int8", "uint8", "int16", "uint4", "int4", "uint16", "int2", "int3", "int5", "int6", "uint2", "uint3",
           "uint5", "uint6", "int32", "int64", "fp16", "bf16", "f32", "f64", "fp8_e4m3", "fp8_e5m2", "fp6_e2m3",
           "fp6_e3m2", "fp4_e2m1", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "nf4", "fp4", "nvfp4",
           "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8", "fbgemm_rowwise8",
           "fbgemm_rowwise4", "fbgemm_rowwise2", "lloyd", "mlx_q2", "mlx_q3", "mlx_q4", "mlx_q5", "mlx_q6", "mlx_q8",
           "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "bits", "binary", "ternary", "pow2"]
# Of tensors of a shape that all schemes take.
SPECS = [
    *SCHEMES,
    *(f"{s}:{k}" for s in ("int8", "uint8", "int4", "uint4", "int16")
      for k in ("axis=0,mode=full", "axis=-1,mode=asymmetric", "group=32,mode=symmetric", "block=4x64")),
    *(f"{s}:{k}" for s in ("int3", "uint2", "uint5", "uint16")
      for k in ("axis=0,mode=full", "group=32,mode=asymmetric", "round=stochastic,seed=5,axis=-1")),
    *(f"{s}:{k}" for s in ("int32", "int64")
      for k in ("axis=0,scale_type=f32", "group=32,round=floor", "scale=0.0000152587890625,zero=-9", "block=4x64",
                "range=-1.5..2,round=stochastic,seed=4", "scale=1000,round=half_away")),
    *(f"int8:round={r}" for r in ROUNDINGS), "uint4:round=stochastic,seed=81985529216486895,group=128",
    *(f"int8:mode=asymmetric,group=64,scale_type={t}" for t in ("f16", "bf16", "pow2", "dyadic16")),
    *(f"{s}:scale_type=dyadic16,{k}" for s in ("int2", "uint3", "int4", "uint8", "int16", "uint16")
      for k in ("per=tensor", "axis=-1,mode=full", "group=32,mode=symmetric", "block=4x64,mode=asymmetric")),
    "int8:scale=0.3,scale_type=dyadic16", "uint4:scale=1e-30,zero=3,scale_type=dyadic16",
    *(f"{s}:outliers={k}" for s in SCHEMES for k in (1, 5)),
    *(f"int4:outliers=3,{k}" for k in ("axis=-1", "axis=0,mode=asymmetric", "group=32", "block=4x64", "range=p99",
                                       "scale_type=dyadic16", "round=stochastic,seed=4", "range=mse")),
    "int8:outliers=512", "nf4:outliers=2,scale_type=nested8", "mxfp4:dialect=ggml,outliers=2",
    "int4:group=128,scale_type=f16", "uint8:scale=0.02", "uint8:scale=0.02,zero=7", "int8:scale=0.3,zero=-3",
    "int4:scale=0.3,scale_type=pow2", "int8:range=-1.5..2", "uint4:axis=0,range=0.5..2",
    *(f"{s}:dialect=compressed_tensors,{k}" for s in ("int8", "int4")
      for k in ("axis=0", "group=32,mode=asymmetric", "per=tensor,mode=asymmetric,range=-1..3")),
    *(f"int{b}:layout=words,{k}" for b in (2, 3, 4, 5, 6, 8) for k in ("axis=0", "group=32,mode=asymmetric")),
    *(f"int{b}:dialect=compressed_tensors,group=32" for b in (2, 3, 5, 6)), "int3:layout=words,scale=0.02,zero=3",
    *(f"{s}:round={r}" for s in ("fp16", "bf16", "fp8_e4m3") for r in ROUNDINGS),
    "fp8_e4m3:per=tensor", "fp8_e4m3:axis=0,round=stochastic,seed=3", "fp8_e4m3:block=4x100",
    "fp8_e4m3:group=32,dialect=compressed_tensors", "fp8_e4m3:range=-1..1",
    *(f"{s}:round={r}" for s in ("fp8_e5m2", "fp6_e3m2") for r in ROUNDINGS),
    *(f"{s}:{k}" for s in SMALL_FLOATS for k in ("axis=0", "block=4x100", "range=-1..1,round=ceil")),
    "nf4:group=128", "nf4:scale_type=nested8", "fp4:group=4096", "fp4:scale_type=nested8", "nf4:range=-0.5..0.25",
    "fbgemm_rowwise8:range=-1..1", "fbgemm_rowwise4:range=-1..1",
    "mlx_q3:group=32", "mlx_q3:group=128", "mlx_q3:range=-1..2", "mlx_q5:group=128",
    "mxfp4:dialect=mlx", "mxfp4:dialect=ggml", "mxfp8_e4m3:dialect=mlx", "nvfp4:dialect=mlx",
    "lloyd:levels=2", "lloyd:levels=8", "lloyd:levels=64", "lloyd:levels=256", "lloyd:axis=0", "lloyd:group=64,levels=4",
    "lloyd:axis=0,levels=128", "ternary:axis=0", "ternary:group=32",
    "bits:dialect=sentence_transformers", "bits:dialect=usearch", "int8:dialect=usearch",
    *(f"{s}:dialect=sentence_transformers{k}" for s in ("int8", "uint8") for k in ("", ",range=-1..0.5", ",group=32")),
    "nvfp4:dialect=modelopt", "fp8_e4m3:dialect=modelopt", "fp8_e4m3:dialect=modelopt,block=4x100",
    *(f"{s}:{k}" for s in ("binary", "pow2") for k in ("axis=0", "axis=-1", "group=32", "range=minmax", "range=-0.5..0.25")),
]
SIGMAS = ["int8:range=3sigma", "int8:axis=0,range=2.5sigma", "uint8:axis=-1,range=3sigma", "int8:axis=1,range=1sigma",
          "int4:group=10,range=2sigma,tail=short", "fp8_e4m3:per=tensor,range=3sigma", "nf4:range=2sigma",
          "fbgemm_rowwise8:range=3sigma", "fbgemm_rowwise2:range=2sigma", "int3:group=10,range=2sigma,tail=short", "int32:range=3sigma",
          "uint6:range=3sigma", *(f"int3:layout=words,{k}range=2sigma" for k in ("", "axis=0,")),
          "int5:layout=words,group=10,range=absmean,tail=short", "int6:layout=words,axis=1,range=2sigma",
          "int8:dialect=sentence_transformers,axis=0,range=2sigma", "fp6_e2m3:group=10,range=2sigma,tail=short",
          *(f"binary:{k}" for k in ("per=tensor", "axis=0", "axis=-1", "axis=1", "group=10,tail=short", "range=3sigma")),
          "pow2:range=2sigma",
          *(f"{s}:outliers=2,{k}" for s in ("int8", "int16") for k in ("range=3sigma", "axis=-1,range=3sigma",
                                                                        "axis=0,range=2sigma", "axis=1,range=1sigma")),
          "int8:outliers=2,group=10,range=2sigma,tail=short", "int8:outliers=1,axis=0,range=absmean"]
PERCENTILES = ["int8:range=p99", "uint8:range=p99.9", "uint8:mode=full,range=p90", "int8:axis=0,range=p99.9",
               "uint4:group=100,range=p80,tail=short", "fp8_e4m3:per=tensor,range=p99.5", "nf4:range=p90", "int32:range=p99",
               "fbgemm_rowwise8:range=p99", "fbgemm_rowwise2:range=p95", "int8:block=2x700,range=p99,tail=short",
               "int8:axis=-1,range=p90", "uint4:axis=1,range=p80", "fp8_e4m3:axis=1,range=p95"]
ERRORS = ["int4:range=mse,group=128", "int4:range=mse,axis=0", "uint4:range=mse", "int3:range=mse,group=512,round=truncate",
          "int8:range=mse,axis=0,round=stochastic,seed=3", "fp4_e2m1:range=mse,group=64", "nf4:range=mse", "fp4:range=mse",
          "mlx_q2:range=mse", "fbgemm_rowwise2:range=mse", "fbgemm_rowwise8:range=mse", "int4:block=4x128,range=mse",
          "int32:range=mse,axis=0", "int4:range=mse,axis=0,scale_type=f16", "fp8_e4m3:per=tensor,range=mse",
          "int3:layout=words,range=mse,group=128",
          "int4:axis=-1,range=mse", "uint4:axis=1,range=mse", "fp4_e2m1:axis=-1,range=mse"]
DIVERGENCES = ["int8:range=entropy", "uint8:range=entropy,axis=0", "int8:range=entropy,group=128",
               "fp8_e4m3:block=4x100,range=entropy", "fbgemm_rowwise8:range=entropy", "int8:axis=-1,range=entropy"]
FAR = [*(s for s in SCHEMES if s not in ("fp16", "bf16")), *(f"{s}:axis=0" for s in SMALL_FLOATS),
       *(f"{s}:axis=0" for s in ("uint2", "uint3", "int64")), "int8:axis=0,mode=full", "uint8:axis=0", "uint4:group=64",
       *(f"int8:axis=0,mode=asymmetric,scale_type={t}" for t in ("f16", "bf16", "pow2", "dyadic16")),
       *(f"{s}:axis=0,mode=full,scale_type=dyadic16" for s in ("int4", "uint2", "int16")),
       "int4:axis=0,outliers=1", "fp8_e4m3:outliers=3",
       "int4:group=64,scale_type=f16",
       *(f"int8:dialect=compressed_tensors,axis=0,mode={m}" for m in ("full", "asymmetric")),
       "ternary:axis=0", "lloyd:group=128,levels=4",
       "int4:axis=0,range=mse", "uint8:range=mse", "uint8:axis=0,range=p90", "int8:range=entropy", "uint8:axis=-1,range=p90", "int4:axis=-1,range=mse",
       "nf4:scale_type=nested8", "fp8_e4m3:axis=0", "fp8_e4m3:axis=0,dialect=compressed_tensors", "mlx_q3:group=32",
       "mxfp4:dialect=mlx", "mxfp4:dialect=ggml", "mxfp8_e4m3:dialect=mlx", "nvfp4:dialect=mlx",
       "nvfp4:dialect=modelopt", "fp8_e4m3:dialect=modelopt", "int8:dialect=usearch",
       *(f"{s}:dialect=sentence_transformers" for s in ("int8", "uint8"))]
ODD = ["int8:outliers=1", "int3:outliers=37", "uint4:axis=-1,outliers=2", "uint5:group=7,tail=short,outliers=3",
       "q4_0:tail=pad,outliers=3", "nf4:outliers=1", "int4:block=2x5,tail=short,scale_type=dyadic16,outliers=2",
       "int3:layout=words,outliers=2", "ternary:axis=0,outliers=1", "int8:axis=-1,range=p90,outliers=2",
       "int8:group=10,tail=short", "uint4:group=7,tail=short", "int4:block=2x5,tail=short", "int4:per=tensor",
       "int8:axis=1", "fp8_e4m3:block=2x5", "q8_0:tail=pad", "q4_0:tail=pad", "q5_1:tail=pad", "tq1_0:tail=pad",
       "int3:layout=words,axis=1", "int5:layout=words,group=7,tail=short", "int8:layout=words",
       "int3:axis=1", "uint5:group=7,tail=short", "int6:per=tensor", "fp6_e2m3", "fp6_e3m2:block=2x5",
       "fp4_e2m1:axis=1", "int64:axis=1", "mxfp4:dialect=ggml,tail=pad", "nvfp4:tail=pad", "fp4",
       "nvfp4:dialect=modelopt,tail=pad", "int8:dialect=usearch", "int8:dialect=sentence_transformers", "uint8:dialect=sentence_transformers,group=7,tail=short",
       *(f"{s}:tail=pad" for s in MX), "nf4", "lloyd", "lloyd:levels=8", "lloyd:levels=128",
       "fbgemm_rowwise8", "fbgemm_rowwise4", "fbgemm_rowwise2", "bits", "bits:dialect=sentence_transformers",
       "ternary", "ternary:axis=0", "ternary:group=7,tail=short", "lloyd:axis=0,levels=8", "lloyd:group=10,levels=4,tail=short",
       "binary", "binary:axis=1", "binary:group=7,tail=short", "pow2", "pow2:axis=1", "pow2:group=7,tail=short"]


def write_file(path, tensors):
    header, offset = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, a in tensors.values()))


def in_file_types(x):
    """The values in every type that is quantized."""
    tensors = {}
    for file_type, dtype in INPUT_TYPES.items():
        if dtype == "bf16":
            values = narrow(x.astype(np.float32), "bf16").astype("<u2")
        elif dtype == "f16":
            values = x.astype(np.float16).view("<u2")
        elif dtype[0] == "f":
            values = x.astype(FILE_TYPES[file_type])
        else:
            bounds = np.iinfo(FILE_TYPES[file_type])
            values = np.clip(np.rint(x * 20), max(bounds.min, -1e9), min(bounds.max, 1e9))
            values = values.astype(FILE_TYPES[file_type])
        tensors[f"{dtype} ü"] = (file_type, values)
    return tensors


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Files by name: of aligned shapes, of odd ones, of long ones, of values that are not finite."""
    rng = np.random.default_rng(23)
    folder = tmp_path_factory.mktemp("definitions")
    x = rng.standard_normal((8, 512)) * 10.0 ** rng.integers(-3, 3, (8, 1))
    x[3] = 0
    x[4] = 0.125  # a row of one value
    x[5, ::2] = -0.0
    x[6] = np.tile(np.arange(-16, 16) / 2, 16)  # ties
    x[7, :256] = np.abs(x[7, :256])
    odd = rng.standard_normal((5, 3, 37)) * np.linspace(0.01, 5, 37)
    long = (rng.standard_normal((2, 3, 35001)) + 5).astype(np.float32)
    long[1, 1, 7] = 3e18  # whose square f32 does not hold
    long[0, 2] *= np.float32(1e-20)
    stray = x.astype(np.float32)
    stray[0, 5], stray[1, 6], stray[2, 7] = np.nan, np.inf, -np.inf
    stray.view(np.uint32)[4, 8:12] = [0x7F800001, 0xFFC00000, 0x7FABCDEF, 0xFF800001]
    wide = np.array([[65503.9, 65504, 65519.99, 65520, 1e9, -65520, 447.9, 448, 463.9, 464, 1e30, -1e30, 6e-8,
                      2.9e-8, 3e-8, 1e-30, -1e-30, 2.0**-10, 2.0**-149, 3.39e38, 0.0, -0.0, 2049, 257]])
    far = rng.uniform(-1, 1, (10, 512)).astype(np.float32)
    far[:5] *= np.array([[3.4028235e38], [3.4e38], [1.7e38], [1e36], [1e7]], np.float32)
    far[5:] *= np.array([[1e-5], [1e-20], [1e-36], [1e-39], [1e-44]], np.float32)
    far[:, 0], far[1:3, 1], far[0, 9] = np.abs(far[:, 1:]).max(axis=1), -far[1:3, 0], -3.4028235e38
    files = {
        "all": in_file_types(x), "odd": in_file_types(odd),
        "long": {"w": ("F32", long), "d": ("F64", long.astype(np.float64))},
        "stray": {"w": ("F32", stray), "d": ("F64", stray.astype(np.float64))},
        "far": {"w": ("F32", far), "d": ("F64", far.astype(np.float64)),
                "b": ("BF16", narrow(far, "bf16").astype("<u2"))},
        "wide": {"w": ("F32", wide.astype(np.float32)), "d": ("F64", wide)},
    }
    files["odd"]["scalar"] = ("F32", np.array(-3.25, np.float32))
    for name, tensors in files.items():
        write_file(folder / f"{name}.safetensors", tensors)
    return {name: folder / f"{name}.safetensors" for name in files}


def check_values(text, dtype, shape, planes, theirs, of_type):
    """Compares decoded values of a tensor of `of_type` with those in `theirs`."""
    scheme, spec = parse_spec(text)
    ours = decoded(lambda u: decode(scheme, spec, shape, planes, u), dtype)
    if "outliers" in spec:
        ours = restore_outliers(ours, planes, of_type, dtype)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, (text, dtype)
    assert ours.tobytes() == theirs.tobytes(), (text, dtype, where(ours, theirs))


def check_planes(text, name, dtype, values, planes):
    """Compares planes with those that encoding by the page gives."""
    scheme, spec = parse_spec(text)
    x, outliers = working(values, dtype), {}
    if "outliers" in spec:
        x, outliers = take_outliers(x, values, int(spec["outliers"]))
    ours = encode(scheme, spec, name, x, dtype) | outliers
    assert list(ours) == list(planes), text
    for plane, (_, theirs) in planes.items():
        mine = np.asarray(ours[plane])
        assert mine.shape == theirs.shape and mine.itemsize == theirs.itemsize, (text, plane, mine.shape)
        assert mine.tobytes() == theirs.tobytes(), (text, dtype, plane, where(mine, theirs))


def where(ours, theirs):
    ours, theirs = np.ravel(ours), np.ravel(theirs)
    at = np.flatnonzero(ours.view(f"u{ours.itemsize}") != theirs.view(f"u{theirs.itemsize}"))
    return len(at), at[:5], ours[at[:5]], theirs[at[:5]]


def check_file(original, spec, folder, types=("f32", "f64", "f16", "bf16")):
    """Through files and quantctl."""
    packed = folder / "packed.safetensors"
    quantctl("quantize", original, "-o", packed, "--to", spec, "--include", ".", "--no-figures")
    entries, (originals, _) = packed_tensors(packed), read_file(original)
    assert entries
    for name, (text, dtype, _, planes) in entries.items():
        assert dtype == INPUT_TYPES[originals[name][0]]
        check_planes(text, name, dtype, originals[name][1], planes)
    for dtype in types:
        back = folder / f"back.{dtype}.safetensors"
        quantctl("dequantize", packed, "-o", back, "--dtype", dtype)
        values, _ = read_file(back)
        for name, (text, of_type, shape, planes) in entries.items():
            check_values(text, dtype, shape, planes, values[name][1], of_type)


@pytest.fixture(scope="module")
def call(stubs, server):
    """check(file, spec, types): through messages, of each tensor of a file."""
    pb, services = stubs
    wire = {"F32": pb.DATA_TYPE_F32, "F64": pb.DATA_TYPE_F64, "F16": pb.DATA_TYPE_F16, "BF16": pb.DATA_TYPE_BF16,
            "I8": pb.DATA_TYPE_INT8, "I16": pb.DATA_TYPE_INT16, "I32": pb.DATA_TYPE_INT32, "I64": pb.DATA_TYPE_INT64,
            "U8": pb.DATA_TYPE_UINT8, "U16": pb.DATA_TYPE_UINT16, "U32": pb.DATA_TYPE_UINT32,
            "F8_E4M3": pb.DATA_TYPE_F8_E4M3, "F8_E5M2": pb.DATA_TYPE_F8_E5M2}
    names = {number: name for name, number in wire.items()}

    def check(path, spec, types=("f32", "f64"), only=""):
        for name, (file_type, values) in read_file(path)[0].items():
            if not name.endswith(only):
                continue
            tensor = pb.TensorDescriptor(name=name, data_type=wire[file_type], shape=values.shape)
            start = pb.QuantizeStart(tensor=tensor, spec=pb.QuantizationSpec(text=spec))
            made = stub.Quantize(pb.QuantizeRequest(start=start, data=values.tobytes()))
            text = made.start.plan.resolved_spec
            planes = {}
            for plane in made.planes:
                kind = names[plane.plane.data_type]
                array = np.frombuffer(plane.data, FILE_TYPES[kind]).reshape(plane.plane.shape)
                planes[plane.plane.name] = (kind, array)
            check_planes(text, name, INPUT_TYPES[file_type], values, planes)
            for dtype in types:
                head = pb.DequantizeStart(tensor=tensor, spec=pb.QuantizationSpec(text=text),
                                          output_data_type=wire[dtype.upper()])
                back = stub.Dequantize(pb.DequantizeRequest(start=head, planes=made.planes))
                theirs = np.frombuffer(back.data, FILE_TYPES[dtype.upper()]).reshape(values.shape)
                check_values(text, dtype, values.shape, planes, theirs, INPUT_TYPES[file_type])

    with grpc.insecure_channel(server.address) as channel:
        stub = services.QuantizationServiceStub(channel)
        yield check


def test_file_holds_the_page():
    assert quantctl("schemes", "--definitions").stdout.decode() == (ROOT / "core/scheme/DEFINITIONS.md").read_text()


@pytest.mark.parametrize("spec", SPECS)
def test_every_type(inputs, call, spec):
    call(inputs["all"], spec)


@pytest.mark.parametrize("spec", ODD)
def test_odd_shapes(inputs, call, spec):
    call(inputs["odd"], spec, only="" if "per" in spec or spec in ("lloyd", "lloyd:levels=8", "lloyd:levels=128", "ternary", "nf4", "fp4") else "ü")


@pytest.mark.parametrize("spec", SIGMAS)
def test_ranges_by_deviation(inputs, call, spec):
    call(inputs["long"], spec, types=["f32"])


@pytest.mark.parametrize("spec", PERCENTILES)
def test_ranges_by_percentile(inputs, call, spec):
    call(inputs["long"], spec, types=["f32"])


@pytest.mark.parametrize("spec", ERRORS + DIVERGENCES)
def test_ranges_by_search(inputs, call, spec):
    call(inputs["all"], spec, types=["f32"])


@pytest.mark.parametrize("spec", ["int3:axis=0,range=mse", "int8:range=entropy", "int4:block=2x9000,range=mse,tail=short"])
def test_ranges_of_long_bands_by_search(inputs, call, spec):
    call(inputs["long"], spec, types=["f32"])


@pytest.mark.parametrize("spec", FAR)
def test_values_near_the_ends_of_f32(inputs, call, spec):
    call(inputs["far"], spec, ("f32", "f64", "f16", "bf16"))


@pytest.mark.parametrize("spec", ["int8:nonfinite=saturate,outliers=2", "int4:axis=0,nonfinite=saturate,outliers=512",
                                  "q8_0:nonfinite=saturate,outliers=511", "fp16:nonfinite=propagate,outliers=512",
                                  "int8:nonfinite=saturate", "uint4:axis=0,nonfinite=saturate",
                                  "int4:group=32,range=3sigma,nonfinite=saturate", "lloyd:nonfinite=saturate",
                                  "bits:nonfinite=saturate", "binary:axis=0,nonfinite=saturate", "ternary:nonfinite=saturate", "ternary:axis=0,nonfinite=saturate",
                                  "lloyd:axis=0,nonfinite=saturate", "pow2:axis=0,nonfinite=saturate",
                                  "nf4:nonfinite=saturate", "q8_0:nonfinite=saturate", "q4_0:nonfinite=saturate",
                                  "q5_1:nonfinite=saturate", "tq2_0:nonfinite=saturate",
                                  "mxfp4:dialect=ggml,nonfinite=saturate", "nvfp4:nonfinite=saturate",
                                  *(f"{s}:nonfinite=saturate" for s in MX),
                                  "fp8_e4m3:axis=0,nonfinite=saturate",
                                  "int3:layout=words,axis=0,nonfinite=saturate", "nvfp4:dialect=modelopt,nonfinite=saturate",
                                  *(f"int8:dialect={d},nonfinite=saturate" for d in ("usearch", "sentence_transformers")),
                                  "int32:nonfinite=saturate", "fp4_e2m1:axis=0,nonfinite=saturate",
                                  *(f"{s}:nonfinite={p}" for s in ("fp16", "bf16", "f32", "f64", "fp8_e4m3", "fp8_e5m2")
                                    for p in ("saturate", "propagate"))])
def test_values_that_are_not_finite(inputs, call, spec):
    call(inputs["stray"], spec, ("f32", "f64", "f16", "bf16"))


@pytest.mark.parametrize("spec", [f"{s}:nonfinite={p},round={r}" for s in ("fp16", "bf16", "fp8_e4m3")
                                  for p in ("reject", "propagate") for r in ROUNDINGS]
                         + [*SMALL_FLOATS, "fp8_e5m2:nonfinite=propagate", "f32", "f32:nonfinite=propagate",
                            "int64", "int32:scale=1"])
def test_ends_of_floats(inputs, call, spec):
    call(inputs["wide"], spec)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files(inputs, scheme, tmp_path):
    check_file(inputs["all"], scheme, tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_real_model(scheme, tmp_path):
    blocks = {*definition_ggml.BLOCKS, *MX, "nvfp4"}
    tail = ",tail=pad" if scheme in blocks else ""
    check_file(MODEL, f"{scheme}:incompatible=keep{tail}", tmp_path, ["f32"])


@pytest.mark.parametrize("text", [*SEARCHED, *(f"{s}{t}" for s in definition_ggml.SIMPLE for t in ("", ":tail=pad"))])
def test_importance(stubs, server, text):
    pb, services = stubs
    rng = np.random.default_rng(5)
    scheme, padded = text.partition(":")[::2]
    columns = 500 if padded else 512
    x = (rng.standard_normal((12, columns)) * 10.0 ** rng.integers(-3, 3, (12, 1))).astype(np.float32)
    x[3] = 0
    if scheme in definition_ggml.SIMPLE:
        x[4, 40:50] *= 1e7  # beyond f16
        x[5, 40] = 1e25  # whose energy is infinite
    weights = rng.random(columns).astype(np.float32)
    start = pb.QuantizeStart(tensor=pb.TensorDescriptor(name="w", data_type=pb.DATA_TYPE_F32, shape=x.shape),
                             spec=pb.QuantizationSpec(text=text), importance=weights)
    with grpc.insecure_channel(server.address) as channel:
        stub = services.QuantizationServiceStub(channel)
        response = stub.Quantize(pb.QuantizeRequest(start=start, data=x.tobytes()))
    by_page = SEARCHED.get(scheme, definition_ggml)
    assert by_page.encode(scheme, x, np.tile(weights, (12, 1))).tobytes() == response.planes[0].data


def test_schemes_are_defined_wherever_they_are_listed(stubs, server):
    page = (ROOT / "core/scheme/DEFINITIONS.md").read_text()
    pb, services = stubs
    with grpc.insecure_channel(server.address) as channel:
        listed = services.QuantizationServiceStub(channel).ListSchemes(pb.ListSchemesRequest())
    assert page == listed.common_definition + "".join(f"\n## {s.name}\n\n{s.definition}" for s in listed.schemes)
    assert [scheme.name for scheme in listed.schemes] == SCHEMES
    for scheme in listed.schemes:
        assert scheme.definition in quantctl("schemes", scheme.name).stdout.decode()
        (as_json,) = quantctl_json("schemes", scheme.name, "--server", server.address)["schemes"]
        assert as_json["definition"] == scheme.definition


def test_unknown_scheme_is_named():
    message = error_of("schemes", "int7", code=2)
    assert '"int7"' in message and "int8" in message
