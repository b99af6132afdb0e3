"""Holds a redis-py Lock until its input ends; says what it does, a line each.

Arguments: PORT NAME wait|now
"""
import sys

import redis

port, name, waits = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "wait"
client = redis.Redis(port=port)
lock = client.lock(name, timeout=60)
print("asking", flush=True)
if lock.acquire(blocking=waits):
    print("acquired", flush=True)
    sys.stdin.read()
    lock.release()
    print("released", flush=True)
else:
    print("busy", flush=True)
