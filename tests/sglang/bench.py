"""Our backend beside SGLang's own HiCacheFile and HiCacheNixl: `cargo xtask bench --sglang`.

Every competitor is a process of its own with a host pool and a directory of its own, and answers one command a line.
They take turns, round by round; what counts is the median of the ratios in a round. Verification is on in ours.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGES = 128
SIZES = {"64K": 64 << 10, "512K": 512 << 10, "2M": 2 << 20}
ENGINES = {"uring": {"use_uring": "true"}, "aio": {"use_aio": "true"}, "posix-aio": {"use_posix_aio": "true"}}
PAGE_TOKENS = 64


def competitors():
    names = ["raw direct", "raw buffered", "hicache direct", "hicache direct reuse", "hicache buffered"]
    names += ["hicache direct by-nixl", "hicache direct by-nixl reuse", "hicache buffered by-nixl", "file"]
    for io in ("direct", "buffered"):
        names += [f"nixl {io} {engine}" for engine in ENGINES]
    return names


# In the process of a competitor.


def make_pool(page_bytes, huge_pages):
    """A real MHA host pool, page_first, whose pages have `page_bytes` bytes, K and V together."""
    import torch
    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

    pool = MHATokenToKVPoolHost.__new__(MHATokenToKVPoolHost)
    layers, heads = 4, 2
    dim = page_bytes // 2 // PAGE_TOKENS // layers // heads // 2
    pool.dtype, pool.layout, pool.page_size = torch.bfloat16, "page_first", PAGE_TOKENS
    pool.layer_num, pool.head_num, pool.head_dim, pool.v_head_dim = layers, heads, dim, dim
    pool.page_num, pool.pin_memory, pool.device = PAGES, False, "cpu"
    pool.size = PAGES * PAGE_TOKENS
    pool.start_layer, pool.end_layer = 0, layers
    pool.size_per_token = page_bytes // PAGE_TOKENS
    pool.kv_buffer = aligned(torch, (2, pool.size, layers, heads, dim), huge_pages)
    pool.kv_buffer.copy_(torch.randn(pool.kv_buffer.shape))
    return pool


def aligned(torch, shape, huge_pages):
    import ctypes
    import mmap

    count = 1
    for each in shape:
        count *= each
    memory = mmap.mmap(-1, count * 2 + (4 << 20))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory.madvise(mmap.MADV_HUGEPAGE if huge_pages else mmap.MADV_NOHUGEPAGE)
    offset = -address % (2 << 20)
    return torch.frombuffer(memory, dtype=torch.bfloat16, count=count, offset=offset).view(shape)


def make_backend(name, directory, pool):
    from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig

    extra = {}
    kind, *rest = name.split()
    if kind == "raw":
        return Raw(rest[0] == "direct", directory, pool)
    if kind == "hicache":
        # Few batches fit where slots are to be used again; the others fill up.
        batch = pool.size * pool.size_per_token
        capacity = 4 * batch if "reuse" in rest else 64 * batch
        extra = {"interface_v1": 1, "storage_dir": str(directory), "io": rest[0], "capacity_bytes": capacity}
        # NIXL's wheel is beside ours, so the backend is said; and the same library that HiCacheNixl has.
        extra["backend"] = "nixl:POSIX" if "by-nixl" in rest else "posix-uring"
        if "by-nixl" in rest:
            extra["nixl"] = {"library": str(nixl_folder())}
    elif kind == "nixl":
        extra = {
            "use_direct_io": rest[0] == "direct",
            "l3_cleaner_enabled": False,
            "plugin": {"posix": {"active": True, **ENGINES[rest[1]]}},
        }
    config = HiCacheStorageConfig(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=False,
        enable_storage_metrics=False, is_page_first_layout=True, model_name="bench", extra_config=extra,
    )  # fmt: skip
    if kind == "hicache":
        from hicache.sglang import HiCacheRust

        backend = HiCacheRust(config, {})
    elif kind == "nixl":
        from sglang.srt.mem_cache.storage.nixl.hicache_nixl import HiCacheNixl

        os.makedirs(directory, exist_ok=True)
        backend = HiCacheNixl(config, str(directory))
    else:
        os.makedirs(directory, exist_ok=True)
        backend = HiCacheFile(config, str(directory))
    backend.register_mem_pool_host(pool)
    return backend


def nixl_folder():
    """Where the library lies that `import nixl` takes."""
    import nixl._api

    package = Path(nixl._api.__file__).parent
    return package.with_name(f".{package.name}.mesonpy.libs")


class Raw:
    """The machine's limit as Python can reach it: threads that write and read the pages in one prepared file."""

    def __init__(self, direct, directory, pool):
        from concurrent.futures import ThreadPoolExecutor

        os.makedirs(directory, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0)
        self.file = os.open(directory / "pages", flags, 0o600)
        self.places = {}
        self.threads = ThreadPoolExecutor(16)
        import torch

        addresses, lengths = pool.get_page_buffer_meta(torch.arange(pool.size))
        import ctypes

        parts = [memoryview((ctypes.c_char * n).from_address(a)) for a, n in zip(addresses, lengths)]
        self.pages = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        self.page_bytes = sum(lengths[:2])

    def batch_set_v1(self, keys, indices):
        first = self.places.setdefault(keys[0], len(self.places) * PAGES)
        work = [(page, (first + i) * self.page_bytes) for i, page in enumerate(self.pages)]
        return list(self.threads.map(lambda each: os.pwritev(self.file, *each) == self.page_bytes, work))

    def batch_get_v1(self, keys, indices):
        first = self.places[keys[0]]
        work = [(page, (first + i) * self.page_bytes) for i, page in enumerate(self.pages)]
        return list(self.threads.map(lambda each: os.preadv(self.file, *each) == self.page_bytes, work))


