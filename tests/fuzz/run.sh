#!/usr/bin/env bash
# Builds the fuzz targets with libFuzzer, AddressSanitizer and UBSan, and runs one after the other.
#   tests/fuzz/run.sh [--seconds N] [--minimize] [NAME...]
# NAME is that of a file NAME_fuzz.cc; all by default. N is 600 for each. Inputs that show something
# new gather in build-fuzz/corpus/NAME, crashes in build-fuzz/crashes. --minimize makes
# tests/fuzz/corpus/NAME.tar of the least set of small inputs that covers as much afterwards.
#
# The test fuzz_corpus.NAME goes over every input in that archive. To add one that showed a fault,
# under a name that tells which:
#   tar -rf tests/fuzz/corpus/NAME.tar --owner=0 --group=0 --mtime=@0 -C FOLDER FILE
# To add seeds, where a target is new or its inputs have another form, and then --minimize:
#   tests/fuzz/make_seeds.py build-fuzz/corpus
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=600
minimize=
while [[ ${1:-} == --* ]]; do
  case $1 in
    --seconds)
      seconds=${2:?--seconds needs a number}
      shift
      ;;
    --minimize) minimize=1 ;;
    *)
      echo "unknown option $1; known: --seconds N, --minimize" >&2
      exit 2
      ;;
  esac
  shift
done
if [[ $# -gt 0 ]]; then
  names=("$@")
else
  mapfile -t names < <(cd tests/fuzz && printf '%s\n' *_fuzz.cc | sed 's/_fuzz\.cc$//')
fi

# Heavy, and for nothing but this, so not in deploy/apt-packages.txt. The newest that Debian 12 has.
clang='clang++-19'
deploy/install-packages.sh
if ! command -v $clang >/dev/null || ! dpkg-query -W libclang-rt-19-dev >/dev/null 2>&1; then
  as_root=()
  [[ $EUID -eq 0 ]] || as_root=(sudo)
  "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends \
    clang-19 libclang-rt-19-dev
fi

# Later ABIs give some templates of Abseil other names than the GCC of Debian's packages.
cmake -S . -B build-fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_COMPILER=$clang -DCMAKE_CXX_FLAGS=-fclang-abi-compat=17 \
  -DQUANTD_SANITIZE=address,undefined,fuzzer-no-link \
  -DQUANTD_BUILD_FUZZERS=ON -DQUANTD_BUILD_TESTS=ON
cmake --build build-fuzz --parallel "$(nproc)" --target "${names[@]/%/_fuzz}"

export ASAN_OPTIONS="detect_stack_use_after_return=1:quarantine_size_mb=16:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
for name in "${names[@]}"; do
  program=build-fuzz/tests/fuzz/${name}_fuzz
  found=build-fuzz/corpus/$name
  kept=build-fuzz/tests/fuzz/corpus/$name  # CMake has unpacked it
  mkdir -p "$found" "$kept" build-fuzz/crashes
  echo "== $name, $seconds s"
  # The time limit of one input is generous: a machine that others use stands still at times.
  "$program" "$found" "$kept" -max_total_time="$seconds" -max_len=16384 -timeout=200 \
    -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="build-fuzz/crashes/$name-" \
    >"build-fuzz/$name.log" 2>&1 || {
    tail -40 "build-fuzz/$name.log"
    echo "$name has found something: build-fuzz/crashes, build-fuzz/$name.log" >&2
    exit 1
  }
  grep -E '^stat::|DONE' "build-fuzz/$name.log"
  if [[ -n $minimize ]]; then
    # Inputs that are kept so far are candidates too; regression inputs have names of their own and stay.
    find "$kept" -type f -exec cp -t "$found" {} +
    find "$kept" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    "$program" -set_cover_merge=1 -use_counters=0 -max_len=1024 "$kept" "$found" >"build-fuzz/$name-merge.log" 2>&1
    # The same inputs make the same archive.
    find "$kept" -type f -printf '%P\n' | LC_ALL=C sort | tar -cf "tests/fuzz/corpus/$name.tar" \
      -C "$kept" -T - --format=ustar --owner=0 --group=0 --numeric-owner --mode=644 --mtime=@0
  fi
done
