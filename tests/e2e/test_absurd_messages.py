"""Messages that are well-formed and absurd: refused with a clean code, at no great cost."""

import grpc
import numpy as np
import pytest
from conftest import SANITIZED, quantctl, surviving_server
from google.protobuf.descriptor import FieldDescriptor as Field

MIB = 1 << 20
SERVICE = "/quantd.v1.QuantizationService/"
RAW = dict(request_serializer=None, response_deserializer=None)
# What a peer may be told about its own messages; OK where chance made a good one.
CLEAN_CODES = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
               grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED,
               grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE,
               grpc.StatusCode.DATA_LOSS}
CLEAN_NUMBERS = {code.value[0] for code in CLEAN_CODES}
INTEGERS = [0, 1, -1, 2, 3, 16, 127, 4096, 2**31 - 1, -2**31, 2**31, 2**32, 2**53 + 1, 2**62,
            2**63 - 1, -2**63, 2**64 - 1]
NUMBERS = [0.0, -0.0, 1.0, -1.5, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan")]
TEXTS = ["", "int8", "int8:axis=0", "uint4", "fp16", "q8_0", "nf4", "nvfp4", "minmax", "3sigma",
         "99999999sigma", "onnx", "codes", "scale", "values", "int8:group=9223372036854775807",
         "int8:scale=1e-320", "nvfp4:incompatible=nvfp4", "\0", "a" * 1025, "int8,int8",
         "\u202e", "%s%n", "../../etc/passwd"]
RANGES = {Field.CPPTYPE_INT32: (-2**31, 2**31), Field.CPPTYPE_INT64: (-2**63, 2**63),
          Field.CPPTYPE_UINT32: (0, 2**32), Field.CPPTYPE_UINT64: (0, 2**64)}


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A server that lives through all tests here."""
    with surviving_server(tmp_path_factory.mktemp("victim"), "--log-level", "off") as server:
        yield server


@pytest.fixture(scope="module")
def channel(victim):
    with grpc.insecure_channel(victim.address,
                               options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def scalar(field, rng):
    kind = field.cpp_type
    if kind in RANGES:
        low, high = RANGES[kind]
        legal = [value for value in INTEGERS if low <= value < high]
        return legal[rng.integers(len(legal))]
    if kind in (Field.CPPTYPE_DOUBLE, Field.CPPTYPE_FLOAT):
        return NUMBERS[rng.integers(len(NUMBERS))]
    if kind == Field.CPPTYPE_BOOL:
        return bool(rng.integers(2))
    if kind == Field.CPPTYPE_ENUM:
        return int(rng.choice([0, 1, 2, 3, 4, 5, 8, 9, 99, -1]))
    if field.type == Field.TYPE_BYTES:
        return rng.bytes(int(rng.choice([0, 1, 7, 64, 1000])))
    return TEXTS[rng.integers(len(TEXTS))]


def fill(message, rng, depth=0):
    """Sets fields by chance; what a good request needs more often than the rest."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() > (0.9 if field.name in ("start", "tensor", "spec", "shape", "data_type",
                                                 "text", "frame", "chunk") else 0.25):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[TEXTS[rng.integers(len(TEXTS))]] = "x"
        elif field.is_repeated:
            for _ in range(rng.integers(1, 6)):
                if field.cpp_type == Field.CPPTYPE_MESSAGE:
                    fill(getattr(message, field.name).add(), rng, depth + 1)
                else:
                    getattr(message, field.name).append(scalar(field, rng))
        elif field.cpp_type == Field.CPPTYPE_MESSAGE:
            if depth < 6:
                getattr(message, field.name).SetInParent()
                fill(getattr(message, field.name), rng, depth + 1)
        else:
            setattr(message, field.name, scalar(field, rng))
    return message


def code_of(call):
    try:
        return grpc.StatusCode.OK, list(call())
    except grpc.RpcError as error:
        return error.code(), []


UNARY = ["Quantize", "Dequantize", "Plan", "ListSchemes", "GetServerInfo"]
STREAMS = ["StreamingQuantize", "StreamingDequantize"]


@pytest.mark.parametrize("method", UNARY + STREAMS + ["Calibrate"])
def test_random_fields(stubs, channel, victim, method):
    messages, _ = stubs
    kind = getattr(messages, method + "Request")
    rng = np.random.default_rng(len(method))
    for number in range(150):
        requests = [fill(kind(), rng).SerializeToString() for _ in range(rng.integers(1, 5))]
        if method in UNARY:
            call = channel.unary_unary(SERVICE + method, **RAW)
            code, _ = code_of(lambda: [call(requests[0], timeout=60)])
        elif method == "Calibrate":
            call = channel.stream_unary(SERVICE + method, **RAW)
            code, _ = code_of(lambda: [call(iter(requests), timeout=60)])
        else:
            call = channel.stream_stream(SERVICE + method, **RAW)
            code, answers = code_of(lambda: call(iter(requests), timeout=60))
            for answer in answers:
                frame = getattr(messages, method + "Response").FromString(answer)
                assert frame.error.code in CLEAN_NUMBERS, (number, frame)
        assert code in CLEAN_CODES, (number, requests)


