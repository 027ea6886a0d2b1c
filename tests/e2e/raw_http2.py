"""HTTP/2 by hand, so that it can be wrong (RFC 9113, and RFC 7541 for headers)."""

import contextlib
import socket
import struct
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE,
 CONTINUATION) = range(10)
END_STREAM, END_HEADERS, PADDED, ACK = 0x1, 0x4, 0x8, 0x1
NO_ERROR, REFUSED_STREAM, CANCEL = 0x0, 0x7, 0x8
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x3, 0x4
HEADER_BYTES = 9


def frame(kind, flags=0, stream=0, payload=b"", claimed_bytes=None):
    """A frame; `claimed_bytes` is a length that lies."""
    size = len(payload) if claimed_bytes is None else claimed_bytes
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Frame(NamedTuple):
    """A frame that has come."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends_stream(self):
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def number(self):
        """The word at the end: the error of RST_STREAM and of a GOAWAY that says no more."""
        return int.from_bytes(self.payload[-4:], "big")

    def bytes(self):
        return frame(*self)


def whole_frames(data):
    """Returns the frames that data begins with, and the rest."""
    frames = []
    while len(data) >= HEADER_BYTES:
        end = HEADER_BYTES + int.from_bytes(data[:3], "big")
        if len(data) < end:
            break
        frames.append(Frame(*struct.unpack(">BBI", data[3:HEADER_BYTES]), data[HEADER_BYTES:end]))
        data = data[end:]
    return frames, data


def text(value):
    """A string literal of HPACK, without Huffman coding (up to 16,510 bytes)."""
    value = value.encode() if isinstance(value, str) else value
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest = len(value) - 127
    return bytes([127, rest & 127 | 128, rest >> 7]) + value


def header_block(*pairs):
    return b"".join(b"\0" + text(name) + text(value) for name, value in pairs)


def call_headers(method, *more):
    """The headers of a gRPC call."""
    return header_block((":method", "POST"), (":scheme", "http"), (":path", method),
                        (":authority", "x"), ("te", "trailers"),
                        ("content-type", "application/grpc"), *more)


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def hello(*pairs):
    return PREFACE + settings(*pairs) + frame(SETTINGS, ACK)


def open_call(stream, method, *more):
    return frame(HEADERS, END_HEADERS, stream, call_headers(method, *more))


def message(payload, compressed=0, claimed_bytes=None):
    """A length-prefixed message of gRPC."""
    size = len(payload) if claimed_bytes is None else claimed_bytes
    return struct.pack(">BI", compressed, size) + payload


def word(value):
    return struct.pack(">I", value)


def reset(stream, error):
    return frame(RST_STREAM, 0, stream, word(error))


def goaway(last_stream, error=NO_ERROR):
    return frame(GOAWAY, 0, 0, word(last_stream) + word(error))


def whole_messages(data):
    """Returns the length-prefixed messages in data, which holds nothing else."""
    messages = []
    while data:
        end = 5 + int.from_bytes(data[1:5], "big")
        assert data[0] == 0 and len(data) >= end, data
        messages.append(data[5:end])
        data = data[end:]
    return messages


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)))


def send(peer, *pieces):
    """Sends until the other end has had enough; returns whether it took everything."""
    try:
        for piece in pieces:
            peer.sendall(piece)
        return True
    except (BrokenPipeError, ConnectionResetError):
        return False


def end_sending(peer):
    """Closes one way, where the other end has not closed both."""
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_WR)


def read_to_end(peer, seconds=30):
    """Returns what comes until the other end closes; None if it does not within the time."""
    peer.settimeout(seconds)
    got = b""
    try:
        while piece := peer.recv(1 << 16):
            got += piece
    except ConnectionResetError:
        pass
    except TimeoutError:
        return None
    return got


class Peer:
    """A connection to a server. Acknowledges settings and pings, and keeps all frames that come."""

    def __init__(self, address, *pairs, seconds=30):
        self.socket = connect(address)
        self.socket.settimeout(seconds)
        self.frames, self.rest, self.ended = [], b"", False
        self.send(PREFACE + settings(*pairs))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *pieces):
        return send(self.socket, *pieces)

    def await_frame(self, wanted):
        """Returns the first frame ever that is wanted; None if the connection ends before it."""
        seen = 0
        while True:
            for got in self.frames[seen:]:
                seen += 1
                if wanted(got):
                    return got
            if self.ended:
                return None
            self.read()

    def await_end(self, stream):
        """Returns the frame that ends the stream from there: END_STREAM, or a reset."""
        return self.await_frame(
            lambda f: f.stream == stream and (f.ends_stream or f.kind == RST_STREAM))

    def read(self):
        try:
            piece = self.socket.recv(1 << 16)
        except ConnectionResetError:
            piece = b""
        self.ended = not piece
        frames, self.rest = whole_frames(self.rest + piece)
        for got in frames:
            if got.kind == PING and not got.flags & ACK:
                self.send(frame(PING, ACK, 0, got.payload))
            # Not before they have come: gRPC would then take older ones as acknowledged.
            if got.kind == SETTINGS and not got.flags & ACK:
                self.send(frame(SETTINGS, ACK))
        self.frames += frames

    def answers(self, stream):
        """The messages that have come on a stream."""
        return whole_messages(
            b"".join(f.payload for f in self.frames if f.kind == DATA and f.stream == stream))
