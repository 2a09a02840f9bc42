"""Answers from the hash ring of Python tooz, for tests/hash_ring_python.rs.

First writes the names of the hash functions it has, as a JSON line. Then, for each line read

    {"partitions": 32, "hash": "md5", "text": false,
     "changes": [["add", ID, weight] | ["remove", ID], ...],
     "lookups": [{"key": HEX, "replicas": 2, "ignore": [ID, ...]}, ...]}

makes that ring and writes {"points": number of points, "owners": [[ID, ...], ...]}. Ids are hex;
with "text" the ring is given them as strings instead of bytes.
"""

import hashlib
import json
import sys

from tooz import hashring


def answer(case):
    def node(encoded):
        raw = bytes.fromhex(encoded)
        return raw.decode() if case["text"] else raw

    def encoded(node):
        return (node.encode() if case["text"] else node).hex()

    ring = hashring.HashRing([], case["partitions"], case["hash"])
    for change, who, *weight in case["changes"]:
        if change == "add":
            ring.add_node(node(who), *weight)
        else:
            ring.remove_node(node(who))
    owners = []
    for lookup in case["lookups"]:
        found = ring.get_nodes(
            bytes.fromhex(lookup["key"]),
            ignore_nodes=[node(who) for who in lookup["ignore"]],
            replicas=lookup["replicas"],
        )
        owners.append(sorted(encoded(who) for who in found))
    return {"points": len(ring), "owners": owners}


print(json.dumps(sorted(hashlib.algorithms_available)), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
