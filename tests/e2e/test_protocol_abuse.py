"""HTTP/2 as no client speaks it: the server lives, answers others, and is as large as before."""

import os
import socket
import struct

import pytest
import raw_http2 as h2
from conftest import MODEL, SANITIZED, quantctl, quantctl_json, running_server, wait_until

MIB = 1 << 20
# What may stay after abuse: what lies scattered in the two heaps that quantd has malloc use.
STAYS_BYTES = 32 * MIB
QUANTIZE = "/quantd.v1.QuantizationService/Quantize"
STREAM = "/quantd.v1.QuantizationService/StreamingQuantize"


def rss_bytes(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def returns_to(server, rss, what):
    """Waits until resident memory is back, within seconds: an idle server gives free memory back.

    Sanitizers have allocators of their own, which keep what is freed, so there the server's own account
    of what it holds, which is checked everywhere, has to do.
    """
    if not SANITIZED:
        wait_until(lambda: rss_bytes(server.pid) <= rss + STAYS_BYTES, what)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("victim")
    # Those who flood it are the same caller as those who must be served meanwhile.
    with running_server(folder, "--log-level", "off", "--caller-streams", "100000") as server:
        for _ in range(3):  # what a server holds that has worked
            quantctl("quantize", MODEL, "-o", folder / "o.safetensors", "--to", "int8", "--server",
                     server.address)
        rss = rss_bytes(server.pid)
        yield server
        assert server.process.poll() is None, server.log()
        returns_to(server, rss, "the return of all memory")
    assert server.process.returncode == 0, server.log()


@pytest.fixture
def unharmed(victim, tmp_path):
    """Gives the server to a test, and checks afterwards that it is what it was."""
    files, rss = open_files(victim.pid), rss_bytes(victim.pid)
    yield victim
    assert victim.process.poll() is None, victim.log()
    still_right(victim, tmp_path)
    wait_until(lambda: quantctl_json("info", "--server", victim.address)["memory_used_bytes"] == 0,
               "the release of memory")
    wait_until(lambda: open_files(victim.pid) <= files + 1, "the end of connections")
    returns_to(victim, rss, f"the return to {rss >> 20} MiB, from {rss_bytes(victim.pid) >> 20} MiB,")


def still_right(server, folder):
    """Others are answered, and rightly."""
    here, there = folder / "here.safetensors", folder / "there.safetensors"
    quantctl("quantize", MODEL, "-o", here, "--to", "int8")
    quantctl("quantize", MODEL, "-o", there, "--to", "int8", "--server", server.address)
    assert here.read_bytes() == there.read_bytes()


def garbage():
    """Whole conversations, by name; the server ends each of these connections, or answers."""
    call = h2.open_call(1, STREAM)
    window = struct.pack(">I", 0x7FFFFFFF)
    return {
        "length of 16 MiB": [h2.hello(), h2.frame(h2.DATA, 0, 1, b"x", 0xFFFFFF)],
        "data without a stream": [h2.hello(), h2.frame(h2.DATA, 0, 5, bytes(100))],
        "data on stream 0": [h2.hello(), h2.frame(h2.DATA, 0, 0, bytes(100))],
        "even stream": [h2.hello(), h2.open_call(2, STREAM)],
        "stream ids backwards": [h2.hello(), h2.open_call(9, STREAM), h2.open_call(3, STREAM)],
        "unknown frames": [h2.hello(),
                           *[h2.frame(kind, 255, 1, bytes(99)) for kind in range(10, 200)]],
        "push": [h2.hello(), h2.frame(h2.PUSH_PROMISE, 4, 1, bytes(8))],
        "settings of odd size": [h2.PREFACE, h2.frame(h2.SETTINGS, 0, 0, bytes(7))],
        "settings on a stream": [h2.PREFACE, h2.frame(h2.SETTINGS, 0, 3, bytes(6))],
        "settings of absurd values": [h2.PREFACE,
                                      h2.settings(*[(i, 0xFFFFFFFF) for i in range(1, 9)])],
        "no settings": [h2.PREFACE, call],
        "window beyond its limit": [h2.hello(), call, h2.frame(h2.WINDOW_UPDATE, 0, 1, window) * 3],
        "window of nothing": [h2.hello(), call, h2.frame(h2.WINDOW_UPDATE, 0, 0, bytes(4))],
        "padding beyond the frame": [h2.hello(), call,
                                     h2.frame(h2.DATA, h2.PADDED, 1, b"\xff" + bytes(9))],
        "continuation of nothing": [h2.hello(), h2.frame(h2.CONTINUATION, 4, 1, bytes(9))],
        "headers cut by data": [h2.hello(), h2.frame(h2.HEADERS, 0, 1, h2.call_headers(STREAM)),
                                h2.frame(h2.DATA, 0, 1, b"x")],
        "bad header index": [h2.hello(), h2.frame(h2.HEADERS, 4, 1, b"\xff" * 6 + b"\x0f")],
        "bad huffman": [h2.hello(), h2.frame(h2.HEADERS, 4, 1, b"\0\xff\xff" + bytes(200))],
        "header table of 4 GiB": [h2.hello(),
                                  h2.frame(h2.HEADERS, 4, 1, b"\x3f" + b"\xff" * 4 + b"\x0f")],
        "reset of nothing": [h2.hello(), h2.frame(h2.RST_STREAM, 0, 7, bytes(4))],
        "short ping": [h2.hello(), h2.frame(h2.PING, 0, 0, bytes(3))],
        "priority on itself": [h2.hello(),
                               h2.frame(h2.PRIORITY, 0, 1, struct.pack(">IB", 1, 0))],
        "goodbye, then more": [h2.hello(), h2.frame(h2.GOAWAY, 0, 0, bytes(8)), call],
        "HTTP/1": [b"POST " + STREAM.encode() + b" HTTP/1.1\r\ncontent-length: 9\r\n\r\n"],
        "TLS": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(508)],
    }


