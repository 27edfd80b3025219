"""What the workers of test_children.py run: one function that does, on request, everything a worker should survive."""

import ctypes
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time

CHANNEL = 3  # the worker's connection to the service


def judge(payload: dict):
    return globals()[payload["act"]](*payload.get("with", []))


def echo(value=None):
    return {"said": value, "pid": os.getpid()}


def look(path="", port=0):
    """What a worker sees of the machine."""
    with socket.socket() as caller:
        network = caller.connect_ex(("127.0.0.1", port)) == 0
    return {
        "environment": sorted(os.environ),
        "folder": os.getcwd(),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/thread-self/fd"))[:-1],  # less the listing's own
        "input": sys.stdin.read(),
        "main_thread": threading.current_thread() is threading.main_thread(),
        "file": os.access(path, os.R_OK),
        "network": network,
        "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
        "cpu": resource.getrlimit(resource.RLIMIT_CPU)[0],
    }


def sleep(seconds):
    time.sleep(seconds)
    return echo()


def power():
    return {"said": pow(3, 10**9) % 7}  # one call of C that no Python signal handler interrupts


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
    return {}


def deaf():
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


def null():
    ctypes.string_at(0)


def leave():
    sys.exit(3)


def vanish():
    os._exit(0)


def memory():
    return {"said": len(bytearray(1 << 40))}


def recursion():
    return recursion()


def fault():
    raise ValueError("x" * 1000)


def no_json():
    return {"said": object()}


def no_object():
    return [1]


def odd_status():
    return {"status": "splendid"}


def garbage():
    os.write(CHANNEL, b"\xff\xfe}{\n")
    return {}


def forged():
    os.write(CHANNEL, b'0123456789abcdef {"said": "forged"}\n')
    return {}


def early():
    """A second answer, for the question after this one."""
    os.write(CHANNEL, b'{"said": "early"}')
    return {}


def flood():
    piece = bytes(1 << 16)
    while True:
        os.write(CHANNEL, piece)


def big(size):
    return {"said": "x" * size}


def prints():
    sys.stdout.write("noise\n")
    sys.stdout.flush()
    os.write(1, b"noise\n")
    os.write(2, b"noise\n")
    return echo()


def close():
    os.closerange(0, 64)
    while True:
        time.sleep(1)


def write():
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    return echo()


def fork(hang):
    """A child in the worker's group, and one that leaves it."""
    for leaves in (False, True):
        if os.fork() == 0:
            if leaves:
                os.setsid()
            time.sleep(600)
    while hang:
        time.sleep(1)
    return echo()


def die_with_heir():
    """The worker ends, and a child holds its channel open."""
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
