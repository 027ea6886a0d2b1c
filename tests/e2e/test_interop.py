"""gRPC's interop cases and its negative ones of HTTP/2, by their names, for quantd's own service.

What each case stands for is told in grpc/grpc, doc/interop-test-descriptions.md and
doc/http2-interop-test-descriptions.md. The second sort has two halves here: quantd against a peer that
speaks HTTP/2 by hand, and quantctl against a proxy that changes what frames quantd sends.
"""

import json
import queue
import threading
import time

import grpc
import numpy as np
import pytest
import raw_http2 as h2
import reference
from conftest import SANITIZED, quantctl, running_server, surviving_server, wait_until
from fault_proxy import FaultProxy, Harm
from safetensors.numpy import save_file
from test_grpc_client import collect, frames_of, start_of
from test_metrics import samples, scrape, value

SERVICE = "/quantd.v1.QuantizationService/"
RAW = dict(request_serializer=None, response_deserializer=None)
RELEASE_SECONDS = 20 if SANITIZED else 5
MAX_STREAMS = 1024  # what quantd allows on a connection
TIMEOUT = 30  # of calls that are to end by themselves


class Quantd:
    """A server, a client of it, and what its metrics say."""

    def __init__(self, server, channel, stubs):
        self.server, self.channel, self.pb = server, channel, stubs[0]
        self.stub = stubs[1].QuantizationServiceStub(channel)

    @property
    def address(self):
        return self.server.address

    def held(self):
        """(calls that run, bytes of the budget that they hold)."""
        found = samples(scrape(self.server))
        calls = sum(n for (name, _), n in found.items() if name == "quantd_active_calls")
        return calls, value(found, "quantd_memory_reserved_bytes")

    def ended(self, rpc, code):
        return value(samples(scrape(self.server)), "quantd_requests_total", rpc=rpc, code=code)

    def await_ended(self, rpc, code, number):
        """A client may hear of an end before it is counted."""
        wait_until(lambda: self.ended(rpc, code) >= number, f"the end of {rpc}")
        assert self.ended(rpc, code) == number

    def await_held(self):
        wait_until(lambda: min(self.held()) > 0, "the call")

    def await_release(self):
        wait_until(lambda: self.held() == (0, 0), "the release of all", RELEASE_SECONDS)

    def still_right(self):
        x = np.array([[1, -2, 127]], np.float32)
        answer = self.stub.Quantize(self.pb.QuantizeRequest(
            start=start_of(self.pb, x, "int8:axis=0"), data=x.tobytes()), timeout=TIMEOUT)
        assert answer.planes[0].data == b"\x01\xfe\x7f"

    def stream_bytes(self, x, spec="int8:axis=0"):
        """The request frames of one tensor, each as the payload of a DATA frame."""
        return [h2.message(f.SerializeToString()) for f in frames_of(self.pb, x, spec, cut=4096)]

    def is_right(self, messages, x):
        """Whether messages are all that quantd answers for a tensor."""
        done = collect(map(self.pb.StreamingQuantizeResponse.FromString, messages))
        codes, scale = reference.int8_axis0(x)
        return "end" in done[1] and done[1]["planes"] == {"codes": codes.tobytes(),
                                                          "scale": scale.tobytes()}


@pytest.fixture(scope="module")
def quantd(tmp_path_factory, stubs):
    """A server that lives through all tests here but two, and holds nothing after any of them."""
    with surviving_server(tmp_path_factory.mktemp("interop"), "--metrics", "0") as server, \
            grpc.insecure_channel(server.address) as channel:
        yield Quantd(server, channel, stubs)


@pytest.fixture(autouse=True)
def released(quantd):
    yield
    quantd.await_release()


@pytest.fixture(scope="module")
def tensor():
    """32 KiB, which fit the window that HTTP/2 begins with."""
    return np.random.default_rng(8).standard_normal((32, 256)).astype(np.float32)


