"""What programs can read of errors: google.rpc.Status in the trailers, details in error frames."""

import pathlib
import re
import struct
import sys

import grpc
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def rpc(tmp_path_factory):
    """Modules made of our proto/google/rpc: (status_pb2, error_details_pb2)."""
    from grpc_tools import protoc

    folder = tmp_path_factory.mktemp("rpc")
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    assert 0 == protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={folder}",
                             "google/rpc/status.proto", "google/rpc/error_details.proto"])
    sys.path.insert(0, str(folder))
    from google.rpc import error_details_pb2, status_pb2

    return status_pb2, error_details_pb2


@pytest.fixture(scope="module")
def client(stubs, server):
    with grpc.insecure_channel(server.address) as channel:
        yield stubs[0], stubs[1].QuantizationServiceStub(channel)


def unpack(details, error_details):
    """The details by the names of their messages."""
    found = {}
    for detail in details:
        name = detail.TypeName().removeprefix("google.rpc.")
        message = getattr(error_details, name)()
        assert detail.Unpack(message)
        found[name] = message
    return found


def failure(call, rpc):
    """Runs a call that must fail; returns its error and the details in its trailers."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error = raised.value
    status = rpc[0].Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return error, unpack(status.details, rpc[1])


def start(pb, shape=(4, 4), data_type=None, text="int8", **fields):
    tensor = pb.TensorDescriptor(name="w", data_type=pb.DATA_TYPE_F32 if data_type is None else data_type,
                                 shape=shape)
    return pb.QuantizeStart(tensor=tensor, spec=pb.QuantizationSpec(text=text), **fields)


def test_field(client, rpc):
    pb, stub = client
    bad = {
        "tensor.shape": start(pb, shape=(-1, 4)),
        "tensor.data_type": start(pb, data_type=77),
        "spec.text": start(pb, text="int8:nonsense=1"),
        "spec.scheme": start(pb, text=""),
        "spec": start(pb, text="int8:axis=7"),
        "max_chunk_bytes": start(pb, max_chunk_bytes=3),
    }
    for field, head in bad.items():
        error, details = failure(lambda: stub.Quantize(pb.QuantizeRequest(start=head)), rpc)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, field
        assert set(details) == {"ErrorInfo", "BadRequest"}, field
        info = details["ErrorInfo"]
        assert (info.reason, info.domain, dict(info.metadata)) == ("INVALID_FIELD", "quantd.v1", {"field": field})
        (violation,) = details["BadRequest"].field_violations
        assert violation.field == field and violation.description == error.details()


def test_unknown_scheme_is_in_the_spec(client, rpc):
    pb, stub = client
    request = pb.PlanRequest(tensor=start(pb).tensor, spec=pb.QuantizationSpec(text="int7"))
    error, details = failure(lambda: stub.Plan(request), rpc)
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert details["BadRequest"].field_violations[0].field == "spec"


def test_limit(client, rpc):
    pb, stub = client
    request = pb.QuantizeRequest(start=start(pb, shape=(1 << 22,)))
    error, details = failure(lambda: stub.Quantize(request), rpc)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert set(details) == {"ErrorInfo", "QuotaFailure"}
    allowed = stub.GetServerInfo(pb.GetServerInfoRequest()).max_unary_bytes
    info = details["ErrorInfo"]
    assert info.reason == "LIMIT_EXCEEDED"
    assert dict(info.metadata) == {"limit": "unary_response_bytes", "allowed": str(allowed)}
    (violation,) = details["QuotaFailure"].violations
    assert violation.subject == "unary_response_bytes" and violation.description == error.details()


@pytest.mark.parametrize("method, way_out", [
    ("Quantize", "use StreamingQuantize"), ("Dequantize", "use StreamingDequantize"), ("Plan", None),
    ("Calibrate", "chunks"), ("StreamingQuantize", "chunks"), ("StreamingDequantize", "chunks")])
def test_too_large_a_message_says_what_to_do(client, rpc, server, method, way_out):
    """Nothing of it is looked at but its size, which need not be one that the server would hold."""
    pb, stub = client
    allowed = stub.GetServerInfo(pb.GetServerInfoRequest()).max_message_bytes
    streams = [m for m in pb.DESCRIPTOR.services_by_name["QuantizationService"].methods if m.client_streaming]
    with grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel:
        path = f"/quantd.v1.QuantizationService/{method}"
        for size in (allowed + 1, 3 * allowed):
            if method in [m.name for m in streams]:
                make = lambda: list(channel.stream_stream(path)(iter([bytes(size)]), timeout=60))  # noqa: E731
            else:
                make = lambda: channel.unary_unary(path)(bytes(size), timeout=60)  # noqa: E731
            error, details = failure(make, rpc)
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(size) in error.details() and f"{allowed} are allowed" in error.details()
            assert (way_out or "--max-message)") in error.details()
            assert dict(details["ErrorInfo"].metadata) == {"limit": "message_bytes", "allowed": str(allowed)}
        # One byte less and it is looked at.
        with pytest.raises(grpc.RpcError) as other:
            list(channel.stream_stream(path)(iter([b"\xff" * allowed]), timeout=60))
        assert "message_bytes" not in str(other.value.trailing_metadata()), other.value


def test_others_have_a_reason(client, rpc):
    pb, stub = client
    chunk = pb.StreamingQuantizeRequest(tensor_id=1, chunk=pb.Chunk(data=b"abcd"))
    error, details = failure(lambda: list(stub.StreamingQuantize(iter([chunk]))), rpc)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert set(details) == {"ErrorInfo"}
    assert details["ErrorInfo"].reason == "FAILED_PRECONDITION"


def test_error_frame(client, rpc):
    pb, stub = client
    frames = [pb.StreamingQuantizeRequest(tensor_id=5, start=start(pb, text="int8:axis=7")),
              pb.StreamingQuantizeRequest(tensor_id=5, end=pb.TensorEnd())]
    (frame,) = stub.StreamingQuantize(iter(frames))
    assert frame.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    details = unpack(frame.error.details, rpc[1])
    assert set(details) == {"ErrorInfo", "BadRequest"}
    assert details["BadRequest"].field_violations[0].description == frame.error.message


def test_long_messages_do_not_burst_the_trailers(client):
    """Peers refuse trailers of more than 8 KiB; the details give way to the message."""
    pb, stub = client
    text = "int8:" + "x" * 3000 + "=1"
    with pytest.raises(grpc.RpcError) as raised:
        stub.Quantize(pb.QuantizeRequest(start=start(pb, text=text)))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_success_has_none(client):
    pb, stub = client
    call = stub.GetServerInfo.with_call(pb.GetServerInfoRequest())[1]
    assert "grpc-status-details-bin" not in dict(call.trailing_metadata())


# --- Every code that the proto's comments list ---

PROTO = (ROOT / "proto/quantd/v1/quantization.proto").read_text()
LISTED = "NOT_FOUND|INVALID_ARGUMENT|OUT_OF_RANGE|DATA_LOSS|FAILED_PRECONDITION|RESOURCE_EXHAUSTED"


def listed_codes(method):
    """The codes in the comment above the method, and the fields that it names."""
    comment = re.search(rf"((?:  //[^\n]*\n)+)  rpc {method}\(", PROTO).group(1)
    return set(re.findall(LISTED, comment)), set(re.findall(r'"([a-z_]+)"', comment))


def floats(count, value=1.0):
    return struct.pack(f"<{count}f", *[value] * count)


def quantize_frames(pb, *frames, start_frame=None):
    made = [pb.StreamingQuantizeRequest(tensor_id=1, start=start_frame or start(pb))]
    return made + [pb.StreamingQuantizeRequest(tensor_id=1, **frame) for frame in frames]


def dequantize_frames(pb, *frames, text="int8"):
    head = pb.DequantizeStart(tensor=start(pb).tensor, spec=pb.QuantizationSpec(text=text))
    made = [pb.StreamingDequantizeRequest(tensor_id=1, start=head)]
    return made + [pb.StreamingDequantizeRequest(tensor_id=1, **frame) for frame in frames]


def calibrate_frames(pb, *frames, merge=(), text="int8:axis=0"):
    head = pb.CalibrateStart(tensor=start(pb).tensor, spec=pb.QuantizationSpec(text=text), merge=merge)
    return [pb.CalibrateRequest(start=head)] + [pb.CalibrateRequest(**frame) for frame in frames]


def error_cases(pb):
    """(method, request, code, field or limit)."""
    too_large = start(pb, shape=(1 << 20, 1 << 20), text="nf4:scale_type=nested8")
    ranges = pb.CalibratedRanges(min=[-1], max=[1], tensor=pb.Range(min=-1, max=1))
    backward = pb.CalibratedRanges(min=[1] * 4, max=[-1] * 4, tensor=pb.Range(min=-1, max=1))
    nan = floats(16, float("nan"))
    specs = [("int8:nonsense=1", "INVALID_ARGUMENT", "spec.text"), ("int8:axis=7", "INVALID_ARGUMENT", "spec"),
             ("int7", "NOT_FOUND", "spec"), ("int8:range=guess", "NOT_FOUND", "spec"),
             ("int8:incompatible=int7", "NOT_FOUND", "spec"), ("", "INVALID_ARGUMENT", "spec.scheme")]
    for text, code, field in specs:
        head = start(pb, text=text)
        packed = pb.DequantizeStart(tensor=head.tensor, spec=head.spec)
        yield "Quantize", pb.QuantizeRequest(start=head), code, field
        yield "Dequantize", pb.DequantizeRequest(start=packed), code, field
        yield "Plan", pb.PlanRequest(tensor=head.tensor, spec=head.spec), code, field
        yield "StreamingQuantize", quantize_frames(pb, start_frame=head), code, field
        yield "StreamingDequantize", [pb.StreamingDequantizeRequest(start=packed)], code, field
        yield "Calibrate", [pb.CalibrateRequest(start=pb.CalibrateStart(tensor=head.tensor, spec=head.spec))], code, field
    for fields, name in [({"shape": (-1, 4)}, "shape"), ({"data_type": 77}, "data_type"),
                         ({"data_type": pb.DATA_TYPE_BOOL}, "data_type")]:
        yield "Plan", pb.PlanRequest(tensor=start(pb, **fields).tensor, spec=start(pb).spec), "INVALID_ARGUMENT", f"tensor.{name}"
    long = pb.TensorDescriptor(name="x" * 2000, data_type=pb.DATA_TYPE_F32, shape=(4, 4))
    yield "Plan", pb.PlanRequest(tensor=long, spec=start(pb).spec), "INVALID_ARGUMENT", "tensor.name"

    def quantize(data=floats(16), **fields):
        return pb.QuantizeRequest(start=start(pb, **fields), data=data)

    yield "Quantize", quantize(ranges=ranges, text="int8:axis=0"), "INVALID_ARGUMENT", "ranges"
    yield "Quantize", quantize(ranges=backward, text="int8:axis=0"), "INVALID_ARGUMENT", "ranges"
    yield "Quantize", quantize(importance=[1.0]), "INVALID_ARGUMENT", "importance"
    yield "Quantize", quantize(shape=(1, 256), text="q4_k", importance=[1.0]), "INVALID_ARGUMENT", "importance"
    for codebook, text in (([1.0, 2.0], "int8"), ([2.0, 1.0], "lloyd"), ([1.0, 2.0, 3.0], "lloyd")):
        yield "Quantize", quantize(codebook=codebook, text=text), "INVALID_ARGUMENT", "codebook"
    yield "Quantize", quantize(max_chunk_bytes=3), "INVALID_ARGUMENT", "max_chunk_bytes"
    yield "Quantize", quantize(nan), "INVALID_ARGUMENT", None
    yield "Quantize", quantize(floats(17)), "OUT_OF_RANGE", None
    yield "Quantize", quantize(floats(15)), "DATA_LOSS", None
    yield "Quantize", pb.QuantizeRequest(start=start(pb, shape=(1 << 22,))), "RESOURCE_EXHAUSTED", "unary_response_bytes"

    plane = pb.Plane(name="codes")
    codes, scale = (pb.PlaneData(plane=pb.Plane(name=n), data=b"\0" * s) for n, s in (("codes", 16), ("scale", 4)))
    def dequantize(*planes, shape=(4, 4), **fields):
        return pb.DequantizeRequest(start=pb.DequantizeStart(
            tensor=start(pb, shape=shape).tensor, spec=pb.QuantizationSpec(text="int8"), **fields), planes=planes)

    yield "Dequantize", dequantize(codes, codes), "INVALID_ARGUMENT", "planes"
    yield "Dequantize", dequantize(codes), "INVALID_ARGUMENT", "planes"
    yield "Dequantize", dequantize(pb.PlaneData(plane=pb.Plane(name="bias"))), "NOT_FOUND", "planes"
    yield "Dequantize", dequantize(codes, scale, output_data_type=pb.DATA_TYPE_INT8), "INVALID_ARGUMENT", "output_data_type"
    yield "Dequantize", dequantize(codes, scale, max_chunk_bytes=3), "INVALID_ARGUMENT", "max_chunk_bytes"
    large = [pb.PlaneData(plane=plane, data=b"\0" * (1 << 20)), scale]
    yield "Dequantize", dequantize(*large, shape=(1 << 20,)), "RESOURCE_EXHAUSTED", "unary_response_bytes"

    def chunk(data, plane="values", offset=0, **fields):
        return {"chunk": pb.Chunk(plane=plane, offset=offset, data=data, **fields)}

    end = {"end": pb.TensorEnd()}
    large_frame = quantize_frames(pb, start_frame=too_large)
    yield "StreamingQuantize", large_frame, "RESOURCE_EXHAUSTED", "tensor_memory_bytes"
    yield "StreamingQuantize", quantize_frames(pb)[1:] + [pb.StreamingQuantizeRequest(end=pb.TensorEnd())], "FAILED_PRECONDITION", None
    yield "StreamingQuantize", quantize_frames(pb, chunk(floats(4), offset=16)), "INVALID_ARGUMENT", None
    yield "StreamingQuantize", quantize_frames(pb, chunk(nan), end), "INVALID_ARGUMENT", None
    yield "StreamingQuantize", quantize_frames(pb, chunk(floats(17))), "OUT_OF_RANGE", None
    yield "StreamingQuantize", quantize_frames(pb, chunk(floats(15)), end), "DATA_LOSS", None
    yield "StreamingQuantize", quantize_frames(pb, chunk(floats(16))), "DATA_LOSS", None
    yield "StreamingQuantize", quantize_frames(pb, chunk(floats(16), crc32c=1)), "DATA_LOSS", None
    yield "StreamingQuantize", quantize_frames(pb, {"start": start(pb)}), "FAILED_PRECONDITION", None
    yield "StreamingQuantize", quantize_frames(pb, chunk(floats(16)), end, end), "FAILED_PRECONDITION", None
    yield "StreamingDequantize", dequantize_frames(pb, chunk(b"", "bias")), "NOT_FOUND", None
    yield "StreamingDequantize", dequantize_frames(pb, chunk(b"\0" * 16, "codes")), "FAILED_PRECONDITION", None
    yield "Calibrate", calibrate_frames(pb, chunk(floats(4), offset=16)), "INVALID_ARGUMENT", None
    yield "Calibrate", calibrate_frames(pb, chunk(floats(17))), "OUT_OF_RANGE", None
    yield "Calibrate", calibrate_frames(pb, chunk(floats(15)), end), "DATA_LOSS", None
    yield "Calibrate", calibrate_frames(pb, end)[1:], "FAILED_PRECONDITION", None
    yield "Calibrate", calibrate_frames(pb)[:1] * 2, "FAILED_PRECONDITION", None
    one_group = [pb.CalibrationState(groups=[pb.GroupStatistics()])]
    yield "Calibrate", calibrate_frames(pb, chunk(floats(16)), end, merge=one_group), "INVALID_ARGUMENT", "merge"
    four = pb.CalibrationState(groups=[pb.GroupStatistics()] * 4, histogram=[0] * 65536)
    columns = calibrate_frames(pb, chunk(floats(16)), end, text="int8:axis=1,range=p90", merge=[four])
    yield "Calibrate", columns, "INVALID_ARGUMENT", "merge"  # whose counts are not in the state
    yield "Plan", pb.PlanRequest(tensor=too_large.tensor, spec=too_large.spec), "RESOURCE_EXHAUSTED", "tensor_memory_bytes"
    yield "ListSchemes", pb.ListSchemesRequest(page_size=-1), "INVALID_ARGUMENT", "page_size"
    yield "ListSchemes", pb.ListSchemesRequest(page_token="x"), "INVALID_ARGUMENT", "page_token"


def outcome(stub, rpc, method, request):
    """The code, and the field or limit, of a call or of the first tensor's error."""
    frames = iter(request) if isinstance(request, list) else request
    try:
        answer = getattr(stub, method)(frames)
        errors = [frame.error for frame in answer if frame.WhichOneof("frame") == "error"]
        code, details = errors[0].code, unpack(errors[0].details, rpc[1])
    except grpc.RpcError as error:
        status = rpc[0].Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        code, details = status.code, unpack(status.details, rpc[1])
    if "BadRequest" in details:
        named = details["BadRequest"].field_violations[0].field
        assert details["ErrorInfo"].metadata["field"] == named
    else:
        named = details["ErrorInfo"].metadata.get("limit")
    return next(c.name for c in grpc.StatusCode if c.value[0] == code), named


def test_codes_are_those_that_the_proto_lists(client, rpc):
    pb, stub = client
    common = PROTO[: PROTO.index("service QuantizationService")]
    seen = {}
    for method, request, code, named in error_cases(pb):
        assert outcome(stub, rpc, method, request) == (code, named), (method, request)
        codes, fields = listed_codes(method)
        if method == "StreamingDequantize":  # as StreamingQuantize
            codes |= listed_codes("StreamingQuantize")[0]
        in_common = code in ("INVALID_ARGUMENT", "NOT_FOUND") and f'"{named}"' in common
        assert in_common or code in codes and (named is None or named in fields), (method, code, named)
        seen.setdefault(method, set()).add(code)
    for method, codes in seen.items():  # nothing is listed that does not happen
        if method == "Quantize":
            codes.add("FAILED_PRECONDITION")  # of a server with very little memory
        assert listed_codes(method)[0] <= codes, method
