#!/usr/bin/env bash
# Puts what the runtime image needs into a folder: the two programs, the core that they share, a small
# OpenBLAS, and a list of the Debian packages that own the other shared libraries. The build has
# BUILD_SHARED_LIBS.
#   deploy/stage-image.sh BUILD_FOLDER OUT_FOLDER
set -euo pipefail
if [[ $# -ne 2 ]]; then
  sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
build=$1
out=$2
core=$out/lib/libquantd_core.so
programs=("$out/bin/quantd" "$out/bin/quantctl" "$core")

install -D -s -t "$out/bin" "$build/server/quantd" "$build/client/quantctl"
install -D -s -t "$out/lib" "$build/core/libquantd_core.so"

# Debian's OpenBLAS package and the Fortran runtime take 46 MB, most of it LAPACK. The static library
# gives one of 26 MB under the same name: what the programs call, with the kernels for every CPU.
libraries=$(pkg-config --variable=libdir openblas)
mapfile -t called < <(comm -12 \
  <(nm -D --undefined-only "${programs[@]}" | awk '$1 == "U" {print $2}' | sort -u) \
  <(nm -D --defined-only "$libraries/libopenblas.so" | awk '{print $3}' | sort -u))
if [[ ${#called[@]} -eq 0 ]]; then
  echo "the programs call nothing of $libraries/libopenblas.so" >&2
  exit 1
fi
gcc -shared -s -o "$out/lib/libopenblas.so.0" -Wl,-soname,libopenblas.so.0 -Wl,--gc-sections \
  "${called[@]/#/-Wl,-u,}" "$libraries/libopenblas.a" -lm -lpthread

# dpkg does not know the base libraries by their place under /usr; the base image has those anyway.
export LD_LIBRARY_PATH=$out/lib
ldd "${programs[@]}" | awk '$3 ~ /^\// {print $3}' | grep -vF "$out/lib/" | sort -u \
  | xargs realpath | { xargs dpkg-query -S 2>/dev/null || true; } | cut -d: -f1 | sort -u \
  >"$out/runtime-packages.txt"
