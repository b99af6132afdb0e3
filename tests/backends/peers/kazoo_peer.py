"""Holds a kazoo Lock or Semaphore until its input ends; says what it does, a line each.

Arguments: HOST:PORT PATH LIMIT wait|now
"""
import os
import socket
import sys

from kazoo.client import KazooClient

hosts, path, limit, waits = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "wait"
client = KazooClient(hosts, timeout=30)
client.start(timeout=30)
identifier = f"{socket.gethostname()}:{os.getpid()}"
try:
    if limit == 1:
        lock = client.Lock(path, identifier)
    else:
        lock = client.Semaphore(path, identifier, limit)
    print("asking", flush=True)
    if lock.acquire(blocking=waits):
        others = lock.contenders() if limit == 1 else lock.lease_holders()
        print("acquired", *others, flush=True)
        sys.stdin.read()
        lock.release()
        print("released", flush=True)
    else:
        print("busy", flush=True)
except ValueError as wrong:
    print("refused", wrong, flush=True)
finally:
    client.stop()
    client.close()
