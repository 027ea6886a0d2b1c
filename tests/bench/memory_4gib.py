"""Streams 4 GiB through a server and says how much memory it took.

    QUANTD_BUILD_DIR=build python3 tests/bench/memory_4gib.py [GIB] [SPEC]

The stream is made on the fly and goes through quantctl's standard input; the output is written to
$TMPDIR (a good quarter of the input) and removed. Exits 1 if the server's resident memory ever
reached 256 MiB. Needs nothing but Python.
"""

import array
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

LIMIT_BYTES = 256 << 20
COLS = 4096
BLOCK_BYTES = 4 << 20


def peak_rss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def start_server(build, folder):
    port_file = folder / "port"
    server = subprocess.Popen(
        [build / "server" / "quantd", "--listen", "127.0.0.1:0", "--port-file", port_file],
        stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (port_file.exists() and port_file.read_text().endswith("\n")):
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit("quantd does not start")
        time.sleep(0.01)
    return server, port_file.read_text().strip()


def stream(client, total_bytes):
    random.seed(1)
    block = array.array("f", (random.gauss(0, 1) for _ in range(BLOCK_BYTES // 4))).tobytes()
    for _ in range(total_bytes // BLOCK_BYTES):
        client.stdin.write(block)
    client.stdin.flush()
    return peak_rss_bytes(client.pid)


def main():
    gib = float(sys.argv[1]) if len(sys.argv) > 1 else 4
    spec = sys.argv[2] if len(sys.argv) > 2 else "int8:group=128"
    build = pathlib.Path(os.environ.get("QUANTD_BUILD_DIR", "build")).resolve()
    total_bytes = int(gib * (1 << 30)) // BLOCK_BYTES * BLOCK_BYTES
    folder = pathlib.Path(tempfile.mkdtemp(prefix="quantd-memory-"))
    server, address = start_server(build, folder)
    try:
        begin = time.monotonic()
        client = subprocess.Popen(
            [build / "client" / "quantctl", "quantize", "-", "--dtype", "f32", "--shape",
             f"{total_bytes // 4 // COLS},{COLS}", "-o", folder / "out.safetensors", "--to", spec,
             "--server", address],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        client_peak = stream(client, total_bytes)
        client.stdin.close()
        code = client.wait()
        seconds = time.monotonic() - begin
        server_peak = peak_rss_bytes(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        shutil.rmtree(folder)
    print(f"{total_bytes / (1 << 30):.2f} GiB as {spec}: {seconds:.1f} s, "
          f"{total_bytes / seconds / 1e9:.2f} GB/s; peak resident memory: "
          f"server {server_peak >> 20} MiB, client {client_peak >> 20} MiB (its mapped output included)")
    if code != 0:
        sys.exit(f"quantctl: exit code {code}")
    if server_peak >= LIMIT_BYTES:
        sys.exit(f"the server's {server_peak >> 20} MiB are over the limit of {LIMIT_BYTES >> 20} MiB")


if __name__ == "__main__":
    main()
