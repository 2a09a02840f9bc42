# Installs the packages named by the arguments, and starts no service of theirs. Needs root.
# Leaves the machine's own settings as they were.

# Standard output is for what the user asked for.
exec >&2

# Two runners at once would undo each other's settings.
exec 9>/run/lock/tooz-xtask-install
flock 9

export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/tooz-xtask.conf
undo=:
trap 'eval "$undo"' EXIT
trap 'exit 130' INT TERM HUP

# Debian asks this program before it starts a service; 101 means no.
if [ ! -e "$policy" ]; then
    undo="$undo; rm -f $policy"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

# PostgreSQL's package would make a database cluster of its own.
undo="$undo; rm -f $cluster; rmdir --ignore-fail-on-non-empty -p ${cluster%/*} 2>/dev/null || :"
mkdir -p "${cluster%/*}"
printf 'create_main_cluster = false\n' >"$cluster"

# Another program may be updating the lists; apt-get does not wait for that by itself.
tries=1
until apt-get -qq update 9>&-; do
    [ "$tries" -lt 20 ] || exit 100
    tries=$((tries + 1))
    sleep 3
done
apt-get -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 install "$@" 9>&-
