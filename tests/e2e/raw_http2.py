"""HTTP/2 by hand, so that it can be wrong (RFC 9113, and RFC 7541 for headers)."""

import contextlib
import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE,
 CONTINUATION) = range(10)
END_STREAM, END_HEADERS, PADDED, ACK = 0x1, 0x4, 0x8, 0x1


def frame(kind, flags=0, stream=0, payload=b"", claimed_bytes=None):
    """A frame; `claimed_bytes` is a length that lies."""
    size = len(payload) if claimed_bytes is None else claimed_bytes
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


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
