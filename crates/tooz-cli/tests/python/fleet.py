"""One Python member of a fleet: DIRECTORY MEMBER SECONDS SIDE.

It joins the group `fleet`, prints the members that it sees once there are two, and takes turns with
the lock `shared` for so many seconds. SIDE is a file that exists while somebody is inside.
"""

import os
import random
import sys
import time

from tooz import coordination

directory, member, seconds, side = sys.argv[1:5]
coordinator = coordination.get_coordinator("file://" + directory, member.encode())
coordinator.start(start_heart=True)
try:
    coordinator.create_group(b"fleet").get()
except coordination.GroupAlreadyExist:
    pass
coordinator.join_group(b"fleet", b"").get()
limit = time.monotonic() + 30
while len(coordinator.get_members(b"fleet").get()) < 2 and time.monotonic() < limit:
    time.sleep(0.05)
members = sorted(m.decode() for m in coordinator.get_members(b"fleet").get())
print("members", *members, flush=True)

lock = coordinator.get_lock(b"shared")
turns = 0
end = time.monotonic() + float(seconds)
while time.monotonic() < end:
    with lock:
        os.close(os.open(side, os.O_CREAT | os.O_EXCL))
        time.sleep(random.uniform(0, 0.02))
        os.unlink(side)
    turns += 1
    time.sleep(random.uniform(0, 0.02))
print("turns", turns, flush=True)
sys.stdin.read()
coordinator.leave_group(b"fleet").get()
coordinator.stop()
