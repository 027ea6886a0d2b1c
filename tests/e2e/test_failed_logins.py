"""Peers that are not let in: logged with address and reason, but not too often, and counted."""

import os
import pathlib
import re
import shutil
import socket
import ssl
import tempfile
import time

import grpc
import pytest
from certificates import Authority
from conftest import error_of, quantctl, running_server, wait_until
from test_metrics import samples, scrape, value
from test_tokens import make_token
from test_unix_peers import OTHER_UID, ask_as_other_user


def failed(server, kind):
    return value(samples(scrape(server)), "quantd_failed_logins_total", kind=kind)


def lines_of(server, kind):
    return [line for line in server.log().splitlines() if f"failed login by {kind}" in line]


def test_tokens(tmp_path, stubs):
    token, line = make_token("alice")
    (tmp_path / "tokens").write_text(line + "\n")
    pb, services = stubs
    with running_server(tmp_path / "s", "--metrics", "0", "--tokens", tmp_path / "tokens") as server:
        assert failed(server, "token") == 0
        with grpc.insecure_channel(server.address) as channel:
            stub = services.QuantizationServiceStub(channel)

            def call(*metadata):
                with pytest.raises(grpc.RpcError) as refused:
                    stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata, timeout=60)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED

            call()
            assert re.search(r"token, from ipv4:127\.0\.0\.1:\d+: there is no token", server.log())
            begin = time.monotonic()
            for _ in range(100):
                call(("authorization", "Bearer s3cret"))
            call(("authorization", "Basic s3cret"))
            seconds = time.monotonic() - begin
        assert failed(server, "token") == 102
        wait_until(lambda: "authorization is not one Bearer" in server.log(), "the last one's line")
        assert len(lines_of(server, "token")) <= seconds + 4
        assert "more since the last line" in server.log() and "s3cret" not in server.log()
        quantctl("info", "--server", server.address, env={"QUANTCTL_TOKEN": token})
        assert failed(server, "token") == 102


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def mutual(tmp_path_factory, authority):
    certificate, key = authority.issue("server")
    with running_server(tmp_path_factory.mktemp("s"), "--metrics", "0", "--tls-cert", certificate, "--tls-key", key,
                        "--tls-client-ca", authority.certificate) as server:
        yield server


def info(server, authority, pair=None):
    args = ["info", "--server", server.address, "--tls-ca", authority.certificate, "--timeout", 20]
    return error_of(*args, *(("--tls-cert", pair[0], "--tls-key", pair[1]) if pair else ()), code=3)


def test_client_without_a_certificate(mutual, authority):
    before = failed(mutual, "certificate")
    error = info(mutual, authority)
    assert "certificate" in error, error
    assert failed(mutual, "certificate") > before
    wait_until(lambda: re.search(
        r"certificate, from ipv4:127\.0\.0\.1:\d+: .*did not return a certificate", mutual.log()), "a line")


@pytest.mark.parametrize("days, reason", [(2, "unable to get local issuer|self.signed|signature"), (-1, "expired")])
def test_certificates_that_are_not_good(tmp_path, mutual, authority, days, reason):
    issuer = authority if days < 0 else Authority(tmp_path, name="stranger")
    before = failed(mutual, "certificate")
    error = info(mutual, authority, issuer.issue(f"client{days}", days=days))
    assert "certificate" in error, error
    assert failed(mutual, "certificate") > before
    wait_until(lambda: re.search(rf"certificate, from ipv4:127\.0\.0\.1:\d+: .*({reason})", mutual.log()),
               "a line with the reason")


def alert_of(server, authority):
    """What a TLS client reads that has no certificate: an alert, not the end of the connection alone."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_alpn_protocols(["h2"])
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        with context.wrap_socket(raw, server_hostname="localhost") as tls:
            with pytest.raises(ssl.SSLError) as alert:
                tls.recv(1)
    return alert.value.reason


def test_the_peer_is_told(mutual, authority):
    assert "CERTIFICATE_REQUIRED" in alert_of(mutual, authority)


def test_peers_that_speak_no_tls(mutual, authority):
    before = failed(mutual, "tls"), failed(mutual, "certificate")
    host, port = mutual.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        begin = time.monotonic()
        while raw.recv(100):
            pass
        assert time.monotonic() - begin < 15, "hung up at the handshake's time limit, not at once"
    assert (failed(mutual, "tls"), failed(mutual, "certificate")) == (before[0] + 1, before[1])
    wait_until(lambda: re.search(r"tls, from ipv4:127\.0\.0\.1:\d+: http request", mutual.log()), "a line")


def test_the_good_are_let_in_beside_them(mutual, authority):
    before = failed(mutual, "tls"), failed(mutual, "certificate")
    certificate, key = authority.issue("good")
    quantctl("info", "--server", mutual.address, "--tls-ca", authority.certificate, "--tls-cert", certificate,
             "--tls-key", key)
    assert (failed(mutual, "tls"), failed(mutual, "certificate")) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_users():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        with running_server(folder / "s", "--metrics", "0", "--allow-uid", "4242", "--socket-mode", "0666",
                            listen=f"unix:{folder}/sock") as server:
            assert ask_as_other_user(str(folder / "sock")) == b"closed"
            wait_until(lambda: f"uid, from unix: user {OTHER_UID} is not one of --allow-uid" in server.log(), "a line")
            assert server.log().count("is not one of --allow-uid") == 1
            assert failed(server, "uid") == 1
            assert value(samples(scrape(server)), "quantd_refused_connections_total") == 1


# --- Certificates that expire

def test_expiry_is_told_and_warned_of(tmp_path, authority):
    soon, late = authority.issue("soon", days=13), authority.issue("late", days=15)
    certificate, key = tmp_path / "now.pem", tmp_path / "now.key"

    def put(pair):
        for source, target in zip(pair, (certificate, key)):
            shutil.copy(source, tmp_path / "next")
            (tmp_path / "next").rename(target)

    put(late)
    with running_server(tmp_path / "s", "--metrics", "0", "--tls-cert", certificate, "--tls-key", key) as server:
        def days():
            return (value(samples(scrape(server)), "quantd_certificate_expiry_time_seconds") - time.time()) / 86400

        assert days() == pytest.approx(15, abs=0.1)
        put(soon)
        wait_until(lambda: "expires in 12 days" in server.log(), "the warning")  # 12.99
        assert days() == pytest.approx(13, abs=0.1)
        assert server.log().count("expires in") == 1
