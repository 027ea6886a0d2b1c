"""TLS: who is let in, and certificates that change under a running server."""

import shutil
import socket
import ssl
import subprocess

import grpc
import pytest
from certificates import Authority
from conftest import MODEL, QUANTD, clean_env, error_of, quantctl, quantctl_json, running_server, wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def pairs(authority):
    return {name: authority.issue(name) for name in ("first", "second", "client")}


def subject_of(address, authority, alpn="h2"):
    """The common name in the certificate that the server shows to a new connection."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_alpn_protocols([alpn])
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        with context.wrap_socket(raw, server_hostname="localhost") as tls:
            return dict(part[0] for part in tls.getpeercert()["subject"])["commonName"]


def tls_server(folder, pair, *args):
    return running_server(folder, "--tls-cert", pair[0], "--tls-key", pair[1], *args)


def test_tls_and_what_is_refused(tmp_path, authority, pairs):
    with tls_server(tmp_path / "s", pairs["first"]) as server:
        with_ca = ("--server", server.address, "--tls-ca", authority.certificate)
        assert quantctl_json("info", *with_ca)["worker_threads"] > 0
        quantctl("info", "--health", *with_ca)
        quantctl("quantize", MODEL, "-o", tmp_path / "o.safetensors", "--to", "int8", *with_ca)
        # Plain text, and a server that nobody vouches for.
        error_of("info", "--server", server.address, "--timeout", 20, code=3)
        error_of("info", "--server", server.address, "--tls", "--timeout", 20, code=3)
        # TLS 1.1 is too old.
        context = ssl.create_default_context(cafile=authority.certificate)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        host, port = server.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(raw, server_hostname="localhost")


def test_mutual_tls(tmp_path, authority, pairs, stubs):
    messages, services = stubs
    with tls_server(tmp_path / "s", pairs["first"], "--tls-client-ca", authority.certificate) as server:
        files = {"ca": authority.certificate, "cert": pairs["client"][0], "key": pairs["client"][1]}
        env = {f"QUANTCTL_TLS_{name.upper()}": str(path) for name, path in files.items()}
        quantctl("info", "--server", server.address, env=env)
        quantctl("quantize", MODEL, "-o", tmp_path / "o.safetensors", "--to", "int8", "--server",
                 server.address, env=env)
        wait_until(lambda: "from tls:CN=client at " in server.log(), "the line of the stream")
        error_of("info", "--server", server.address, "--tls-ca", authority.certificate, "--timeout", 20,
                 code=3)
        (tmp_path / "other").mkdir()
        stranger = Authority(tmp_path / "other").issue("client")
        error_of("info", "--server", server.address, "--tls-ca", authority.certificate, "--tls-cert",
                 stranger[0], "--tls-key", stranger[1], "--timeout", 20, code=3)
        # A foreign client.
        credentials = grpc.ssl_channel_credentials(*(files[name].read_bytes()
                                                     for name in ("ca", "key", "cert")))
        with grpc.secure_channel(server.address, credentials) as channel:
            info = services.QuantizationServiceStub(channel).GetServerInfo(
                messages.GetServerInfoRequest(), timeout=60)
            assert info.worker_threads > 0


def test_certificates_follow_their_files(tmp_path, authority, pairs):
    """A new pair is taken, a broken one never; connections stay."""
    certificate, key = tmp_path / "now.pem", tmp_path / "now.key"

    def put(pair):
        for source, target in zip(pair, (certificate, key)):
            shutil.copy(source, tmp_path / "next")
            (tmp_path / "next").rename(target)

    put(pairs["first"])
    with tls_server(tmp_path / "s", (certificate, key)) as server:
        assert subject_of(server.address, authority) == "first"
        put(pairs["second"])
        wait_until(lambda: subject_of(server.address, authority) == "second", "the new certificate")

        expired = authority.issue("expired", days=-1)
        for break_it, message in (
                (lambda: shutil.copy(pairs["first"][1], key), "does not match"),
                (lambda: key.write_text("no key"), "no private key"),
                (lambda: certificate.write_bytes(b"\0\xff" * 1000), "no certificate can be read"),
                (lambda: put(expired), "has expired"),
                (lambda: certificate.unlink(), "No such file")):
            break_it()
            wait_until(lambda: message in server.log(), f"a warning: {message}")
            assert subject_of(server.address, authority) == "second"
        put(pairs["first"])
        wait_until(lambda: subject_of(server.address, authority) == "first", "the first one again")
        assert "PRIVATE" not in server.log()


@pytest.mark.parametrize("certificate,key,message", [
    ("first", "second", "does not match"), ("first", None, "--tls-key"), (None, "first", "--tls-cert")])
def test_a_bad_pair_stops_the_start(pairs, certificate, key, message):
    args = [QUANTD, "--listen", "127.0.0.1:0"]
    if certificate:
        args += ["--tls-cert", pairs[certificate][0]]
    if key:
        args += ["--tls-key", pairs[key][1]]
    result = subprocess.run(args, capture_output=True, timeout=60, env=clean_env())
    assert result.returncode == 1
    assert message in result.stderr.decode()


def test_tls_needs_no_insecure(tmp_path, pairs):
    with tls_server(tmp_path / "s", pairs["first"], "--listen", "0.0.0.0:0"):
        pass
    result = subprocess.run([QUANTD, "--listen", "0.0.0.0:0"], capture_output=True, timeout=60,
                            env=clean_env())
    assert result.returncode == 1
    assert "--insecure" in result.stderr.decode()
