"""What shows on machines of many cores alone, tried by a library that says that this one has them.

gRPC polls TCP sockets in another way from 8 cores on, and takes 10 s to shut that down.
"""

import os
import subprocess
import time

import numpy as np
import pytest
from conftest import quantctl, running_server
from safetensors.numpy import save_file

SAYS_SIXTEEN = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
long sysconf(int name) {
  if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF) return 16;
  static long (*next)(int);
  if (!next) next = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
  return next(name);
}
"""


@pytest.mark.parametrize("transport", ["tcp", "unix", "shared_memory"])
def test_ends_when_it_is_done(tmp_path, transport):
    source, library = tmp_path / "sixteen.c", tmp_path / "sixteen.so"
    source.write_text(SAYS_SIXTEEN)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    values = np.random.default_rng(1).standard_normal((4096, 2048), dtype=np.float32)
    save_file({"w": values}, tmp_path / "w.safetensors")
    # AddressSanitizer's own library is content to come second.
    unordered = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    listen = "127.0.0.1:0" if transport == "tcp" else f"unix:{tmp_path}/sock"
    with running_server(tmp_path / "s", listen=listen) as server:
        begin = time.monotonic()
        quantctl("quantize", tmp_path / "w.safetensors", "-o", tmp_path / "q.safetensors", "--to",
                 "int8:axis=0", "--server", server.address, "--transport", transport,
                 env={"LD_PRELOAD": str(library), "ASAN_OPTIONS": unordered})
        assert time.monotonic() - begin < 5
