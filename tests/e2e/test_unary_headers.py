"""Unary calls by hand: what is decided at the headers, and what becomes of half a request."""

import struct

import grpc
import pytest
import raw_http2 as h2
from conftest import quantctl_json, running_server, wait_until

SERVICE = "/quantd.v1.QuantizationService/"
UNARY = ["Quantize", "Dequantize", "Plan", "ListSchemes", "GetServerInfo"]


def read_until(peer, wanted, seconds=30):
    """Returns what comes up to the bytes that are wanted."""
    peer.settimeout(seconds)
    got = b""
    while wanted not in got:
        piece = peer.recv(1 << 16)
        assert piece, got
        got += piece
    return got


@pytest.fixture
def server(tmp_path):
    with running_server(tmp_path / "s", "--idle-timeout", 1) as running:
        yield running


@pytest.mark.parametrize("method", UNARY + ["Calibrate"])
def test_token_is_asked_for_before_the_message(tmp_path, method):
    tokens = tmp_path / "tokens"
    tokens.write_text(quantctl_json("token", "alice")["line"] + "\n")
    with running_server(tmp_path / "s", "--tokens", tokens) as server:
        with h2.connect(server.address) as peer:
            h2.send(peer, h2.hello(), h2.open_call(1, SERVICE + method))  # and nothing more
            read_until(peer, b"the call needs a token")


def test_half_a_request_is_cut(server):
    with h2.connect(server.address) as peer:
        request = h2.message(b"half", claimed_bytes=100)
        h2.send(peer, h2.hello(), h2.open_call(1, SERVICE + "Quantize"),
                h2.frame(h2.DATA, 0, 1, request))
        wait_until(lambda: quantctl_json("info", "--server", server.address)["memory_used_bytes"] > 0,
                   "what it holds while it is read")
        read_until(peer, b"neither sent nor taken")
    wait_until(lambda: quantctl_json("info", "--server", server.address)["memory_used_bytes"] == 0,
               "the release of memory")


def test_an_answer_that_nobody_takes_is_cut(server):
    with h2.connect(server.address) as peer:
        no_window = (4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE
        h2.send(peer, h2.hello(no_window), h2.open_call(1, SERVICE + "GetServerInfo"),
                h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(b"")))
        reset = struct.pack(">I", 4)[1:] + struct.pack(">BBI", h2.RST_STREAM, 0, 1)
        read_until(peer, reset)


def test_a_call_without_a_request_is_refused(server):
    with h2.connect(server.address) as peer:
        headers = h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1,
                           h2.call_headers(SERVICE + "Quantize"))
        h2.send(peer, h2.hello(), headers)
        read_until(peer, b"without its request")


def test_a_second_request_is_not_read(server):
    """gRPC's own servers do not look for it either."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_unary(SERVICE + "GetServerInfo")
        assert call(iter([b"", b""]), timeout=60)
