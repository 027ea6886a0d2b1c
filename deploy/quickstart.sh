#!/usr/bin/env bash
# Installs what is missing, builds, starts a server, quantizes a model through it, checks the result.
#   deploy/quickstart.sh [MODEL.safetensors] [SPEC]
# SPEC is a scheme with its options: int8 (the default), int8:axis=0, fp16, uint4:group=32, q8_0 ...
set -euo pipefail
if [[ $# -gt 2 || ${1:-} == -* ]]; then
  sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
model=${1:-$root/tests/data/silero_vad_16k.safetensors}
spec=${2:-int8}
if [[ ! -f $model || ! -r $model ]]; then
  echo "$model: no such file, or it is not readable" >&2
  exit 1
fi
model=$(realpath -- "$model")
cd "$root"

echo "== Packages"
deploy/install-packages.sh
echo "== Build (the first one takes minutes)"
cmake --preset release --log-level=NOTICE
cmake --build --preset release --parallel "$(nproc)" --target quantd quantctl

folder=build/quickstart
name=$(basename -- "$model" .safetensors)
output=$folder/$name.${spec//[^A-Za-z0-9._-]/-}.safetensors
mkdir -p "$folder"
rm -f "$folder/address" "$output"
# The server is on loopback, which a proxy cannot reach.
export no_grpc_proxy=127.0.0.1

echo "== Server"
server=
stop_server() {
  [[ -n $server ]] || return 0
  local pid=$server
  server=
  kill -TERM "$pid" 2>/dev/null || true
  wait "$pid"
}
trap 'stop_server || true' EXIT
build/server/quantd --listen 127.0.0.1:0 --port-file "$folder/address" >"$folder/server.log" 2>&1 &
server=$!
address=
deadline=$((SECONDS + 30))
until [[ -s $folder/address ]] && read -r address <"$folder/address"; do
  if ! kill -0 "$server" 2>/dev/null || ((SECONDS > deadline)); then
    echo "the server did not start; it said:" >&2
    cat "$folder/server.log" >&2
    exit 1
  fi
  sleep 0.05
done
echo "quantd listens on $address, its log is $folder/server.log"

echo "== Quantize $(basename -- "$model") to $spec"
build/client/quantctl quantize "$model" -o "$output" --to "$spec" --server "$address"
echo "== Verify"
build/client/quantctl verify "$output" --against "$model"
echo "== Stop"
stop_server || { echo "the server ended with an error; see $folder/server.log" >&2; exit 1; }
echo "the server has stopped"

# As the shell must read them.
printf -v model %q "$model"
printf -v shown %q "$output"
printf -v other %q "$folder/$name"
cat <<END

Done: $root/$output
Try next, in $root:
    build/client/quantctl inspect $shown
    build/client/quantctl schemes
    build/client/quantctl quantize $model -o $other.nf4.safetensors --to nf4
    build/client/quantctl dequantize $shown -o $other.f32.safetensors
    build/server/quantd --listen 127.0.0.1:50051      # then add --server 127.0.0.1:50051 to the above
    deploy/quickstart.sh YOUR_MODEL.safetensors int8:axis=0
END