@pytest.fixture
def paused():
    """A source of requests that sends some and then nothing, until the test is over."""
    sources = []

    def source(*frames):
        sources.append(queue.Queue())
        for frame in frames:
            sources[-1].put(frame)
        return iter(sources[-1].get, None)

    yield source
    for frames in sources:
        frames.put(None)


def failure(call):
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value


# --- The cases of every client and server


@pytest.mark.parametrize("rpc", ["StreamingQuantize", "StreamingDequantize", "Calibrate"])
def test_cancel_after_begin(quantd, paused, rpc):
    before = quantd.ended(rpc, "CANCELLED")
    method = getattr(quantd.stub, rpc)
    call = method.future(paused()) if rpc == "Calibrate" else method(paused())
    quantd.await_held()
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED
    quantd.await_release()
    assert quantd.ended(rpc, "CANCELLED") == before + 1
    quantd.still_right()


def test_cancel_after_first_response(quantd, paused, tensor):
    before = quantd.ended("StreamingQuantize", "CANCELLED")
    start, half, *_ = frames_of(quantd.pb, tensor, "int8")
    call = quantd.stub.StreamingQuantize(paused(start, half))
    assert next(call).HasField("start")
    assert quantd.held()[1] >= tensor.nbytes
    call.cancel()
    assert failure(lambda: next(call)).code() == grpc.StatusCode.CANCELLED
    quantd.await_release()
    assert quantd.ended("StreamingQuantize", "CANCELLED") == before + 1
    quantd.still_right()


def test_timeout_on_sleeping_server(quantd, paused, tensor):
    """Here it is the client that sleeps: quantd answers whatever is whole."""
    start, half, *_ = frames_of(quantd.pb, tensor, "int8")
    began = time.monotonic()
    call = quantd.stub.StreamingQuantize(paused(start, half), timeout=0.05)
    assert failure(lambda: list(call)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.04 <= time.monotonic() - began < 0.05 + RELEASE_SECONDS
    quantd.await_release()
    quantd.still_right()


def test_timeout_is_the_servers_too(quantd, tensor):
    """A peer that says a time and then neither goes on nor gives up."""
    before = quantd.ended("StreamingQuantize", "DEADLINE_EXCEEDED")
    with h2.Peer(quantd.address) as peer:
        peer.send(h2.open_call(1, SERVICE + "StreamingQuantize", ("grpc-timeout", "50m")),
                  *[h2.frame(h2.DATA, 0, 1, piece) for piece in quantd.stream_bytes(tensor, "int8")[:2]])
        end = peer.await_end(1)
        assert h2.text("grpc-status") + h2.text("4") in end.payload
        quantd.await_release()
    assert quantd.ended("StreamingQuantize", "DEADLINE_EXCEEDED") == before + 1


STATUSES = {
    "int8:axis=9": (grpc.StatusCode.INVALID_ARGUMENT,
                    "axis=9 is not a dimension of shape [2, 3]; use 0 to 1, or -1"),
    "int8:colour=red": (grpc.StatusCode.INVALID_ARGUMENT, None),
    "int9": (grpc.StatusCode.NOT_FOUND, None),
    "int8:nonfinite=reject": (
        grpc.StatusCode.INVALID_ARGUMENT,
        'tensor "w" has a value that is not finite at [1, 2]; to accept it use nonfinite=saturate'),
}


@pytest.mark.parametrize("spec", STATUSES)
def test_status_code_and_message(quantd, spec):
    """A unary call ends with them, a stream has them in the error of the tensor: the same ones."""
    code, text = STATUSES[spec]
    x = np.array([[1, 2, 3], [4, 5, np.nan]], np.float32)
    error = failure(lambda: quantd.stub.Quantize(quantd.pb.QuantizeRequest(
        start=start_of(quantd.pb, x, spec), data=x.tobytes())))
    assert error.code() == code
    if text is not None:
        assert error.details() == text
    frames = collect(quantd.stub.StreamingQuantize(frames_of(quantd.pb, x, spec), timeout=TIMEOUT))
    assert frames[1]["error"].code == code.value[0]
    assert frames[1]["error"].message == error.details()


def test_status_code_and_message_of_a_stream(quantd):
    frame = quantd.pb.StreamingQuantizeRequest(tensor_id=1, end={})
    error = failure(lambda: list(quantd.stub.StreamingQuantize(iter([frame]), timeout=TIMEOUT)))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "the stream does not open with a start frame"


SPECIAL_NAME = "\t\ttest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\tw\u00f6%41\t\n\x7f"


def test_special_status_message(quantd):
    x = np.array([1, np.inf], np.float32)
    request = quantd.pb.QuantizeRequest(
        start=start_of(quantd.pb, x, "int8:nonfinite=reject", SPECIAL_NAME), data=x.tobytes())
    text = (f'tensor "{SPECIAL_NAME}" has a value that is not finite at [1]; '
            "to accept it use nonfinite=saturate")
    error = failure(lambda: quantd.stub.Quantize(request))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == text
    frames = collect(quantd.stub.StreamingQuantize(
        frames_of(quantd.pb, x, "int8:nonfinite=reject", name=SPECIAL_NAME), timeout=TIMEOUT))
    assert frames[1]["error"].message == text
    # On the wire all but printable ASCII is escaped, and what escapes is.
    with h2.Peer(quantd.address) as peer:
        peer.send(h2.open_call(1, SERVICE + "Quantize"),
                  h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(request.SerializeToString())))
        trailers = peer.await_end(1).payload
    assert b"%0D%0Aand Unicode BMP %E2%98%BA and non-BMP %F0%9F%98%88%09w%C3%B6%2541%09%0A%7F" in trailers


