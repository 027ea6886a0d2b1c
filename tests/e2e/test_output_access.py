"""Who may read what quantctl makes: nobody who could not read what it comes from, or replaces."""

import os
import stat

import numpy as np
import pytest
from conftest import quantctl
from safetensors.numpy import save_file


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": np.eye(8, 32, dtype=np.float32)}, path)
    path.chmod(0o644)
    return path


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def with_umask(umask, *args, **kwargs):
    return quantctl(*args, preexec_fn=lambda: os.umask(umask), **kwargs)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o604, 0o666, 0o400])
def test_no_more_than_the_input(tmp_path, source, mode, umask):
    source.chmod(mode)
    wanted = (mode | 0o200) & ~umask
    packed, back, ranges = (tmp_path / name for name in ("q.safetensors", "b.safetensors", "r.json"))
    with_umask(umask, "quantize", source, "-o", packed, "--to", "int8")
    with_umask(umask, "dequantize", packed, "-o", back)
    with_umask(umask, "calibrate", source, "--to", "int8", "-o", ranges)
    for path in (packed, back, ranges):
        assert mode_of(path) & 0o044 == wanted & 0o044, path
        assert mode_of(path) & 0o600 == 0o600 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o660, 0o666])
def test_no_more_than_what_is_replaced(tmp_path, source, mode):
    out = tmp_path / "q.safetensors"
    out.write_bytes(b"old")
    out.chmod(mode)
    with_umask(0o002, "quantize", source, "-o", out, "--to", "int8")
    assert mode_of(out) == mode & ~0o002
    # Both count: the input is for nobody else.
    source.chmod(0o600)
    with_umask(0o002, "quantize", source, "-o", out, "--to", "int8")
    assert mode_of(out) == 0o600


def test_folders_in_and_out(tmp_path, source):
    folder = tmp_path / "planes"
    source.chmod(0o600)
    with_umask(0o022, "quantize", source, "-o", folder, "--format", "npy", "--to", "int8")
    assert mode_of(folder) == 0o700
    assert {mode_of(path) for path in folder.iterdir()} == {0o600}
    # What lies in a folder is for those whom the folder lets in, whatever the files say.
    for path in folder.iterdir():
        path.chmod(0o644)
    with_umask(0o022, "dequantize", folder, "-o", tmp_path / "b.safetensors")
    assert mode_of(tmp_path / "b.safetensors") == 0o600
    folder.chmod(0o755)
    with_umask(0o022, "dequantize", folder, "-o", tmp_path / "c.safetensors")
    assert mode_of(tmp_path / "c.safetensors") == 0o644
    next(folder.glob("*.scale.npy")).chmod(0o640)
    with_umask(0o022, "dequantize", folder, "-o", tmp_path / "d.safetensors")
    assert mode_of(tmp_path / "d.safetensors") == 0o640


def test_an_empty_folder_that_is_replaced_keeps_people_out(tmp_path, source):
    folder = tmp_path / "planes"
    folder.mkdir(mode=0o700)
    with_umask(0o022, "quantize", source, "-o", folder, "--format", "npy", "--to", "int8")
    assert mode_of(folder) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other groups")
def test_another_group_is_not_ours(tmp_path, source):
    os.chown(source, -1, os.getegid() + 1)
    source.chmod(0o640)
    with_umask(0o022, "quantize", source, "-o", tmp_path / "q.safetensors", "--to", "int8")
    assert mode_of(tmp_path / "q.safetensors") == 0o600
