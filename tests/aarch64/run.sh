#!/usr/bin/env bash
# Builds core/ for aarch64 and runs its tests under qemu-user: kernels of NEON against the scalar
# definitions, golden bytes of other projects, and the bytes of every scheme, which must be those
# of this machine's core_session_test. Needs Debian on another machine than aarch64, and root for
# the compiler and qemu.
#   tests/aarch64/run.sh [BUILD_FOLDER_OF_THIS_MACHINE]
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

here=$PWD/${1:-build}
build=$PWD/build-aarch64
sysroot=$build/sysroot
packages=(libabsl-dev libgmock-dev libgtest-dev libhwy-dev libisal-dev libopenblas-pthread-dev libssl-dev
  libxxhash-dev nlohmann-json3-dev libc6-dev libstdc++-12-dev)
[[ -x $here/tests/core_session_test ]] || {
  echo "$here/tests/core_session_test: build the tests of this machine first" >&2
  exit 1
}

for tool in aarch64-linux-gnu-g++ qemu-aarch64-static; do
  command -v $tool >/dev/null || missing=1
done
if [[ -n ${missing:-} ]]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends g++-aarch64-linux-gnu qemu-user-static
fi

# The libraries of the other machine, by a state of apt of its own: nothing is installed here.
if [[ ! -f $sysroot/complete ]]; then
  apt=$build/apt
  rm -rf "$sysroot" "$apt"
  mkdir -p "$sysroot" "$apt"/{state/lists,cache/archives}/partial
  touch "$apt/status"
  options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$apt/state"
    -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o APT::Install-Recommends=0
    -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install -y --download-only "${packages[@]}"
  for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$sysroot"
  done
  rm -rf "$apt"
  touch "$sysroot/complete"
fi

cmake -S tests/aarch64 -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DAARCH64_SYSROOT="$sysroot" \
  -DCMAKE_TOOLCHAIN_FILE="$PWD/tests/aarch64/toolchain.cmake"
cmake --build "$build" --parallel "$(nproc)"

# Runs a program of the tests there; emulation is about ten times slower, so not all of them.
run_there() {
  local program=$1 filter=$2
  shift 2
  echo "== $program $filter"
  qemu-aarch64-static -L "$sysroot" -E LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu/openblas-pthread \
    "$build/core_${program}_test" --gtest_brief=1 "--gtest_filter=$filter" "$@"
}
fingerprints='*SameBytesTest.WhateverTheTarget*'
run_there simd '*'
run_there stats '*'
run_there scheme '*GoldenTest*:*ReferenceTest*'
run_there session "$fingerprints" "--gtest_output=json:$build/there.json"
"$here/tests/core_session_test" --gtest_brief=1 "--gtest_filter=$fingerprints" "--gtest_output=json:$build/here.json"
python3 - "$build/here.json" "$build/there.json" <<'END'
import json
import sys

def fingerprints(path):
    with open(path) as file:
        suites = json.load(file)["testsuites"]
    return {test["name"].split("  #")[0]: test["fingerprint"] for suite in suites for test in suite["testsuite"]}

here, there = map(fingerprints, sys.argv[1:])
different = [name for name in here.keys() | there.keys() if here.get(name) != there.get(name)]
for name in sorted(different):
    print(f"{name}: {here.get(name)} here, {there.get(name)} on aarch64")
print(f"{len(here)} fingerprints, {len(different)} differ on aarch64")
sys.exit(bool(different) or not here)
END
