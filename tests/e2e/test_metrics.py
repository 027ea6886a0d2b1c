"""Prometheus metrics, and the rules and the dashboard that use them."""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import grpc
import numpy as np
import pytest
from conftest import QUANTD, ROOT, clean_env, error_of, quantctl, running_server, wait_until
from safetensors.numpy import save_file

DEPLOY = ROOT / "deploy"
SUFFIXES = ("_bucket", "_sum", "_count")
# tests/run.sh puts it beside the tests' Python.
PROMTOOL = shutil.which("promtool", path=pathlib.Path(sys.executable).parent) or shutil.which("promtool")


def promtool(*args, text=""):
    assert PROMTOOL, "no promtool; tests/run.sh brings it"
    result = subprocess.run([PROMTOOL, *map(str, args)], input=text.encode(), capture_output=True, timeout=60)
    assert result.returncode == 0, (result.stdout + result.stderr).decode()
    return (result.stdout + result.stderr).decode()


def metrics_url(server):
    return re.search(r"http://\S+/metrics", server.log()).group()


def scrape(server):
    with urllib.request.urlopen(metrics_url(server), timeout=30) as response:
        return response.read().decode()


def samples(text):
    """Values by name and labels, sorted: {("quantd_x_total", (("code", "OK"),)): 1.0}."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and not line.startswith("#"):
            labels = tuple(sorted(re.findall(r'(\w+)="([^"]*)"', match[2] or "")))
            found[match[1], labels] = float(match[3])
    return found


def value(found, name, **labels):
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def active_calls(server):
    return sum(count for (name, _), count in samples(scrape(server)).items() if name == "quantd_active_calls")


@pytest.fixture(scope="module")
def busy(tmp_path_factory, stubs):
    """A server that has done, failed and refused something of each kind, and what it was sent."""
    pb = stubs[0]
    folder = tmp_path_factory.mktemp("metrics")
    x = np.random.default_rng(3).standard_normal((64, 128)).astype(np.float32)
    x[0, 0] = np.nan
    x[1, 1] = 100
    save_file({"w": x}, folder / "w.safetensors")
    with running_server(folder / "s", "--metrics", "0", "--memory", "16MiB") as server:
        quantctl("quantize", folder / "w.safetensors", "-o", folder / "q.safetensors", "--server", server.address,
                 "--to", "int8:range=-1..1,nonfinite=saturate")
        quantctl("dequantize", folder / "q.safetensors", "-o", folder / "d.safetensors", "--server",
                 server.address)
        error_of("quantize", folder / "w.safetensors", "-o", folder / "n.safetensors", "--server",
                 server.address, "--to", "int8:nonfinite=reject", code=2)
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
            tensor = pb.TensorDescriptor(name="b", data_type=pb.DATA_TYPE_F32, shape=[1 << 22])
            stubs[1].QuantizationServiceStub(channel).Quantize(pb.QuantizeRequest(
                start=pb.QuantizeStart(tensor=tensor, spec=pb.QuantizationSpec(text="int8"))))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        # A call is counted when it is over for the server, a moment after its client has the answer.
        wait_until(lambda: active_calls(server) == 0, "calls that are over")
        yield server, x


def test_counts(busy):
    server, x = busy
    found = samples(scrape(server))
    stream = {"rpc": "StreamingQuantize"}
    assert value(found, "quantd_requests_total", code="OK", **stream) >= 1
    assert value(found, "quantd_tensors_total", scheme="int8", outcome="ok", **stream) == 1
    assert value(found, "quantd_tensors_total", scheme="int8", outcome="failed", **stream) == 1
    assert value(found, "quantd_tensors_total", scheme="int8", outcome="ok", rpc="StreamingDequantize") == 1
    assert value(found, "quantd_tensor_output_bytes_total", scheme="int8", **stream) == x.size + 4
    assert value(found, "quantd_tensor_input_bytes_total", scheme="int8", **stream) == 2 * x.nbytes
    assert value(found, "quantd_received_bytes_total", **stream) > 2 * x.nbytes
    assert value(found, "quantd_sent_bytes_total", **stream) > x.size
    assert value(found, "quantd_stripes_encoded_total", scheme="int8") >= 1
    assert value(found, "quantd_non_finite_values_total", scheme="int8") == 1
    clipped = np.count_nonzero(np.abs(np.nan_to_num(x)) >= 1 + 0.5 / 127)
    assert value(found, "quantd_clipped_values_total", scheme="int8") == pytest.approx(clipped, abs=2)
    assert value(found, "quantd_refusals_total", reason="unary_response_bytes") == 1
    assert value(found, "quantd_memory_limit_bytes") == 16 << 20
    assert value(found, "quantd_memory_reserved_bytes") == 0
    assert value(found, "quantd_active_calls", **stream) == 0
    assert ("quantd_waiting_calls", ()) in found and ("quantd_open_connections", ()) in found
    assert value(found, "quantd_request_duration_seconds_count", **stream) >= 2
    assert value(found, "quantd_queue_wait_seconds_count", **stream) >= 2
    assert value(found, "quantd_tensor_duration_seconds_count", scheme="int8", **stream) == 1
    assert value(found, "quantd_start_time_seconds") > 1.6e9
    (info,) = [dict(labels) for name, labels in found if name == "quantd_build_info"]
    assert set(info) == {"version", "build", "simd_target", "blas_core"} and all(info.values())


def test_the_bound_of_memory_is_that_of_the_alert(busy):
    """The budget, 32 MiB, and 1.5 MiB for each connection, which tests/server/memory_bound_test.cc proves."""
    def is_told():
        found = samples(scrape(busy[0]))  # between the two numbers a connection may end
        return value(found, "quantd_memory_bound_bytes") == (16 + 32 << 20) + (3 << 19) * value(
            found, "quantd_open_connections")

    wait_until(is_told, "the bound")
    assert "quantd_memory_bound_bytes" in (DEPLOY / "alerts.yml").read_text()


def test_every_counter_is_there_from_the_start(tmp_path, stubs):
    """As 0: a rate over a counter that comes with its first event misses that event."""
    with running_server(tmp_path / "s", "--metrics", "0") as server:
        text = scrape(server)
    found = samples(text)
    counters = re.findall(r"^# TYPE (\w+) counter$", text, re.M)
    assert {c for c in counters if c.startswith("quantd_")} <= {name for name, _ in found}
    assert all(v == 0 for (name, _), v in found.items() if name in counters and name.startswith("quantd_"))
    rpcs = {m.name for m in stubs[0].DESCRIPTOR.services_by_name["QuantizationService"].methods}
    codes = {code.name for code in grpc.StatusCode}
    assert labels_of(found, "quantd_requests_total", "rpc", "code") == {(r, c) for r in rpcs for c in codes}
    schemes = {s["name"] for s in json.loads(quantctl("schemes", "--json").stdout)["schemes"]}
    for name in ("stripes_encoded", "clipped_values", "non_finite_values"):
        assert labels_of(found, f"quantd_{name}_total", "scheme") == {(s,) for s in schemes}
    with_tensors = rpcs - {"Plan", "ListSchemes", "GetServerInfo"}
    assert labels_of(found, "quantd_tensors_total", "rpc", "scheme", "outcome") == {
        (r, s, o) for r in with_tensors for s in schemes | {"none"} for o in ("ok", "failed", "cancelled")}
    assert labels_of(found, "quantd_tensor_input_bytes_total", "rpc", "scheme") == {
        (r, s) for r in with_tensors for s in schemes}
    assert labels_of(found, "quantd_failed_logins_total", "kind") == {("token",), ("certificate",), ("tls",), ("uid",)}
    assert {r for (r,) in labels_of(found, "quantd_refusals_total", "reason")} == limits_in_the_sources()


def labels_of(found, metric, *names):
    return {tuple(dict(labels)[n] for n in names) for name, labels in found if name == metric}


def limits_in_the_sources():
    """The names that statuses give to limits."""
    names = set()
    for folder in ("core", "server"):
        for path in (ROOT / folder).rglob("*.cc"):
            for call in path.read_text().split("WithLimit(")[1:]:
                names.update(re.findall(r'"([a-z_]+)",\s*[\w.]', call[:600])[:1])
    return names


def test_process(busy):
    server, _ = busy
    found = samples(scrape(server))
    resident = value(found, "process_resident_memory_bytes")
    assert 1 << 20 < resident <= server.peak_rss_bytes()
    descriptors = len(list(pathlib.Path(f"/proc/{server.pid}/fd").iterdir()))
    assert value(found, "process_open_fds") == pytest.approx(descriptors, abs=4)
    assert value(found, "process_max_fds") >= 1024
    assert value(found, "quantd_machine_memory_bytes") > 1 << 20


def test_labels_are_bounded(busy, stubs):
    server, _ = busy
    schemes = {s["name"] for s in json.loads(quantctl("schemes", "--json").stdout)["schemes"]} | {"none"}
    rpcs = {m.name for m in stubs[0].DESCRIPTOR.services_by_name["QuantizationService"].methods}
    for _, labels in samples(scrape(server)):
        labels = dict(labels)
        assert labels.get("scheme", "none") in schemes
        assert labels.get("rpc", "Plan") in rpcs


def test_promtool_accepts(busy):
    assert promtool("check", "metrics", text=scrape(busy[0])).strip() == ""
    promtool("check", "rules", DEPLOY / "alerts.yml")


def rate_up(per_minute):
    return f"0+{per_minute}x40"


def at(instance, metric, values, **labels):
    labels = {"instance": instance, "job": "quantd", **labels}
    text = ",".join(f'{k}="{v}"' for k, v in labels.items())
    return {"series": f"{metric}{{{text}}}", "values": values}


@pytest.mark.parametrize("alert, series, firing", [
    # One replica of two is down.
    ("QuantdDown", [at("a", "up", "1x40"), at("b", "up", "1x5 0x35")], ["b"]),
    ("QuantdDown", [at("a", "up", "1x40"), at("b", "up", "1x40")], []),
    # One that is gone for good is not scraped any more.
    ("QuantdDown", [at("a", "up", "1x40"), at("b", "up", "1x2 _x38")], []),
    ("QuantdDown", [], [None]),
    ("QuantdNearOutOfMemory", [at("a", "process_resident_memory_bytes", "230x40"),
                               at("a", "quantd_machine_memory_bytes", "256x40"),
                               at("b", "process_resident_memory_bytes", "91x40"),
                               at("b", "quantd_machine_memory_bytes", "100x40")], ["b"]),
    ("QuantdBeyondMemoryBudget", [at(i, "process_resident_memory_bytes", f"{(169 << 20) + over}x40")
                                  for i, over in (("a", 0), ("b", 1))]
     + [at(i, "quantd_memory_bound_bytes", f"{169 << 20}x40") for i in "ab"], ["b"]),
    ("QuantdNearOutOfDescriptors", [at("a", "process_open_fds", "95x40"), at("a", "process_max_fds", "100x40"),
                                    at("a", "quantd_build_info", "1x40"),
                                    at("other", "process_open_fds", "95x40", job="x"),
                                    at("other", "process_max_fds", "100x40", job="x")], ["a"]),
    ("QuantdRefusesConnections", [at("a", "quantd_refused_connections_total", rate_up(120))], ["a"]),
    ("QuantdFailedLogins", [at("a", "quantd_failed_logins_total", rate_up(120), kind="token"),
                            at("a", "quantd_failed_logins_total", rate_up(30), kind="uid")], ["a"]),
    ("QuantdCertificateExpires", [at("a", "quantd_certificate_expiry_time_seconds", f"{14 * 86400}x40"),
                                  at("b", "quantd_certificate_expiry_time_seconds", f"{15 * 86400}x40")], ["a"]),
])
def test_alerts_fire(tmp_path, alert, series, firing):
    """What is up, down, or too much for half an hour, by Prometheus' own evaluation."""
    case = {"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "1m", "tests": [
        {"interval": "1m", "input_series": series, "promql_expr_test": [
            {"expr": f'count by (instance) (ALERTS{{alertname="{alert}",alertstate="firing"}})', "eval_time": "30m",
             "exp_samples": [{"labels": f'{{instance="{i}"}}' if i else "{}", "value": 1} for i in firing]}]}]}
    (tmp_path / "case.yml").write_text(json.dumps(case))
    promtool("test", "rules", tmp_path / "case.yml")


