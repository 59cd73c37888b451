#!/bin/sh
# Installs what the capture tests play into: PortAudio, a PulseAudio daemon and paplay, from Debian's own archive.
# Done at once when all is there. Where nothing may be installed it says so and succeeds: the tests marked `pulse`
# then skip and give the same reason.
set -u

PACKAGES="libportaudio2 libasound2-plugins pulseaudio pulseaudio-utils"

missing=""
for package in $PACKAGES; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

skip() {
    echo "install-audio: not installed:$missing ($1); tests marked 'pulse' will skip" >&2
    exit 0
}

command -v apt-get >/dev/null 2>&1 || skip "no apt-get on this system"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || skip "neither root nor passwordless sudo"
    as_root="sudo -n"
fi

export DEBIAN_FRONTEND=noninteractive
# The package lists of a container image are often absent, so a first failure is answered by fetching them.
install() {
    # shellcheck disable=SC2086  # lists of words
    $as_root apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1
}
install || { $as_root apt-get update -qq >/dev/null 2>&1 && install; } || skip "apt-get could not install them"
echo "install-audio: installed$missing" >&2
