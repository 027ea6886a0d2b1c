"""Tokens: who may call, how they change, and that they show up nowhere."""

import os
import queue
import secrets
import signal

import grpc
import pytest
from certificates import Authority
from conftest import MODEL, error_of, quantctl, quantctl_json, running_server, wait_until


def make_token(name):
    made = quantctl_json("token", name)
    assert made["line"].startswith(f"{name} ")
    assert made["token"] not in made["line"]
    return made["token"], made["line"]


def test_token_prints_two_lines():
    token, line = quantctl("token", "alice").stdout.decode().splitlines()
    assert len(token) == 64 and line.split()[0] == "alice" and len(line.split()[1]) == 64
    error_of("token", "al ice", code=2)


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    token, line = make_token("alice")
    path.write_text(f"# who may call\n{line} streams=4 in_flight=64MiB\n")
    return path, token


@pytest.mark.parametrize("transport", ["tcp", "unix", "tls"])
def test_calls_need_a_token(tmp_path, token_file, transport):
    path, token = token_file
    args, listen, client = ["--tokens", path], "127.0.0.1:0", []
    if transport == "unix":
        listen = f"unix:{tmp_path}/sock"
    if transport == "tls":
        authority = Authority(tmp_path)
        certificate, key = authority.issue("server")
        args += ["--tls-cert", certificate, "--tls-key", key]
        client = ["--tls-ca", authority.certificate]
    with running_server(tmp_path / "s", *args, listen=listen) as server:
        client += ["--server", server.address]
        quantctl("info", "--health", *client)  # open to all
        for env in ({}, {"QUANTCTL_TOKEN": "wrong"}, {"QUANTCTL_TOKEN": token[:-1]}):
            error = error_of("info", *client, env=env, code=5)
            assert "token" in error and token[:8] not in error
        quantctl("info", *client, env={"QUANTCTL_TOKEN": token})
        (tmp_path / "token").write_text(token + "\n")
        quantctl("quantize", MODEL, "-o", tmp_path / "o.safetensors", "--to", "int8", *client,
                 "--token-file", tmp_path / "token")
        wait_until(lambda: "from token:alice at" in server.log(), "the line of the stream")
        assert token not in server.log()


