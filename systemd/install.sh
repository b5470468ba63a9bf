#!/bin/sh
# Installs a release of the gateway from wheels, beside those that are there, or goes back to the
# one before. `make install` and `make rollback` call it; it needs neither make nor a network.
set -eu

usage="usage: install.sh install WHEELS | rollback, with DESTDIR, PREFIX, SYSCONFDIR, BINDIR,
UNITDIR and PYTHON from the environment"
prefix=${PREFIX:-/opt/game-gateway}
python=${PYTHON:-/usr/bin/python3}
root=${DESTDIR:-}
etc=$root${SYSCONFDIR:-/etc}/game-gateway
bin=$root${BINDIR:-/usr/local/bin}
units=$root${UNITDIR:-/etc/systemd/system}
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# Let the link $2 lead to $1, at once: there is no moment without it.
point() {
    ln -sfn "$1" "$2.new"
    mv -T "$2.new" "$2"
}

case ${1:-} in
install)
    wheels=${2:?$usage}
    set -- "$wheels"/game_gateway-*.whl
    [ -f "$1" ] || fail "there is no wheel of the gateway in $wheels; make them: make wheels"
    [ $# = 1 ] || fail "there are wheels of several releases in $wheels; leave one: $*"
    [ ! -e "$root$prefix/venv" ] || [ -L "$root$prefix/venv" ] ||
        fail "$prefix/venv was made by hand; move it away, stop the gateway before"
    version=${1##*/game_gateway-}
    release=${version%%-*}-$(date -u +%Y%m%dT%H%M%SZ)
    venv=$root$prefix/releases/$release
    mkdir -p "$root$prefix/releases" "$etc" "$bin" "$units"
    trap 'rm -rf "$venv"' EXIT
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index \
        --find-links "$wheels" "$1"
    config=$etc/gateway.yaml
    if [ -e "$config" ]; then
        # A release that refuses the configuration is not switched to.
        "$venv/bin/game-gateway" check-config "$config"
    else
        "$venv/bin/game-gateway" default-config >"$config.new"
        mv "$config.new" "$config"
    fi
    if [ -n "$root" ]; then
        # Scripts name the interpreter by where it is now.
        grep -rIlF "$venv" "$venv/bin" "$venv/pyvenv.cfg" |
            xargs sed -i "s|$venv|$prefix/releases/$release|g"
    fi
    install -m 644 "$here/gateway.service" "$here/gateway@.service" "$here/gateway.socket" "$units"
    if [ -L "$root$prefix/venv" ]; then
        point "$(readlink "$root$prefix/venv")" "$root$prefix/previous"
    fi
    trap - EXIT
    point "releases/$release" "$root$prefix/venv"
    point "$prefix/venv/bin/game-gateway" "$bin/game-gateway"
    echo "installed $prefix/releases/$release"
    ;;
rollback)
    [ -L "$root$prefix/previous" ] || fail "no release was installed before this one"
    before=$(readlink "$root$prefix/previous")
    [ -x "$root$prefix/$before/bin/game-gateway" ] || fail "$prefix/$before is no longer there"
    point "$(readlink "$root$prefix/venv")" "$root$prefix/previous"
    point "$before" "$root$prefix/venv"
    echo "back to $prefix/$before"
    ;;
*)
    echo "$usage" >&2
    exit 2
    ;;
esac
