"""What `cmake --install` and `cpack` make: the client library, the package and what lies in it."""

import re
import shutil
import subprocess
import tomllib

import numpy as np
import pytest
from conftest import BUILD, MODEL, ROOT, clean_env, load_file, quantctl

SECONDS = 240


def run(*args, cwd=None, env=None):
    result = subprocess.run([str(arg) for arg in args], capture_output=True, cwd=cwd, timeout=SECONDS,
                            text=True, env=clean_env(env))
    assert result.returncode == 0, f"{args}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def cache_entry(name):
    text = (BUILD / "CMakeCache.txt").read_text()
    return re.search(rf"^{name}:\w+=(.*)$", text, re.MULTILINE).group(1)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The files of the .deb and its control files, unpacked: (root, control)."""
    folder = tmp_path_factory.mktemp("deb")
    run("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", folder)
    (deb,) = folder.glob("quantd_*.deb")
    run("dpkg-deb", "-x", deb, folder / "root")
    run("dpkg-deb", "-e", deb, folder / "control")
    return folder / "root", folder / "control"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Where everything is installed."""
    folder = tmp_path_factory.mktemp("install") / "prefix"
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def example(prefix, tmp_path_factory):
    """The folder of the example's programs, built against what is installed."""
    folder = tmp_path_factory.mktemp("example")
    sanitizers = cache_entry("QUANTD_SANITIZE")
    flags = [f"-DCMAKE_CXX_FLAGS=-fsanitize={sanitizers}"] if sanitizers else []
    # A copy, so that no header of the source tree is found beside it.
    shutil.copytree(ROOT / "client" / "example", folder / "source")
    run("cmake", "-G", "Ninja", "-S", folder / "source", "-B", folder / "build",
        f"-DCMAKE_PREFIX_PATH={prefix}", *flags)
    run("cmake", "--build", folder / "build")
    return folder / "build"


def test_a_program_builds_against_the_installed_library(example, server):
    printed = run(example / "example", server.address)
    assert re.fullmatch(r"-127 -32 64 127 at \d+\.\d\d dB\n", printed), printed


def test_a_program_quantizes_files_without_a_server(example, tmp_path):
    """The tensors are those that quantctl writes, whose planes have the same names."""
    printed = run(example / "quantize_file", MODEL, tmp_path / "packed.safetensors")
    assert re.fullmatch(r"\d+ bytes were quantized\n", printed), printed
    quantctl("quantize", MODEL, "-o", tmp_path / "want.safetensors", "--to", "int8")
    got, want = load_file(tmp_path / "packed.safetensors"), load_file(tmp_path / "want.safetensors")
    assert got.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    failed = subprocess.run([example / "quantize_file", tmp_path / "none", tmp_path / "x.safetensors"],
                            capture_output=True, timeout=SECONDS, env=clean_env())
    assert failed.returncode == 1 and str(tmp_path / "none") in failed.stderr.decode()


def configure(folder, prefix, *components):
    """Configures a project that has nothing but the client library and what CMake always has."""
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(p LANGUAGES CXX)\n"
        f"find_package(quantd 0.1 REQUIRED {' '.join(components)})\n"
        "get_target_property(libraries quantd::client INTERFACE_LINK_LIBRARIES)\n")
    missing = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=TRUE"
               for name in ("spdlog", "prometheus-cpp", "CLI11", "tomlplusplus", "nlohmann_json")]
    return subprocess.run(["cmake", "-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={prefix}",
                           *missing], capture_output=True, timeout=SECONDS, text=True, env=clean_env())


def test_the_client_alone_needs_nothing_of_the_server(prefix, tmp_path):
    alone = configure(tmp_path / "alone", prefix)
    assert alone.returncode == 0, alone.stderr
    beside = configure(tmp_path / "beside", prefix, "COMPONENTS", "in_process")
    assert beside.returncode != 0 and "spdlog" in beside.stderr
    assert configure(tmp_path / "unknown", prefix, "COMPONENTS", "nonsense").returncode != 0


