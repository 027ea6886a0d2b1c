"""Writes seeds for the fuzz targets: specs, frames, requests and files such as users have.

    make_seeds.py FOLDER    (by a Python that has tests/requirements.txt)

FOLDER/NAME gets the seeds of NAME_fuzz.cc; the head of that file tells the form of its inputs.
"""

import hashlib
import io
import pathlib
import re
import struct
import sys
import tempfile

import numpy as np
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = ["f64", "f32", "f16", "bf16", "int8", "int16", "int32", "int64", "uint8"]  # as in dtype.h
SPECS = [
    "int8", "int8:axis=0", "int8:axis=-1,range=2.5sigma", "int4:group=128,mode=asymmetric",
    "uint4:group=7,tail=short", "uint8:block=3x5,tail=short,range=3sigma", "int16:scale_type=pow2",
    "int8:round=stochastic,seed=42", "int8:round=truncate,scale=0.02,zero=3", "fp16", "bf16",
    "fp16:nonfinite=propagate", "int8:nonfinite=saturate", "uint8:range=-1.5..2,axis=0", "q8_0",
    "q8_0:tail=pad", "nf4", "nf4:group=128", "nvfp4", "nvfp4:tail=pad", "q8_0:incompatible=int8",
    "int8:dialect=onnx,mode=full,scale_type=f16", "uint4:mode=symmetric,round=half_away",
    "int4:outliers=3,axis=0", "int8:outliers=33,nonfinite=saturate", "uint8:scale_type=dyadic16,axis=-1",
    "uint8:range=p99.9", "int4:group=32,range=p90", "int4:axis=0,range=mse", "int8:range=entropy",
]
# Of every row of the registry, and of the dialects that have bytes of their own.
ROWS = re.findall(r"^QUANTD_SCHEME\((\w+)\)", (ROOT / "core/scheme/schemes.def").read_text(), re.M) + [
    "mxfp4:dialect=ggml", "mxfp4:dialect=mlx", "mxfp8_e4m3:dialect=mlx", "nvfp4:dialect=mlx",
    "nvfp4:dialect=compressed_tensors", "int4:dialect=compressed_tensors,group=128",
    "nf4:scale_type=nested8", "lloyd:levels=256", "lloyd:levels=2", "lloyd:group=32,levels=4", "ternary:axis=0"]
SHAPES = [(6, 64), (5, 3, 32), (700,), (130, 160), (1, 20000), (2, 9001), (), (0, 5), (33, 33)]


def messages():
    """Returns the module that grpcio-tools makes of the proto."""
    folder = tempfile.mkdtemp()
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    assert 0 == protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}",
                             f"--python_out={folder}", "quantd/v1/quantization.proto"])
    sys.path.insert(0, folder)
    from quantd.v1 import quantization_pb2

    return quantization_pb2


def sessions():
    """Cases of both session targets: spec, dtype, shape, flags, seed, values."""
    rng = np.random.default_rng(1)
    cases = [(SPECS[i % len(SPECS)], DTYPES[1 if i < 25 else i % len(DTYPES)], SHAPES[(i * 5) % len(SHAPES)])
             for i in range(60)]
    cases += [(spec, DTYPES[1 + i % 2], (3 + i % 5, 512)) for i, spec in enumerate(ROWS)]
    for i, (spec, dtype, shape) in enumerate(cases):
        spec = spec.encode()
        values = rng.standard_normal(160).astype({"f64": "f8", "f16": "f2"}.get(dtype, "f4"))
        if i % 7 == 0:
            values[rng.integers(160)] = [np.nan, np.inf, 3e38, 1e-45][i % 4]
        yield (bytes([len(spec)]) + spec + bytes([DTYPES.index(dtype), len(shape)]) +
               struct.pack(f"<{len(shape)}H", *shape) + bytes([i % 16]) +
               struct.pack("<I", i) + values.tobytes())


def start_of(pb, kind, i):
    start = kind()
    start.tensor.name = f"layer.{i}"
    start.tensor.data_type = 1 + i % 9
    start.tensor.shape.extend(SHAPES[i % 4])
    if i % 3:
        start.spec.text = SPECS[i % len(SPECS)]
        return start
    spec = start.spec
    spec.scheme = SPECS[i % len(SPECS)].split(":")[0]
    spec.mode, spec.rounding, spec.scale_type = i % 4, i % 9, i % 5
    spec.non_finite, spec.tail, spec.range = i % 4, i % 4, ["", "minmax", "3sigma"][i % 3]
    if i % 2:
        spec.group_elems = 32
    else:
        spec.block.rows, spec.block.cols = 2, 16
    spec.scale, spec.seed, spec.dialect = 0.5, 7, ["", "onnx"][i % 2]
    return start


