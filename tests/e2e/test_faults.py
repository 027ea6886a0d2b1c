"""Servers that die or stop, disks that fill up, memory that is bounded."""

import json
import os
import resource
import signal
import subprocess
import threading

import grpc
import numpy as np
import pytest
import reference
from conftest import (load_file, MODEL, QUANTCTL, QUANTD, clean_env, quantctl, quantctl_json, running_server,
                      wait_until)

MIB = 1 << 20


def feed(address, out, total_bytes, spec="int8:group=128", cols=4096, *extra):
    """Starts quantctl on a pipe; returns the process, whose stdin wants total_bytes of f32."""
    rows = total_bytes // 4 // cols
    return subprocess.Popen(
        [QUANTCTL, "quantize", "-", "--dtype", "f32", "--shape", f"{rows},{cols}", "-o", str(out),
         "--to", spec, "--server", address, *extra],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env())


def test_server_killed_in_mid_stream(tmp_path, nothing_left):
    with running_server(tmp_path / "s") as server:
        client = feed(server.address, nothing_left / "o.safetensors", 256 * MIB)
        block = np.ones(MIB // 4, np.float32).tobytes()
        for _ in range(64):  # well beyond what pipe, client and sockets hold
            client.stdin.write(block)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        with pytest.raises(BrokenPipeError):
            for _ in range(192):
                client.stdin.write(block)
        _, error = client.communicate(timeout=120)
        assert client.returncode == 3, error
        assert error.strip()


def test_no_server_at_all(tmp_path, nothing_left):
    """An error that names the address, and nothing left behind."""
    with running_server(tmp_path / "s") as server:
        address = server.address
    result = quantctl("quantize", MODEL, "-o", nothing_left / "o.safetensors", "--to", "int8",
                      "--server", address, code=3)
    assert address.split(":")[-1] in result.stderr.decode()


def test_client_killed_in_mid_stream(tmp_path, nothing_left):
    """The server gives back what the call held."""
    with running_server(tmp_path / "s") as server:
        client = feed(server.address, tmp_path / "o.safetensors", 64 * MIB, "int8")
        block = bytes(MIB)
        for _ in range(32):
            client.stdin.write(block)
        info = quantctl_json("info", "--server", server.address)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()

        def free():
            now = quantctl_json("info", "--server", server.address)
            return now["memory_used_bytes"] == 0

        wait_until(free, "the release of memory")
        assert info["memory_budget_bytes"] > 0


def has_unnamed_files(folder):
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
        return True
    except OSError:
        return False


def test_killed_client_leaves_nothing(tmp_path, nothing_left):
    """What it has written so far has no name yet."""
    if not has_unnamed_files(nothing_left):
        pytest.skip("the file system has no files without names")
    with running_server(tmp_path / "s") as server:
        client = feed(server.address, nothing_left / "o.safetensors", 64 * MIB)
        client.stdin.write(bytes(32 * MIB))
        os.kill(client.pid, signal.SIGKILL)
        client.wait()


@pytest.mark.parametrize("output", ["o.safetensors", "folder"])
def test_what_a_killed_client_left_is_said(tmp_path, output):
    """As where files cannot go without a name; folders never can."""
    left = tmp_path / f".{output}.0123456789abcdef.tmp"
    left.mkdir() if output == "folder" else left.touch()
    args = ("quantize", MODEL, "-o", tmp_path / output, "--to", "int8", "--format",
            "npy" if output == "folder" else "safetensors")
    assert str(left) in quantctl(*args).stderr.decode()
    left.rmdir() if output == "folder" else left.unlink()
    (tmp_path / output).rename(tmp_path / "made")
    assert b"left" not in quantctl(*args).stderr


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_file_size_limit(nothing_left):
    result = quantctl("quantize", MODEL, "-o", nothing_left / "o.safetensors", "--to", "int8", code=4,
                      preexec_fn=limit_file_size)
    assert b"o.safetensors" in result.stderr


def test_full_disk(tmp_path):
    """On a file system of 256 KiB, in a mount namespace of its own where the system lets us."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    script = (f"mount -t tmpfs -o size=256k none '{mount_point}' || exit 77; "
              f"'{QUANTCTL}' quantize '{MODEL}' -o '{mount_point}/o.safetensors' --to int8; code=$?; "
              f"ls -A '{mount_point}'; exit $code")
    result = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, env=clean_env())
    if result.returncode in (1, 77) and b"quantctl" not in result.stderr and (
            b"unshare" in result.stderr or b"mount" in result.stderr):
        pytest.skip("no mount namespaces here")
    assert result.returncode == 4, result.stderr
    assert b"space" in result.stderr.lower()
    assert result.stdout.strip() == b"", "something was left behind"


def test_interrupt_leaves_nothing(tmp_path, nothing_left, server):
    for number in (signal.SIGINT, signal.SIGTERM):
        client = feed(server.address, nothing_left / "o.safetensors", 64 * MIB)
        client.stdin.write(bytes(8 * MIB))
        client.stdin.flush()
        client.send_signal(number)
        client.communicate(timeout=60)
        assert client.returncode != 0


def test_sigterm_drains(tmp_path):
    """A call that runs is finished, a new one is refused, and the exit code is 0."""
    with running_server(tmp_path / "s") as server:
        out = tmp_path / "o.safetensors"
        client = feed(server.address, out, 32 * MIB)
        block = np.linspace(-1, 1, MIB // 4, dtype=np.float32).tobytes()
        for _ in range(16):
            client.stdin.write(block)
        client.stdin.flush()
        wait_until(lambda: quantctl_json("info", "--server", server.address)["memory_used_bytes"] > 0,
                   "the stream's start")
        server.process.send_signal(signal.SIGTERM)

        def refused():
            return quantctl("info", "--health", "--server", server.address, code=None).returncode != 0

        wait_until(refused, "the refusal of new calls")
        assert server.process.poll() is None
        for _ in range(16):
            client.stdin.write(block)
        _, error = client.communicate(timeout=120)
        assert client.returncode == 0, error
        assert server.wait() == 0, server.log()
    codes, _ = reference.int8_group(np.frombuffer(block, np.float32).reshape(-1, 4096), 128)
    out = load_file(out)
    name = next(n for n in out if not n.endswith(".scale"))
    np.testing.assert_array_equal(out[name], np.tile(codes, (32, 1)))


def test_second_server_on_the_same_address(tmp_path):
    with running_server(tmp_path / "s") as server:
        second = subprocess.run([QUANTD, "--listen", server.address], capture_output=True,
                                env=clean_env(), timeout=60)
        assert second.returncode != 0
        assert server.address.split(":")[-1].encode() in second.stdout + second.stderr
        quantctl("info", "--health", "--server", server.address)


def test_server_flags_and_environment(tmp_path):
    help_text = subprocess.run([QUANTD, "--help"], capture_output=True, env=clean_env()).stdout
    assert b"--listen" in help_text and b"QUANTD_LISTEN" in help_text
    bad = subprocess.run([QUANTD, "--listen", "nonsense:port:"], capture_output=True, env=clean_env(),
                         timeout=60)
    assert bad.returncode != 0 and bad.stdout + bad.stderr
    port_file = tmp_path / "port"
    process = subprocess.Popen([QUANTD, "--port-file", port_file], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL,
                               env=clean_env({"QUANTD_LISTEN": "127.0.0.1:0"}))
    try:
        wait_until(lambda: port_file.exists() and port_file.read_text().endswith("\n"), "port file")
        quantctl("info", "--health", "--server", port_file.read_text().strip())
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_over_budget_is_an_error_with_the_number(tmp_path, nothing_left):
    with running_server(tmp_path / "s", "--memory", "16MiB") as server:
        # A row must be resident for axis=0, and one row is the whole budget four times over.
        result = quantctl("quantize", "-", "--dtype", "f32", "--shape", f"1,{8 * MIB}", "-o",
                          nothing_left / "o.safetensors", "--to", "int8:axis=0", "--server",
                          server.address, code=None, input=bytes(32 * MIB))
        assert result.returncode > 0, result
        assert any(char.isdigit() for char in result.stderr.decode())
        quantctl("info", "--health", "--server", server.address)


def test_memory_is_bounded(tmp_path):
    """512 MiB with group scales; the server stays under 256 MiB and so does the client."""
    total = 512 * MIB
    with running_server(tmp_path / "s", "--memory", "64MiB") as server:
        out = tmp_path / "o.safetensors"
        client = feed(server.address, out, total, "int8:group=128", 4096, "--json")
        block = np.random.default_rng(1).standard_normal(MIB).astype(np.float32)
        data = memoryview(block.tobytes())
        for _ in range(total // len(data)):
            client.stdin.write(data)
        client.stdin.flush()
        with open(f"/proc/{client.pid}/status") as status:
            text = status.read()
        stdout, error = client.communicate(timeout=240)
        assert client.returncode == 0, error
        assert json.loads(stdout)
        assert server.peak_rss_bytes() < 256 * MIB
        client_peak = int(text.split("VmHWM:")[1].split()[0]) * 1024
        # Its mapped output file counts while it is in the page cache.
        assert client_peak < 512 * MIB
    assert out.stat().st_size == pytest.approx(total // 4 + total // 128, abs=65536)


def test_many_clients_at_once(tmp_path, server):
    results = [None] * 6

    def run(i):
        out = tmp_path / f"{i}.safetensors"
        quantctl("quantize", MODEL, "-o", out, "--to", "int8:axis=0", "--server", server.address)
        results[i] = out.read_bytes()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] and len(set(results)) == 1


def test_garbage_on_the_socket(server):
    import socket

    host, port = server.address.rsplit(":", 1)
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, os.urandom(4096),
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(512)):
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(garbage)
    quantctl("info", "--health", "--server", server.address)


def test_malformed_messages(server):
    with grpc.insecure_channel(server.address) as channel:
        raw = dict(request_serializer=None, response_deserializer=None)
        rng = np.random.default_rng(9)
        payloads = [b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x80", b"\xff" * 50, rng.bytes(300)]
        for method in ("Quantize", "Dequantize", "Plan"):
            call = channel.unary_unary(f"/quantd.v1.QuantizationService/{method}", **raw)
            for payload in payloads:
                with pytest.raises(grpc.RpcError) as raised:
                    call(payload)
                assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        for method in ("StreamingQuantize", "StreamingDequantize"):
            call = channel.stream_stream(f"/quantd.v1.QuantizationService/{method}", **raw)
            for payload in payloads:
                with pytest.raises(grpc.RpcError) as raised:
                    list(call(iter([payload])))
                assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    quantctl("info", "--health", "--server", server.address)