def unimplemented(quantd, path):
    """Both kinds of a call end at once, and the connection serves the next."""
    with FaultProxy(lambda: quantd.address, lambda _: (Harm(), Harm())) as proxy, \
            grpc.insecure_channel(proxy.address) as channel:
        error = failure(lambda: channel.unary_unary(path, **RAW)(b"", timeout=TIMEOUT))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        call = channel.stream_stream(path, **RAW)
        error = failure(lambda: list(call(iter([b"abc", bytes(100_000)]), timeout=TIMEOUT)))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        info = channel.unary_unary(SERVICE + "GetServerInfo", **RAW)(b"", timeout=TIMEOUT)
        assert quantd.pb.GetServerInfoResponse.FromString(info).max_dimensions == 16
        assert proxy.connections == 1


def test_unimplemented_method(quantd):
    unimplemented(quantd, SERVICE + "Requantize")
    unimplemented(quantd, SERVICE + "quantize")


def test_unimplemented_service(quantd):
    unimplemented(quantd, "/quantd.v2.QuantizationService/Quantize")
    unimplemented(quantd, "/grpc.testing.UnimplementedService/UnimplementedCall")


@pytest.mark.parametrize("rpc", ["StreamingQuantize", "StreamingDequantize"])
def test_empty_stream(quantd, rpc):
    before = quantd.ended(rpc, "OK")
    call = getattr(quantd.stub, rpc)(iter(()), timeout=TIMEOUT)
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK
    quantd.await_ended(rpc, "OK", before + 1)


def test_empty_stream_that_owes_an_answer(tmp_path, stubs):
    """Calibrate has one response or an error; of no values it can say nothing."""
    with surviving_server(tmp_path) as server, grpc.insecure_channel(server.address) as channel:
        stub = stubs[1].QuantizationServiceStub(channel)
        error = failure(lambda: stub.Calibrate(iter(()), timeout=TIMEOUT))
        assert error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DATA_LOSS)
        assert stub.GetServerInfo(stubs[0].GetServerInfoRequest(), timeout=TIMEOUT).max_dimensions == 16