class Child:
    def __init__(self, name, directory, page_bytes, huge_pages):
        import torch

        torch.set_num_threads(1)
        self.file = name == "file"
        self.pool = make_pool(page_bytes, huge_pages)
        self.backend = make_backend(name, directory, self.pool)
        self.indices = torch.arange(self.pool.size)
        self.page_bytes = page_bytes
        self.round = 0

    def keys(self, number, count=PAGES):
        return [hashlib.sha256(f"{number}.{i}".encode()).hexdigest() for i in range(count)]

    def command(self, words):
        what, *rest = words
        number = int(rest[0])
        keys = self.keys(number, int(rest[1]) if len(rest) > 1 else PAGES)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        begun = time.perf_counter()
        good = getattr(self, what)(keys)
        seconds = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        return {"seconds": seconds, "cpu": cpu, "good": bool(good)}

    def set(self, keys):
        if self.file:  # Exactly what SGLang's controller does for it.
            data = [self.pool.get_data_page(i * PAGE_TOKENS) for i in range(PAGES)]
            return self.backend.batch_set(keys, data)
        return all(self.backend.batch_set_v1(keys, self.indices))

    def get(self, keys):
        if self.file:
            targets = [self.pool.get_dummy_flat_data_page() for _ in keys]
            pages = self.backend.batch_get(keys, targets)
            for i, page in enumerate(pages):
                self.pool.set_from_flat_data_page(i * PAGE_TOKENS, page)
            return all(page is not None for page in pages)
        return all(self.backend.batch_get_v1(keys, self.indices))

    def exists(self, keys):
        return self.backend.batch_exists(keys) in (PAGES, len(keys))

    def fill(self, keys):
        for at in range(0, len(keys), PAGES):
            self.set(keys[at : at + PAGES])
        return True


def serve(arguments):
    child = Child(arguments.child, Path(arguments.directory), arguments.page_bytes, not arguments.small_pages)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(child.command(line.split())), flush=True)


# In the process that compares.


class Competitor:
    def __init__(self, name, directory, page_bytes, small_pages):
        from server import environment

        self.name, self.directory = name, directory / name.replace(" ", "-")
        command = [sys.executable, str(HERE / "bench.py"), "--child", name]
        command += ["--directory", str(self.directory), "--page-bytes", str(page_bytes)]
        if small_pages:
            command.append("--small-pages")
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment()
        )
        self.alive = self._answer() is not None

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def ask(self, *words):
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.alive = False
            return None
        answer = self._answer()
        self.alive = self.alive and answer is not None
        return answer

    def forget(self, until):
        """Removes what those without a limit of their own have written: the disk would not hold all rounds of all."""
        if self.name.split()[0] in ("file", "nixl"):
            for path in self.directory.rglob("*"):
                if path.is_file() and path.stat().st_mtime < until:
                    path.unlink()

    def why(self):
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no reason"

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def play(size, page_bytes, rounds, directory, small_pages):
    """Rates of each competitor in each round: GB/s and CPU seconds a GB."""
    everyone = [Competitor(name, directory, page_bytes, small_pages) for name in competitors()]
    for one in everyone:
        if not one.alive:
            print(f"went without: {one.name}: {one.why()}")
    racing = [one for one in everyone if one.alive]
    figures = {one.name: {} for one in racing}
    gigabytes = PAGES * page_bytes / 1e9
    begun = time.time()
    for number in range(rounds + 1):  # The first round is not counted.
        for one in racing:
            one.forget(begun)
        begun = time.time()
        # Each round begins with another competitor.
        order = racing[number % len(racing) :] + racing[: number % len(racing)]
        for work, words in (("set", ("set", number)), ("get", ("get", number)), ("set again", ("set", number))):
            for one in order:
                answer = one.ask(*words)
                if answer is None or not answer["good"]:
                    print(f"{one.name} failed at {work}: {answer} {one.why()}")
                    continue
                if number and work != "set again":
                    figures[one.name].setdefault(work, []).append(gigabytes / answer["seconds"])
                    figures[one.name].setdefault(f"{work} cpu", []).append(answer["cpu"] / gigabytes)
    for one in racing:
        one.end()
    return figures


def play_exists(rounds, directory):
    names = ["hicache buffered", "file", "nixl buffered uring"]
    racing = [one for one in (Competitor(name, directory, 16 << 10, False) for name in names) if one.alive]
    figures = {one.name: {} for one in racing}
    for one in racing:
        one.ask("fill", 0, 10_112)
    for count in (1_000, 10_000):
        for number in range(rounds + 1):
            for one in racing:
                answer = one.ask("exists", 0, count)
                if number and answer:
                    figures[one.name].setdefault(f"exists {count}", []).append(count / answer["seconds"])
    for one in racing:
        one.end()
    return figures


