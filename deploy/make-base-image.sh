#!/usr/bin/env bash
# Makes the image that the Dockerfile starts from out of Debian's packages, for where no image
# registry can be reached. Needs root, docker and debootstrap.
#   deploy/make-base-image.sh [--mirror URL] [--apt-conf FILE]
# The image is debian:bookworm-slim on this machine; FILE goes into its /etc/apt/apt.conf.d.
set -euo pipefail
usage() { sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; }

image=debian:bookworm-slim
mirror=http://deb.debian.org/debian
apt_conf=
while [[ $# -gt 0 ]]; do
  case $1:$# in
    --mirror:1 | --apt-conf:1) usage >&2; exit 2 ;;
    --mirror:*) mirror=$2; shift 2 ;;
    --apt-conf:*) apt_conf=$2; shift 2 ;;
    -h:* | --help:*) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

work=$(mktemp -d "${TMPDIR:-/var/tmp}/quantd-base.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
echo "== debootstrap"
debootstrap --variant=minbase bookworm "$root" "$mirror" >"$work/log" 2>&1 || {
  tail -n 20 "$work/log" >&2
  exit 1
}

# The exclusions of the official slim image.
cat >"$root/etc/dpkg/dpkg.cfg.d/docker" <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/lintian/*
END
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type l ! -name copyright -delete
rm -rf "$root"/usr/share/{man,info,locale,lintian}/* "$root"/var/cache/apt/* \
  "$root"/var/lib/apt/lists/* "$root"/var/log/*
cat >"$root/etc/apt/sources.list" <<END
deb $mirror bookworm main
deb $mirror bookworm-updates main
deb ${mirror%/*}/debian-security bookworm-security main
END
if [[ -n $apt_conf ]]; then
  install -m 644 "$apt_conf" "$root/etc/apt/apt.conf.d/"
fi
# Docker gives each container its own.
: >"$root/etc/resolv.conf"
: >"$root/etc/hostname"

echo "== $image"
tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$image"