@pytest.mark.parametrize("name", garbage())
def test_frames_that_are_wrong(victim, name):
    with h2.connect(victim.address) as peer:
        h2.send(peer, *garbage()[name])
        h2.end_sending(peer)
        assert h2.read_to_end(peer) is not None, "the server keeps the connection"
    quantctl("info", "--health", "--server", victim.address)


def test_garbage_at_the_end_leaves_nothing(unharmed):
    for _ in range(20):
        for pieces in garbage().values():
            with h2.connect(unharmed.address) as peer:
                h2.send(peer, *pieces)


def calls_that_are_wrong():
    """Headers of calls, by name."""
    plain = [(":method", "POST"), (":scheme", "http"), (":path", QUANTIZE), ("te", "trailers"),
             ("content-type", "application/grpc")]

    def but(name, value):
        return [(key, value if key == name else old) for key, old in plain]

    return {
        "GET": but(":method", "GET"),
        "another content type": but("content-type", "text/html"),
        "no path": plain[:2] + plain[3:],
        "path without a slash": but(":path", "quantd"),
        "path of dots": but(":path", "/../../etc/passwd"),
        "long path": but(":path", "/" + "a" * 4000),
        "path of bytes": but(":path", b"/\xff\xfe\x00/x"),
        "no content type": plain[:4],
        "twice the path": plain + [(":path", STREAM)],
        "upper case": plain + [("X-Upper", "1")],
        "line ends": plain + [("x", "a\r\nb: c")],
        "endless timeout": plain + [("grpc-timeout", "99999999H")],
        "negative timeout": plain + [("grpc-timeout", "-5S")],
        "no timeout": plain + [("grpc-timeout", "")],
        "unknown encoding": plain + [("grpc-encoding", "zstd")],
        "bad base64": plain + [("x-bin", "!!!")],
        "chunked": plain + [("transfer-encoding", "chunked")],
    }


@pytest.mark.parametrize("name", calls_that_are_wrong())
def test_headers_that_are_wrong(victim, name):
    block = h2.header_block(*calls_that_are_wrong()[name])
    with h2.connect(victim.address) as peer:
        h2.send(peer, h2.hello(), h2.frame(h2.HEADERS, h2.END_HEADERS, 1, block),
                h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(b"")))
        h2.end_sending(peer)
        assert h2.read_to_end(peer) is not None
    quantctl("info", "--health", "--server", victim.address)


def test_messages_whose_length_lies(unharmed):
    """4 GiB, 2 GiB and 15 MiB are announced, a byte comes; compressed ones that are not."""
    peers = []
    for claimed in (0xFFFFFFFF, 0x80000000, 15 * MIB):
        for compressed in (0, 1, 255):
            for _ in range(12):
                peer = h2.connect(unharmed.address)
                h2.send(peer, h2.hello(), h2.open_call(1, STREAM), h2.frame(
                    h2.DATA, 0, 1, h2.message(b"x", compressed, claimed)))
                peers.append(peer)
    quantctl("info", "--health", "--server", unharmed.address)
    assert rss_bytes(unharmed.pid) < 400 * MIB  # 36 times 15 MiB would be 540
    for peer in peers:
        peer.close()


