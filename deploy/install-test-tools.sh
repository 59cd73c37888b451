#!/bin/sh
# Installs what some tests need and pip cannot bring, from Debian's own archive: PortAudio, a PulseAudio daemon and paplay
# for capture, promtool (package prometheus) for the alert rules, PostgreSQL for the store, docker-compose, which checks
# the compose file without Docker, systemd-analyze (package systemd) for the units, and mount, chattr and mkfs.ext4 (packages
# mount and e2fsprogs) for disks that fail. No daemon is wanted, and none is left running.
# Done at once when all is there. Where nothing may be installed it says so and succeeds: those tests then skip and
# give the same reason, or fail where SONGSTREAM_REQUIRE_TOOLS is set.
set -u

PACKAGES="libportaudio2 libasound2-plugins pulseaudio pulseaudio-utils prometheus postgresql docker-compose"
PACKAGES="$PACKAGES systemd mount e2fsprogs"

missing=""
for package in $PACKAGES; do
    # These may have come another way.
    case "$package" in
    prometheus) command -v promtool >/dev/null 2>&1 && continue ;;
    docker-compose) docker compose version >/dev/null 2>&1 && continue ;;
    systemd) command -v systemd-analyze >/dev/null 2>&1 && continue ;;
    esac
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

skip() {
    echo "install-test-tools: not installed:$missing ($1); the tests that need them will skip, or fail with SONGSTREAM_REQUIRE_TOOLS" >&2
    exit 0
}

command -v apt-get >/dev/null 2>&1 || skip "no apt-get on this system"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || skip "neither root nor passwordless sudo"
    as_root="sudo -n"
fi

export DEBIAN_FRONTEND=noninteractive
# The package would make and start a cluster of its own, which nobody asked for: tests make theirs.
case "$missing" in
*" postgresql"*)
    $as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" | $as_root tee /etc/postgresql-common/createcluster.d/songstream.conf >/dev/null
    ;;
esac
# The package lists of a container image are often absent, so a first failure is answered by fetching them. Nothing makes way:
# systemd would take the place of another init.
install() {
    # shellcheck disable=SC2086  # lists of words
    $as_root apt-get install -qq -y --no-remove --no-install-recommends $missing >/dev/null 2>&1
}
install || { $as_root apt-get update -qq >/dev/null 2>&1 && install; } || skip "apt-get could not install them"
# On a machine with systemd the package starts a Prometheus of its own, which nobody asked for.
case "$missing" in
*" prometheus"*) [ -d /run/systemd/system ] && $as_root systemctl disable --quiet --now prometheus 2>/dev/null ;;
esac
echo "install-test-tools: installed$missing" >&2