def requests_that_cost(messages):
    """Small or large messages that a careless server would spend memory on."""
    def start(shape, text, kind=messages.QuantizeStart):
        made = kind()
        made.tensor.name, made.tensor.data_type = "t", messages.DATA_TYPE_F32
        made.tensor.shape.extend(shape)
        made.spec.text = text
        return made

    huge = start([2**20, 2**20], "int8:axis=0")
    yield "Quantize", messages.QuantizeRequest(start=huge)
    yield "Quantize", messages.QuantizeRequest(start=start([2**31, 2**31], "int8:group=1,tail=pad"))
    yield "Quantize", messages.QuantizeRequest(start=start([1] * 100_000, "int8"))
    yield "Dequantize", messages.DequantizeRequest(
        start=start([2**40], "uint4:axis=0", messages.DequantizeStart))
    many = start([6, 64], "int8:axis=0")
    many.ranges.min.extend([0.0] * 900_000)
    many.ranges.max.extend([1.0] * 900_000)
    yield "Quantize", messages.QuantizeRequest(start=many)
    planes = messages.DequantizeRequest(start=start([6, 64], "int8", messages.DequantizeStart))
    for _ in range(100_000):
        planes.planes.add().plane.name = "codes"
    yield "Dequantize", planes
    calibrate = messages.CalibrateRequest(
        start=start([2**15, 2**15], "int8", messages.CalibrateStart))
    calibrate.start.gram = True
    yield "Calibrate", calibrate
    calibrate = messages.CalibrateRequest(start=start([0, 4], "int8", messages.CalibrateStart))
    for _ in range(50_000):
        calibrate.start.merge.add().groups.add(count=2**63 - 1)
    yield "Calibrate", calibrate
    yield "Plan", messages.PlanRequest(tensor=start([2**30, 2**30], "int8:axis=-1").tensor,
                                       spec=dict(text="int8:axis=-1"))


def test_claims_of_size_cost_nothing(stubs, channel, victim):
    messages, _ = stubs
    for _ in range(3):
        for method, request in requests_that_cost(messages):
            call = (channel.stream_unary if method == "Calibrate" else channel.unary_unary)(
                SERVICE + method, **RAW)
            bytes_sent = request.SerializeToString()
            code, _ = code_of(lambda: [call(iter([bytes_sent]) if method == "Calibrate"
                                            else bytes_sent, timeout=60)])
            assert code in CLEAN_CODES, (method, code)
    if not SANITIZED:
        assert victim.peak_rss_bytes() < 400 * MIB


def test_decompression_bomb(channel, victim):
    """A quarter of a MiB that unpacks to 256 MiB is refused before it is unpacked."""
    before = victim.peak_rss_bytes()
    bomb = bytes(256 * MIB)
    for method in ("Quantize", "StreamingQuantize"):
        kind = channel.unary_unary if method == "Quantize" else channel.stream_stream
        call = kind(SERVICE + method, **RAW)
        code, _ = code_of(lambda: [call(bomb, compression=grpc.Compression.Gzip, timeout=60)]
                          if method == "Quantize" else
                          call(iter([bomb]), compression=grpc.Compression.Deflate, timeout=60))
        assert code == grpc.StatusCode.UNIMPLEMENTED
    assert victim.peak_rss_bytes() < before + 64 * MIB
    quantctl("info", "--health", "--server", victim.address)


def test_ids_and_offsets_at_their_ends(stubs, channel):
    """Tensor ids are the peer's to choose; offsets are not."""
    messages, _ = stubs
    start = messages.QuantizeStart(
        tensor=dict(name="t", data_type=messages.DATA_TYPE_F32, shape=[16]), spec=dict(text="int8"))
    frames = []
    for tensor_id in (0, 2**63, 2**64 - 1):
        frames += [dict(tensor_id=tensor_id, start=start),
                   dict(tensor_id=tensor_id, chunk=dict(offset=0, data=bytes(64))),
                   dict(tensor_id=tensor_id, end={})]
    for offset in (2**63 - 1, -2**63, -1, 65):
        frames += [dict(tensor_id=5, start=start),
                   dict(tensor_id=5, chunk=dict(offset=offset, data=bytes(64))),
                   dict(tensor_id=5, end={})]
    call = channel.stream_stream(SERVICE + "StreamingQuantize", **RAW)
    code, answers = code_of(lambda: call(
        iter([messages.StreamingQuantizeRequest(**frame).SerializeToString() for frame in frames]),
        timeout=60))
    assert code == grpc.StatusCode.OK
    answers = [messages.StreamingQuantizeResponse.FromString(answer) for answer in answers]
    assert [a.tensor_id for a in answers if a.HasField("end")] == [0, 2**63, 2**64 - 1]
    assert {a.tensor_id for a in answers if a.HasField("error")} == {5}
