"""A real server: pages come back after a flush, a kill and an attach, and the output is the same."""

import time
import urllib.error

import pytest
from server import PAGE_TOKENS, Server, ours

#: The last page of a prompt is always computed, so that there is an output.
FROM_STORAGE = 1024 - PAGE_TOKENS
#: As long as nothing more is stored, everything is; a busy machine stores slowly.
REST_S = 1.0
LONGEST_SETTLE_S = 30


def twice(server, tokens):
    """Output before and after a flush, and how many tokens were cached the second time."""
    first, _ = server.generate(tokens)
    settle(server)
    second, cached = server.generate(tokens)
    return first, second, cached


def settle(server):
    """Waits until what was computed is stored, as far as it is going to be, and forgets it on device and host."""
    begun = changed = time.monotonic()
    stored = server.stored_tokens()
    while time.monotonic() - changed < REST_S and time.monotonic() - begun < LONGEST_SETTLE_S:
        time.sleep(0.2)
        now = server.stored_tokens()
        if now != stored:
            stored, changed = now, time.monotonic()
    server.flush()


def test_flush_kill_detach_attach_clear(model, prompt, tmp_path):
    storage, log = tmp_path / "store", tmp_path / "log"
    tokens = prompt(1)
    with Server(model("mha"), log, ours(storage)) as server:
        output, again, cached = twice(server, tokens)
        assert again == output
        assert cached >= FROM_STORAGE, f"{cached} tokens came from storage\n{server.tail()}"
        server.kill()
    with Server(model("mha"), log, ours(storage)) as server:
        after, cached = server.generate(tokens)
        assert after == output, "after kill -9 the output differs"
        assert cached >= FROM_STORAGE, f"after kill -9 {cached} tokens came from storage\n{server.tail()}"

        server.detach()
        server.flush()
        assert server.generate(tokens) == (output, 0), "something was loaded without a storage"
        server.flush()
        server.attach(ours(storage))
        attached, cached = server.generate(tokens)
        assert attached == output and cached >= FROM_STORAGE, server.tail()

        server.clear()
        server.flush()
        assert server.generate(tokens)[1] == 0, "clear left something behind"

        metrics = server.call("GET", "/metrics", raw=True)
        assert "sglang:prefetched_tokens_total" in metrics
        refuse_bad_settings(server, storage)
        assert server.generate(tokens)[0] == output


def refuse_bad_settings(server, storage):
    server.detach()
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.attach(ours(storage, capacity_byte="1GiB"))
    said = refused.value.read().decode() + server.tail()
    assert "did you mean `capacity_bytes`?" in said
    server.attach(ours(storage))


def test_the_test_sees_corruption(model, prompt, tmp_path):
    """A control backend that corrupts: the comparison above must find it, or it proves nothing."""
    extra = ours(tmp_path / "store", module_path="corrupting", class_name="Corrupting")
    with Server(model("mha"), tmp_path / "log", extra) as server:
        output, again, cached = twice(server, prompt(1))
        assert cached >= FROM_STORAGE
        assert again != output, "pages were changed, and the output did not show it"
        server.detach()
        server.flush()
        server.attach(ours(tmp_path / "other", module_path="corrupting", class_name="Forgetting"))
        assert twice(server, prompt(2))[2] == 0, "pages that were never stored were cached"


def test_two_servers_on_one_directory(model, prompt, tmp_path):
    storage = tmp_path / "store"
    tokens = prompt(3)
    with Server(model("mha"), tmp_path / "first", ours(storage)) as first:
        output, _ = first.generate(tokens)
        settle(first)
        with Server(model("mha"), tmp_path / "second", ours(storage)) as second:
            assert second.generate(tokens) == (output, FROM_STORAGE), second.tail()
        with Server(model("mha", seed=1), tmp_path / "other", ours(storage)) as other:
            theirs, cached = other.generate(tokens)
            assert cached == 0, "another model hit"
            assert theirs != output
            settle(other)
            assert other.generate(tokens) == (theirs, FROM_STORAGE)
            other.clear()
        first.flush()
        assert first.generate(tokens) == (output, FROM_STORAGE), "another model took pages away"


@pytest.mark.parametrize(("kind", "tp"), [("mla", 1), ("mla", 2), ("swa", 1), ("swa", 2), ("mha", 2)])
def test_other_models_and_ranks(model, prompt, tmp_path, kind, tp):
    tokens = prompt(4)
    with Server(model(kind), tmp_path / "log", ours(tmp_path / "store"), tp=tp) as server:
        output, again, cached = twice(server, tokens)
        assert again == output
        assert cached >= FROM_STORAGE, f"{cached} tokens came from storage\n{server.tail()}"
        assert "counts as a miss" not in server.log.read_text()
        if (kind, tp) == ("swa", 2):
            lose_a_side_pool(server, prompt(5), tmp_path)


def lose_a_side_pool(server, tokens, tmp_path):
    """One rank has no pool for the windows: both agree on a miss, and the output is right."""
    server.detach()
    server.flush()
    server.attach(ours(tmp_path / "other", module_path="faulty", class_name="WithoutSidePool"))
    output, again, cached = twice(server, tokens)
    assert again == output
    assert cached == 0, "one rank loaded what the other could not"
