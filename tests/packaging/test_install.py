"""`make install` on a Debian without a network: install, upgrade with a migration, roll back.

The system is this machine's, under an overlay in namespaces of its own; nothing of it stays.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.gateway_process import TIMEOUT, program
from tests.releases import two_releases

ENTER = r"""
mount -t tmpfs -o size=1g,mode=755 system "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
root=$1/root
for folder in dev proc sys; do mount --rbind "/$folder" "$root/$folder"; done
rm -rf "$root"/opt/game-gateway "$root"/etc/game-gateway "$root"/etc/systemd/system/gateway* \
    "$root"/var/lib/game-gateway "$root"/usr/local/bin/game-gateway
mkdir -p "$root/srv/checkout"
mount --bind "$2" "$root/srv/checkout"
ip link set lo up
exec chroot "$root" bash -euc "cd /srv/checkout; $3"
"""
#: What the steps below share.
FUNCTIONS = r"""
export STATE_DIRECTORY=/var/lib/game-gateway
config=/etc/game-gateway/gateway.yaml
gateway=
trap '[ -z "$gateway" ] || kill -9 $gateway' EXIT
serve() {
    game-gateway serve --config $config --port 18080 >>/var/log/gateway.log 2>&1 &
    gateway=$!
    for _ in $(seq 300); do
        curl -sf http://127.0.0.1:18080/readyz >/dev/null && return
        sleep 0.1
    done
    cat /var/log/gateway.log
    exit 1
}
stop() { kill $gateway; wait $gateway; gateway=; }
query() { /usr/bin/python3 -c '
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())' \
    $STATE_DIRECTORY/gateway.db "$1"; }
send() { curl -sf -H "Authorization: Bearer $key" --json "{\"target_id\": \"$ada\", \"data\": $1}" \
    http://127.0.0.1:18080/api/v1/messages >/dev/null; }
# Run a command that must fail, and say $1.
refused() {
    reason=$1
    shift
    if "$@" >refused 2>&1; then echo "$* did not fail"; exit 1; fi
    if ! grep -qF "$reason" refused; then cat refused; exit 1; fi
}
equal() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }; }
"""
STEPS = r"""
# A venv from before there was this
mkdir -p /opt/game-gateway/venv/bin
refused "(mv /opt/game-gateway/venv /opt/game-gateway/venv.old)" make install
equal "$(ls /opt/game-gateway)" venv
mv /opt/game-gateway/venv /opt/game-gateway/venv.old

# Root's files may be for root alone, a release may not.
(umask 077; make install)
equal "$(find /opt/game-gateway/releases ! -type l ! -perm -004 | wc -l)" 0
equal "$(game-gateway --version)" 0.1.0
first=$(readlink /opt/game-gateway/venv)
ada=$(echo 'a long password' | game-gateway users add --password-stdin ada --config $config)
ada=${ada#* }
key=$(game-gateway api-keys add shop send --config $config)
export GATEWAY_AUTH_METHODS=guest,password
serve; send 1; stop
format=$(query 'PRAGMA user_version')

# Upgrade
game-gateway backup --config $config /root/before-upgrade.db
echo '# mine' >> $config
make install WHEELS=build/next
equal "$(game-gateway --version)" 0.2.0
tail -n 1 $config | grep -qx '# mine'
serve; send 2; stop
equal "$(query 'PRAGMA user_version')" $((format + 1))
equal "$(query 'SELECT count(*) FROM log')" 2
epoch=$(query "SELECT value FROM meta WHERE name = 'epoch'")

# Rollback
make rollback
equal "$(game-gateway --version)" 0.1.0
equal "$(readlink /opt/game-gateway/venv)" "$first"
refused "has format $((format + 1)), and this release knows up to $format" \
    game-gateway serve --config $config --port 18080
grep -q "restore a backup that was made before the upgrade" refused
game-gateway restore --config $config /root/before-upgrade.db
serve
equal "$(query 'SELECT count(*) FROM log')" 1
[ "$(query "SELECT value FROM meta WHERE name = 'epoch'")" != $epoch ]
send 3
stop
equal "$(query 'PRAGMA user_version')" $format
make rollback
equal "$(game-gateway --version)" 0.2.0

# What does not work changes nothing
cp $config good.yaml
echo 'server: {prot: 1}' > $config
refused 'server.prot: unknown key; did you mean "port"?' make install
refused 'there is no wheel of the gateway in nowhere' make install WHEELS=nowhere
equal "$(game-gateway --version)" 0.2.0
equal "$(ls /opt/game-gateway/releases | wc -l)" 2
mv good.yaml $config

# Old releases go, but not what is in use, what to go back to, and what still runs
cd /opt/game-gateway/releases
second=$(readlink -f ../venv)
mkdir 0.0.1-20200101T000000Z 0.9.{1,2,3}-29990101T000000Z
serve
make -C /srv/checkout install
third=$(readlink -f ../venv)
equal "$(echo 0.[0-8]*)" "${third##*/} ${second##*/}"
make -C /srv/checkout install
fourth=$(readlink -f ../venv)
equal "$(ls -d "$second" "$third" "$fourth" | wc -l)" 3
stop
make -C /srv/checkout install
equal "$(readlink -f ../previous)" "$fourth"
if [ -e "$second" ] || [ -e "$third" ]; then ls; exit 1; fi
equal "$(ls | wc -l)" 5
cd /srv/checkout

# Staged, and elsewhere
make install DESTDIR=/staged
if grep -rIl /staged /staged; then echo "these name the stage"; exit 1; fi
equal "$(readlink /staged/usr/local/bin/game-gateway)" /opt/game-gateway/venv/bin/game-gateway
rm -rf /opt/game-gateway
cp -a /staged/opt/game-gateway /opt/
equal "$(game-gateway --version)" 0.1.0
make install PREFIX=/srv/gateway SYSCONFDIR=/srv/etc BINDIR=/srv/bin UNITDIR=/srv/units
for unit in gateway gateway@ gateway-node@; do
    command=$(sed -n 's/^ExecStart=//p' /srv/units/$unit.service | sed 's/%i\|nodes/gateway/')
    equal "${command%% *}" /srv/gateway/venv/bin/game-gateway
    equal "${command##* }" /srv/etc/game-gateway/gateway.yaml
done
/srv/gateway/venv/bin/game-gateway check-config /srv/etc/game-gateway/gateway.yaml
echo done
"""


def test_a_release_is_installed_upgraded_and_rolled_back(tmp_path: Path) -> None:
    checkout = two_releases(tmp_path, "make wheels")
    system = tmp_path / "system"
    system.mkdir()
    unshare = [program("unshare"), "--mount", "--net", "--propagation", "private"]
    done = subprocess.run(
        [*unshare, "sh", "-euc", ENTER, "enter", system, checkout, FUNCTIONS + STEPS],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=10 * TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stdout