def best(figures, names, work):
    """The competitor with the highest median."""
    there = [name for name in names if figures.get(name, {}).get(work)]
    return max(there, key=lambda name: statistics.median(figures[name][work]), default=None)


def ratios(figures, ours, theirs, work, less_is_more=False):
    pairs = zip(figures[ours][work], figures[theirs][work])
    return [b / a if less_is_more else a / b for a, b in pairs]


def report(size, figures, missed):
    for name, works in figures.items():
        cells = [f"{work} {statistics.median(values):.2f}" for work, values in works.items()]
        print(f"  {size:>4}  {name:<24} {'  '.join(cells)}")
    direct = [name for name in figures if name.startswith("nixl direct")]
    buffered = [name for name in figures if name.startswith("nixl buffered")]
    bars = [
        ("O_DIRECT set", "hicache direct", direct, "set", 3.0, False),
        ("O_DIRECT set, slots reused", "hicache direct reuse", direct, "set", 3.0, False),
        ("O_DIRECT get", "hicache direct", direct, "get", 1.5, False),
        ("buffered get", "hicache buffered", buffered, "get", 1.0, False),
        ("set beside HiCacheFile", "hicache buffered", ["file"], "set", 1.0, False),
        ("through NIXL: O_DIRECT set", "hicache direct by-nixl", direct, "set", 2.0, False),
        ("the same, slots reused", "hicache direct by-nixl reuse", direct, "set", 2.0, False),
        ("through NIXL: O_DIRECT get", "hicache direct by-nixl", direct, "get", 1.3, False),
        ("through NIXL: buffered set", "hicache buffered by-nixl", buffered, "set", 1.0, False),
        ("through NIXL: buffered get", "hicache buffered by-nixl", buffered, "get", 1.0, False),
        ("CPU of a direct set", "hicache direct", direct, "set cpu", 2.0, True),
        ("CPU of a direct get", "hicache direct", direct, "get cpu", 2.0, True),
        # For the choice between the two; nothing is asked.
        ("NIXL beside io_uring: set", "hicache direct by-nixl", ["hicache direct"], "set", 0.0, False),
        ("NIXL beside io_uring: get", "hicache direct by-nixl", ["hicache direct"], "get", 0.0, False),
        ("the same, buffered: set", "hicache buffered by-nixl", ["hicache buffered"], "set", 0.0, False),
        ("the same, buffered: get", "hicache buffered by-nixl", ["hicache buffered"], "get", 0.0, False),
    ] + [
        (f"exists {count}", "hicache buffered", ["file"], f"exists {count}", 10.0, False) for count in (1_000, 10_000)
    ]
    for what, ours, theirs, work, bar, less in bars:
        other = best(figures, theirs, work.replace(" cpu", "")) or best(figures, theirs, work)
        if other is None or not figures.get(ours, {}).get(work):
            continue
        seen = sorted(ratios(figures, ours, other, work, less))
        middle = statistics.median(seen)
        limit = figures.get(f"raw {ours.split()[1]}", {}).get(work)
        if limit and not less:
            # Nobody is faster than the machine: then a share of its rate is asked for.
            bar = min(bar, (0.85 if "by-nixl" in ours else 0.9) * statistics.median(limit) / statistics.median(figures[other][work]))
        print(
            f"  {size:>4}  {what:<27} {middle:5.2f} times {other} ({seen[0]:.2f} to {seen[-1]:.2f}), bar {bar:.2f}"
            f"{'' if middle >= bar else '  <-- below'}"
        )
        if middle < bar:
            missed.append(f"{size} {what}: {middle:.2f} of {bar:.2f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--child")
    parser.add_argument("--page-bytes", type=int)
    parser.add_argument("--small-pages", action="store_true", help="4 KiB pages of memory instead of huge ones")
    parser.add_argument("--directory", default=None, help="on the disk that is to be measured")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=None, help="64K, 512K, 2M or exists")
    parser.add_argument("--strict", action="store_true", help="fails where a bar is not met")
    arguments = parser.parse_args()
    if arguments.child:
        serve(arguments)
        return 0
    sys.path.insert(0, str(HERE))
    missed, root = [], Path(tempfile.mkdtemp(prefix="hicache-bench-", dir=arguments.directory))
    print(f"load {os.getloadavg()[0]:.2f}, {'4 KiB' if arguments.small_pages else 'huge'} pages, {arguments.rounds} rounds")
    try:
        for size, page_bytes in SIZES.items():
            if arguments.only in (None, size):
                directory = root / size
                report(size, play(size, page_bytes, arguments.rounds, directory, arguments.small_pages), missed)
                shutil.rmtree(directory, ignore_errors=True)
        if arguments.only in (None, "exists"):
            report("", play_exists(arguments.rounds, root / "exists"), missed)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for each in missed:
        print(f"below its bar: {each}")
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
