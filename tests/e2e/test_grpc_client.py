"""A client that grpcio-tools generates from the proto: unary, streaming, and a peer that misbehaves."""

import queue
import re

import grpc
import numpy as np
import pytest
import reference
from conftest import ROOT, load_file, quantctl
from safetensors.numpy import save_file

SPECS = ["int8", "int8:axis=0", "uint4:group=16", "fp16", "q8_0", "nf4", "nvfp4"]


@pytest.fixture(scope="module")
def tensor():
    return np.random.default_rng(5).standard_normal((96, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def by_quantctl(tmp_path_factory, tensor):
    """What quantctl gives: planes by name, for a spec."""
    folder = tmp_path_factory.mktemp("grpc")
    save_file({"w": tensor}, folder / "w.safetensors")

    def planes(spec):
        out = folder / "o.safetensors"
        quantctl("quantize", folder / "w.safetensors", "-o", out, "--to", spec)
        return {("codes" if n == "w" else n[2:]): a.tobytes() for n, a in load_file(out).items()}

    return planes


@pytest.fixture(scope="module")
def client(stubs, server):
    with grpc.insecure_channel(server.address) as channel:
        yield stubs[0], stubs[1].QuantizationServiceStub(channel)


def start_of(pb, x, spec, name="w", **options):
    return pb.QuantizeStart(
        tensor=pb.TensorDescriptor(name=name, data_type=pb.DATA_TYPE_F32, shape=x.shape),
        spec=pb.QuantizationSpec(text=spec), **options)


def frames_of(pb, x, spec, tensor_id=1, cut=10007, crc=True, name="w", **options):
    """The request frames of one tensor, with cuts inside elements."""
    yield pb.StreamingQuantizeRequest(tensor_id=tensor_id, start=start_of(pb, x, spec, name, **options))
    data = x.tobytes()
    for at in range(0, len(data), cut):
        piece = data[at : at + cut]
        chunk = pb.Chunk(offset=at, data=piece)
        if crc and len(data) < 100000:
            chunk.crc32c = reference.crc32c(piece)
        yield pb.StreamingQuantizeRequest(tensor_id=tensor_id, chunk=chunk)
    yield pb.StreamingQuantizeRequest(tensor_id=tensor_id, end=pb.TensorEnd())


def collect(responses):
    """The frames of a stream by tensor: {"start", "planes", "end", "error"}."""
    tensors = {}
    for frame in responses:
        tensor = tensors.setdefault(frame.tensor_id, {"planes": {}})
        kind = frame.WhichOneof("frame")
        if kind == "chunk":
            chunk = frame.chunk
            plane = tensor["planes"].setdefault(chunk.plane, bytearray())
            assert chunk.offset == len(plane)
            assert len(chunk.data) <= 4 << 20
            if chunk.HasField("crc32c") and len(chunk.data) < 20000:
                assert chunk.crc32c == reference.crc32c(chunk.data)
            plane += chunk.data
        else:
            assert kind not in tensor
            tensor[kind] = getattr(frame, kind)
    for tensor in tensors.values():
        tensor["planes"] = {name: bytes(data) for name, data in tensor["planes"].items()}
    return tensors


@pytest.mark.parametrize("spec", SPECS)
def test_unary(client, tensor, by_quantctl, spec):
    pb, stub = client
    response = stub.Quantize(pb.QuantizeRequest(start=start_of(pb, tensor, spec), data=tensor.tobytes()))
    assert response.start.tensor.name == "w" and tuple(response.start.tensor.shape) == tensor.shape
    assert response.start.plan.resolved_spec.startswith(spec.split(":")[0])
    got = {plane.plane.name: plane.data for plane in response.planes}
    want = by_quantctl(spec)
    # Code books and the like may be in the file's metadata only.
    assert {name: got[name] for name in want} == want
    assert set(response.report.digests) == set(got)
    assert response.report.figures.count == tensor.size
    assert response.report.figures.signal_energy == pytest.approx(
        float((tensor.astype(np.float64) ** 2).sum()), rel=1e-6)

    back = stub.Dequantize(pb.DequantizeRequest(
        start=pb.DequantizeStart(tensor=response.start.tensor,
                                 spec=pb.QuantizationSpec(text=response.start.plan.resolved_spec),
                                 output_data_type=pb.DATA_TYPE_F32),
        planes=response.planes))
    y = np.frombuffer(back.data, np.float32).reshape(tensor.shape)
    error = float(((tensor.astype(np.float64) - y) ** 2).sum())
    assert error == pytest.approx(response.report.figures.error_energy, rel=1e-6)
    assert dict(back.finished.plane_digests) == dict(response.report.digests)


@pytest.mark.parametrize("spec", SPECS)
def test_streaming(client, tensor, by_quantctl, spec):
    pb, stub = client
    tensors = collect(stub.StreamingQuantize(frames_of(pb, tensor, spec)))
    assert set(tensors) == {1} and "error" not in tensors[1], tensors
    want = by_quantctl(spec)
    assert {name: tensors[1]["planes"][name] for name in want} == want
    planned = {plane.name: plane.size_bytes for plane in tensors[1]["start"].plan.planes}
    assert planned == {name: len(data) for name, data in tensors[1]["planes"].items()}
    assert tensors[1]["end"].report.clipped == 0


def test_streaming_back(client, tensor):
    pb, stub = client
    done = collect(stub.StreamingQuantize(frames_of(pb, tensor, "int8:axis=0")))[1]

    def frames():
        yield pb.StreamingDequantizeRequest(tensor_id=9, start=pb.DequantizeStart(
            tensor=done["start"].tensor,
            spec=pb.QuantizationSpec(text=done["start"].plan.resolved_spec)))
        for plane in ("scale", "codes"):
            yield pb.StreamingDequantizeRequest(tensor_id=9, chunk=pb.Chunk(
                plane=plane, data=done["planes"][plane]))
        yield pb.StreamingDequantizeRequest(tensor_id=9, end=pb.TensorEnd())

    back = collect(stub.StreamingDequantize(frames()))[9]
    assert "error" not in back, back
    codes, scale = reference.int8_axis0(tensor)
    (values,) = back["planes"].values()
    assert values == (codes.astype(np.float32) * scale[:, None]).tobytes()


def test_spec_as_fields(client, tensor, by_quantctl):
    pb, stub = client
    start = start_of(pb, tensor, "")
    start.spec.CopyFrom(pb.QuantizationSpec(scheme="int8", group_elems=16))
    response = stub.Quantize(pb.QuantizeRequest(start=start, data=tensor.tobytes()))
    assert {p.plane.name: p.data for p in response.planes} == by_quantctl("int8:group=16")


def test_many_tensors_alternate_on_one_stream(client):
    pb, stub = client
    rng = np.random.default_rng(6)
    tensors = {i: rng.standard_normal((8 + i, 32)).astype(np.float32) for i in range(1, 9)}
    lists = [list(frames_of(pb, x, "int8:axis=0", i, cut=1001)) for i, x in tensors.items()]
    frames = [f for step in range(max(map(len, lists))) for l in lists for f in l[step : step + 1]]
    done = collect(stub.StreamingQuantize(iter(frames)))
    assert set(done) == set(tensors)
    for i, x in tensors.items():
        codes, scale = reference.int8_axis0(x)
        assert done[i]["planes"] == {"codes": codes.tobytes(), "scale": scale.tobytes()}


def chunk_frame(pb, offset, data, tensor_id=1, **fields):
    return pb.StreamingQuantizeRequest(tensor_id=tensor_id,
                                       chunk=pb.Chunk(offset=offset, data=data, **fields))


def bad_sequences(pb, x):
    start = pb.StreamingQuantizeRequest(tensor_id=1, start=start_of(pb, x, "int8:axis=0"))
    end = pb.StreamingQuantizeRequest(tensor_id=1, end=pb.TensorEnd())
    data = x.tobytes()
    whole = chunk_frame(pb, 0, data)
    half = chunk_frame(pb, 0, data[:4096])
    return {
        "twice": ([start, half, half, end], ["offset", "4096"]),
        "out_of_order": ([start, chunk_frame(pb, 8192, data[8192:9000]), half, end], ["offset", "8192"]),
        "past_the_end": ([start, whole, chunk_frame(pb, len(data), b"more"), end], []),
        "too_long": ([start, chunk_frame(pb, 0, data + b"more"), end], []),
        "negative_offset": ([start, chunk_frame(pb, -4, data[:8]), end], ["-4"]),
        "wrong_crc": ([start, chunk_frame(pb, 0, data, crc32c=1), end], ["crc"]),
        "missing": ([start, half, end], []),
        "no_plane": ([start, chunk_frame(pb, 0, data, plane="scales"), end], ["scales"]),
        "start_twice": ([start, start, whole, end], ["tensor_id=1", "open"]),
        "unknown_scheme": ([pb.StreamingQuantizeRequest(tensor_id=1, start=start_of(pb, x, "int9")),
                            whole, end], ["int9", "int8"]),
        "bad_dtype": ([pb.StreamingQuantizeRequest(tensor_id=1, start=pb.QuantizeStart(
            tensor=pb.TensorDescriptor(name="w", data_type=77, shape=[2]),
            spec=pb.QuantizationSpec(text="int8")))], ["77"]),
        "overflow": ([pb.StreamingQuantizeRequest(tensor_id=1, start=pb.QuantizeStart(
            tensor=pb.TensorDescriptor(name="w", data_type=pb.DATA_TYPE_F32, shape=[2**40, 2**40]),
            spec=pb.QuantizationSpec(text="int8")))], []),
        "negative_dim": ([pb.StreamingQuantizeRequest(tensor_id=1, start=pb.QuantizeStart(
            tensor=pb.TensorDescriptor(name="w", data_type=pb.DATA_TYPE_F32, shape=[-1]),
            spec=pb.QuantizationSpec(text="int8")))], ["-1"]),
    }


@pytest.mark.parametrize("name", [
    "twice", "out_of_order", "past_the_end", "too_long", "negative_offset", "wrong_crc", "missing",
    "no_plane", "start_twice", "unknown_scheme", "bad_dtype", "overflow", "negative_dim"])
def test_a_bad_tensor_fails_alone(client, tensor, name):
    pb, stub = client
    bad, words = bad_sequences(pb, tensor)[name]
    good = list(frames_of(pb, tensor, "int8:axis=0", tensor_id=2))
    done = collect(stub.StreamingQuantize(iter(good[:2] + bad + good[2:])))
    error = done[1]["error"]
    assert error.code != 0 and error.message
    for word in words:
        assert word in error.message.lower(), error.message
    codes, _ = reference.int8_axis0(tensor)
    assert done[2]["planes"]["codes"] == codes.tobytes()


def test_stream_that_does_not_open_with_start(client, tensor):
    pb, stub = client
    try:
        done = collect(stub.StreamingQuantize(iter([chunk_frame(pb, 0, tensor.tobytes())])))
        assert done[1]["error"].message
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)


def test_half_close_in_mid_tensor(client, tensor):
    pb, stub = client
    frames = list(frames_of(pb, tensor, "int8"))[:2]
    try:
        done = collect(stub.StreamingQuantize(iter(frames)))
        assert done[1]["error"].message and "end" not in done[1]
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.INVALID_ARGUMENT)


