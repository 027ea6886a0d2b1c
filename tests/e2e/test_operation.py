"""What operators have: configuration, logs, traces, timings, shutdown, keepalive."""

import json
import queue
import re
import signal
import subprocess
import threading
import time
import tomllib
import urllib.request

import grpc
import numpy as np
import pytest
from conftest import QUANTD, ROOT, clean_env, quantctl, quantctl_json, running_server, wait_until
from test_grpc_client import frames_of, start_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def check_config(*args, code=0, env=None):
    result = subprocess.run([QUANTD, "--check-config", *map(str, args)], capture_output=True, timeout=60,
                            env=clean_env(env))
    assert result.returncode == code, result.stdout + result.stderr
    return (result.stdout if code == 0 else result.stderr).decode()


def config(*args, **kwargs):
    """What is in effect, as text by key."""
    return dict(line.split("=", 1) for line in check_config(*args, **kwargs).splitlines())


# --- Configuration

def test_precedence(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('memory = "64MiB"\nlisten = ["127.0.0.1:5", "unix:/tmp/s"]\ninsecure = true\nthreads = 3\n')
    env = {"QUANTD_MEMORY": "128MiB", "QUANTD_LISTEN": "127.0.0.1:6,127.0.0.1:7", "QUANTD_INSECURE": "false"}
    assert config()["memory"] == "0"  # a share of the machine
    from_file = config("--config", file)
    assert from_file["memory"] == str(64 << 20)
    assert from_file["listen"] == '["127.0.0.1:5", "unix:/tmp/s"]'
    assert (from_file["insecure"], from_file["threads"]) == ("true", "3")
    from_env = config("--config", file, env=env)
    assert from_env["memory"] == str(128 << 20)
    assert from_env["listen"] == '["127.0.0.1:6", "127.0.0.1:7"]'
    assert (from_env["insecure"], from_env["threads"]) == ("false", "3")
    from_flags = config("--config", file, "--memory", "256MiB", "--listen", "127.0.0.1:8", env=env)
    assert from_flags["memory"] == str(256 << 20)
    assert from_flags["listen"] == '"127.0.0.1:8"'
    assert config(env={"QUANTD_CONFIG": str(file)})["threads"] == "3"


def test_resolved_values_are_said(tmp_path):
    said = config("--memory", "64MiB", "--threads", "3")
    assert said["memory"] == said["# memory"] == str(64 << 20)
    assert said["tensor-memory"] == said["caller-memory"] == "0"
    assert said["# tensor-memory"] == str(16 << 20) and said["# caller-memory"] == str(48 << 20)
    assert said["# threads"] == "3"
    said = config()
    assert int(said["# memory"]) > 16 << 20 and int(said["# threads"]) > 0
    with running_server(tmp_path / "s") as server:
        info = quantctl_json("info", "--server", server.address)
    assert said["# simd"] == f'"{info["simd_target"]}"'
    assert int(said["# memory"]) == pytest.approx(info["memory_budget_bytes"], rel=0.01)


def test_memory_that_is_not_there_is_warned_of(tmp_path):
    """By --check-config and in the log; neither ends for it."""
    args = ("--memory", 1 << 50)
    result = subprocess.run([QUANTD, "--check-config", *map(str, args)], capture_output=True, timeout=60, env=clean_env())
    assert result.returncode == 0
    assert "does not fit" in result.stderr.decode() and "does not fit" not in result.stdout.decode()
    with running_server(tmp_path / "big", *args) as server:
        wait_until(lambda: "does not fit" in server.log(), "the warning")
    with running_server(tmp_path / "small", "--memory", "64MiB", "--max-connections", "100") as server:
        assert "does not fit" not in server.log() and "warn" not in server.log()


def test_effective_configuration_reads_back(tmp_path):
    first = check_config("--memory", "64MiB", "--listen", "127.0.0.1:1", "--listen", "unix:/tmp/a b", "--insecure")
    (tmp_path / "c.toml").write_text(first)
    assert check_config("--config", tmp_path / "c.toml") == first


def test_text_in_a_file_is_as_toml_has_it(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('port-file = "/run/a#b \\"c\\" \\u00e9"  # what a name may have\nlisten = [\n  "unix:/tmp/#1",\n]\n')
    effective = check_config("--config", file)
    parsed = tomllib.loads(effective)
    assert parsed["port-file"] == '/run/a#b "c" é'
    assert parsed["listen"] == "unix:/tmp/#1"
    file.write_text(effective)
    assert check_config("--config", file) == effective


@pytest.mark.parametrize("text, says", [
    ("memori = 1", "memori"), ("[server]\nmemory = 1", "server"), ("memory = many", "memory"),
    ("drain = -1", "drain"), ("check-config = true", "check-config"), ("config = 'x'", "config"),
    ("help = true", "help"), ("memory = 1\nmemory = 2", "memory"), ("log-format = 'xml'", "xml"),
    ("listen = ['nonsense']", "nonsense"), ("listen = ['0.0.0.0:1']", "--insecure"),
    ("tokens = '/nonexistent'", "/nonexistent"), ("tls-key = '/x'", "--tls-cert"),
    ("drain = nan", "drain"), ("idle-timeout = nan", "idle-timeout"), ("insecure", "line 1"),
    ("allow-uid = ''", "allow-uid"), ("allow-uid = [1, '']", "allow-uid"), ("threads = ''", "threads"),
    ("insecure = ''", "insecure"), ("listen = []", "listen"), ("listen = [['127.0.0.1:1']]", "listen"), ("drain = 1979-05-27", "drain"),
    ("tensor-memory = 1", "tensor memory of 1 bytes"), ("caller-memory = '1MiB'", "caller memory"),
    ("listen = ['127.0.0.1:5', '127.0.0.1:5']", "twice"),
    ("listen = '127.0.0.1:5'\nmetrics = '5'", "twice"),
    ("listen = 'unix:/tmp/a'\nsocket-mode = '0400'", "socket mode"),
    ("memory = '1KiB'", "memory"), ("metrics = '0.0.0.0:1'", "--insecure"), ("simd = 'mmx'", "mmx"),
])
def test_bad_file(tmp_path, text, says):
    (tmp_path / "c.toml").write_text(text + "\n")
    assert says in check_config("--config", tmp_path / "c.toml", code=2)


def test_tokens_of_nobody(tmp_path):
    (tmp_path / "tokens").write_text("# nobody yet\n")
    assert "no token" in check_config("--tokens", tmp_path / "tokens", code=2)


def test_no_file(tmp_path):
    assert "absent.toml" in check_config("--config", tmp_path / "absent.toml", code=2)
    assert "absent.toml" in check_config(code=2, env={"QUANTD_CONFIG": str(tmp_path / "absent.toml")})


def test_example_names_every_flag():
    example = ROOT / "deploy" / "quantd.toml"
    assert check_config("--config", example) == check_config()
    keys = set(re.findall(r"^([a-z-]+) =", example.read_text(), re.M))
    help_text = subprocess.run([QUANTD, "--help"], capture_output=True, env=clean_env()).stdout.decode()
    flags = set(re.findall(r"^\s+(?:-\w,)?--([a-z-]+)", help_text, re.M))
    assert keys == flags - {"help", "version", "config", "check-config"}


# --- Traces, timings, log

def metadata_of(call):
    return dict(call.trailing_metadata())


def timings(metadata):
    """{"queue": ms, ...} of the trailer server-timing."""
    return {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([0-9.]+)", metadata["server-timing"])}


@pytest.fixture(scope="module")
def traced(tmp_path_factory, stubs):
    folder = tmp_path_factory.mktemp("traced")
    with running_server(folder, "--log-format", "json", "--log-level", "debug") as server:
        with grpc.insecure_channel(server.address) as channel:
            yield server, stubs[0], stubs[1].QuantizationServiceStub(channel)


def lines_of(server, **fields):
    lines = [json.loads(line) for line in server.log().splitlines()]
    return [line for line in lines if fields.items() <= line.items()]


def test_stream_is_traced_and_timed(traced):
    server, pb, stub = traced
    x = np.random.default_rng(1).standard_normal((512, 1024)).astype(np.float32)
    call = stub.StreamingQuantize(frames_of(pb, x, "int8", crc=False, cut=1 << 18),
                                  metadata=[("traceparent", TRACEPARENT), ("authorization", "Bearer s3cret")])
    assert len(list(call)) > 1
    metadata = metadata_of(call)
    assert metadata["traceparent"] == TRACEPARENT
    times = timings(metadata)
    assert set(times) == {"queue", "statistics", "encode", "send"}
    assert times["statistics"] > 0 and times["encode"] > 0 and times["send"] > 0
    wait_until(lambda: lines_of(server, trace_id=TRACE), "the line of the stream")
    (line,) = lines_of(server, trace_id=TRACE)
    assert line["level"] == "info" and line["code"] == "OK" and line["rpc"] == "StreamingQuantize"
    assert line["received_bytes"] > x.nbytes and line["encode_ms"] == pytest.approx(times["encode"], abs=1e-3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", line["time"])
    assert "s3cret" not in server.log()


def test_unary_is_traced_and_timed(traced):
    server, pb, stub = traced
    trace = "1" * 32
    x = np.ones((64, 64), np.float32)
    _, call = stub.Quantize.with_call(pb.QuantizeRequest(start=start_of(pb, x, "int8"), data=x.tobytes()),
                                      metadata=[("traceparent", f"00-{trace}-00f067aa0ba902b7-00")])
    assert set(timings(metadata_of(call))) == {"queue", "statistics", "encode"}
    wait_until(lambda: lines_of(server, trace_id=trace), "the line of the call")
    assert lines_of(server, trace_id=trace)[0]["level"] == "debug"


@pytest.mark.parametrize("text", [
    "", "00", f"00-{TRACE}-00f067aa0ba902b7", f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
    f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-00f067aa0ba902b7-01",
    f"{TRACEPARENT}-more", f"00_{TRACE}-00f067aa0ba902b7-01", f"00-{TRACE}-00f067aa0ba902b7-0x",
    '00-"}' + "a" * 51,
])
def test_bad_traceparent_is_dropped(traced, text):
    _, pb, stub = traced
    _, call = stub.GetServerInfo.with_call(pb.GetServerInfoRequest(), metadata=[("traceparent", text)])
    assert "traceparent" not in metadata_of(call) and "server-timing" in metadata_of(call)


def test_later_traceparent(traced):
    _, pb, stub = traced
    later = "01" + TRACEPARENT[2:]
    _, call = stub.GetServerInfo.with_call(pb.GetServerInfoRequest(),
                                           metadata=[("traceparent", later + "-what-is-to-come")])
    assert metadata_of(call)["traceparent"] == later


def test_json_log_escapes(traced):
    server, pb, stub = traced
    start = start_of(pb, np.ones(4, np.float32), "int8", name='q"\\\n\u2028\x01')
    with pytest.raises(grpc.RpcError) as raised:
        stub.Quantize(pb.QuantizeRequest(start=start, data=b"abcd"))  # too few
    assert start.tensor.name in raised.value.details()
    wait_until(lambda: lines_of(server, error=raised.value.details()), "the line of the call")


def test_info_says_all(traced):
    server, pb, stub = traced
    info = quantctl_json("info", "--server", server.address)
    message = stub.GetServerInfo(pb.GetServerInfoRequest())
    expected = {f.name for f in message.DESCRIPTOR.fields} - {"uptime"} | {"command", "uptime_seconds", "server", "transport"}
    assert set(info) == expected
    assert info["uptime_seconds"] > 0 and info["max_dimensions"] == 16 and info["max_name_bytes"] == 1024
    assert info["blas_core"] and info["simd_target"] and info["max_tensor_memory_bytes"] == info["memory_budget_bytes"] // 4
    text = quantctl("info", "--server", server.address).stdout.decode()
    assert info["blas_core"] in text and "uptime" in text


# --- Shutdown, connections

def health_watch(channel):
    """An open Health.Watch as a queue of statuses; None ends it. Messages are made by hand."""
    call = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    statuses = queue.Queue()

    def read():
        try:
            for message in call:
                statuses.put(message)
        except grpc.RpcError:
            pass
        statuses.put(None)

    threading.Thread(target=read, daemon=True).start()
    return statuses


SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def test_open_watch_does_not_hold_up_the_end(tmp_path):
    with running_server(tmp_path / "s", "--drain", "3000") as server, \
            grpc.insecure_channel(server.address) as channel:
        statuses = health_watch(channel)
        assert statuses.get(timeout=60) == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert statuses.get(timeout=60) == NOT_SERVING
        assert server.wait() == 0, server.log()


def test_metrics_do_not_hold_up_the_end(tmp_path):
    """A server with them ends as soon as one without."""
    def seconds_to_end(folder, *args):
        with running_server(tmp_path / folder, *args) as server:
            address = re.search(r"http://([0-9.]+):(\d+)/metrics", server.log())
            if address:
                with urllib.request.urlopen(address[0], timeout=30) as response:
                    assert b"quantd_build_info" in response.read()
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 0, server.log()
            return time.monotonic() - begin

    without = min(seconds_to_end(f"without{i}") for i in range(2))
    assert min(seconds_to_end(f"with{i}", "--metrics", "0") for i in range(3)) < without + 0.7


def open_stream(pb, stub, x):
    """A stream with a tensor half sent: the queue of its frames, and its responses."""
    frames = queue.Queue()
    responses = stub.StreamingQuantize(iter(frames.get, None))
    first, *rest = frames_of(pb, x, "int8:axis=0")
    frames.put(first)
    assert next(responses).HasField("start")
    return frames, rest, responses


def test_running_call_ends_beside_a_watch(tmp_path, stubs):
    x = np.ones((16, 16), np.float32)
    with running_server(tmp_path / "s", "--drain", "3000") as server, \
            grpc.insecure_channel(server.address) as channel:
        statuses = health_watch(channel)
        assert statuses.get(timeout=60) == SERVING
        frames, rest, responses = open_stream(stubs[0], stubs[1].QuantizationServiceStub(channel), x)
        server.process.send_signal(signal.SIGTERM)
        assert statuses.get(timeout=60) == NOT_SERVING
        for frame in rest:
            frames.put(frame)
        frames.put(None)
        kinds = [frame.WhichOneof("frame") for frame in responses]
        assert kinds[-1] == "end", kinds
        assert server.wait() == 0, server.log()


def test_what_outlasts_the_drain_is_cancelled(tmp_path, stubs):
    x = np.ones((16, 16), np.float32)
    with running_server(tmp_path / "s", "--drain", "0.2") as server, \
            grpc.insecure_channel(server.address) as channel:
        frames, _, responses = open_stream(stubs[0], stubs[1].QuantizationServiceStub(channel), x)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(responses)
        frames.put(None)
        assert server.wait() == 0, server.log()
        assert "CANCELLED" in server.log()


def test_connection_age(tmp_path, stubs):
    """New calls go over a new connection, from another port, while a running one keeps the old."""
    pb = stubs[0]
    x = np.ones((16, 16), np.float32)
    with running_server(tmp_path / "s", "--max-connection-age", "0.5", "--max-connection-age-grace", "60",
                        "--log-level", "debug") as server, grpc.insecure_channel(server.address) as channel:
        stub = stubs[1].QuantizationServiceStub(channel)
        frames, rest, responses = open_stream(pb, stub, x)  # lives through it by the grace

        def peers():
            stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30)
            return set(re.findall(r"GetServerInfo from \S+ at (\S+):", server.log()))

        wait_until(lambda: len(peers()) > 1, "a new connection")
        for frame in rest:
            frames.put(frame)
        frames.put(None)
        assert [frame.WhichOneof("frame") for frame in responses][-1] == "end"


def test_keepalive_of_clients_is_welcome(server, stubs):
    """gRPC hangs up on clients that ping more often than every 5 minutes, at the third ping."""
    options = [("grpc.keepalive_time_ms", 1500), ("grpc.keepalive_timeout_ms", 20000),
               ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0)]
    pb = stubs[0]
    with grpc.insecure_channel(server.address, options=options) as channel:
        stub = stubs[1].QuantizationServiceStub(channel)
        frames, rest, responses = open_stream(pb, stub, np.ones((16, 16), np.float32))
        ended = threading.Event()
        responses.add_callback(ended.set)
        assert not ended.wait(9), responses.details()  # six pings
        for frame in rest:
            frames.put(frame)
        frames.put(None)
        assert [frame.WhichOneof("frame") for frame in responses][-1] == "end"
