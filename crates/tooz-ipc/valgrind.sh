#!/bin/sh
# Runs the tests of this crate under Valgrind: those of the modules with `unsafe` and of what uses
# them, then whole coordinators. Fails at the first error and at any block that is lost.
set -eu
cd "$(dirname "$0")/../.."
programs=$(cargo test -p tooz-ipc --lib --test locks --no-run 2>&1 |
    sed -n 's/.*Executable.*(\(.*\))/\1/p')
for program in $programs; do
    echo "== $program"
    valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite "$program" --test-threads=1
done
[ -n "$programs" ]
