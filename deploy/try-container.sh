#!/usr/bin/env bash
# Builds the image and uses it as an operator would: a client from outside, a UNIX socket that two
# containers share, TLS by mounted files, a stop while a call runs. Needs docker, 20.10 or later;
# leaves the image.
#   deploy/try-container.sh [DOCKER_BUILD_ARGUMENT...]
# Where no image registry can be reached, deploy/make-base-image.sh makes the base image first.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"
  exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

image=quantd
limit_bytes=60000000
socket=unix:/run/quantd/quantd.sock
client=${QUANTCTL:-build/client/quantctl}  # outside of any container
model=tests/data/silero_vad_16k.safetensors
id=quantd-try-$$
work=$(mktemp -d)
chmod 755 "$work"
clean_up() {
  docker rm -fv "$id-outside" "$id-socket" "$id-tls" >/dev/null 2>&1 || true
  docker volume rm "$id" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT
fail() {
  echo "try-container: $*" >&2
  exit 1
}
# Waits until the health check of container $1 says healthy.
await_health() {
  local state="" deadline=$((SECONDS + 90))
  until [[ $state == healthy ]]; do
    state=$(docker inspect -f '{{.State.Health.Status}}' "$1")
    if [[ $state == unhealthy ]] || ((SECONDS > deadline)); then
      docker logs "$1" >&2
      fail "$1 is $state"
    fi
    sleep 0.5
  done
}
# Quantizes by the quantctl whose command line is the arguments; the file is as without a server.
quantize_by() {
  rm -f "$work/out.safetensors"
  "$@" quantize "$model" -o "$work/out.safetensors" --to int8:axis=0 --quiet | tail -n 1
  cmp "$work/out.safetensors" "$work/expected.safetensors" || fail "other bytes than without a server"
}

[[ -x $client ]] || fail "$client: build quantctl first, or name one by QUANTCTL"
"$client" quantize "$model" -o "$work/expected.safetensors" --to int8:axis=0 --quiet >/dev/null
"$client" verify "$work/expected.safetensors" --against "$model" | tail -n 1

echo "== Build"
docker build -t "$image" "$@" .
size() { docker image inspect -f '{{.Size}}' "$1"; }
over=$(($(size "$image") - $(size debian:bookworm-slim)))
echo "$image is $((over / 1000)) kB over its base"
((over < limit_bytes)) || fail "the image is larger than $limit_bytes bytes over its base"

echo "== A client from outside"
port=17717
docker run -d --name "$id-outside" --network=host --read-only --cap-drop=ALL "$image" \
  --listen "127.0.0.1:$port" --listen "$socket" >/dev/null
await_health "$id-outside"
[[ $(docker exec "$id-outside" id -u) != 0 ]] || fail "the server runs as root"
quantize_by "$client" --server "127.0.0.1:$port"

echo "== A UNIX socket shared by two containers"
docker volume create "$id" >/dev/null
docker run -d --name "$id-socket" --network=none --read-only -v "$id:/run/quantd" "$image" \
  --listen "$socket" >/dev/null
await_health "$id-socket"
chmod 777 "$work"  # the container's user writes there
in_container=(docker run --rm --network=none -v "$id:/run/quantd" -v "$PWD/tests/data:/tests/data:ro"
  -v "$work:$work" --workdir / --entrypoint quantctl "$image" --server "$socket")
quantize_by "${in_container[@]}"
quantize_by "${in_container[@]}" --transport shared_memory

echo "== TLS by mounted files"
help=$(docker run --rm --network=none "$image" --help)  # whole: grep -q would end it by SIGPIPE
grep -q -e --tls-cert <<<"$help" || fail "quantd has no --tls-cert"
key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
mkdir "$work/tls"
openssl req -x509 "${key[@]}" -days 1 -subj /CN=test-ca -addext basicConstraints=critical,CA:TRUE \
  -keyout "$work/ca.key" -out "$work/tls/ca.pem" 2>/dev/null
openssl req "${key[@]}" -subj /CN=localhost -keyout "$work/tls/server.key" -out "$work/server.csr" \
  2>/dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/tls/ca.pem" -CAkey "$work/ca.key" \
  -CAcreateserial -days 1 -extfile <(echo subjectAltName=DNS:localhost,IP:127.0.0.1) \
  -out "$work/tls/server.pem" 2>/dev/null
chmod 644 "$work/tls/"*  # the container's user reads them
docker run -d --name "$id-tls" --network=host -v "$work/tls:/tls:ro" "$image" \
  --listen "127.0.0.1:$((port + 1))" --listen "$socket" \
  --tls-cert /tls/server.pem --tls-key /tls/server.key >/dev/null
await_health "$id-tls"
quantize_by "$client" --server "127.0.0.1:$((port + 1))" --tls-ca "$work/tls/ca.pem"
if "$client" --server "127.0.0.1:$((port + 1))" --timeout 5 info --health 2>/dev/null; then
  fail "a client without TLS was served"
fi

echo "== Stop, while a call waits for the rest of its tensor"
mkfifo "$work/pipe"
"$client" --server "127.0.0.1:$port" --quiet quantize - --dtype f32 --shape 1024,1024 \
  -o "$work/never.safetensors" --to int8:group=32 <"$work/pipe" >/dev/null 2>"$work/never.log" &
caller=$!
exec 3>"$work/pipe"
head -c 1000000 /dev/zero >&3
sleep 1  # it is under way
for name in outside socket tls; do
  begin=$SECONDS
  docker stop "$id-$name" >/dev/null
  code=$(docker inspect -f '{{.State.ExitCode}}' "$id-$name")
  [[ $code == 0 ]] || fail "$id-$name ended with $code after $((SECONDS - begin)) s"
  echo "$name: stopped in $((SECONDS - begin)) s"
done
exec 3>&-
if wait "$caller"; then fail "a call ended well whose server was stopped"; fi
echo "all steps passed"
