#!/usr/bin/env bash
# Makes the Debian package, installs it on a fresh Debian 12 in a folder, and uses it there as a user
# without rights. Needs root and debootstrap.
#   deploy/try-deb.sh [--apt-conf FILE]
# FILE goes into that system's /etc/apt/apt.conf.d.
set -euo pipefail
usage() { sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; }
apt_conf=
case ${1:-}:$# in
  :0) ;;
  --apt-conf:2) apt_conf=$(realpath -- "$2") ;;
  -h:1 | --help:1) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d "${TMPDIR:-/var/tmp}/quantd-deb.XXXXXX")
root=$work/root
clean_up() {
  umount "$root/proc" 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT

echo "== Package"
cpack --config build/CPackConfig.cmake -B "$work" >"$work/log"
deb=$(echo "$work"/quantd_*.deb)
dpkg-deb --info "$deb"
echo "== A fresh Debian"
debootstrap --variant=minbase bookworm "$root" http://deb.debian.org/debian >>"$work/log" 2>&1 || {
  tail -n 20 "$work/log" >&2
  exit 1
}
cat >>"$root/etc/apt/sources.list" <<'END'
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
END
if [[ -n $apt_conf ]]; then
  cp -- "$apt_conf" "$root/etc/apt/apt.conf.d/"
fi
cp "$deb" "$root/tmp/quantd.deb"
cp tests/data/silero_vad_16k.safetensors "$root/tmp/model.safetensors"
mount -t proc proc "$root/proc"
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp DEBIAN_FRONTEND=noninteractive chroot "$@"; }

echo "== Install"
inside "$root" apt-get update -q >>"$work/log"
inside "$root" apt-get install -q -y --no-install-recommends /tmp/quantd.deb >>"$work/log"
inside "$root" dpkg -s quantd | grep -E '^(Package|Status|Version|Installed-Size)'
inside "$root" id quantd

echo "== Use, as the user quantd"
install -d -m 1777 "$root/run/quantd"
# shellcheck disable=SC2016  # the shell inside expands it
inside --userspec=quantd:quantd "$root" bash -euo pipefail -c '
  unit=$(dpkg -L quantd | grep /quantd.service$)
  command=$(sed -n "s/^ExecStart=//p" "$unit")
  $command --check-config | grep ^listen=
  $command --port-file /run/quantd/address &
  server=$!
  trap "kill $server" EXIT
  for _ in {1..300}; do
    [[ -s /run/quantd/address ]] && break
    sleep 0.1
  done
  export QUANTD_SERVER=unix:/run/quantd/quantd.sock
  quantctl info --health
  quantctl quantize /tmp/model.safetensors -o /run/quantd/out.safetensors --to int8 --quiet | tail -n 1
  quantctl verify /run/quantd/out.safetensors --against /tmp/model.safetensors | tail -n 1
  trap - EXIT
  kill -TERM "$server"
  wait "$server"
'
echo "== Remove"
echo "# a changed setting" >>"$root/etc/quantd/quantd.toml"
inside "$root" dpkg --remove quantd >>"$work/log"
[[ -e $root/etc/quantd/quantd.toml && ! -e $root/usr/bin/quantd ]] || { echo "remove left or took too much" >&2; exit 1; }
inside "$root" dpkg --purge quantd >>"$work/log"
[[ ! -e $root/etc/quantd ]] || { echo "purge left the settings" >&2; exit 1; }
echo "all steps passed"