def test_public_headers_show_nothing_of_the_server(prefix):
    """Nor of libraries that are linked: a user's compiler sees ours, Abseil's, gRPC's alone."""
    headers = [path.relative_to(prefix / "include" / "quantd")
               for path in (prefix / "include" / "quantd").rglob("*.h")]
    assert {"client/client.h", "client/in_process.h", "client/model_file.h"} <= {str(h) for h in headers}
    for header in headers:
        text = (prefix / "include" / "quantd" / header).read_text()
        assert header.parts[0] in ("client", "core", "proto", "quantd"), header
        assert not re.search(r'#include [<"](hwy|server|spdlog|CLI|openssl|nlohmann|prometheus)/', text), header


def test_the_package_holds_programs_that_run(package):
    root, _ = package
    for program in ("quantd", "quantctl"):
        assert run(root / "usr" / "bin" / program, "--version").startswith(f"{program} ")
    assert list(root.glob("usr/lib/**/libquantd_client.a"))


def test_the_package_says_what_it_needs(package):
    _, control = package
    text = (control / "control").read_text()
    for name in ("libgrpc++1.51", "libopenblas0", "libc6", "adduser"):
        assert name in re.search("^Depends: (.*)$", text, re.MULTILINE).group(1)
    assert (control / "conffiles").read_text() == "/etc/quantd/quantd.toml\n"


def test_each_subcommand_has_a_man_page_that_renders(package):
    root, _ = package
    pages = {page.name.removesuffix(".gz") for page in root.glob("usr/share/man/man*/*")}
    lines = run(BUILD / "client" / "quantctl", "--help").split("Subcommands:\n")[1].split("\n\n")[0]
    names = [line.split()[0] for line in lines.splitlines() if re.match("  [a-z]", line)]
    assert "quantize" in names
    assert pages == {"quantd.8", "quantctl.1", *(f"quantctl-{name}.1" for name in names)}
    for page in root.glob("usr/share/man/man*/*"):
        text = run("man", "--warnings", "-l", page, env={"MANPAGER": "cat", "LC_ALL": "C.UTF-8"})
        assert "OPTIONS" in text and page.name.split(".")[0] in text, text


def complete(root, *words):
    """Returns what bash would offer for the last of `words`."""
    script = root / "usr/share/bash-completion/completions/quantctl"
    line = " ".join(words)
    quoted = " ".join(f"'{word}'" for word in words)
    return run("bash", "-c", f"""
        source /usr/share/bash-completion/bash_completion; source {script}
        COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}
        _quantctl; printf '%s\\n' "${{COMPREPLY[@]}}" """,
        env={"PATH": f"{root}/usr/bin:/usr/bin:/bin"}).split()


def test_bash_completes_commands_options_and_schemes(package):
    root, _ = package
    assert complete(root, "quantctl", "quan") == ["quantize"]
    assert complete(root, "quantctl", "quantize", "--no-f") == ["--no-figures"]
    assert complete(root, "quantctl", "quantize", "x", "--to", "nf") == ["nf4"]
    assert complete(root, "quantctl", "quantize", "x", "--to", "int8:mod") == [
        "mode=symmetric", "mode=full", "mode=asymmetric"]
    assert complete(root, "quantctl", "quantize", "x", "--to", "int8:axis=0,mode=fu") == ["full"]
    assert complete(root, "quantd", "--lis") == ["--listen"]


def test_the_unit_starts_the_server_with_settings_that_it_knows(package):
    root, _ = package
    unit = (root / "usr/lib/systemd/system/quantd.service").read_text()
    program, *flags = re.search("^ExecStart=(.*)$", unit, re.MULTILINE).group(1).split()
    assert flags == ["--config", "/etc/quantd/quantd.toml"]
    program, settings = root / program.lstrip("/"), root / "etc/quantd/quantd.toml"
    effective = tomllib.loads(run(program, "--config", settings, "--check-config"))
    assert effective.pop("listen") == ["127.0.0.1:7717", "unix:/run/quantd/quantd.sock"]
    defaults = tomllib.loads(run(program, "--check-config"))
    assert effective == {key: value for key, value in defaults.items() if key != "listen"}
