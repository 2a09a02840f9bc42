"""The contestant that is Python tooz: see `protocol.rs`.

One request a line on the standard input, one answer a line on the standard output. It uses
nothing of tooz but what its documentation offers to applications.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from concurrent import futures

import tooz
from tooz import coordination, hashring

# How often a coordinator looks for events and stands for election, in seconds: the original is
# told of nothing.
LOOK = 0.1

# How long after the end of a contention an acquisition may still wait, in nanoseconds. It is given
# no timeout, as some drivers refuse one, and others wait in another way with it: that of PostgreSQL
# polls then, and that of MySQL does not.
GRACE = 5_000_000_000

now = time.monotonic_ns


def timed(work):
    """How long it takes."""
    began = now()
    work()
    return now() - began


def acquire(lock, blocking=True):
    if not lock.acquire(blocking=blocking):
        raise RuntimeError("the lock is taken")


def release(lock):
    if not lock.release():
        raise RuntimeError("the lock was lost")


def join_create(coordinator, group, *capabilities):
    """Joins a group, and creates it where it is missing.

    Not by `join_group_create`, which sleeps for a second once it has created the group.
    """
    try:
        coordinator.join_group(group, *capabilities).get()
        return
    except coordination.GroupNotCreated:
        pass
    try:
        coordinator.create_group(group).get()
    except coordination.GroupAlreadyExist:
        pass
    coordinator.join_group(group, *capabilities).get()


class Contention(threading.Thread):
    """Takes a lock again and again, in a thread that can be left behind while it waits."""

    def __init__(self, lock, begin, end, hold):
        super().__init__(daemon=True)
        self.lock, self.begin, self.end, self.hold = lock, begin, end, hold
        self.turns = []
        self.error = None

    def run(self):
        try:
            self.contend()
        except Exception as error:
            self.error = error

    def contend(self):
        time.sleep(max(0, self.begin - now()) / 1e9)
        while (asked := now()) < self.end:
            acquire(self.lock)
            had = now()
            # What comes after the end is no turn.
            if had < self.end:
                time.sleep(self.hold)
                self.turns.append([asked, had, now()])
            release(self.lock)


class Watcher(threading.Thread):
    """Looks for events until it is stopped."""

    def __init__(self, coordinator):
        super().__init__(daemon=True)
        self.coordinator = coordinator
        self.events = queue.SimpleQueue()
        self.stopped = threading.Event()

    def watch(self, group):
        def seen(joined):
            return lambda event: self.events.put((event.member_id.decode(), joined, now()))

        self.coordinator.watch_join_group(group, seen(True))
        self.coordinator.watch_leave_group(group, seen(False))
        # So that who is there already is known.
        self.coordinator.run_watchers()
        if not self.is_alive():
            self.start()

    def run(self):
        while not self.stopped.wait(LOOK):
            try:
                self.coordinator.run_watchers()
            except Exception:  # The next look may succeed.
                traceback.print_exc()

    def stop(self):
        self.stopped.set()
        if self.is_alive():
            self.join()


class Contestant:
    def __init__(self):
        self.url = None
        self.opened = None
        self.watcher = None
        self.crowded = []
        self.held = []
        self.left_behind = []

    @property
    def coordinator(self):
        if self.opened is None:
            raise RuntimeError("not open")
        return self.opened

    # ---- Its life.

    def open(self, url, member):
        """The first time, this loads the driver's modules too."""
        began = now()
        coordinator = coordination.get_coordinator(url, member.encode())
        coordinator.start(start_heart=True)
        took = now() - began
        self.url, self.opened, self.watcher = url, coordinator, Watcher(coordinator)
        return {"took": took}

    def close(self):
        if self.watcher is not None:
            self.watcher.stop()
        coordinators = [self.opened, *self.crowded]
        # It may be opened again, even if this fails.
        self.opened, self.watcher, self.crowded, self.held = None, None, [], []
        # Together: each waits for a second until its idle worker thread has ended.
        with futures.ThreadPoolExecutor(max_workers=100) as pool:
            stops = [pool.submit(each.stop) for each in coordinators if each is not None]
        for stop in stops:
            stop.result()
        return {}

    def is_stuck(self):
        """Whether it is closed, but something still waits for a lock."""
        return self.opened is None and any(thread.is_alive() for thread in self.left_behind)

    def memory(self):
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1])
        return {"bytes": resident * os.sysconf("SC_PAGE_SIZE")}

    # ---- Locks.

    def cycles(self, name, count):
        lock = self.coordinator.get_lock(name.encode())

        def cycle():
            acquire(lock)
            release(lock)

        return {"times": [timed(cycle) for _ in range(count)]}

    def contend(self, name, millis, hold_micros, **more):
        begin = more["from"]  # Which no parameter can be called.
        end = begin + millis * 1_000_000
        lock = self.coordinator.get_lock(name.encode())
        contention = Contention(lock, begin, end, hold_micros / 1e6)
        contention.start()
        contention.join(max(0, end + GRACE - now()) / 1e9)
        if contention.is_alive():
            self.left_behind.append(contention)
        if contention.error is not None:
            raise contention.error
        return {"turns": list(contention.turns)}

    def hold(self, prefix, count):
        began = now()
        for number in range(count):
            lock = self.coordinator.get_lock(f"{prefix}-{number}".encode())
            # Two names may be one lock to PostgreSQL: it would wait for itself for ever.
            acquire(lock, blocking=False)
            self.held.append(lock)
        return {"took": now() - began}

    def beats(self, count):
        coordinator = self.coordinator
        if not coordinator.requires_beating:
            raise tooz.NotImplemented("nothing has to be renewed")
        return {"times": [timed(coordinator.heartbeat) for _ in range(count)]}

    def let_go(self):
        began = now()
        while self.held:
            release(self.held.pop())
        return {"took": now() - began}

    # ---- Groups.

    def group(self, group, count):
        coordinator, group = self.coordinator, group.encode()
        steps = (
            lambda: coordinator.create_group(group).get(),
            lambda: coordinator.join_group(group).get(),
            lambda: coordinator.get_members(group).get(),
            lambda: coordinator.leave_group(group).get(),
            lambda: coordinator.delete_group(group).get(),
        )
        try:
            return {"steps": [[timed(step) for step in steps] for _ in range(count)]}
        except tooz.NotImplemented:
            # Some have groups without members: that one must not stay.
            coordinator.delete_group(group).get()
            raise

    def join(self, group):
        join_create(self.coordinator, group.encode())
        return {"at": now()}

    def leave(self, group):
        self.coordinator.leave_group(group.encode()).get()
        return {"at": now()}

    def crowd(self, group, count, bytes):
        """They have no heart: they live for as long as one beat, or their connection, lasts."""
        for _ in range(count):
            member = f"crowd-{len(self.crowded)}".encode()
            coordinator = coordination.get_coordinator(self.url, member)
            coordinator.start()
            self.crowded.append(coordinator)
            join_create(coordinator, group.encode(), b"x" * bytes)
        # Only now, so that all live equally long.
        for coordinator in self.crowded:
            coordinator.heartbeat()
        return {}

    def read_group(self, group, count):
        coordinator, group = self.coordinator, group.encode()

        def read_each():
            for member in coordinator.get_members(group).get():
                coordinator.get_member_capabilities(group, member).get()

        def read_all():
            coordinator.get_members_with_capabilities(group).get()

        # New in 9.1.
        read = read_all if hasattr(coordinator, "get_members_with_capabilities") else read_each
        return {"times": [timed(read) for _ in range(count)]}

    # ---- Events and elections.

    def watch(self, group):
        self.watcher.watch(group.encode())
        return {}

    def event(self, member, joined, millis):
        """Waits for an event; those before it are gone then."""
        end = now() + millis * 1_000_000
        while True:
            try:
                *what, at = self.watcher.events.get(timeout=max(0, end - now()) / 1e9)
            except queue.Empty:
                raise TimeoutError("no event in time") from None
            if what == [member, joined]:
                return {"at": at}

    def campaign(self, group):
        elected = queue.SimpleQueue()
        self.coordinator.watch_elected_as_leader(group.encode(), lambda _: elected.put(now()))
        while True:
            self.coordinator.run_elect_coordinator()
            try:
                return {"at": elected.get(timeout=LOOK)}
            except queue.Empty:
                pass

    # ---- What needs no backend.

    def ring(self, nodes, batches):
        ring = hashring.HashRing([f"node-{node}" for node in range(nodes)])
        keys = [b"key-%d" % key for key in range(1000)]

        def place():
            for key in keys:
                ring.get_nodes(key)

        return {"times": [timed(place) for _ in range(batches)]}


# By the names that the protocol has for them; it knows more.
REQUESTS = (
    "open close memory cycles contend hold beats let_go group join leave crowd read_group watch"
    " event campaign ring"
).split()


def answer(contestant, line):
    try:
        request = json.loads(line)
        name = request.pop("do")
        if name not in REQUESTS:
            return {"unsupported": "Python tooz has nothing of the kind"}
        return getattr(contestant, name)(**request)
    except tooz.NotImplemented as error:
        return {"unsupported": str(error) or "not implemented"}
    except Exception as error:  # Whoever asked judges it.
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    contestant = Contestant()
    for line in sys.stdin:
        print(json.dumps(answer(contestant, line)), flush=True)
        if contestant.is_stuck():
            break
    # Threads that wait for a lock, or for a server that is gone, would keep it from its end.
    os._exit(0)


main()