def test_ping_pong(quantd):
    """Each tensor is answered whole before the next one is sent; frames are of the case's sizes."""
    requests = queue.Queue()
    call = quantd.stub.StreamingQuantize(iter(requests.get, None), timeout=TIMEOUT)
    answers = []
    try:
        for tensor_id, (size, cut) in enumerate(((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)), 1):
            x = np.random.default_rng(size).standard_normal((1, size)).astype(np.float32)
            start, *rest = frames_of(quantd.pb, x, "int8:axis=0", tensor_id, cut)
            requests.put(start)
            answers.append(next(call))
            assert answers[-1].HasField("start")
            for frame in rest:
                requests.put(frame)
            while not answers[-1].HasField("end"):
                answers.append(next(call))
            codes, scale = reference.int8_axis0(x)
            assert collect(answers)[tensor_id]["planes"] == {
                "codes": codes.tobytes(), "scale": scale.tobytes()}
    finally:
        requests.put(None)
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("window_bytes", [None, 16 << 10], ids=["default", "small_window"])
def test_large_unary(quantd, window_bytes):
    """314,159 codes of 1.2 MiB, and back; many times what a window takes."""
    options = [] if window_bytes is None else [("grpc.http2.lookahead_bytes", window_bytes),
                                               ("grpc.http2.bdp_probe", 0)]
    x = np.random.default_rng(9).standard_normal((1, 314159)).astype(np.float32)
    codes, scale = reference.int8_axis0(x)
    pb = quantd.pb
    with grpc.insecure_channel(quantd.address, options=options) as channel:
        def call(rpc, request, response):
            method = channel.unary_unary(SERVICE + rpc, type(request).SerializeToString, response.FromString)
            return method(request, timeout=TIMEOUT)

        packed = call("Quantize", pb.QuantizeRequest(start=start_of(pb, x, "int8:axis=0"), data=x.tobytes()),
                      pb.QuantizeResponse)
        assert {p.plane.name: p.data for p in packed.planes} == {"codes": codes.tobytes(),
                                                                 "scale": scale.tobytes()}
        values = call("Dequantize", pb.DequantizeRequest(planes=packed.planes, start=pb.DequantizeStart(
            tensor=packed.start.tensor, spec=pb.QuantizationSpec(text="int8:axis=0"))), pb.DequantizeResponse)
        assert values.data == (codes.astype(np.float32) * scale[:, None]).tobytes()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_client_compressed_unary(quantd, compression):
    """Compressed calls are refused, as deploy/SECURITY.md says; the others go on."""
    x = np.zeros((1, 67957), np.float32)  # 271,828 bytes of zeros
    request = quantd.pb.QuantizeRequest(start=start_of(quantd.pb, x, "int8:axis=0"), data=x.tobytes())
    started = quantd.ended("Quantize", "OK")
    with FaultProxy(lambda: quantd.address, lambda _: (Harm(), Harm())) as proxy, \
            grpc.insecure_channel(proxy.address) as channel:
        call = channel.unary_unary(SERVICE + "Quantize", quantd.pb.QuantizeRequest.SerializeToString,
                                   quantd.pb.QuantizeResponse.FromString)
        stream = channel.stream_stream(SERVICE + "StreamingQuantize", **RAW)
        error = failure(lambda: call(request, compression=compression, timeout=TIMEOUT))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        error = failure(lambda: list(stream(iter([b"abc"]), compression=compression, timeout=TIMEOUT)))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        assert call(request, timeout=TIMEOUT).planes[0].data == bytes(x.size)
        assert proxy.connections == 1
    quantd.await_ended("Quantize", "OK", started + 1)


def test_server_says_that_it_unpacks_nothing(quantd):
    """And its own answers are plain, to a peer that would take gzip."""
    with h2.Peer(quantd.address) as peer:
        peer.send(h2.open_call(1, SERVICE + "GetServerInfo", ("grpc-accept-encoding", "gzip, identity")),
                  h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(b"")))
        assert peer.await_end(1).kind == h2.HEADERS
        headers = peer.await_frame(lambda f: f.kind == h2.HEADERS).payload
        (answer,) = peer.answers(1)  # which checks that it is not compressed
    assert h2.text("grpc-accept-encoding") + h2.text("identity") in headers
    assert b"grpc-encoding" not in headers
    assert quantd.pb.GetServerInfoResponse.FromString(answer).max_dimensions == 16


