#!/usr/bin/env python3
"""Attacks on a quantd of its own, over loopback, with HTTP/2 made by hand.

Each attack goes on for some seconds at full speed, or until it has sent 1 GiB, on a number of
connections that are made anew as soon as the server ends them. Meanwhile the server's memory is
looked at, and another client asks for its health. tests/e2e/test_attack.py runs all of them in the
suite, small; by hand

    tests/attack/attack.py [--seconds 10] [--connections 1 16 256] [--memory 256MiB] [--tls] [ATTACK...]

prints a table: how far the resident memory rose above that of the idle server, what stayed of it 3
seconds later, what was sent, how often the server ended a connection, and the median and the worst
time that health checks took, with those that failed.
"""

import argparse
import contextlib
import pathlib
import selectors
import socket
import ssl
import statistics
import struct
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import grpc  # noqa: E402
import raw_http2 as h2  # noqa: E402
from certificates import Authority  # noqa: E402
from conftest import quantctl, running_server  # noqa: E402

MIB = 1 << 20
MAX_SENT_BYTES = 1 << 30
STREAM = "/quantd.v1.QuantizationService/StreamingQuantize"
UNARY = "/quantd.v1.QuantizationService/Quantize"
CALL = h2.call_headers(STREAM)
PIECE_BYTES = 1 << 18
HALF_STREAMS, HALF_BYTES = 17, 15 * MIB


def literal(value_bytes):
    """The beginning of a field whose value is to be so long."""
    rest, length = value_bytes - 127, b"\x7f"
    while rest >= 128:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return b"\0\x01k" + length + bytes([rest])


def streams(make, count):
    """What `make` makes of each of so many streams, in one piece."""
    return b"".join(make(2 * i + 1) for i in range(count))


def many(piece):
    return piece * (PIECE_BYTES // len(piece) + 1)


class Attack:
    """What a connection sends: a beginning, then a piece again and again; null: it then stands still."""

    def __init__(self, beginning, again=b"", reads=True, tls=False, peer=None):
        self.beginning, self.again, self.reads, self.tls = h2.hello() + beginning, again, reads, tls
        self.peer = peer or Peer


UNENDED = h2.frame(h2.HEADERS, 0, 1, CALL)
# A field that goes into the table, where its index is then 62.
ENTRY = b"\x40" + h2.text("k") + h2.text("v" * 100)
ENTRY_4K = b"\x40" + h2.text("k") + h2.text("v" * 4000)
WINDOW = h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))


def attacks():
    return {
        "continuations": Attack(UNENDED, many(h2.frame(
            h2.CONTINUATION, 0, 1, h2.header_block(("a", "b" * 7000))))),
        "references": Attack(
            h2.frame(h2.HEADERS, 0, 1, ENTRY + CALL),
            many(h2.frame(h2.CONTINUATION, 0, 1, b"\xbe" * 50))),
        "references in whole blocks": Attack(
            h2.frame(h2.HEADERS, h2.END_HEADERS, 1, ENTRY_4K + CALL) + streams(
                lambda s: h2.frame(h2.HEADERS, h2.END_HEADERS, s + 2, CALL + b"\xbe" * 100), 20000)),
        "one string": Attack(
            h2.frame(h2.HEADERS, 0, 1, CALL + literal(1 << 30)),
            many(h2.frame(h2.CONTINUATION, 0, 1, b"v" * 16000))),
        "long headers": Attack(streams(
            lambda s: h2.frame(h2.HEADERS, 0, s, CALL) + h2.frame(h2.CONTINUATION, 0, s, h2.header_block(
                ("k", "v" * 7000))) * 3 + h2.frame(h2.CONTINUATION, h2.END_HEADERS, s), 2000)),
        "rapid reset": Attack(streams(
            lambda s: h2.frame(h2.HEADERS, h2.END_HEADERS, s, CALL) + h2.reset(s, h2.CANCEL), 30000)),
        "calls without a message": Attack(streams(
            lambda s: h2.frame(h2.HEADERS, h2.END_HEADERS, s, CALL), 30000)),
        "calls, answers unread": Attack(streams(
            lambda s: h2.frame(h2.HEADERS, h2.END_HEADERS, s, CALL), 30000), reads=False),
        "half messages": Attack(streams(
            lambda s: h2.open_call(s, UNARY) + h2.frame(h2.DATA, 0, s, h2.message(b"", 0, HALF_BYTES)),
            HALF_STREAMS), peer=HalfMessages),
        "settings": Attack(b"", many(h2.settings((4, 65535)))),
        "settings, answers unread": Attack(b"", many(h2.settings((4, 65535))), reads=False),
        "pings": Attack(b"", many(h2.frame(h2.PING, 0, 0, bytes(8)))),
        "pings, answers unread": Attack(b"", many(h2.frame(h2.PING, 0, 0, bytes(8))), reads=False),
        "priorities": Attack(b"", many(h2.frame(h2.PRIORITY, 0, 3, bytes(5)))),
        "window updates": Attack(h2.open_call(1, STREAM), many(WINDOW)),
        "empty data": Attack(h2.open_call(1, STREAM), many(h2.frame(h2.DATA, 0, 1))),
        "TLS handshakes": Attack(b"", tls=True),
    }


