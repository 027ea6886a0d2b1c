"""Messages of which most comes and the end never does: what the server holds of them is bounded."""

import os
import select
import time

import pytest
import raw_http2 as h2
from conftest import (MODEL, SANITIZED, quantctl, quantctl_json, running_server, surviving_server,
                      wait_until)

MIB = 1 << 20
SERVICE = "/quantd.v1.QuantizationService/"
MEMORY_BYTES = 64 * MIB
MESSAGE_BYTES, SENT_BYTES = 15 * MIB, 14 * MIB
WINDOW_BYTES = 65535  # RFC 9113, section 6.9.2: before the server's settings
FRAME_BYTES = 16384  # section 4.2, likewise


def rss_bytes(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class HalfSender:
    """A connection with one call, whose message is sent as far as the server's windows let it."""

    def __init__(self, address, method, *headers):
        self.socket = h2.connect(address)
        self.rest, self.got = b"", b""
        self.window, self.stream_window, self.initial = WINDOW_BYTES, WINDOW_BYTES, WINDOW_BYTES
        self.left = h2.message(bytes(SENT_BYTES), claimed_bytes=MESSAGE_BYTES)
        self.sent, self.ended = 0, False
        self.to_write = h2.hello() + h2.open_call(1, SERVICE + method, *headers)
        self.socket.setblocking(False)

    def pump(self):
        """Does what can be done now; returns whether that was anything."""
        before = self.sent, len(self.to_write), self.ended
        self.read()
        room = min(self.window, self.stream_window, MIB, len(self.left) - self.sent)
        if not self.to_write and room > 0 and not self.ended:
            self.to_write = b"".join(
                h2.frame(h2.DATA, 0, 1, self.left[at:min(at + FRAME_BYTES, self.sent + room)])
                for at in range(self.sent, self.sent + room, FRAME_BYTES))
            self.sent += room
            self.window -= room
            self.stream_window -= room
        try:
            if self.to_write and not self.ended:
                self.to_write = self.to_write[self.socket.send(self.to_write):]
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        return before != (self.sent, len(self.to_write), self.ended)

    def read(self):
        try:
            piece = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self.ended = self.ended or not piece
        self.got += piece
        frames, self.rest = h2.whole_frames(self.rest + piece)
        for frame in frames:
            if frame.kind == h2.SETTINGS and not frame.flags & h2.ACK:
                for at in range(0, len(frame.payload), 6):
                    if int.from_bytes(frame.payload[at:at + 2], "big") == h2.INITIAL_WINDOW_SIZE:
                        initial = int.from_bytes(frame.payload[at + 2:at + 6], "big")
                        self.stream_window += initial - self.initial
                        self.initial = initial
            if frame.kind == h2.WINDOW_UPDATE and frame.stream == 0:
                self.window += frame.number
            if frame.kind == h2.WINDOW_UPDATE and frame.stream == 1:
                self.stream_window += frame.number
            if frame.kind == h2.RST_STREAM or frame.ends_stream:
                self.ended = True


def push(senders, server, seconds):
    """Sends what the windows allow for some time; returns the largest resident memory meanwhile."""
    peak = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.process.poll() is None, server.log()
        if not any([sender.pump() for sender in senders]):
            select.select([], [], [], 0.01)
        peak = max(peak, rss_bytes(server.pid))
    return peak


def still_right(server, folder, *args, **kwargs):
    here, there = folder / "here.safetensors", folder / "there.safetensors"
    quantctl("quantize", MODEL, "-o", here, "--to", "int8")
    quantctl("quantize", MODEL, "-o", there, "--to", "int8", "--server", server.address, *args,
             **kwargs)
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("count, method", [(17, "Plan"), (64, "Quantize")])
def test_unary_requests(tmp_path, count, method):
    """They are read when there is room for whole ones, two at a time here; the others wait unread."""
    with surviving_server(tmp_path / "s", "--memory", "64MiB", "--idle-timeout", 4) as server:
        idle = rss_bytes(server.pid)
        senders = [HalfSender(server.address, method) for _ in range(count)]
        peak = push(senders, server, 2)
        print(f"{count} {method}: {(peak - idle) >> 20} MiB above idle")
        if not SANITIZED:  # two messages, what gRPC reads ahead of the others, and its buffers
            assert peak - idle < (2 * 16 + 0.3 * count + 1.5 * count + 8) * MIB
        assert sum(sender.sent > SENT_BYTES - MIB for sender in senders) <= 2 * 4
        quantctl("info", "--health", "--server", server.address)  # another caller, whose turn it is
        # A request has the idle time to become whole, and less while others wait.
        first = [sender for sender in senders if sender.sent > MIB][:2]
        wait_until(lambda: push(senders, server, 0.1) and all(s.ended for s in first), "their end")
        for sender in senders:
            sender.socket.close()
        still_right(server, tmp_path)


def test_calls_without_a_token(tmp_path):
    """Are refused before anything of them is read."""
    tokens = tmp_path / "tokens"
    made = quantctl_json("token", "alice")
    tokens.write_text(made["line"] + "\n")
    with running_server(tmp_path / "s", "--memory", "64MiB", "--tokens", tokens) as server:
        idle = rss_bytes(server.pid)
        senders = [HalfSender(server.address, method) for _ in range(32)
                   for method in ("Quantize", "StreamingQuantize")]
        peak = push(senders, server, 2)
        print(f"without a token: {(peak - idle) >> 20} MiB above idle")
        assert all(sender.ended for sender in senders)
        if not SANITIZED:
            assert peak - idle < (1.5 * len(senders) + 8) * MIB
        still_right(server, tmp_path, env={"QUANTCTL_TOKEN": made["token"]})


def test_streams_beyond_the_quota(tmp_path):
    """First frames of 64 streams that are never whole: 896 MiB. gRPC ends what it likes, but lives."""
    with surviving_server(tmp_path / "s", "--memory", "64MiB", "--idle-timeout", 4) as server:
        idle = rss_bytes(server.pid)
        for _ in range(2):
            senders = [HalfSender(server.address, "StreamingQuantize") for _ in range(64)]
            peak = push(senders, server, 2)
            print(f"64 streams: {sum(s.sent for s in senders) >> 20} MiB sent, "
                  f"{(peak - idle) >> 20} above idle, {sum(s.ended for s in senders)} ended")
            if not SANITIZED:
                assert peak < (64 + 32 + 64 + 1.5 * 64 + 48) * MIB
            # Frames that are worked on meanwhile are let go by other threads than gRPC's.
            quantctl("quantize", MODEL, "-o", tmp_path / "beside.safetensors", "--to", "int8",
                     "--server", server.address, "--timeout", "10", code=None)
            for sender in senders:
                sender.socket.close()
            still_right(server, tmp_path)
