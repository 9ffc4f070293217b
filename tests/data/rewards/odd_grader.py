"""A grader that misbehaves on demand, for tests of the pool."""

import ctypes
import os
import sys
import time

from aer_lightning.data.rewards.base import Grade, Outcome


def _deep(n):
    return _deep(n + 1) + 1


class OddGrader:
    isolated = True

    def check_gold(self, answer):
        return None

    def grade(self, completion, answer):
        extracted = None
        if completion == "sleep":
            time.sleep(3600)
        elif completion == "doze":
            time.sleep(0.6)
        elif completion == "memory":
            extracted = str(len(bytearray(2 << 30)))
        elif completion == "segfault":
            ctypes.string_at(0)
        elif completion == "exit":
            os._exit(3)
        elif completion == "raise":
            raise KeyError("odd")
        elif completion == "deep":
            _deep(0)
        elif completion == "print":
            print("noise" * 100_000, flush=True)
        elif completion == "torch?":
            extracted = "yes" if {"torch", "lightning", "numpy"} & set(sys.modules) else "no"
        elif completion == "files":
            extracted = " ".join(
                os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
            )
        return Grade(Outcome.WRONG if completion == "wrong" else Outcome.CORRECT, extracted)


class Unloadable(OddGrader):
    def warm_up(self):
        raise RuntimeError("there is no such device")