def names_in(text):
    return set(re.findall(r"\b(?:quantd|process)_[a-z_]+", text))


def known_names(server):
    """All but for the one that needs TLS."""
    return {name for name, _ in samples(scrape(server))} | {"quantd_certificate_expiry_time_seconds"}


def test_alerts_use_what_there_is(busy):
    rules = (DEPLOY / "alerts.yml").read_text()
    assert names_in(rules), "no metric at all"
    assert names_in(rules) <= known_names(busy[0])


def test_dashboard_uses_what_there_is(busy, tmp_path):
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions.append(re.fullmatch(r"label_values\((\w+), \w+\)",
                                    dashboard["templating"]["list"][1]["query"])[1])
    known = known_names(busy[0])
    assert names_in(" ".join(expressions)) <= known
    # All that is exported can be seen, but for the sums of histograms.
    ours = {n for n in known if n.startswith("quantd_") and not n.endswith(("_sum", "_count"))}
    assert ours <= names_in(" ".join(expressions))
    rules = {"groups": [{"name": "dashboard", "rules": [
        {"record": f"dashboard:{i}", "expr": e.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for i, e in enumerate(expressions)]}]}
    (tmp_path / "rules.yml").write_text(json.dumps(rules))  # JSON is YAML
    promtool("check", "rules", tmp_path / "rules.yml")


def test_unfinished_scrapes_hold_nobody_up(tmp_path):
    with running_server(tmp_path / "s", "--metrics", "0") as server:
        host, port = re.search(r"http://(\S+):(\d+)/metrics", server.log()).groups()

        def begin():
            connection = socket.create_connection((host, int(port)), timeout=60)
            connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n")
            return connection

        unfinished = [begin() for _ in range(60)]
        began = time.monotonic()
        assert "quantd_build_info" in scrape(server)
        assert time.monotonic() - began < 5, "it waits for those before"
        unfinished += [begin() for _ in range(60)]
        assert "quantd_build_info" in scrape(server)
        assert unfinished[0].recv(1) == b"", "the oldest does not go for a newcomer"
        assert unfinished[-1].recv(1) == b"", "it is not cut"
        assert 8 < time.monotonic() - began < 55
        for connection in unfinished:
            connection.close()


@pytest.mark.parametrize("request_line,status", [
    ("GET /metrics HTTP/1.1", 200), ("HEAD /metrics HTTP/1.1", 200), ("GET /metrics?x=1 HTTP/1.0", 200),
    ("GET / HTTP/1.1", 404), ("POST /metrics HTTP/1.1", 405), ("nonsense", 400), ("GET /metrics HTTP/2", 400)])
def test_requests(busy, request_line, status):
    host, port = re.search(r"http://(\S+):(\d+)/metrics", busy[0].log()).groups()
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for byte in f"{request_line}\r\nhost: x\r\n\r\n".encode():  # as slowly as can be
            connection.sendall(bytes([byte]))
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert ("quantd_build_info" in body) == (status == 200 and request_line.startswith("GET"))


def test_off_unless_asked_for(server):
    assert "metrics on" not in server.log()


def test_addresses(tmp_path):
    def run(*args):
        result = subprocess.run([QUANTD, "--listen", "127.0.0.1:0", *args], capture_output=True, timeout=60,
                                env=clean_env())
        assert result.returncode != 0
        return (result.stdout + result.stderr).decode()

    assert "--insecure" in run("--metrics", "0.0.0.0:0")
    assert "unix:" in run("--metrics", f"unix:{tmp_path}/m")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in run("--metrics", str(port))
    with running_server(tmp_path / "any", "--metrics", "0.0.0.0:0", "--insecure") as server:
        assert "quantd_build_info" in scrape(server)