def client_hello():
    """What a client sends first."""
    context, sent = ssl.create_default_context(), ssl.MemoryBIO()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


def encrypted(connection):
    """The connection with TLS around it, its handshake done; as it was where there is none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    connection.settimeout(10)
    try:
        return context.wrap_socket(connection)
    except OSError:
        return connection


class Peer:
    """One connection of an attack."""

    def __init__(self, address, attack, over_tls=False):
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket()
        if over_tls:
            with contextlib.suppress(OSError):
                self.socket.connect((host, int(port)))
                self.socket = encrypted(self.socket)
        self.socket.setblocking(False)
        if not over_tls:
            self.socket.connect_ex((host, int(port)))
        self.reads, self.tls = attack.reads, attack.tls
        self.left = memoryview(client_hello() if attack.tls else attack.beginning)
        self.again = memoryview(attack.again)

    def step(self, events):
        """Sends and reads what it can; returns what was sent, None once the connection is over."""
        sent = 0
        try:
            if events & selectors.EVENT_READ:
                got = self.socket.recv(1 << 16)
                if not got or self.tls:  # the server has done the costly part of a handshake
                    return None
            if events & selectors.EVENT_WRITE and self.left:
                sent = self.socket.send(self.left[:PIECE_BYTES])
                self.left = self.left[sent:] or self.again
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return sent
        except OSError:
            return None
        return sent

    def wants(self):
        return (selectors.EVENT_READ if self.reads else 0) | (
            selectors.EVENT_WRITE if self.left else 0)


class HalfMessages(Peer):
    """Sends all but the last byte of some messages, as fast as the windows open."""

    def __init__(self, address, attack, over_tls=False):
        super().__init__(address, attack, over_tls)
        self.got, self.window = b"", 65535 - 5 * HALF_STREAMS
        self.windows = {2 * i + 1: 65535 - 5 for i in range(HALF_STREAMS)}
        self.to_send = {stream: HALF_BYTES - 1 for stream in self.windows}

    def step(self, events):
        try:
            if events & selectors.EVENT_READ:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.got += self.socket.recv(1 << 16)
            frames, self.got = h2.whole_frames(self.got)
        except OSError:
            return None
        for frame in frames:
            self.take(frame)
        if not self.left:
            self.left = memoryview(b"".join(self.pieces()))
        return super().step(events & selectors.EVENT_WRITE)

    def take(self, frame):
        if frame.kind == h2.WINDOW_UPDATE and frame.stream == 0:
            self.window += frame.number
        elif frame.kind == h2.WINDOW_UPDATE and frame.stream in self.windows:
            self.windows[frame.stream] += frame.number
        elif frame.kind == h2.SETTINGS and not frame.flags & h2.ACK:
            for i in range(0, len(frame.payload), 6):
                key, value = struct.unpack(">HI", frame.payload[i:i + 6])
                if key == h2.INITIAL_WINDOW_SIZE:
                    for stream in self.windows:
                        self.windows[stream] += value - 65535
        elif frame.kind == h2.RST_STREAM or frame.ends_stream:
            self.to_send[frame.stream] = 0

    def pieces(self):
        for stream, left in self.to_send.items():
            size = min(left, self.window, self.windows[stream], 16384)
            if size > 0:
                self.window -= size
                self.windows[stream] -= size
                self.to_send[stream] -= size
                yield h2.frame(h2.DATA, 0, stream, bytes(size))


class Load:
    """An attack on some connections, each made anew when it ends."""

    def __init__(self, address, attack, connections, over_tls=False):
        self.address, self.attack, self.over_tls = address, attack, over_tls
        self.selector = selectors.DefaultSelector()
        self.sent_bytes, self.ended, self.parked = 0, 0, []
        for _ in range(connections):
            self.connect()

    def connect(self):
        peer = self.attack.peer(self.address, self.attack, self.over_tls)
        self.selector.register(peer.socket, peer.wants() or selectors.EVENT_READ, peer)

    def run(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.sent_bytes < MAX_SENT_BYTES:
            for key, events in self.selector.select(0.1):
                self.step(key, events)
        for peer in [key.data for key in self.selector.get_map().values()] + self.parked:
            peer.socket.close()
        self.selector.close()

    def step(self, key, events):
        peer = key.data
        sent = peer.step(events)
        if sent is not None:
            self.sent_bytes += sent
            # Who reads nothing hears of the end once there is nothing to send.
            wants = peer.wants()
            if wants and wants != key.events:
                self.selector.modify(peer.socket, wants, peer)
            elif not wants:  # it stands still, and hears nothing
                self.selector.unregister(peer.socket)
                self.parked.append(peer)
            return
        self.selector.unregister(peer.socket)
        peer.socket.close()
        self.ended += 1
        self.connect()


class Watch:
    """The server's memory, and how long its health checks take, while it is attacked."""

    def __init__(self, pid, ask):
        self.pid, self.ask = pid, ask
        self.peak_bytes, self.seconds, self.failed = 0, [], 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.look), threading.Thread(target=self.check)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def look(self):
        while not self.over.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, rss_bytes(self.pid))

    def check(self):
        while not self.over.wait(0.1):
            began = time.monotonic()
            if self.ask():
                self.seconds.append(time.monotonic() - began)
            else:
                self.failed += 1