def requests(pb):
    """Inputs of convert: a kind and the message of that kind."""
    for i in range(24):
        quantize = start_of(pb, pb.QuantizeStart, i)
        if i % 5 == 0:
            slots = quantize.output_slots
            slots.offset, slots.slot_bytes, slots.count, slots.flags_offset = 4096, 1 << 18, i, 64
        if i % 4 == 0:
            groups = [1, 6, 12][i % 3]
            quantize.ranges.min.extend([-1.0] * groups)
            quantize.ranges.max.extend([2.0] * groups)
            quantize.ranges.tensor.min, quantize.ranges.tensor.max = -1, 2
        yield bytes([0]) + quantize.SerializeToString()
        dequantize = start_of(pb, pb.DequantizeStart, i)
        dequantize.output_data_type = i % 5
        yield bytes([1]) + dequantize.SerializeToString()
        calibrate = start_of(pb, pb.CalibrateStart, i)
        calibrate.column_moments, calibrate.gram = i % 2 == 0, i % 5 == 0
        state = calibrate.merge.add()
        for _ in range([1, 6][i % 2]):
            state.groups.add(count=64, min=-1, max=2, mean=0.1, centred_second_moment=3)
        state.tensor.CopyFrom(state.groups[0])
        state.rows = 6
        yield bytes([2]) + calibrate.SerializeToString()
        plan = pb.PlanRequest(tensor=quantize.tensor, spec=quantize.spec, with_ranges=i % 2 == 0)
        yield bytes([3]) + plan.SerializeToString()
    response = pb.QuantizeResponse()
    response.start.tensor.CopyFrom(quantize.tensor)
    response.start.plan.planes.add(name="codes", data_type=5, shape=[6, 64], size_bytes=384)
    response.report.digests["codes"] = "xxh3:0123456789abcdef"
    response.report.figures.count = 384
    yield bytes([4]) + response.SerializeToString()
    ranges = dict(min=[-1], max=[1], tensor=dict(min=-1, max=1))
    yield bytes([5]) + pb.CalibrateResponse(ranges=ranges, state=state).SerializeToString()


def frames(pb):
    """Inputs of frame_codec: kind, cuts, message."""
    for i in range(12):
        chunk = pb.Chunk(plane=["values", "", "codes"][i % 3], offset=[0, 4096, 1 << 40][i % 3],
                         data=bytes(range(i * 20)))
        if i % 2:
            chunk.crc32c = 0x12345678 + i
        request = pb.StreamingQuantizeRequest(tensor_id=i * 1000, chunk=chunk)
        yield bytes([0, i]) + request.SerializeToString()
        response = pb.StreamingQuantizeResponse(tensor_id=i, chunk=chunk)
        yield bytes([1, i]) + response.SerializeToString()
        yield bytes([2, i]) + pb.CalibrateRequest(chunk=chunk).SerializeToString()
        request.start.CopyFrom(start_of(pb, pb.QuantizeStart, i))
        yield bytes([0, i]) + request.SerializeToString()
    request.end.SetInParent()
    yield bytes([0, 3]) + request.SerializeToString()
    response = pb.StreamingQuantizeResponse(tensor_id=9)
    response.error.code, response.error.message = 3, "spec.text: unknown key"
    yield bytes([1, 3]) + response.SerializeToString()
    chunk = pb.Chunk(plane="codes", offset=4096, shared=dict(offset=1 << 20, size_bytes=65536))
    for shared in [chunk, pb.Chunk(shared={}), pb.Chunk(shared=dict(offset=-1), data=b"both")]:
        yield bytes([0, 5]) + pb.StreamingQuantizeRequest(chunk=shared).SerializeToString()
        yield bytes([1, 5]) + pb.StreamingQuantizeResponse(chunk=shared).SerializeToString()
    response.released.offsets.append(1 << 20)
    yield bytes([1, 7]) + response.SerializeToString()


def container_files():
    """The beginnings of the files in tests/data and tests/golden, and small whole ones."""
    from safetensors.numpy import save

    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.ones(5, np.int8), "c": np.zeros((0, 4))}
    yield save(arrays)
    yield save(arrays, metadata={"author": "tests", "quantd.spec": "int8"})
    yield save({"scalar": np.array(3.5, np.float16)})
    # What others write and this carries on: no metadata, types that are none of ours, further keys.
    header = (b'{"__metadata__":null,"z":{"dtype":"C64","shape":[2],"data_offsets":[0,16],"k":[1,{"a":-2.5}]},'
              b'"f":{"dtype":"F4","shape":[3,2],"data_offsets":[16,19],"k":true,"l":null},'
              b'"n":{"dtype":"NEW_7","shape":[5],"data_offsets":[19,20]}}')
    yield struct.pack("<Q", len(header)) + header + bytes(20)
    yield header
    for path in sorted(ROOT.glob("tests/*/*.safetensors")):
        data = path.read_bytes()
        header = data[8:8 + struct.unpack("<Q", data[:8])[0]]
        yield header[:1500]  # cut short
        if len(header) < 6000:
            yield header


