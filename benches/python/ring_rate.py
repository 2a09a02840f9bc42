"""Times lookups in the hash ring of Python tooz, for benches/hash_ring.rs.

    ring_rate.py NODES PARTITIONS SECONDS

The nodes and keys are those of the benchmark. Prints the nanoseconds of one lookup: of the fastest
round, as other programs can only slow one down.
"""

import sys
import time

from tooz import hashring

nodes, partitions, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
ring = hashring.HashRing(["worker-%04d.example.org" % n for n in range(nodes)], partitions)
keys = [b"volume-%08d" % n for n in range(1024)]

best = float("inf")
end = time.perf_counter() + seconds
while time.perf_counter() < end:
    began = time.perf_counter()
    for key in keys:
        ring.get_nodes(key)
    best = min(best, (time.perf_counter() - began) / len(keys))
print(best * 1e9)