def rss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def health_asker(address, credentials=None):
    """Returns a function that makes a connection and asks on it whether the server is healthy."""
    def ask():
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = (grpc.secure_channel(address, credentials, options) if credentials
                   else grpc.insecure_channel(address, options))
        with channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            try:
                check(b"", timeout=10)
                return True
            except grpc.RpcError:
                return False
    return ask


class Result:
    """What an attack did to the server."""

    def __init__(self, idle_bytes, watch, load, stays_bytes):
        self.rose_mib = (watch.peak_bytes - idle_bytes) / MIB
        self.stays_mib = (stays_bytes - idle_bytes) / MIB
        self.sent_mib, self.ended = load.sent_bytes / MIB, load.ended
        self.checks, self.failed = len(watch.seconds), watch.failed
        self.median_s = statistics.median(watch.seconds) if watch.seconds else float("nan")
        self.worst_s = max(watch.seconds, default=float("nan"))


@contextlib.contextmanager
def target(folder, tls, *args, preexec_fn=None):
    """A server that has worked, and what asks for its health."""
    folder.mkdir(parents=True, exist_ok=True)
    credentials, options = None, ()
    folder.mkdir(exist_ok=True)
    if tls:
        authority = Authority(folder)
        certificate, key = authority.issue("server")
        options = ("--tls-cert", certificate, "--tls-key", key)
        credentials = grpc.ssl_channel_credentials(pathlib.Path(authority.certificate).read_bytes())
    with running_server(folder / "server", "--log-level", "off", *options, *args,
                        preexec_fn=preexec_fn) as server:
        client = ("--tls-ca", authority.certificate) if tls else ()
        for _ in range(3):
            quantctl("info", "--health", "--server", server.address, *client)
        yield server, health_asker(server.address, credentials)
        assert server.process.poll() is None, f"the server has ended: {server.log()}"


def run(server, ask, attack, connections, seconds, rest_seconds=3, over_tls=False):
    assert ask(), "the server is not healthy before the attack"
    idle = rss_bytes(server.pid)
    with Watch(server.pid, ask) as watch:
        load = Load(server.address, attack, connections, over_tls)
        load.run(seconds)
        time.sleep(rest_seconds)  # what the system has taken is still read
    assert server.process.poll() is None, "the server has ended"
    assert ask(), "the server is not healthy after the attack"
    return Result(idle, watch, load, rss_bytes(server.pid))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(attacks()))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--memory", default="256MiB")
    parser.add_argument("--tls", action="store_true", help="all of it over TLS")
    parser.add_argument("--tokens", action="store_true", help="the server demands tokens")
    args = parser.parse_args()
    known = attacks()
    for name in args.attacks:
        if name not in known:
            parser.error(f"no attack {name!r}; there are {', '.join(known)}")
    print("| attack | connections | rise, MiB | stays | sent, MiB | ended | health, ms | worst | failed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.attacks or known:
        for connections in args.connections:
            with tempfile.TemporaryDirectory() as name_of_folder:
                folder = pathlib.Path(name_of_folder)
                options = ["--memory", args.memory]
                if args.tokens:
                    (folder / "tokens").write_text(f"alice {'ab' * 32}\n")
                    options += ["--tokens", folder / "tokens"]
                with target(folder, args.tls or known[name].tls, *options) as (server, ask):
                    r = run(server, ask, known[name], connections, args.seconds,
                            over_tls=args.tls and not known[name].tls)
            print(f"| {name} | {connections} | {r.rose_mib:.0f} | {r.stays_mib:.0f} | {r.sent_mib:.0f} | {r.ended} | "
                  f"{1000 * r.median_s:.0f} | {1000 * r.worst_s:.0f} | {r.failed} of {r.checks + r.failed} |", flush=True)


if __name__ == "__main__":
    main()
