"""What the operator wrote, and what SGLang says of itself: settings, namespace, revision."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
from typing import Any, Dict, Optional, Tuple

from .. import _native

#: Fields of the extra config that are SGLang's, not ours.
SGLANG_FIELDS = frozenset(
    [
        "backend_name",
        "module_path",
        "class_name",
        "allocator",
        "interface_v1",
        "prefetch_threshold",
        "prefetch_timeout_base",
        "prefetch_timeout_per_ki_token",
        "hicache_storage_pass_prefix_keys",
        "tp_lcm_size",
    ]
)
#: SGLang's flags that change the bytes of a page and nothing else that is looked at here.
_COMPUTING_FLAGS = (
    "json_model_override_args",
    "load_format",
    "quantization",
    "quantization_param_path",
    "torchao_config",
)
#: The first release that looks at `interface_v1`.
FIRST_WITH_ADDRESSES = (0, 5, 6)
#: Fields of the namespace that an operator may set; the others are read from the pool.
OPERATOR_FIELDS = ("extra", "model", "revision")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npz", ".index.json")


class Settings:
    """The extra config without what is SGLang's, checked."""

    def __init__(self, storage_config: Any) -> None:
        given = getattr(storage_config, "extra_config", None) or {}
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError as error:
                raise ValueError(f"the extra config must be a JSON object; it is {given!r}: {error}") from None
        if not isinstance(given, dict):
            raise ValueError(f"the extra config must be a JSON object, not {type(given).__name__}: {given!r}")
        if getattr(storage_config, "should_split_heads", False):
            raise ValueError(
                f"tp_lcm_size = {getattr(storage_config, 'tp_lcm_size', None)} asks for pages that are split by heads "
                "(layout page_head), which hicache does not store; leave tp_lcm_size out of the extra config"
            )
        #: Whether SGLang passes addresses (else it copies each page into a tensor first).
        self.zero_copy = bool(given.get("interface_v1")) and release() >= FIRST_WITH_ADDRESSES
        table = {name: value for name, value in given.items() if name not in SGLANG_FIELDS}
        revision = table.pop("revision", None)
        namespace = dict(_table(table.pop("namespace", None)))
        for name in namespace:
            if name not in OPERATOR_FIELDS:
                raise ValueError(
                    f"namespace.{name} in the extra config is read from SGLang's pool and can't be set; what can is "
                    + ", ".join(f"namespace.{field}" for field in OPERATOR_FIELDS)
                )
        if revision is not None:
            namespace["revision"] = revision
        _native.check_settings(json.dumps({**table, "namespace": namespace} if namespace else table))
        self.table: Dict[str, Any] = table
        self.namespace: Dict[str, Any] = namespace


def _table(value: Any) -> Dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"namespace in the extra config must be a table, not {value!r}")
    return value


def release() -> Tuple[int, ...]:
    """The numbers of SGLang's release; those of a very late one where it can't be told."""
    try:
        text = importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return (999,)
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def is_writer(config: Any) -> bool:
    """Whether this rank stores the KV pages. Of MLA all ranks hold the same bytes, and one of them stores."""
    said = getattr(config, "is_storage_writer", None)
    if said is not None:
        return bool(said)
    return not getattr(config, "is_mla_model", False) or getattr(config, "tp_rank", 0) == 0


