"""A process of Python tooz that does what it is told: see `protocol.rs`.

One request a line on the standard input, one answer a line on the standard output. It uses
nothing of tooz but what its documentation offers to applications.
"""

import datetime
import json
import os
import random
import sys
import time
import uuid

from tooz import coordination

# How often a peer looks again while it waits for something that Python does not push.
LOOK = 0.05


def unpacked(value):
    """What JSON has no place for, from its written form."""
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return bytes.fromhex(value["$bytes"])
    if "$datetime" in value:
        return datetime.datetime.fromisoformat(value["$datetime"])
    if "$uuid" in value:
        return uuid.UUID(value["$uuid"])
    if "$set" in value:
        return set(value["$set"])
    return {key: unpacked(item) for key, item in value.items()}


def packed(value):
    """The written form of a value."""
    if isinstance(value, (list, tuple)):
        return [packed(item) for item in value]
    if isinstance(value, dict):
        return {key: packed(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, datetime.datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, uuid.UUID):
        return {"$uuid": str(value)}
    if isinstance(value, set):
        return {"$set": sorted(value)}
    return value


class Peer:
    def __init__(self):
        self.coordinator = None
        self.locks = {}
        self.events = []
        self.elected = set()
        self.partitioners = {}

    # ---- Its life.

    def start(self, url, member):
        self.coordinator = coordination.get_coordinator(url, member.encode())
        self.coordinator.start(start_heart=True)

    def stop(self):
        self.coordinator.stop()

    # ---- Locks.

    def lock(self, name, wait, shared):
        lock = self.coordinator.get_lock(name.encode())
        taken = lock.acquire(blocking=wait, shared=True) if shared else lock.acquire(blocking=wait)
        if taken:
            self.locks[name] = lock
        return bool(taken)

    def unlock(self, name):
        return bool(self.locks.pop(name).release())

    def contend(self, name, folder, seconds, hold, rest):
        """Takes a lock again and again, and says how often; fails if somebody else is inside."""
        lock = self.coordinator.get_lock(name.encode())
        inside = os.path.join(folder, "inside")
        end = time.monotonic() + seconds
        turns = 0
        while time.monotonic() < end:
            with lock:
                try:
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    raise RuntimeError("somebody else is inside")
                time.sleep(random.uniform(0, hold))
                os.unlink(inside)
            turns += 1
            time.sleep(random.uniform(0, rest))
        return turns

    # ---- Groups.

    def create_group(self, group):
        self.coordinator.create_group(group.encode()).get()

    def delete_group(self, group):
        self.coordinator.delete_group(group.encode()).get()

    def groups(self):
        return sorted(group.decode() for group in self.coordinator.get_groups().get())

    def join(self, group, capabilities):
        self.coordinator.join_group(group.encode(), unpacked(capabilities)).get()

    def join_plain(self, group):
        """Joins with what the original writes when the application gives no capabilities."""
        self.coordinator.join_group(group.encode()).get()

    def leave(self, group):
        self.coordinator.leave_group(group.encode()).get()

    def update(self, group, capabilities):
        self.coordinator.update_capabilities(group.encode(), unpacked(capabilities)).get()

    def members(self, group):
        return sorted(member.decode() for member in self.coordinator.get_members(group.encode()).get())

    def capabilities(self, group, member):
        found = self.coordinator.get_member_capabilities(group.encode(), member.encode())
        return packed(found.get())

    # ---- Events.

    def watch(self, group):
        def seen(kind):
            return lambda event: self.events.append([kind, event.member_id.decode()])

        self.coordinator.watch_join_group(group.encode(), seen("joined"))
        self.coordinator.watch_leave_group(group.encode(), seen("left"))

    def event(self, group, kind, member, within):
        """Waits for an event, which may have come before."""

        def came():
            self.coordinator.run_watchers()
            return [kind, member] in self.events

        return self.until(came, within)

    # ---- Elections.

    def campaign(self, group, within):
        """Stands for election, and says whether it came to lead."""
        if group not in self.elected:
            self.coordinator.watch_elected_as_leader(group.encode(), lambda _: self.elected.add(group))

        def leads():
            self.coordinator.run_watchers()
            return group in self.elected

        return self.until(leads, within)

    def stand_down(self, group):
        return bool(self.coordinator.stand_down_group_leader(group.encode()))

    def leader(self, group):
        leader = self.coordinator.get_leader(group.encode()).get()
        return leader.decode() if leader is not None else None

    # ---- The partitioner.

    def partition(self, group, weight):
        partitioner = self.coordinator.join_partitioned_group(group.encode(), weight=weight)
        self.partitioners[group] = partitioner

    def place(self, group, members, count, within):
        """Whose each of so many keys is, once there are so many members."""
        partitioner = self.partitioners[group]

        def complete():
            self.coordinator.run_watchers()
            return len(partitioner.ring.nodes) == members

        if not self.until(complete, within):
            raise RuntimeError("the ring has %d members" % len(partitioner.ring.nodes))
        places = (partitioner.members_for_object("key-%d" % key) for key in range(count))
        return [[member.decode() for member in members] for members in places]

    @staticmethod
    def until(is_so, within):
        end = time.monotonic() + within
        while not is_so():
            if time.monotonic() > end:
                return False
            time.sleep(LOOK)
        return True


def kind(error):
    """What the other side calls such an error."""
    names = {"GroupAlreadyExist": "GroupAlreadyExists", "MemberAlreadyExist": "MemberAlreadyExists"}
    name = type(error).__name__
    return names.get(name, name)


def main():
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"Ok": getattr(peer, request.pop("do"))(**request)}
        except Exception as error:  # Whoever asked judges it.
            answer = {"Err": {"kind": kind(error), "message": str(error)}}
        print(json.dumps(answer), flush=True)


main()
