"""What programs can read of errors: google.rpc.Status in the trailers, details in error frames."""

import pathlib
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
