"""A real SGLang server without a GPU, as a process that can be asked and killed."""

import ctypes
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ADMIN = "adm"
PAGE_TOKENS = 64
LONGEST_START_S = 240
PR_SET_PDEATHSIG = 1

FLAGS = f"""
--device cpu --attention-backend torch_native --sampling-backend pytorch --grammar-backend none --host 127.0.0.1
--disable-overlap-schedule --disable-cuda-graph --max-total-tokens 8192 --max-running-requests 4
--page-size {PAGE_TOKENS} --mem-fraction-static 0.3 --enable-cache-report --enable-metrics --admin-api-key {ADMIN}
--enable-hierarchical-cache --hicache-ratio 2 --hicache-io-backend kernel --hicache-write-policy write_through
--hicache-storage-prefetch-policy wait_complete --skip-server-warmup
""".split()


def environment(**more):
    """The environment of everything that runs SGLang here."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SGLANG_", "HICACHE_"))}
    paths = [str(HERE / "shim"), str(HERE), *filter(None, [variables.get("PYTHONPATH")])]
    return variables | {
        "PATH": f"{Path(sys.executable).parent}:{variables.get('PATH', '')}",
        "PYTHONPATH": ":".join(paths),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ours(storage_dir, **more):
    """The extra config that loads our backend."""
    return {
        "backend_name": "hicache",
        "module_path": "hicache.sglang",
        "class_name": "HiCacheRust",
        "interface_v1": 1,
        "prefetch_threshold": PAGE_TOKENS,
        "storage_dir": str(storage_dir),
        "capacity_bytes": "1GiB",
        **more,
    }


def _end_with_the_test():
    """In the new process: a test that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One server. ``extra`` is the extra config of the backend, ``None`` for a server without storage."""

    def __init__(self, model, log, extra=None, layout="page_first", tp=1, flags=(), variables=None):
        self.port = free_port()
        self.log = Path(log)
        command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(model), "--port", str(self.port)]
        command += FLAGS + ["--hicache-mem-layout", layout, "--tp", str(tp), *flags]
        if extra is not None:
            command += ["--hicache-storage-backend", "dynamic"]
            command += ["--hicache-storage-backend-extra-config", json.dumps(extra)]
        more = dict(variables or {})
        if tp > 1:
            more |= {"SGLANG_NCCL_SO_PATH": "/nonexistent", "SGLANG_CPU_OMP_THREADS_BIND": "|".join("0" * tp)}
        with open(self.log, "ab") as output:
            # A session of its own, so that a kill finds all of its processes and no other.
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(**more),
                start_new_session=True,
                preexec_fn=_end_with_the_test,
            )

    def __enter__(self):
        self.wait_ready()
        return self

    def __exit__(self, *_):
        self.kill()

    def wait_ready(self):
        begun = time.monotonic()
        while time.monotonic() - begun < LONGEST_START_S:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            try:
                if self.call("GET", "/health", raw=True) is not None:
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.25)
        self.kill()
        raise RuntimeError(f"the server was not ready in {LONGEST_START_S} s:\n{self.tail()}")

    def tail(self, lines=60):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        """kill -9 of the server and all that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def call(self, method, path, body=None, raw=False, timeout=120):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN}"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read().decode()
        return text if raw else json.loads(text)

    def generate(self, tokens, new_tokens=8):
        """Greedy output ids, and how many tokens of the prompt were cached."""
        sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
        answer = self.call("POST", "/generate", {"input_ids": tokens, "sampling_params": sampling})
        return answer["output_ids"], answer["meta_info"]["cached_tokens"]

    def stored_tokens(self):
        """How many tokens all ranks have handed to the storage, as the server counts them."""
        lines = self.call("GET", "/metrics", raw=True).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("sglang:backuped_tokens_total"))

    def when_idle(self, *call):
        """As `call`, until it is not refused any more for being busy: a request is answered before it is over."""
        for _ in range(100):
            try:
                return self.call(*call, raw=True)
            except urllib.error.HTTPError as error:
                said = error.read()
                if b"not idle" not in said:
                    raise urllib.error.HTTPError(error.url, error.code, error.msg, error.headers, io.BytesIO(said)) from error
                time.sleep(0.1)
        raise RuntimeError(f"the server is not idle:\n{self.tail()}")

    def flush(self):
        """Forgets everything on device and host; what is stored stays. SGLang refuses while it is busy."""
        for _ in range(100):
            try:
                self.call("POST", "/flush_cache", raw=True)
                return
            except urllib.error.HTTPError:
                time.sleep(0.1)
        raise RuntimeError(f"the cache was not flushed:\n{self.tail()}")

    def attach(self, extra, backend="dynamic"):
        body = {"hicache_storage_backend": backend, "hicache_storage_backend_extra_config_json": json.dumps(extra)}
        return self.when_idle("PUT", "/hicache/storage-backend", body)

    def detach(self):
        return self.when_idle("DELETE", "/hicache/storage-backend")

    def clear(self):
        return self.call("POST", "/hicache/storage-backend/clear", raw=True)
