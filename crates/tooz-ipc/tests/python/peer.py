"""A Python tooz peer on ipc://, told what to do line by line.

Each line of the standard input is one order; each is answered by one line that begins with "ok".
"""

import json
import sys

from tooz import coordination


class Peer:
    def __init__(self, member):
        self.coordinator = coordination.get_coordinator("ipc://", member.encode())
        self.coordinator.start()
        self.locks = {}

    def lock(self, name, blocking="false"):
        lock = self.coordinator.get_lock(name.encode())
        taken = lock.acquire(blocking=blocking == "true")
        if taken:
            self.locks[name] = lock
        return taken

    def unlock(self, name):
        return self.locks.pop(name).release()

    def breaks(self, name):
        return self.coordinator.get_lock(name.encode()).break_()

    def create(self, group):
        self.coordinator.create_group(group.encode()).get()

    def delete(self, group):
        self.coordinator.delete_group(group.encode()).get()

    def has(self, group):
        return group.encode() in self.coordinator.get_groups().get()

    def stop(self):
        self.coordinator.stop()


def main():
    peer = Peer(*sys.argv[1:])
    print("ok", flush=True)
    for line in sys.stdin:
        order, *arguments = line.rstrip("\n").split("\t")
        try:
            answer = "ok " + json.dumps(getattr(peer, order)(*arguments))
        except Exception as error:  # The test wants to know which.
            answer = "failed " + type(error).__name__
        print(answer, flush=True)


main()
