"""`make install` on a Debian without a network: install, upgrade with a migration, roll back.

The system is this machine's, under an overlay in namespaces of its own; nothing of it stays.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gateway_process import ROOT, TIMEOUT, own_environment, program

SOURCES = (
    *("gateway", "packaging", "systemd", "pyproject.toml", "setup.cfg", "setup.py"),
    *("README.md", "LICENSE", "Makefile"),
)
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
equal() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; exit 1; }; }
"""
STEPS = r"""
make install
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
equal "$(query 'SELECT count(*) FROM messages')" 2
epoch=$(query "SELECT value FROM meta WHERE name = 'epoch'")

# Rollback
make rollback
equal "$(game-gateway --version)" 0.1.0
equal "$(readlink /opt/game-gateway/venv)" "$first"
status=0
game-gateway serve --config $config --port 18080 2>refused || status=$?
equal $status 2
grep -q "has format $((format + 1)), and this release knows up to $format" refused
grep -q "restore a backup that was made before the upgrade" refused
game-gateway restore --config $config /root/before-upgrade.db
serve
equal "$(query 'SELECT count(*) FROM messages')" 1
[ "$(query "SELECT value FROM meta WHERE name = 'epoch'")" != $epoch ]
send 3
stop
equal "$(query 'PRAGMA user_version')" $format
make rollback
equal "$(game-gateway --version)" 0.2.0

# What does not work changes nothing
echo 'server: {prot: 1}' > $config
! make install
equal "$(game-gateway --version)" 0.2.0
equal "$(ls /opt/game-gateway/releases | wc -l)" 2
! make install WHEELS=nowhere

# Staged
make install DESTDIR=/staged
! grep -rIl /staged /staged
equal "$(readlink /staged/usr/local/bin/game-gateway)" /opt/game-gateway/venv/bin/game-gateway
rm -rf /opt/game-gateway
cp -a /staged/opt/game-gateway /opt/
equal "$(game-gateway --version)" 0.1.0
echo done
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources, with wheels of this release and of a next one that has one more migration."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, checkout / name)
    following = tmp_path / "next"
    shutil.copytree(checkout, following)
    schema = following / "gateway" / "stores" / "sqlite_schema.py"
    text = schema.read_text()
    assert text.count("_add_outbox)\n") == 1
    more = (
        '_add_outbox,\n    lambda connection: connection.execute("CREATE TABLE novelty (x)"),\n)\n'
    )
    schema.write_text(text.replace("_add_outbox)\n", more))
    setup = following / "setup.cfg"
    setup.write_text(setup.read_text().replace("version = 0.1.0\n", "version = 0.2.0\n"))
    environment = own_environment(GATEWAY_COMPILED="no")
    make = [program("make"), "wheels"]
    for folder in (checkout, following):
        subprocess.run(make, cwd=folder, env=environment, timeout=10 * TIMEOUT, check=True)
    (following / "build" / "wheels").rename(checkout / "build" / "next")
    return checkout


def test_a_release_is_installed_upgraded_and_rolled_back(checkout: Path, tmp_path: Path) -> None:
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
        timeout=8 * TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stdout