# --- The negative ones of HTTP/2: quantd


def reset_by_client(quantd, tensor, *pieces):
    """Sends pieces on a stream, and its reset; the same connection then serves the next stream."""
    codes = [h2.NO_ERROR, h2.CANCEL]
    before = quantd.ended("StreamingQuantize", "CANCELLED")
    for code in codes:
        # There is no window to answer, so that no call can end before it is reset.
        with h2.Peer(quantd.address, (h2.INITIAL_WINDOW_SIZE, 0)) as peer:
            peer.send(h2.open_call(1, SERVICE + "StreamingQuantize"), *pieces)
            quantd.await_held()
            peer.send(h2.reset(1, code))
            quantd.await_release()
            body = b"".join(quantd.stream_bytes(tensor))
            cuts = range(0, len(body), 16384)
            peer.send(h2.open_call(3, SERVICE + "StreamingQuantize"),
                      h2.frame(h2.WINDOW_UPDATE, 0, 3, h2.word(1 << 20)),
                      *[h2.frame(h2.DATA, h2.END_STREAM if at == cuts[-1] else 0, 3, body[at:at + 16384])
                        for at in cuts])
            assert peer.await_end(3).kind == h2.HEADERS
            assert quantd.is_right(peer.answers(3), tensor)
            assert not peer.answers(1) and not peer.ended
    assert quantd.ended("StreamingQuantize", "CANCELLED") == before + len(codes)


def test_rst_after_header(quantd, tensor):
    reset_by_client(quantd, tensor)


