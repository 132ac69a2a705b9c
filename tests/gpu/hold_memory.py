#!/usr/bin/env python3
"""Holds a GPU's memory until it is ended: somebody else's program, as far as tprun can tell.

  hold_memory.py LEFT [--after USED]    MiB that it leaves free; it takes the rest at once, or as soon as
                                        others use so much more than when it began"""
import argparse
import ctypes
import signal
import time

cuda = ctypes.CDLL("libcuda.so.1")


def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    assert status == 0, (name, status)


def free_bytes():
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("left", type=int)
    parser.add_argument("--after", type=int)
    options = parser.parse_args()
    context, memory = ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxPushCurrent_v2", context)
    begin = free_bytes()
    if options.after:
        print("waits", flush=True)
        while begin - free_bytes() < options.after << 20:
            time.sleep(0.0005)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(free_bytes() - (options.left << 20)))
    print("holds", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
