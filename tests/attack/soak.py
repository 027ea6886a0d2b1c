#!/usr/bin/env python3
"""Everything at once, for a long time, against one quantd of its own over loopback.

At the same time and without pause: small unary calls and streams whose answers are computed again by
numpy, some of them cancelled and some bad; files that quantctl quantizes and restores over TCP, a UNIX
socket and shared memory, compared with what it makes without a server; clients that are killed in the
middle; the metrics and a watch of the health; and one attack of attack.py after another.

    tests/attack/soak.py [--seconds 1800] [--memory 192MiB] [--limit 320MiB]

--limit puts the server in a memory cgroup. Each minute it prints a row: resident memory, its peak in
that minute, descriptors, threads, and what was done. Exits 1 if an answer was wrong, quantctl failed,
or the server ended; if the memory of the last quarter was more than 5 % and 8 MiB above that of the
second; or if descriptors, threads or reserved memory were left at the end.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import attack  # noqa: E402  (which adds tests/e2e)

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import reference  # noqa: E402
from conftest import (  # noqa: E402
    MODEL, QUANTCTL, clean_env, joining, make_stubs, memory_cgroup, quantctl, running_server, wait_until)
from test_grpc_client import collect, frames_of, start_of  # noqa: E402

SPECS = ["int8:axis=0", "int8:group=64,tail=short", "nf4", "fp16", "uint8", "int8"]
WAYS = {"tcp": (), "unix": ("--transport", "unix"), "shared": ("--transport", "shared_memory")}
CONNECTIONS, ATTACK_SECONDS, LOOK_SECONDS = 16, 5, 0.05
# What an honest caller may be told while others crowd: to come again.
MAY_COME_AGAIN = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class Soak:
    """The server, what its callers count, and when they are to stop."""

    def __init__(self, server, unix, stubs, folder):
        self.server, self.unix, self.stubs, self.folder = server, unix, stubs, folder
        self.metrics_url = re.search(r"http://\S+/metrics", server.log()).group()
        self.over = threading.Event()
        self.done, self.lock = collections.Counter(), threading.Lock()
        self.problems = []

    def count(self, what):
        with self.lock:
            self.done[what] += 1

    def problem(self, what):
        with self.lock:
            self.problems.append(what)
        print(f"PROBLEM: {what}", flush=True)

    def channel(self):
        return grpc.insecure_channel(self.server.address, [("grpc.use_local_subchannel_pool", 1)])

    def forever(self, step, *args):
        """A thread that does `step` again and again."""
        def run():
            while not self.over.is_set():
                try:
                    step(*args)
                except grpc.RpcError as error:
                    if error.code() not in MAY_COME_AGAIN:
                        self.problem(f"{step.__name__}: {error.code()}: {error.details()}")
                    self.count("come again")
                    self.over.wait(random.uniform(0.2, 1))
                except Exception as error:  # noqa: BLE001  (one caller's fault ends no other)
                    self.problem(f"{step.__name__}: {error!r}")
                    self.over.wait(1)
        return threading.Thread(target=run)

    def unary(self):
        pb, services = self.stubs
        with self.channel() as channel:
            stub = services.QuantizationServiceStub(channel)
            for _ in range(random.randrange(1, 400)):
                x = np.random.default_rng().standard_normal((random.randrange(1, 9), 384)).astype(np.float32)
                answer = stub.Quantize(pb.QuantizeRequest(
                    start=start_of(pb, x, "int8:axis=0"), data=x.tobytes()), timeout=60)
                codes, scale = reference.int8_axis0(x)
                if [plane.data for plane in answer.planes] != [codes.tobytes(), scale.tobytes()]:
                    self.problem("a unary answer is wrong")
                self.count("unary")
                if self.over.is_set():
                    return

    def stream(self):
        pb, services = self.stubs
        x = np.random.default_rng().standard_normal((random.randrange(1, 2000), 512)).astype(np.float32)
        frames = list(frames_of(pb, x, "int8:axis=0", cut=random.randrange(20_000, 400_000), crc=False))
        kind = random.choice(["good", "good", "good", "cancelled", "bad"])
        if kind == "bad" and len(frames) > 2:
            frames[1].chunk.offset += 7
        with self.channel() as channel:
            call = services.QuantizationServiceStub(channel).StreamingQuantize(iter(frames), timeout=120)
            if kind == "cancelled":
                self.over.wait(random.uniform(0, 0.02))
                call.cancel()
                return self.count("cancelled streams")
            try:
                done = collect(call)[1]
            except grpc.RpcError as error:
                if kind == "good" or error.code() in MAY_COME_AGAIN:
                    raise
                return self.count("bad streams")
            codes, scale = reference.int8_axis0(x)
            right = done.get("planes") == {"codes": codes.tobytes(), "scale": scale.tobytes()} and "end" in done
            if right != (kind == "good"):
                self.problem(f"a {kind} stream was answered {'right' if right else 'wrong'}")
            self.count(f"{kind} streams")

    def files(self, name, model, expected):
        spec, (way, options) = random.choice(list(expected)), random.choice(list(WAYS.items()))
        address = self.server.address if way == "tcp" else f"unix:{self.unix}"
        out, back = self.folder / f"{name}.q.safetensors", self.folder / f"{name}.d.safetensors"
        quantctl("-q", "--server", address, "quantize", model, "-o", out, "--force", "--to", spec, *options)
        quantctl("-q", "--server", address, "dequantize", out, "-o", back, "--force", *options)
        if (out.read_bytes(), back.read_bytes()) != expected[spec]:
            self.problem(f"{spec} over {way}: other bytes than without a server")
        self.count(f"files {way}")

    def killed(self, model):
        process = subprocess.Popen(
            [QUANTCTL, "-q", "--server", self.server.address, "quantize", model, "-o",
             self.folder / "k.safetensors", "--force", "--to", "int8"], env=clean_env(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.over.wait(random.uniform(0, 0.3))
        process.kill()
        process.wait()
        self.count("killed clients")

    def watch(self):
        with self.channel() as channel:
            states = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
            if next(states) != b"\x08\x01":
                self.problem("not serving")
            for _ in range(10):
                with urllib.request.urlopen(self.metrics_url, timeout=60) as response:
                    if b"quantd_build_info" not in response.read():
                        self.problem("metrics without quantd_build_info")
                self.count("scrapes")
                self.over.wait(1)
            states.cancel()

    def attack(self):
        for name, kind in attack.attacks().items():
            if self.over.is_set():
                return
            load = attack.Load(self.server.address, kind, CONNECTIONS)
            load.run(ATTACK_SECONDS)
            self.count("attacks")


def state_of(pid):
    """Resident bytes, descriptors, threads."""
    folder = pathlib.Path(f"/proc/{pid}")
    return (attack.rss_bytes(pid), len(list((folder / "fd").iterdir())),
            len(list((folder / "task").iterdir())))


def observe(soak, seconds):
    """Prints a row a minute; returns the resident bytes, a mean for each second."""
    print("| s | resident, MiB | peak | descriptors | threads | done |\n|---|---|---|---|---|---|")
    began, means = time.monotonic(), []
    while (now := time.monotonic() - began) < seconds and soak.server.process.poll() is None:
        second = []
        while time.monotonic() - began < now + 1:
            second.append(attack.rss_bytes(soak.server.pid))
            time.sleep(LOOK_SECONDS)
        means.append((statistics.mean(second), max(second)))
        if len(means) % 60 == 0 or now + 1 >= seconds:
            resident, descriptors, threads = state_of(soak.server.pid)
            done = ", ".join(f"{n} {what}" for what, n in sorted(soak.done.items()))
            print(f"| {now:.0f} | {resident / attack.MIB:.0f} | {max(m[1] for m in means[-60:]) / attack.MIB:.0f} | "
                  f"{descriptors} | {threads} | {done} |", flush=True)
    return [mean for mean, _ in means]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--memory", default="192MiB")
    parser.add_argument("--limit", help="the memory of the server's cgroup, such as 320MiB")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "stubs").mkdir()
        stubs = make_stubs(folder / "stubs")
        model = folder / "model.safetensors"
        shutil.copy(MODEL, model)
        expected = {}
        for spec in SPECS:
            quantctl("-q", "quantize", model, "-o", folder / "q.safetensors", "--force", "--to", spec)
            quantctl("-q", "dequantize", folder / "q.safetensors", "-o", folder / "d.safetensors", "--force")
            expected[spec] = ((folder / "q.safetensors").read_bytes(), (folder / "d.safetensors").read_bytes())
        first = None
        if args.limit:
            limit = int(args.limit.removesuffix("MiB")) * attack.MIB
            first = joining(stack.enter_context(memory_cgroup(limit)))
        unix = folder / "s.sock"
        server = stack.enter_context(running_server(
            folder / "server", "--memory", args.memory, "--metrics", "0",
            "--listen", f"unix:{unix}", preexec_fn=first))
        soak = Soak(server, unix, stubs, folder)
        quantctl("info", "--server", server.address)
        idle = state_of(server.pid)
        threads = [soak.forever(soak.unary), soak.forever(soak.unary), soak.forever(soak.stream),
                   soak.forever(soak.stream), soak.forever(soak.files, "a", model, expected),
                   soak.forever(soak.files, "b", model, expected), soak.forever(soak.killed, model),
                   soak.forever(soak.watch), soak.forever(soak.attack)]
        for thread in threads:
            thread.start()
        means = observe(soak, args.seconds)
        soak.over.set()
        for thread in threads:
            thread.join()
        if server.process.poll() is not None:
            soak.problem(f"the server ended: {server.log()[-2000:]}")
        else:
            judge(soak, idle, means)
    print(f"{len(soak.problems)} problems")
    sys.exit(1 if soak.problems else 0)


def judge(soak, idle, means):
    """Whether what the server holds has stayed level, and goes away."""
    quarter = len(means) // 4
    second, last = statistics.mean(means[quarter:2 * quarter]), statistics.mean(means[3 * quarter:])
    print(f"resident: {second / attack.MIB:.1f} MiB in the second quarter, {last / attack.MIB:.1f} in the last")
    if last > 1.05 * second + 8 * attack.MIB:
        soak.problem("resident memory grows")

    def at_rest():
        _, descriptors, threads = state_of(soak.server.pid)
        # gRPC's pools grow to twice the CPUs each, and stay.
        return descriptors <= idle[1] and threads <= idle[2] + 4 * os.cpu_count()

    with contextlib.suppress(AssertionError):
        wait_until(at_rest, "rest", 60)
    print("idle before: %d MiB, %d descriptors, %d threads" % (idle[0] // attack.MIB, *idle[1:]))
    end = state_of(soak.server.pid)
    print("idle after:  %d MiB, %d descriptors, %d threads" % (end[0] // attack.MIB, *end[1:]))
    if not at_rest():
        soak.problem("descriptors or threads are left")
    if b'"memory_used_bytes": 0' not in quantctl("info", "--json", "--server", soak.server.address).stdout:
        soak.problem("reserved memory is left")


if __name__ == "__main__":
    main()