def namespace(config: Any, pool: Any, settings: Settings) -> Dict[str, Any]:
    """What the pages of ``pool`` are of: everything that makes the same tokens different bytes."""
    shared = bool(getattr(config, "is_mla_model", False))
    parallel: Dict[str, Dict[str, int]] = {}
    for name, rank_of, size_of, same in (
        ("tp", "tp_rank", "tp_size", shared),
        ("pp", "pp_rank", "pp_size", False),
        ("cp", "attn_cp_rank", "attn_cp_size", False),
        ("dcp", "dcp_rank", "dcp_size", False),
    ):
        size = int(getattr(config, size_of, 1) or 1)
        parallel[name] = {"size": size}
        if not same:
            parallel[name]["rank"] = int(getattr(config, rank_of, 0) or 0)
    described: Dict[str, Any] = {
        "model": getattr(config, "model_name", None) or "unnamed",
        "dtype": pool.dtype,
        "layout": pool.layout,
        "page_tokens": pool.page_size,
        "parallel": parallel,
        "extra": {"page": pool.shape},
    }
    for field, value in (("layers", pool.layers), ("heads", pool.heads), ("head_dim", pool.head_dim)):
        if value:
            described[field] = value
    stored = stored_dtype(pool)
    if stored is not None:
        described["extra"]["kv_cache_dtype"] = stored
    logical = getattr(config, "logical_page_size", None)
    if logical:
        described["extra"]["logical_page_tokens"] = str(logical)
    described["extra"].update(weights(config, settings))
    if pool.has_drafts:
        described["extra"]["draft_model"] = draft_model() or "unnamed"
    described["extra"].update(settings.namespace.get("extra") or {})
    for field in ("model", "revision"):
        if settings.namespace.get(field):
            described[field] = settings.namespace[field]
    return described


def weights(config: Any, settings: Settings) -> Dict[str, str]:
    """What a served name does not say: which weights it stands for, and flags that change what is computed from them."""
    arguments = server_arguments()
    said = {}
    for flag in _COMPUTING_FLAGS:
        value = getattr(arguments, flag, None)
        if value is not None and str(value) not in ("", "auto", "{}"):
            said[flag] = str(value)
    path = getattr(arguments, "model_path", None)
    named = settings.namespace.get("model") or getattr(config, "model_name", None)
    # A directory on this machine is told by its files, wherever it lies.
    if path and str(path) != named and not settings.namespace.get("model") and not os.path.isdir(path):
        said["model_path"] = str(path)
        if os.path.isfile(path):
            stat = os.stat(path)
            said["model_path"] = f"{os.path.basename(path)}:{stat.st_size}:{stat.st_mtime_ns}"
    return said


def revision_of(config: Any) -> Optional[str]:
    """The revision of the weights, where nobody names one: SGLang's `--revision`, and what the files say."""
    arguments = server_arguments()
    path = getattr(arguments, "model_path", None) or getattr(config, "model_name", None)
    return _joined(getattr(arguments, "revision", None), derived_revision(path))


def draft_model() -> Optional[str]:
    """The draft model of this server and its revision; `None` where it has none of its own."""
    arguments = server_arguments()
    path = getattr(arguments, "speculative_draft_model_path", None)
    if not path:
        return None
    given = getattr(arguments, "speculative_draft_model_revision", None)
    derived = derived_revision(str(path))
    # A directory on this machine is told by its files, wherever it lies.
    return _joined(None if derived else path, given, derived)


def _joined(*parts: Any) -> Optional[str]:
    return "+".join(str(part) for part in parts if part) or None


def server_arguments() -> Any:
    """The flags of this server, where SGLang shows them; `None` where it does not."""
    for module, function in (
        ("sglang.srt.runtime_context", "get_server_args"),
        ("sglang.srt.server_args", "get_global_server_args"),
    ):
        try:
            return getattr(__import__(module, fromlist=[function]), function)()
        except Exception:  # Another release, or no server.
            continue
    return None


def stored_dtype(pool: Any) -> Optional[str]:
    """What bytes stand for: numbers of 8 bits are kept as plain bytes, and only the flags say of which kind."""
    if pool.dtype not in ("uint8", "int8"):
        return None
    return str(getattr(server_arguments(), "kv_cache_dtype", None) or "unknown")


def derived_revision(model: Optional[str]) -> Optional[str]:
    """For a model in a local directory: a hash over its config.json and the names, sizes and times of its weights."""
    if not model or not os.path.isdir(model):
        return None
    digest = hashlib.sha256()
    try:
        with open(os.path.join(model, "config.json"), "rb") as config:
            digest.update(config.read())
    except OSError:
        pass
    for entry in sorted(os.scandir(model), key=lambda entry: entry.name):
        if entry.name.endswith(_WEIGHTS) and entry.is_file():
            stat = entry.stat()
            digest.update(f"\0{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return f"local-{digest.hexdigest()[:32]}"
