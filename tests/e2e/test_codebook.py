"""A codebook that the caller gives: by quantctl, by unary and streaming calls, and back; and what is
refused, by name."""

import grpc
import numpy as np
import pytest
from conftest import error_of, load_file, quantctl
from definitions import unpack_bits
from safetensors.numpy import save_file

LEVELS = np.array([-2.5, -1, -0.25, 0, 0.125, 0.5, 1.5, 1.5], np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codebook")
    x = np.random.default_rng(3).standard_normal((40, 77)).astype(np.float32)
    middles = (LEVELS[1:] + LEVELS[:-1]) / 2
    x[0, :7], x[1, :7], x[2, :4] = middles, np.nextafter(middles, np.float32(9)), [-1e30, 1e30, -0.0, 1.5]
    save_file({"w": x}, folder / "x.safetensors")
    np.save(folder / "levels.npy", LEVELS)
    return folder, x


def nearest(x):
    """Of two levels that are as near the lower code."""
    wide = LEVELS.astype(np.float64)
    return np.searchsorted((wide[1:] + wide[:-1]) / 2, x.astype(np.float64), side="left")


def check(x, codes, codebook, values):
    assert codebook.tobytes() == LEVELS.tobytes()
    codes = unpack_bits(codes, x.size, 3).reshape(x.shape)
    np.testing.assert_array_equal(codes, nearest(x))
    np.testing.assert_array_equal(values, LEVELS[codes])


@pytest.mark.parametrize("where", ["alone", "server"])
@pytest.mark.parametrize("spec", ["lloyd", "lloyd:levels=8"])
def test_files(files, server, tmp_path, where, spec):
    folder, x = files
    remote = ["--server", server.address] if where == "server" else []
    out, back = tmp_path / "q.safetensors", tmp_path / "back.safetensors"
    quantctl("quantize", folder / "x.safetensors", "-o", out, "--to", spec, "--codebook", folder / "levels.npy", *remote)
    quantctl("verify", out)
    quantctl("dequantize", out, "-o", back, *remote)
    packed = load_file(out)
    check(x, packed["w"], packed["w.codebook"], load_file(back)["w"])


def request(pb, x, codebook, text="lloyd"):
    tensor = pb.TensorDescriptor(name="w", data_type=pb.DATA_TYPE_F32, shape=x.shape)
    return pb.QuantizeStart(tensor=tensor, spec=pb.QuantizationSpec(text=text), codebook=codebook)


@pytest.mark.parametrize("streams", [False, True])
def test_calls(files, stubs, server, streams):
    pb, services = stubs
    x = files[1]
    start = request(pb, x, LEVELS)
    with grpc.insecure_channel(server.address) as channel:
        stub = services.QuantizationServiceStub(channel)
        if streams:
            frames = [pb.StreamingQuantizeRequest(tensor_id=1, start=start),
                      pb.StreamingQuantizeRequest(tensor_id=1, chunk=pb.Chunk(data=x.tobytes())),
                      pb.StreamingQuantizeRequest(tensor_id=1, end=pb.TensorEnd())]
            planes = {}
            for response in stub.StreamingQuantize(iter(frames)):
                assert response.WhichOneof("frame") != "error", response
                if response.WhichOneof("frame") == "start":  # nothing of the tensor is held
                    assert getattr(response.start.plan, "pass") == pb.QUANTIZATION_PASS_STATIC
                if response.WhichOneof("frame") == "chunk":
                    planes.setdefault(response.chunk.plane, bytearray()).extend(response.chunk.data)
        else:
            response = stub.Quantize(pb.QuantizeRequest(start=start, data=x.tobytes()))
            planes = {plane.plane.name: plane.data for plane in response.planes}
    codes, codebook = np.frombuffer(planes["codes"], "u1"), np.frombuffer(planes["codebook"], "<f4")
    check(x, codes, codebook, LEVELS[nearest(x)])


@pytest.mark.parametrize("codebook, text, words", [
    ([3, 1], "lloyd", "codebook[1] is 1 behind 3; levels are in ascending order"),
    ([1, float("nan")], "lloyd", "codebook[1] is nan; levels are finite"),
    ([1, 2, 3, float("inf")], "lloyd", "codebook[3] is inf; levels are finite"),
    ([1, 2, 3], "lloyd", "codebook holds 3 levels; scheme lloyd has 16, 2, 4, 8, 32, 64, 128, 256"),
    ([1], "lloyd", "codebook holds 1 levels"),
    ([0.0] * 512, "lloyd", "codebook holds 512 levels"),
    ([1, 2], "lloyd:levels=4", "codebook holds 2 levels, and spec lloyd:levels=4 says levels=4"),
    ([1, 2], "lloyd:axis=0", "use per=tensor"),
    ([1, 2], "int8", "scheme int8 takes no codebook"),
    ([1, 2], "nf4", "scheme nf4 takes no codebook"),
])
def test_refused(files, stubs, server, codebook, text, words):
    pb, services = stubs
    x = files[1]
    with grpc.insecure_channel(server.address) as channel:
        stub = services.QuantizationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.Quantize(pb.QuantizeRequest(start=request(pb, x, codebook, text), data=x.tobytes()))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.value.details(), error.value.details()


@pytest.mark.parametrize("array, words", [
    (LEVELS[::-1], "levels are in ascending order"),
    (LEVELS.reshape(2, 4), "a codebook is one of floats, of rank 1"),
    (np.arange(4), "a codebook is one of floats"),
    (LEVELS[:1], "with 2 to 256 levels"),
    (LEVELS[:3], "levels=3"),
])
def test_refused_files(files, tmp_path, array, words):
    folder, _ = files
    np.save(tmp_path / "bad.npy", array)
    message = error_of("quantize", folder / "x.safetensors", "-o", tmp_path / "q.safetensors", "--to", "lloyd",
                       "--codebook", tmp_path / "bad.npy", code=2)
    assert words in message


def test_refused_by_other_schemes(files, tmp_path):
    folder, _ = files
    message = error_of("quantize", folder / "x.safetensors", "-o", tmp_path / "q.safetensors", "--to", "int8",
                       "--codebook", folder / "levels.npy", code=2)
    assert "levels" in message and "int8" in message