def test_foreign_clients(tmp_path, token_file, stubs):
    messages, services = stubs
    path, token = token_file
    with running_server(tmp_path / "s", "--tokens", path) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = services.QuantizationServiceStub(channel)

            def code(*metadata):
                try:
                    stub.GetServerInfo(messages.GetServerInfoRequest(), metadata=metadata, timeout=60)
                    return grpc.StatusCode.OK
                except grpc.RpcError as error:
                    return error.code()

            assert code(("authorization", f"Bearer {token}")) == grpc.StatusCode.OK
            assert code(("authorization", f"bearer {token}")) == grpc.StatusCode.OK
            for metadata in ([], [("authorization", token)], [("authorization", "Bearer ")],
                             [("authorization", f"Basic {token}")], [("authorization", f"Bearer {token} ")],
                             [("authorization", f"Bearer {token}x")], [("token", token)],
                             [("authorization", f"Bearer {token}"), ("authorization", "Bearer x")]):
                assert code(*metadata) == grpc.StatusCode.UNAUTHENTICATED, metadata
            stream = stub.StreamingQuantize(iter([]), timeout=60)
            with pytest.raises(grpc.RpcError) as error:
                next(stream)
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_headers_are_bounded(tmp_path, stubs):
    messages, services = stubs
    with running_server(tmp_path / "s") as server:
        for size_bytes, good in ((4000, True), (20000, False)):
            with grpc.insecure_channel(server.address) as channel:
                call = services.QuantizationServiceStub(channel).GetServerInfo.future(
                    messages.GetServerInfoRequest(), metadata=[("x", "y" * size_bytes)], timeout=60)
                assert call.code() == (grpc.StatusCode.OK if good else grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_long_headers_end_their_call_alone(tmp_path, stubs):
    messages, services = stubs
    with running_server(tmp_path / "s", "--max-metadata", 4096) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = services.QuantizationServiceStub(channel)
            requests = queue.SimpleQueue()
            neighbour = stub.StreamingQuantize(iter(requests.get, None), timeout=60)
            start = messages.QuantizeStart(
                tensor=dict(name="t", data_type=messages.DATA_TYPE_F32, shape=[4]),
                spec=dict(text="int8"))
            requests.put(messages.StreamingQuantizeRequest(tensor_id=1, start=start))
            assert next(neighbour).WhichOneof("frame") == "start"
            for size_bytes in (4096, 30_000):
                with pytest.raises(grpc.RpcError) as error:
                    stub.GetServerInfo(messages.GetServerInfoRequest(),
                                       metadata=[("x", "y" * size_bytes)], timeout=60)
                assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "--max-metadata" in error.value.details()
            requests.put(messages.StreamingQuantizeRequest(
                tensor_id=1, chunk=messages.Chunk(data=bytes(16))))
            requests.put(messages.StreamingQuantizeRequest(tensor_id=1, end=messages.TensorEnd()))
            requests.put(None)
            assert [frame.WhichOneof("frame") for frame in neighbour][-1] == "end"


def test_headers_may_be_as_long_as_is_set(tmp_path, stubs):
    messages, services = stubs
    value = secrets.token_hex(30_000)
    with running_server(tmp_path / "s", "--max-metadata", 100_000) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = services.QuantizationServiceStub(channel)
            ask = lambda *metadata: stub.GetServerInfo(messages.GetServerInfoRequest(),  # noqa: E731
                                                       metadata=metadata, timeout=60)
            assert ask(("x", value)).version
            assert ask(*[(f"k{i}", "v") for i in range(1000)]).version


def test_streams_of_a_revoked_token_end(tmp_path, stubs):
    messages, services = stubs
    made = {name: make_token(name) for name in ("alice", "bob")}
    path = tmp_path / "tokens"
    path.write_text("".join(line + "\n" for _, line in made.values()))
    with running_server(tmp_path / "s", "--tokens", path, "--idle-timeout", 0) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = services.QuantizationServiceStub(channel)
            requests, streams = {}, {}
            for name, (token, _) in made.items():
                requests[name] = queue.SimpleQueue()
                streams[name] = stub.StreamingQuantize(
                    iter(requests[name].get, None), timeout=60,
                    metadata=[("authorization", f"Bearer {token}")])
                start = messages.QuantizeStart(
                    tensor=dict(name="t", data_type=messages.DATA_TYPE_F32, shape=[4]),
                    spec=dict(text="int8"))
                requests[name].put(messages.StreamingQuantizeRequest(tensor_id=1, start=start))
                assert next(streams[name]).WhichOneof("frame") == "start"
            path.write_text(made["bob"][1].replace("bob ", "robert ") + "\n")  # the same token
            os.kill(server.pid, signal.SIGHUP)
            with pytest.raises(grpc.RpcError) as error:
                next(streams["alice"])
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert "taken back" in error.value.details()
            requests["bob"].put(messages.StreamingQuantizeRequest(
                tensor_id=1, chunk=messages.Chunk(data=bytes(16))))
            requests["bob"].put(
                messages.StreamingQuantizeRequest(tensor_id=1, end=messages.TensorEnd()))
            assert next(f for f in streams["bob"] if f.WhichOneof("frame") == "end")
            for name in made:
                requests[name].put(None)


def test_sighup_reloads(tmp_path, token_file):
    path, old = token_file
    new, line = make_token("bob")
    with running_server(tmp_path / "s", "--tokens", path) as server:
        def works(token):
            result = quantctl("info", "--server", server.address, env={"QUANTCTL_TOKEN": token}, code=None)
            assert result.returncode in (0, 5), result.stderr
            return result.returncode == 0

        assert works(old) and not works(new)
        path.write_text(f"{line}\nbroken\n")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: "line 2" in server.log(), "the error")
        assert works(old) and not works(new)
        path.write_text(f"{line}\n")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: works(new), "the new token")
        assert not works(old)
        assert old not in server.log() and new not in server.log()


def test_a_token_is_not_sent_in_plain_text(token_file):
    _, token = token_file
    error = error_of("info", "--server", "example.invalid:7717", env={"QUANTCTL_TOKEN": token}, code=2)
    assert "plain text" in error and token not in error
