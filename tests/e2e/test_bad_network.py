"""A network that is slow, breaks off, or changes bytes: the right result or a clean error."""

import concurrent.futures

import numpy as np
import pytest
from conftest import quantctl, surviving_server
from fault_proxy import FaultProxy, Harm
from safetensors.numpy import save_file

# 2: the server or quantctl has found changed bytes; 3: no server, or out of time; 5: any other.
CLEAN_EXITS = (0, 2, 3, 5)
TIMEOUT = ["--timeout", "30"]
# 16 values that occur once, and what int8:scale=1 makes of them.
MARK = np.array([3, -77, 101, 9, -5, 64, -128, 33, 7, 7, -91, 12, 88, -2, 55, 127], np.float32)
MARK_CODES = MARK.astype(np.int8).tobytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns a file of 3 MiB, its packed form, and the packed form's own values."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(6)
    values = rng.integers(-2, 3, (768, 1024)).astype(np.float32)
    values[500, 100:116] = MARK
    model, packed, values_again = (folder / f"{name}.safetensors" for name in ("m", "p", "v"))
    save_file({"layer": values}, model)
    quantctl("quantize", model, "-o", packed, "--to", "int8:scale=1")
    quantctl("dequantize", packed, "-o", values_again)
    assert packed.read_bytes().count(MARK_CODES) == 1
    return model, packed, values_again


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A server that lives through all tests here."""
    with surviving_server(tmp_path_factory.mktemp("victim"), "--log-level", "debug") as server:
        yield server


def run(victim, files, folder, harms, command="quantize"):
    """Runs a command through the proxy; returns its end and how many connections it took."""
    model, packed, values_again = files
    source, spec, expected = {"quantize": (model, ["--to", "int8:scale=1"], packed),
                              "dequantize": (packed, [], values_again)}[command]
    folder.mkdir()
    out = folder / "o.safetensors"
    with FaultProxy(lambda: victim.address, harms) as proxy:
        result = quantctl(command, source, "-o", out, *spec, "--server", proxy.address, *TIMEOUT,
                          code=None)
        connections = proxy.connections
    assert result.returncode in CLEAN_EXITS, result
    if result.returncode == 0:
        assert out.read_bytes() == expected.read_bytes()
        assert list(folder.iterdir()) == [out]
    else:
        assert result.stderr.strip(), "failed without a message"
        assert list(folder.iterdir()) == []
    return result, connections


def always(to_server=None, to_client=None):
    return lambda _: (to_server or Harm(), to_client or Harm())


def once(to_server=None, to_client=None):
    return lambda n: (to_server or Harm(), to_client or Harm()) if n == 0 else (Harm(), Harm())


@pytest.mark.parametrize("command", ["quantize", "dequantize"])
@pytest.mark.parametrize("harm", [
    Harm(latency_s=0.005), Harm(bytes_per_s=4e6), Harm(latency_s=0.002, bytes_per_s=16e6),
], ids=["latency", "cap", "both"])
def test_slow(tmp_path, victim, files, command, harm):
    result, connections = run(victim, files, tmp_path / "out", always(harm, harm), command)
    assert result.returncode == 0 and connections == 1, result


@pytest.mark.parametrize("kind", ["reset_at", "close_at"])
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("command", ["quantize", "dequantize"])
def test_breaks_once(tmp_path, victim, files, kind, up, command):
    """The tensor is sent again on another connection, whatever was lost."""
    rng = np.random.default_rng(3)
    for number in range(4):
        # Past the plan, before the end: the way down has a quarter of the bytes of the way up.
        limit = 3 << 20 if up == (command == "quantize") else 700 << 10
        harm = Harm(**{kind: int(rng.integers(20_000, limit))})
        result, connections = run(victim, files, tmp_path / str(number),
                                  once(harm) if up else once(None, harm), command)
        assert result.returncode == 0 and connections == 2, result


@pytest.mark.parametrize("kind", ["reset_at", "close_at"])
def test_breaks_always(tmp_path, victim, files, kind):
    result, connections = run(victim, files, tmp_path / "out", always(Harm(**{kind: 1 << 20})))
    assert result.returncode == 3 and connections > 2, result


@pytest.mark.parametrize("at", [0, 1, 24, 100])
def test_breaks_at_the_first_bytes(tmp_path, victim, files, at):
    for i, harms in enumerate([always(Harm(reset_at=at)), always(None, Harm(close_at=at))]):
        result, _ = run(victim, files, tmp_path / str(i), harms)
        assert result.returncode == 3, result


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_bytes_vanish(tmp_path, victim, files, up):
    """The connection stays and nothing comes any more: the deadline ends it."""
    harm = Harm(drop_from=1 << 19)
    model, _, _ = files
    with FaultProxy(lambda: victim.address, always(harm) if up else always(None, harm)) as proxy:
        result = quantctl("quantize", model, "-o", tmp_path / "o.safetensors", "--to",
                          "int8:scale=1", "--server", proxy.address, "--timeout", "3", code=3)
    assert result.stderr.strip() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["quantize", "dequantize"])
def test_payload_that_changes_on_the_way_up(tmp_path, victim, files, command):
    """Only bytes of the tensor change; the server names the chunk."""
    sent = MARK.tobytes() if command == "quantize" else MARK_CODES
    changed = sent[:9] + bytes([sent[9] ^ 1]) + sent[10:]
    result, _ = run(victim, files, tmp_path / "out", always(Harm(replace=(sent, changed))), command)
    assert result.returncode == 2 and b"crc32c" in result.stderr, result


@pytest.mark.parametrize("command", ["quantize", "dequantize"])
def test_payload_that_changes_on_the_way_down(tmp_path, victim, files, command):
    sent = MARK.tobytes() if command == "dequantize" else MARK_CODES
    changed = sent[:9] + bytes([sent[9] ^ 1]) + sent[10:]
    result, _ = run(victim, files, tmp_path / "out",
                    always(None, Harm(replace=(sent, changed))), command)
    assert result.returncode == 2 and b"changed on the way" in result.stderr, result


def test_any_byte_changes(tmp_path, victim, files):
    """Bytes of anything: HTTP/2, headers, messages, payload, both ways; at all connections."""
    def one(number):
        rng = np.random.default_rng(100 + number)
        # Half of them where headers and heads are, the rest anywhere.
        limit = 3000 if number % 2 else 700 << 10
        harm = Harm(flip_at=tuple(int(at) for at in rng.integers(0, limit, rng.integers(1, 4))))
        harms = always(harm) if number % 4 < 2 else always(None, harm)
        command = "quantize" if number % 8 < 4 else "dequantize"
        return run(victim, files, tmp_path / str(number), harms, command)[0].returncode

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(one, range(32)))
    assert len(set(codes)) > 1, codes  # some get through, some do not
    quantctl("info", "--health", "--server", victim.address)
