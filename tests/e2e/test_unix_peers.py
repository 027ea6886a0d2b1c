"""What a peer may do to the transport: users of UNIX sockets, numbers, silence."""

import os
import pathlib
import re
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading

import grpc
import pytest
import raw_http2 as h2
from conftest import MODEL, QUANTCTL, ROOT, clean_env, quantctl, running_server, wait_until

OTHER_UID = 12345
INFO = "/quantd.v1.QuantizationService/GetServerInfo"


def test_mode_of_the_socket(tmp_path):
    path = tmp_path / "sock"
    with running_server(tmp_path / "s", listen=f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()
    with running_server(tmp_path / "s2", "--socket-mode", "0600", listen=f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def as_other_user():
    os.setgid(OTHER_UID)
    os.setuid(OTHER_UID)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("allowed,served", [(str(OTHER_UID), True), ("4242", False), (f"4242,{OTHER_UID}", True)])
def test_allow_uid(allowed, served):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        with running_server(folder / "s", "--allow-uid", allowed, "--socket-mode", "0666",
                            listen=f"unix:{folder}/sock") as server:
            result = ask_as_other_user(str(folder / "sock"))
            assert result == (b"served" if served else b"closed"), result
            if not served:
                wait_until(lambda: f"user {OTHER_UID} is not one of --allow-uid" in server.log(), "a log line")
            root = quantctl("info", "--server", server.address, "--timeout", "20", code=None)
            assert root.returncode == 3, "root is not in the list either"


def test_the_example_configuration_shuts_no_user_out():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        with running_server(folder / "s", "--config", ROOT / "deploy" / "quantd.toml", "--socket-mode", "0666",
                            listen=f"unix:{folder}/sock"):
            assert ask_as_other_user(str(folder / "sock")) == b"served"


def ask_as_other_user(path):
    """Sends an HTTP/2 preface as another user; says whether the server answers or hangs up."""
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1])\n"
        "try:\n"
        "    s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + b'\\0\\0\\0\\4\\0\\0\\0\\0\\0')\n"
        "    print('served' if s.recv(9) else 'closed', end='')\n"
        "except ConnectionError:\n"
        "    print('closed', end='')\n")
    return subprocess.run(["/usr/bin/python3", "-c", script, path], capture_output=True, timeout=60,
                          preexec_fn=as_other_user, check=True, cwd="/").stdout


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def closed_by_server(connection):
    """Whether the server hangs up without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_the_log_misses_no_connection(tmp_path):
    """It has a line a second at most, but those of a burst's end are in one too."""
    with running_server(tmp_path / "s", "--max-connections", 1) as server:
        peer = h2.Peer(server.address)
        peer.send(h2.open_call(1, INFO), h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(b"")))
        assert peer.await_end(1) is not None
        for _ in range(20):
            with connect(server.address) as further:
                assert closed_by_server(further)

        def told():
            return sum(map(int, re.findall(r"(\d+) connection\(s\) refused or closed", server.log())))

        wait_until(lambda: told() == 20, "a line with the last ones")
        peer.socket.close()


def test_connection_limit(tmp_path):
    with running_server(tmp_path / "s", "--max-connections", 3) as server:
        for _ in range(3):  # those that ended make room again
            def ask():
                return quantctl("info", "--server", server.address, "--timeout", "20", code=None).returncode

            wait_until(lambda: ask() == 0, "room for a connection")
            held = []

            def hold():
                """A call that is let in keeps its connection's place."""
                peer = h2.Peer(server.address)
                peer.send(h2.open_call(1, INFO), h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(b"")))
                if peer.await_end(1) is not None:
                    held.append(peer.socket)
                else:
                    peer.socket.close()
                return len(held) == 3

            wait_until(hold, "three connections")
            with connect(server.address) as further:
                assert closed_by_server(further)
            assert ask() == 3
            for connection in held:
                connection.close()
        wait_until(lambda: "as many as --max-connections" in server.log(), "a log line")


def test_idle_connections_make_room(tmp_path):
    """Those that never make a call keep out neither others nor health checks by another socket."""
    with running_server(tmp_path / "s", "--max-connections", 8, "--listen", f"unix:{tmp_path}/sock") as server:
        idle = [connect(server.address) for _ in range(40)]
        for _ in range(3):
            quantctl("info", "--server", f"unix:{tmp_path}/sock", "--health")
            quantctl("info", "--server", server.address)
        wait_until(lambda: "went for a newcomer" in server.log(), "a log line")
        for connection in idle:
            connection.close()


def test_users_are_told_apart(tmp_path):
    with running_server(tmp_path / "s", listen=f"unix:{tmp_path}/sock") as server:
        quantctl("quantize", MODEL, "-o", tmp_path / "o.safetensors", "--to", "int8", "--server", server.address)
        wait_until(lambda: f"from unix:{os.getuid()} at" in server.log(), "the line of the stream")


def test_descriptors_return(tmp_path):
    """The duplicates of accepted sockets go away, however a connection ends."""
    with running_server(tmp_path / "s") as server:
        def descriptors():
            return len(os.listdir(f"/proc/{server.pid}/fd"))

        quantctl("info", "--server", server.address)
        wait_until(lambda: descriptors() > 0, "descriptors")
        before = descriptors()
        for number in range(60):
            connection = connect(server.address)
            if number % 3 == 0:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            if number % 3 == 1:  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        wait_until(lambda: descriptors() <= before, "the end of all connections")


@pytest.mark.parametrize("sent", [b"", b"PRI * HT"])
def test_half_open_connection_is_cut(tmp_path, sent):
    """Whoever never comes to the end of the handshakes is closed after 20 seconds."""
    with running_server(tmp_path / "s") as server:
        with connect(server.address) as connection:
            connection.sendall(sent)
            while connection.recv(4096):  # the server's SETTINGS, then the end
                pass


def test_silent_stream_is_cut(tmp_path, stubs):
    messages, services = stubs
    with running_server(tmp_path / "s", "--idle-timeout", 1) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = services.QuantizationServiceStub(channel)
            start = messages.QuantizeStart(
                tensor=messages.TensorDescriptor(name="t", data_type=messages.DATA_TYPE_F32, shape=[1 << 20]),
                spec=messages.QuantizationSpec(text="int8"))

            def requests():
                yield messages.StreamingQuantizeRequest(tensor_id=1, start=start)
                stop.wait(60)

            stop = threading.Event()
            responses = stub.StreamingQuantize(requests(), timeout=60)
            assert next(responses).HasField("start")
            with pytest.raises(grpc.RpcError) as error:
                next(responses)
            stop.set()
            assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "neither sent nor taken" in error.value.details()
            wait_until(lambda: stub.GetServerInfo(messages.GetServerInfoRequest(), timeout=60)
                       .memory_used_bytes == 0, "the release of memory")


def test_client_that_takes_nothing_is_cut(tmp_path):
    """A stopped client leaves responses untaken: its stream ends and the memory comes back."""
    rows = 16384
    with running_server(tmp_path / "s", "--idle-timeout", 1) as server:
        client = subprocess.Popen(
            [QUANTCTL, "quantize", "-", "--dtype", "f32", "--shape", f"{rows},4096", "-o",
             str(tmp_path / "o.safetensors"), "--to", "fp16", "--server", server.address],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env())
        try:
            client.stdin.write(bytes(4 << 20))
            client.stdin.flush()
            client.send_signal(signal.SIGSTOP)
            wait_until(lambda: "has neither sent nor taken a frame" in server.log(), "the end of the stream")
        finally:
            client.kill()
            client.stdin.close()
            client.wait()
