"""A TCP proxy on loopback that harms what goes through it, as bad networks do."""

import contextlib
import dataclasses
import socket
import struct
import threading
import time
from typing import Callable, Optional

import raw_http2 as h2

PIECE_BYTES = 1 << 16


@dataclasses.dataclass
class Harm:
    """What happens to the bytes of one direction of a connection; offsets count from its start."""

    latency_s: float = 0  # each piece waits so long
    bytes_per_s: float = 0  # 0: no cap
    reset_at: Optional[int] = None  # after so many bytes, both ends see a reset
    close_at: Optional[int] = None  # after so many bytes, both ends see an orderly end
    drop_from: Optional[int] = None  # bytes from there on vanish, the connection stays
    flip_at: tuple = ()  # bytes that are inverted
    replace: Optional[tuple] = None  # (bytes, bytes of the same length): wherever they occur
    call_at: Optional[tuple] = None  # (offset, function), called once when the offset is passed
    frames: Optional[Callable] = None  # gives the bytes for a frame of HTTP/2; not with replace


class Broken(Exception):
    """Ends a connection; `reset` tells how."""

    def __init__(self, reset):
        super().__init__()
        self.reset = reset


def _held_back(data, wanted):
    """How many bytes at the end of data may be the beginning of wanted."""
    for size in range(min(len(wanted) - 1, len(data)), 0, -1):
        if data.endswith(wanted[:size]):
            return size
    return 0


class _Direction(threading.Thread):
    """Copies from one socket to another, harming what it copies."""

    def __init__(self, proxy, source, sink, harm):
        super().__init__(daemon=True)
        self.proxy, self.source, self.sink, self.harm = proxy, source, sink, harm
        self.sent = 0
        self.held = b""  # a frame's beginning, or maybe that of what is to be replaced

    def run(self):
        reset = False
        try:
            while data := self.source.recv(PIECE_BYTES):
                self.send(self.harmed(data))
            self.send(self.held)
            with contextlib.suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)
            return
        except Broken as broken:
            reset = broken.reset
        except OSError:  # an end has gone
            reset = True
        _end(self.source, reset)
        _end(self.sink, reset)

    def harmed(self, data):
        harm = self.harm
        if harm.replace:
            wanted, instead = harm.replace
            data = (self.held + data).replace(wanted, instead)
            held = _held_back(data, wanted)
            self.held, data = data[len(data) - held:], data[:len(data) - held]
        if harm.frames:
            data = self.reframed(self.held + data)
        changed = bytearray(data)
        for at in harm.flip_at:
            if 0 <= at - self.sent < len(changed):
                changed[at - self.sent] ^= 0xFF
        return bytes(changed)

    def reframed(self, data):
        preface = b""
        if h2.PREFACE.startswith(data[:len(h2.PREFACE)]):  # no frame is as long as that would say
            preface, data = data[:len(h2.PREFACE)], data[len(h2.PREFACE):]
            if preface != h2.PREFACE:
                self.held = preface
                return b""
        frames, self.held = h2.whole_frames(data)
        return preface + b"".join(map(self.harm.frames, frames))

    def send(self, data):
        harm = self.harm
        if harm.latency_s:
            time.sleep(harm.latency_s)
        for offset, reset in ((harm.reset_at, True), (harm.close_at, False)):
            if offset is not None and self.sent + len(data) >= offset:
                self.forward(data[:max(0, offset - self.sent)])
                raise Broken(reset)
        self.forward(data)

    def forward(self, data):
        harm = self.harm
        start, self.sent = self.sent, self.sent + len(data)
        if harm.call_at and start <= harm.call_at[0] < self.sent:
            harm.call_at[1]()
        if harm.drop_from is not None:
            data = data[:max(0, harm.drop_from - start)]
        if harm.bytes_per_s:
            step = max(1, int(harm.bytes_per_s / 100))
            for begin in range(0, len(data), step):
                self.sink.sendall(data[begin:begin + step])
                time.sleep(step / harm.bytes_per_s)
        else:
            self.sink.sendall(data)
        self.proxy.count(len(data))


def _end(peer, reset):
    with contextlib.suppress(OSError):
        if reset:  # closing then sends RST instead of FIN
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)  # wakes who reads from it
    with contextlib.suppress(OSError):
        peer.close()


class FaultProxy:
    """Passes connections on to `upstream()` ("host:port"), which may wait until there is one.

    `harms(n)` gives the pair (to the server, to the client) for connection n, counted from 0.
    """

    def __init__(self, upstream: Callable[[], str], harms: Callable[[int], tuple]):
        self.upstream, self.harms = upstream, harms
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.connections = 0
        self.forwarded_bytes = 0
        self.lock = threading.Lock()
        self.sockets = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.refuse()
        for peer in self.sockets:
            _end(peer, reset=True)
        for thread in self.threads:
            thread.join(60)

    def refuse(self):
        """Takes no more connections."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def count(self, size):
        with self.lock:
            self.forwarded_bytes += size

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.upstream().rsplit(":", 1)
            try:
                server = socket.create_connection((host, int(port)))
            except OSError:
                _end(client, reset=True)
                continue
            for peer in (client, server):
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            to_server, to_client = self.harms(self.connections)
            self.connections += 1
            self.sockets += [client, server]
            for direction in (_Direction(self, client, server, to_server),
                              _Direction(self, server, client, to_client)):
                self.threads.append(direction)
                direction.start()
