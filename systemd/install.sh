#!/bin/sh
# Installs a release of the gateway from wheels, beside those that are there, or goes back to the
# one before. `make install` and `make rollback` call it; it needs neither make nor a network.
set -eu
# The service, a user without a name, reads what is installed.
umask 022

usage="usage: install.sh install WHEELS | rollback, with DESTDIR, PREFIX, SYSCONFDIR, BINDIR,
UNITDIR and PYTHON from the environment"
prefix=${PREFIX:-/opt/game-gateway}
python=${PYTHON:-/usr/bin/python3}
root=${DESTDIR:-}
sysconf=${SYSCONFDIR:-/etc}
etc=$root$sysconf/game-gateway
bin=$root${BINDIR:-/usr/local/bin}
units=$root${UNITDIR:-/etc/systemd/system}
here=$(cd "$(dirname "$0")" && pwd)
# How many releases stay, at least.
keep=3

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# Let the link $2 lead to $1, at once: there is no moment without it.
point() {
    ln -sfn "$1" "$2.new"
    mv -T "$2.new" "$2"
}

# Let the release $1 be the one in use, with the units that came with it.
use() {
    install -m 644 "$root$prefix/$1/units"/* "$units"
    if [ -L "$root$prefix/venv" ]; then
        point "$(readlink "$root$prefix/venv")" "$root$prefix/previous"
    fi
    point "$1" "$root$prefix/venv"
}

# Remove all but the newest releases. What is in use stays, and what to go back to, and what a
# gateway runs that was not restarted since: it has the release's libraries mapped.
prune() {
    current=$(readlink "$root$prefix/venv")
    previous=$(readlink "$root$prefix/previous" || true)
    # Their names are VERSION-TIME.
    ls "$root$prefix/releases" | sort -r -t - -k 2 | tail -n "+$((keep + 1))" |
        while read -r release; do
            case releases/$release in "$current" | "$previous") continue ;; esac
            if ! grep -qsF "$prefix/releases/$release/" /proc/[0-9]*/maps; then
                rm -rf "$root$prefix/releases/$release"
                echo "removed $prefix/releases/$release"
            fi
        done
}

case ${1:-} in
install)
    wheels=${2:?$usage}
    set -- "$wheels"/game_gateway-*.whl
    [ -f "$1" ] || fail "there is no wheel of the gateway in $wheels; make them: make wheels"
    [ $# = 1 ] || fail "there are wheels of several releases in $wheels; leave one: $*"
    [ ! -e "$root$prefix/venv" ] || [ -L "$root$prefix/venv" ] ||
        fail "$prefix/venv was made by hand, and is where the release in use belongs." \
            "Stop the gateway, move the folder away (mv $prefix/venv $prefix/venv.old)," \
            "install again and start the gateway; configuration and state stay as they are"
    [ ! -e "$bin/game-gateway" ] || [ -L "$bin/game-gateway" ] ||
        fail "$bin/game-gateway is not a link, so it was not made by this script; move it away"
    version=${1##*/game_gateway-}
    release=${version%%-*}-$(date -u +%Y%m%dT%H%M%SZ)
    venv=$root$prefix/releases/$release
    mkdir -p "$root$prefix/releases" "$etc" "$bin" "$units"
    mkdir "$venv"
    trap 'rm -rf "$venv"' EXIT
    trap 'exit 1' HUP INT TERM
    "$python" -m venv "$venv"
    # Nothing but these wheels counts, whatever pip is told on this machine.
    PIP_CONFIG_FILE=/dev/null "$venv/bin/python" -m pip --isolated install --quiet \
        --disable-pip-version-check --no-index --find-links "$wheels" "$1"
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
    mkdir "$venv/units"
    for unit in gateway.service gateway@.service gateway-node@.service gateway.socket; do
        sed -e "s|/opt/game-gateway/|$prefix/|g" -e "s|/etc/game-gateway/|$sysconf/game-gateway/|g" \
            "$here/$unit" >"$venv/units/$unit"
    done
    trap - EXIT HUP INT TERM
    use "releases/$release"
    point "$prefix/venv/bin/game-gateway" "$bin/game-gateway"
    echo "installed $prefix/releases/$release"
    prune
    ;;
rollback)
    [ -L "$root$prefix/previous" ] || fail "no release was installed before this one"
    before=$(readlink "$root$prefix/previous")
    [ -x "$root$prefix/$before/bin/game-gateway" ] || fail "$prefix/$before is no longer there"
    use "$before"
    echo "back to $prefix/$before"
    ;;
*)
    echo "$usage" >&2
    exit 2
    ;;
esac
