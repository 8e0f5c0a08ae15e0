#!/usr/bin/env python3
"""Would the message log be better off without the page cache?

Appends batches of some size to a file that has its space reserved, as a shard does: buffered, and with O_DIRECT, where
the block that a batch ends in is written again with the next one. For `written` a batch is done when the write is, for
`fsynced` when a synchronisation behind it is. Told are, by size of a batch: microseconds of a batch (median, 99th
percentile), MiB a second, CPU microseconds of this process for a batch, and for the last MiB read back microseconds of a
read of 16 KiB (what a resume that is a little late asks for).

  benches/log_io.py --dir /var/tmp

Standard library only; one thread, nothing beside it. The file is removed.
"""
import argparse
import json
import mmap
import os
import resource
import statistics
import tempfile
import time

BLOCK = 4096


def cpu_us():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


def measure(path, is_direct, is_synced, size, batches):
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if is_direct else 0)
    file = os.open(path, flags, 0o600)
    total = size * batches
    os.posix_fallocate(file, 0, (total // BLOCK + 2) * BLOCK)
    os.fdatasync(file)
    # Page-aligned, as O_DIRECT wants it; large enough for a batch and the block that it begins in.
    memory = mmap.mmap(-1, (size // BLOCK + 3) * BLOCK)
    memory.write(os.urandom(len(memory)))
    view = memoryview(memory)
    times, at, cpu, begin = [], 0, cpu_us(), time.perf_counter()
    for _ in range(batches):
        start = time.perf_counter()
        if is_direct:
            first = at // BLOCK * BLOCK
            end = -(-(at + size) // BLOCK) * BLOCK
            os.pwrite(file, view[: end - first], first)
        else:
            os.pwrite(file, view[:size], at)
        if is_synced:
            os.fdatasync(file)
        at += size
        times.append((time.perf_counter() - start) * 1e6)
    seconds, cpu = time.perf_counter() - begin, cpu_us() - cpu
    reads = []
    for back in range(1, min(64, at // (16 << 10))):
        offset = (at - back * (16 << 10)) // BLOCK * BLOCK
        start = time.perf_counter()
        os.preadv(file, [memoryview(memory)[: 16 << 10]] if len(memory) >= 16 << 10 else [mmap.mmap(-1, 16 << 10)], offset)
        reads.append((time.perf_counter() - start) * 1e6)
    os.close(file)
    times.sort()
    return {
        "us_p50": times[len(times) // 2],
        "us_p99": times[len(times) * 99 // 100],
        "mib_per_second": total / seconds / (1 << 20),
        "cpu_us": cpu / batches,
        "read_16k_us_p50": statistics.median(reads) if reads else 0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", help="on the disk that is measured; default: the temporary directory")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 4800, 20000, 200000, 1000000], help="bytes of a batch")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as place:
        path = os.path.join(place, "segment")
        for size in args.sizes:
            batches = min(args.batches, (256 << 20) // size)
            kinds = [(is_synced, is_direct) for is_synced in (False, True) for is_direct in (False, True)]
            results = {kind: [] for kind in kinds}
            # They take turns, so that what else the machine does hits all of them.
            for _ in range(args.rounds):
                for is_synced, is_direct in kinds:
                    results[is_synced, is_direct].append(measure(path, is_direct, is_synced, size, batches))
            for (is_synced, is_direct), rounds in results.items():
                row = {"batch_bytes": size, "level": "fsynced" if is_synced else "written", "direct": is_direct}
                for name in rounds[0]:
                    row[name] = round(statistics.median(result[name] for result in rounds), 1)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
