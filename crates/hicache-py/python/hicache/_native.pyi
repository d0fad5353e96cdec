from typing import Any, List, Optional, Sequence, Tuple, Union

__version__: str

class Batch:
    done: List[bool]
    absent: int
    failed: int
    bytes: int
    error: Optional[str]

class Store:
    backend: str
    notes: List[str]
    skipped: List[str]
    device: Optional[int]
    @staticmethod
    def open(settings: str, namespace: Optional[str] = None, revision: Optional[str] = None) -> Store: ...
    def namespace(self) -> Optional[Tuple[str, str]]: ...
    def register(
        self, address: int, bytes: int, pinned: bool, owner: Any, device: Optional[int] = None
    ) -> int: ...
    def deregister(self, handle: int) -> bool: ...
    def load(
        self,
        pool: str,
        keys: Sequence[str],
        addresses: Sequence[int],
        lengths: Sequence[int],
        handles: Optional[Sequence[int]] = None,
    ) -> Batch: ...
    def store(
        self,
        pool: str,
        keys: Sequence[str],
        addresses: Sequence[int],
        lengths: Sequence[int],
        handles: Optional[Sequence[int]] = None,
        overwrite: bool = False,
    ) -> Batch: ...
    def exists(self, pool: str, keys: Union[str, Sequence[str]]) -> List[bool]: ...
    def exists_prefix(self, pool: str, keys: Union[str, Sequence[str]]) -> int: ...
    def delete(self, pool: str, keys: Union[str, Sequence[str]]) -> List[bool]: ...
    def clear(self) -> int: ...
    def list(
        self, prefix: str, limit: int, cursor: Optional[str] = None
    ) -> Tuple[List[Tuple[str, str, int]], Optional[str]]: ...
    def stat(self) -> str: ...
    def close(self) -> None: ...

def run_command(arguments: Sequence[str]) -> int: ...
def hash_pages(
    tokens: Sequence[int],
    page_size: int,
    prior: Optional[str] = None,
    extra_key: Optional[str] = None,
    cache_salt: Optional[str] = None,
) -> List[str]: ...
def hash_pages_at(
    address: int,
    count: int,
    kind: str,
    page_size: int,
    prior: Optional[str] = None,
    extra_key: Optional[str] = None,
    cache_salt: Optional[str] = None,
) -> List[str]: ...
def probe(settings: str) -> str: ...
def check_settings(settings: str) -> None: ...
def take_records() -> List[Tuple[int, str, str]]: ...
def keep_records() -> None: ...