def test_rst_during_data(quantd, tensor):
    start, chunk, *_ = quantd.stream_bytes(tensor)
    reset_by_client(quantd, tensor, h2.frame(h2.DATA, 0, 1, start), h2.frame(h2.DATA, 0, 1, chunk),
                    h2.frame(h2.DATA, 0, 1, chunk[:len(chunk) // 2]))


def test_rst_after_data(quantd, tensor):
    small = tensor[:2]
    body = b"".join(quantd.stream_bytes(small))
    reset_by_client(quantd, tensor, h2.frame(h2.DATA, h2.END_STREAM, 1, body))


def test_goaway(tmp_path, stubs, tensor):
    """SIGTERM: the running stream is done whole, no other is taken, and the connection ends."""
    with running_server(tmp_path, "--drain", "60") as server, h2.Peer(server.address) as peer, \
            grpc.insecure_channel(server.address) as channel:
        quantd = Quantd(server, channel, stubs)
        start, *rest = quantd.stream_bytes(tensor)
        peer.send(h2.open_call(1, SERVICE + "StreamingQuantize"), h2.frame(h2.DATA, 0, 1, start))
        assert peer.await_frame(lambda f: f.kind == h2.DATA)
        server.process.terminate()
        last = peer.await_frame(lambda f: f.kind == h2.GOAWAY and f.payload[:4] == h2.word(1))
        assert last is not None, "no GOAWAY that names the running stream as the last one"
        assert all(f.number == h2.NO_ERROR for f in peer.frames if f.kind == h2.GOAWAY)
        peer.send(h2.open_call(3, SERVICE + "GetServerInfo"),
                  h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(b"")))
        with pytest.raises(OSError):
            h2.connect(server.address)
        peer.send(*[h2.frame(h2.DATA, h2.END_STREAM if piece is rest[-1] else 0, 1, piece)
                    for piece in rest])
        assert peer.await_end(1).kind == h2.HEADERS
        assert quantd.is_right(peer.answers(1), tensor)
        # Passed over or refused, but not answered, until the connection ends.
        assert peer.await_frame(lambda f: f.kind == h2.DATA and f.stream == 3) is None
        assert server.wait() == 0, server.log()


def test_max_streams(quantd):
    """As many as are announced, and who opens more harms itself alone."""
    with h2.Peer(quantd.address) as peer:
        settings = peer.await_frame(lambda f: f.kind == h2.SETTINGS and not f.flags).payload
        assert bytes([0, h2.MAX_CONCURRENT_STREAMS]) + h2.word(MAX_STREAMS) in settings
        streams = range(1, 2 * MAX_STREAMS, 2)
        # Unary calls that say nothing while others wait to would be refused after two seconds.
        methods = ["GetServerInfo"] + ["StreamingQuantize"] * (MAX_STREAMS - 2) + ["GetServerInfo"]
        peer.send(b"".join(h2.open_call(stream, SERVICE + method)
                           for stream, method in zip(streams, methods, strict=True)))
        for stream in (streams[0], streams[-1]):
            peer.send(h2.frame(h2.DATA, h2.END_STREAM, stream, h2.message(b"")))
            assert peer.await_end(stream).kind == h2.HEADERS
            assert len(peer.answers(stream)) == 1
        more = range(streams[-1] + 2, streams[-1] + 8, 2)  # two take the places that came free
        peer.send(b"".join(h2.open_call(stream, SERVICE + "StreamingQuantize") for stream in more))
        # A reset of the last one would do; gRPC 1.51 ends the connection.
        refusal = peer.await_frame(lambda f: f.kind == h2.RST_STREAM and f.stream == more[-1])
        assert refusal is not None or peer.ended
        quantd.still_right()


def test_ping(quantd, tensor):
    """Acknowledged at every place in a call, with the bytes that were sent, and in order."""
    pieces = [b"", h2.open_call(1, SERVICE + "StreamingQuantize"),
              *[h2.frame(h2.DATA, 0, 1, piece) for piece in quantd.stream_bytes(tensor[:2])],
              h2.frame(h2.DATA, h2.END_STREAM, 1)]
    with h2.Peer(quantd.address) as peer:
        pings = []
        for number, piece in enumerate(pieces):
            pings.append(b"ping %03d" % number)
            peer.send(piece, h2.frame(h2.PING, 0, 0, pings[-1]))
            assert peer.await_frame(lambda f: f.kind == h2.PING and f.payload == pings[-1])
        assert peer.await_end(1).kind == h2.HEADERS
        assert quantd.is_right(peer.answers(1), tensor[:2])
        acknowledged = [f.payload for f in peer.frames if f.kind == h2.PING and f.flags & h2.ACK]
        assert acknowledged == pings
        assert not peer.ended and not any(f.kind == h2.GOAWAY for f in peer.frames)


# --- The negative ones of HTTP/2: quantctl

ROWS, COLS, TENSORS = 256, 1024, 12


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """12 MiB in 12 tensors, and what becomes of them."""
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(10)
    save_file({f"layer.{i}": rng.standard_normal((ROWS, COLS), np.float32) for i in range(TENSORS)},
              folder / "model.safetensors")
    quantctl("quantize", folder / "model.safetensors", "-o", folder / "packed.safetensors",
                  "--to", "int8")
    return folder / "model.safetensors", (folder / "packed.safetensors").read_bytes()


@pytest.fixture
def out_folder(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


class Meddler:
    """Takes part in the frames between a client and quantd; this one lets all pass."""

    def __init__(self, method=None):
        self.method, self.stream, self.number = method, None, None
        self.lock = threading.Lock()

    def harms(self, number):
        def locked(change):
            def frames(frame):
                with self.lock:
                    return change(number, frame)
            return frames
        return Harm(frames=locked(self.up)), Harm(frames=locked(self.down))

    def up(self, number, frame):
        """To the server. The first stream of the method is remembered."""
        wanted = self.method and self.stream is None and frame.kind == h2.HEADERS
        if wanted and (SERVICE + self.method).encode() in frame.payload:
            self.number, self.stream = number, frame.stream
        return frame.bytes()

    def down(self, number, frame):
        """To the client."""
        return frame.bytes()

    def is_it(self, number, frame):
        return (number, frame.stream) == (self.number, self.stream)


class Resets(Meddler):
    """Resets the first stream of a method when so much of the answer has gone to the client."""

    def __init__(self, method, when, error, at_bytes=0):
        super().__init__(method)
        self.when, self.error, self.at_bytes = when, error, at_bytes
        self.sent_bytes, self.done = 0, False

    def down(self, number, frame):
        # What still comes of the stream goes on: the client has to know the headers.
        whole = frame.bytes()
        if self.done or not self.is_it(number, frame):
            return whole
        reset = h2.reset(self.stream, self.error)
        if self.when == "header" and frame.kind == h2.HEADERS:
            self.done = True
            return whole + reset
        if self.when == "data" and frame.kind == h2.DATA:
            self.sent_bytes += len(frame.payload)
            if self.sent_bytes > self.at_bytes:
                self.done = True
                half = len(frame.payload) // 2
                return (h2.frame(h2.DATA, 0, frame.stream, frame.payload[:half]) + reset
                        + frame._replace(payload=frame.payload[half:]).bytes())
        if self.when == "trailer" and frame.kind == h2.HEADERS and frame.ends_stream:
            self.done = True
            return reset + whole
        return whole


def run(server, meddler, model, folder, codes=(0,)):
    """Runs quantctl through the proxy; returns its report, or its message, and the connections.

    Its output is whole and right, or not there at all.
    """
    source, packed = model
    out = folder / "o.safetensors"
    with FaultProxy(lambda: server.address, meddler.harms) as proxy:
        ended = quantctl("quantize", source, "-o", out, "--to", "int8", "--timeout", TIMEOUT, "--server",
                         proxy.address, "--json", code=None)
        connections = proxy.connections
    assert ended.returncode in codes, ended
    if ended.returncode == 0:
        assert list(folder.iterdir()) == [out] and out.read_bytes() == packed
        return json.loads(ended.stdout), connections
    assert list(folder.iterdir()) == []
    return ended.stderr.decode(), connections


def attempts(report):
    return max(tensor["attempts"] for tensor in report["tensors"])


@pytest.mark.parametrize("when, at_bytes", [("header", 0), ("data", 1 << 20)], ids=["header", "data"])
@pytest.mark.parametrize("error", [h2.NO_ERROR, h2.REFUSED_STREAM], ids=["no_error", "refused"])
def test_rst_at_the_client(quantd, model, out_folder, when, at_bytes, error):
    """A refused stream is made again on the same connection; any other reset is a clean error."""
    resets = Resets("StreamingQuantize", when, error, at_bytes)
    if error == h2.REFUSED_STREAM:
        report, connections = run(quantd.server, resets, model, out_folder)
        assert (attempts(report), connections) == (2, 1)
    else:
        message, connections = run(quantd.server, resets, model, out_folder, codes=[5])
        assert "RST_STREAM" in message and connections == 1
    assert resets.done


def test_rst_at_the_client_after_data(quantd, model, out_folder):
    """All that is needed was sent; whether gRPC still hands it out when the reset comes, nobody knows."""
    resets = Resets("StreamingQuantize", "trailer", h2.NO_ERROR)
    result, connections = run(quantd.server, resets, model, out_folder, codes=[0, 5])
    assert resets.done and connections == 1
    if isinstance(result, str):
        assert "RST_STREAM" in result
    else:
        assert attempts(result) == 1


@pytest.mark.parametrize("when", ["header", "data", "trailer"])
def test_rst_at_the_client_of_a_unary_call(quantd, model, out_folder, when):
    resets = Resets("Plan", when, h2.NO_ERROR)
    message, _ = run(quantd.server, resets, model, out_folder, codes=[5])
    assert resets.done and "RST_STREAM" in message


class SaysGoodbye(Meddler):
    """Sends GOAWAY while the first stream of a method runs, on its connection alone."""

    def __init__(self, method, is_served):
        super().__init__(method)
        self.is_served, self.done = is_served, False
        self.streams = []  # all that were opened, as (connection, stream)

    def up(self, number, frame):
        if frame.kind == h2.HEADERS:
            self.streams.append((number, frame.stream))
        return super().up(number, frame)

    def down(self, number, frame):
        if self.done or number != self.number or self.stream is None:
            return frame.bytes()
        self.done = True
        return h2.goaway(self.stream if self.is_served else self.stream - 2) + frame.bytes()


def test_goaway_at_the_client(tmp_path, model, out_folder):
    """The running stream ends well on the old connection, the next call takes a new one."""
    with surviving_server(tmp_path / "s", "--tensor-memory", "1MiB") as server:  # hence two passes
        goodbye = SaysGoodbye("Calibrate", is_served=True)
        report, connections = run(server, goodbye, model, out_folder)
    assert goodbye.done and (attempts(report), connections) == (1, 2)
    later = goodbye.streams[goodbye.streams.index((goodbye.number, goodbye.stream)) + 1:]
    assert later and {number for number, _ in later} == {1}


def test_goaway_at_the_client_before_the_stream(quantd, model, out_folder):
    """A stream that the server says it has not taken is made again on a new connection."""
    goodbye = SaysGoodbye("StreamingQuantize", is_served=False)
    report, connections = run(quantd.server, goodbye, model, out_folder)
    assert goodbye.done and (attempts(report), connections) == (2, 2)


class OneStream(Meddler):
    """Allows one stream at a time, and counts."""

    def __init__(self):
        super().__init__()
        self.open, self.most, self.total = set(), 0, 0

    def up(self, number, frame):
        if frame.kind == h2.HEADERS and frame.stream not in self.open:
            self.open.add(frame.stream)
            self.most, self.total = max(self.most, len(self.open)), self.total + 1
        if frame.kind == h2.RST_STREAM:
            self.open.discard(frame.stream)
        return frame.bytes()

    def down(self, number, frame):
        if frame.ends_stream or frame.kind == h2.RST_STREAM:
            self.open.discard(frame.stream)
        if frame.kind == h2.SETTINGS and not frame.flags & h2.ACK:
            limit = bytes([0, h2.MAX_CONCURRENT_STREAMS]) + h2.word(1)
            return frame._replace(payload=frame.payload + limit).bytes()
        return frame.bytes()


def test_max_streams_at_the_client(quantd, model, out_folder):
    """quantctl makes a dozen plans at once, which wait for one another."""
    one = OneStream()
    _, connections = run(quantd.server, one, model, out_folder)
    assert (one.most, one.total, connections) == (1, TENSORS + 1, 1)


class Pings(Meddler):
    """Sends pings before and after every frame that goes to the client."""

    def __init__(self):
        super().__init__()
        self.sent, self.acknowledged = [], []

    def up(self, number, frame):
        if frame.kind == h2.PING and frame.flags & h2.ACK and frame.payload.startswith(b"ping"):
            self.acknowledged.append(frame.payload)
            return b""
        return frame.bytes()

    def down(self, number, frame):
        if frame.kind not in (h2.HEADERS, h2.DATA):
            return frame.bytes()
        pings = [b"ping%04d" % (len(self.sent) + i) for i in range(2)]
        self.sent += pings
        before, after = (h2.frame(h2.PING, 0, 0, ping) for ping in pings)
        return before + frame.bytes() + after


def test_ping_at_the_client(quantd, model, out_folder):
    """All but those that cross with its end are acknowledged, in order."""
    pings = Pings()
    _, connections = run(quantd.server, pings, model, out_folder)
    acknowledged = len(pings.acknowledged)
    assert pings.acknowledged == pings.sent[:acknowledged]
    assert connections == 1 and acknowledged >= len(pings.sent) - 4 and acknowledged > 4 * TENSORS