def npy_files():
    for array in (np.zeros((2, 3), "<f4"), np.arange(7, dtype="<i8"), np.array(1.5),
                  np.zeros((3, 2), "<f2", order="F"), np.zeros(2, ">f4"), np.zeros((0, 4), "?"),
                  np.zeros(3, "V2"), np.zeros((1,) * 16, "u1"),
                  np.zeros((2, 3, 4), ">f8", order="F"), np.zeros((9, 30), "u1", order="F")):
        for version in [(1, 0), (2, 0), (3, 0)]:
            out = io.BytesIO()
            np.lib.format.write_array(out, array, version=version)
            yield bytes([15 if array.dtype.kind != "V" else 3]) + out.getvalue()
    for text in ("{'descr': 'f4', 'fortran_order': False, 'shape': (2L, 1L), }",
                 '{u"shape":(1,2,), "fortran_order" :True,"descr":"single"}',
                 "{'descr': 'bfloat16', 'fortran_order': True, 'shape': (2, 2)}"):
        yield b"\x0f\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode() + bytes(8)


def token_files():
    """Files as `quantctl token` makes their lines, and as people garble them."""
    hashes = [hashlib.sha256(bytes([i])).hexdigest() for i in range(4)]
    limits = ["", " streams=4", " in_flight=64MiB", "\tstreams=1  in_flight=9223372036854775807",
              " in_flight=3GiB streams=12", " streams=0", " in_flight=8EiB", " bursts=3"]
    for limit in limits:
        yield f"# who may call\n\n  alice {hashes[0]}{limit}\r\nbob.2@x-y_z {hashes[1].upper()}\n".encode()
    yield "".join(f"name{i} {hashes[i]}\n" for i in range(4)).encode()
    yield f"a {hashes[0]}\nb {hashes[0]}\n".encode()
    yield f"my-secret-token\na {hashes[0]}".encode()


def config_files():
    """The example, line by line and whole, and values of each kind for each key."""
    example = (ROOT / "deploy" / "quantd.toml").read_text()
    yield example.encode()
    lines = [line for line in example.splitlines() if line and not line.startswith("#")]
    for i in range(0, len(lines), 4):
        yield "\n".join(lines[i:i + 4]).encode()
    values = ["1", "0.5", "-1", "nan", "inf", "1e400", "0x10", "0o660", "true", '"64MiB"', "'0660'",
              '["127.0.0.1:1", "unix:/tmp/a#b"]', "[1, [2]]", "[]", '"""a\nb"""', "1979-05-27", '"a\\"\\u00e9"']
    for i, line in enumerate(lines):
        yield f"{line.split(' =')[0]} = {values[i % len(values)]}\n".encode()
    yield b"[server]\nmemory = 1"
    yield b'memory.x = 1\n"log-level" = "debug"\ncheck-config = true'


def choices():
    """Of call_fuzz: which memory is refused, and what happens next."""
    rng = np.random.default_rng(2)
    for i in range(64):
        yield struct.pack("<H", i if i % 4 == 0 else 0) + rng.bytes(16 + 8 * i)


def conversations():
    """Of frame_walker_fuzz: what clients of HTTP/2 send, in pieces of different lengths."""
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    import raw_http2 as h2

    call = h2.open_call(1, "/quantd.v1.QuantizationService/Quantize", ("k", "v" * 300))
    frames = [h2.settings((4, 65535)), call, h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(b"x" * 40)),
              h2.frame(h2.HEADERS, 0, 3, b"\x82\xbe\x7f\xff\xff\x0f" + b"\x40" + h2.text("a") + h2.text("b")),
              h2.frame(h2.CONTINUATION, h2.END_HEADERS, 3, b"\x3f\xe1\x1f\x44\x85abcde"), h2.reset(3, h2.CANCEL),
              h2.frame(h2.PING, 0, 0, bytes(8)), h2.goaway(3), h2.frame(h2.HEADERS, 0x2c, 5, b"\1" * 20)]
    for i in range(len(frames)):
        yield bytes([7 * i]) + b"".join(frames[i:] + frames[:i])
        yield bytes([i]) + frames[i][:-1]


def main():
    folder = pathlib.Path(sys.argv[1])
    pb = messages()
    seeds = {
        "spec": (spec.encode() for spec in SPECS + ROWS),
        "quantize_session": sessions(),
        "dequantize_session": sessions(),
        "convert": requests(pb),
        "frame_codec": frames(pb),
        "safetensors": container_files(),
        "npy": npy_files(),
        "tokens": token_files(),
        "config_file": config_files(),
        "call": choices(),
        "frame_walker": conversations(),
    }
    for name, inputs in seeds.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(inputs):
            (folder / name / f"seed-{i:02}").write_bytes(data)


if __name__ == "__main__":
    main()