FLOOD = 20_000
UNENDED = h2.frame(h2.HEADERS, 0, 1, h2.call_headers(STREAM))  # END_HEADERS is missing
FLOODS = {
    "settings": h2.settings((4, 65535)) * FLOOD,
    "pings": h2.frame(h2.PING, 0, 0, bytes(8)) * FLOOD,
    "empty data": h2.open_call(1, STREAM) + h2.frame(h2.DATA, 0, 1) * FLOOD,
    "priorities": h2.frame(h2.PRIORITY, 0, 3, bytes(5)) * FLOOD,
    "window updates": h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * FLOOD,
    "rapid reset": b"".join(
        h2.open_call(i, STREAM) + h2.frame(h2.RST_STREAM, 0, i, bytes(4))
        for i in range(1, FLOOD // 5, 2)),
    "continuations": UNENDED + h2.frame(h2.CONTINUATION, 0, 1,
                                        h2.header_block(("a", "b" * 100))) * FLOOD,
    "empty continuations": UNENDED + h2.frame(h2.CONTINUATION, 0, 1) * FLOOD,
    "metadata of 16 MiB": UNENDED + b"".join(
        h2.frame(h2.CONTINUATION, 0, 1, h2.header_block((f"k{i}", "v" * 16000)))
        for i in range(1000)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods(unharmed, name):
    """Whether the server has enough of it or takes it all, others go on."""
    for _ in range(3):
        with h2.connect(unharmed.address) as peer:
            peer.settimeout(30)
            # Answers are not read: what the server holds for them is bounded too.
            try:
                h2.send(peer, h2.hello(), FLOODS[name])
            except TimeoutError:
                pass  # it reads no more before its answers are read
            quantctl("info", "--health", "--server", unharmed.address)


def test_peers_that_stand_still(unharmed, tmp_path):
    """Slow loris: a hundred and more connections that have begun and do not go on."""
    call = h2.hello() + h2.open_call(1, STREAM)
    beginnings = [b"", h2.PREFACE[:10], h2.hello(), call[:-20], call,
                  call + h2.frame(h2.DATA, 0, 1, h2.message(b"x", 0, 1000)),
                  call + h2.frame(h2.DATA, 0, 1, b"\0")]
    peers = [h2.connect(unharmed.address) for _ in range(140)]
    for i, peer in enumerate(peers):
        h2.send(peer, beginnings[i % len(beginnings)])
    still_right(unharmed, tmp_path)
    for piece in (b"\0", b"\0"):  # a byte at a time
        for peer in peers:
            h2.send(peer, piece)
    still_right(unharmed, tmp_path)
    for peer in peers:
        peer.close()


def test_peers_that_never_read(unharmed, stubs, tmp_path):
    """Calls whose answers have nowhere to go, with no window at all and with full sockets."""
    messages, _ = stubs
    start = messages.StreamingQuantizeRequest(tensor_id=1, start=messages.QuantizeStart(
        tensor=dict(name="t", data_type=messages.DATA_TYPE_F32, shape=[64, 4096]),
        spec=dict(text="int8:axis=0"))).SerializeToString()
    chunk = messages.StreamingQuantizeRequest(
        tensor_id=1, chunk=dict(data=bytes(8000))).SerializeToString()
    peers = []
    for i in range(40):
        peer = h2.connect(unharmed.address)
        peer.settimeout(5)
        h2.send(peer, h2.hello((4, 0 if i % 2 else 65535)), h2.open_call(1, STREAM),
                h2.frame(h2.DATA, 0, 1, h2.message(start)),
                *[h2.frame(h2.DATA, 0, 1, h2.message(chunk))] * 7)
        peers.append(peer)
    still_right(unharmed, tmp_path)
    for peer in peers:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # a reset


def test_half_open_connections(unharmed, tmp_path):
    """Ends that close one way only, before and within calls."""
    peers = []
    for i in range(60):
        peer = h2.connect(unharmed.address)
        if i % 3 > 0:
            h2.send(peer, h2.hello())
        if i % 3 > 1:
            h2.send(peer, h2.open_call(1, STREAM))
        h2.end_sending(peer)
        peers.append(peer)
    still_right(unharmed, tmp_path)
    for peer in peers:
        assert h2.read_to_end(peer) is not None, "the server keeps a connection that is half gone"
        peer.close()