def test_cancel_in_mid_tensor(client, tensor):
    pb, stub = client
    frames = queue.Queue()
    call = stub.StreamingQuantize(iter(frames.get, None))
    for frame in list(frames_of(pb, tensor, "int8:axis=0"))[:2]:
        frames.put(frame)
    assert next(call).WhichOneof("frame") == "start"
    call.cancel()
    frames.put(None)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert stub.GetServerInfo(pb.GetServerInfoRequest()).version


def test_unary_errors_name_the_field(client, tensor):
    pb, stub = client
    for request, word in [
        (pb.QuantizeRequest(start=start_of(pb, tensor, "int8"), data=b"123"), "3"),
        (pb.QuantizeRequest(start=start_of(pb, tensor, "int8:axis=9"), data=tensor.tobytes()), "axis"),
        (pb.QuantizeRequest(), ""),
    ]:
        with pytest.raises(grpc.RpcError) as raised:
            stub.Quantize(request)
        assert raised.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DATA_LOSS)
        assert word in raised.value.details()
    start = start_of(pb, tensor, "int9")
    with pytest.raises(grpc.RpcError) as raised:
        stub.Plan(pb.PlanRequest(tensor=start.tensor, spec=start.spec))
    assert raised.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    assert "int8" in raised.value.details()


def test_plan_and_calibrate(client, tensor):
    pb, stub = client
    start = start_of(pb, tensor, "int8:axis=0")
    plan = stub.Plan(pb.PlanRequest(tensor=start.tensor, spec=start.spec)).plan
    assert plan.input_bytes == tensor.nbytes and plan.num_groups == 96
    assert plan.output_bytes == tensor.size + 96 * 4
    assert plan.output_bytes == sum(plane.size_bytes for plane in plan.planes)

    def frames():
        yield pb.CalibrateRequest(start=pb.CalibrateStart(
            tensor=start.tensor, spec=start.spec, histogram=True, column_moments=True, gram=True))
        yield pb.CalibrateRequest(chunk=pb.Chunk(data=tensor.tobytes()))
        yield pb.CalibrateRequest(end=pb.TensorEnd())

    result = stub.Calibrate(frames())
    np.testing.assert_array_equal(result.ranges.max, tensor.max(1).astype(np.float64))
    np.testing.assert_array_equal(result.ranges.min, tensor.min(1).astype(np.float64))
    x = tensor.astype(np.float64)
    np.testing.assert_allclose(result.state.column_second_moments, (x**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(np.reshape(result.state.gram, (64, 64)), x.T @ x, rtol=1e-3, atol=1e-3)
    assert sum(result.state.histogram) == tensor.size and len(result.state.histogram) == 65536
    assert result.state.rows == 96 and result.state.non_finite == 0


def test_schemes_are_paged(client):
    pb, stub = client
    names, token = [], ""
    while True:
        page = stub.ListSchemes(pb.ListSchemesRequest(page_size=2, page_token=token))
        assert 1 <= len(page.schemes) <= 2
        names += [scheme.name for scheme in page.schemes]
        token = page.next_page_token
        if not token:
            break
    assert names == [s.name for s in stub.ListSchemes(pb.ListSchemesRequest()).schemes]
    assert names == re.findall(r"^QUANTD_SCHEME\((\w+)\)", (ROOT / "core/scheme/schemes.def").read_text(), re.M)


def test_health_and_reflection(server):
    """By hand-made messages: the stock packages for these are not needed for two calls."""
    with grpc.insecure_channel(server.address) as channel:
        raw = dict(request_serializer=None, response_deserializer=None)
        check = channel.unary_unary("/grpc.health.v1.Health/Check", **raw)
        assert check(b"") == b"\x08\x01"  # SERVING
        list_services = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", **raw)
        (answer,) = list_services(iter([b"\x3a\x01*"]))
        assert b"quantd.v1.QuantizationService" in answer
