"""What a Secret of API keys may say, what is refused without a word of it, and how a folder is followed."""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservice_core.contract import ENV_KEYS_DIR
from llmservice_serving.router import keys_dir
from llmservice_serving.router.door import Door, class_of
from llmservice_serving.router.errors import Denied, Refusal
from llmservice_serving.router.keys import BadKeys, Keyring, Tenant, parse
from llmservice_serving.router.service_config import from_manifest
from llmservice_serving.router.settings import read as read_settings
from tests.serving.router_fakes import MANIFEST
from tests.serving.router_keys import ACME, ACME_NEW, BETA, TENANTS, UNKNOWN, folder, mount

ROOT = Path(__file__).parents[2]


def ring(**tenants: Any) -> Keyring:
    return parse({name: yaml.safe_dump(said).encode() for name, said in tenants.items()})


def found(keys: Keyring, key: str) -> Tenant:
    tenant = keys.find(key)
    assert tenant is not None
    return tenant


def test_each_key_of_a_tenant_finds_it_and_nothing_else_does() -> None:
    keys = ring(acme={"keys": [ACME, ACME_NEW]}, beta={"keys": [BETA]})
    assert [found(keys, key).name for key in (ACME, ACME_NEW, BETA)] == ["acme", "acme", "beta"]
    for other in (UNKNOWN, ACME[:-1], ACME + " ", "", ACME.upper(), "\udcff"):
        assert keys.find(other) is None


def test_a_hash_stands_for_its_key_and_is_no_key_itself() -> None:
    hashed = "sha256:" + hashlib.sha256(ACME.encode()).hexdigest()
    keys = ring(acme={"keys": [hashed]})
    assert found(keys, ACME) == found(ring(acme={"keys": [ACME]}), ACME)
    assert keys.find(hashed) is None


def test_json_is_yaml_too() -> None:
    tenant = found(parse({"acme": b'{"keys": ["%s"], "tokensPerMinute": 5}' % ACME.encode()}), ACME)
    assert (tenant.tokens_per_minute, tenant.classes, tenant.default_class) == (5, None, None)


def test_both_ways_end_in_one_comparison_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, compared = ring(acme={"keys": [ACME]}), list[tuple[int, int]]()

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert keys.find(ACME)
    assert not keys.find(UNKNOWN)
    assert compared == [(32, 32)] * 2


def test_no_key_is_kept_or_shown() -> None:
    keys = ring(**TENANTS)
    assert ACME not in repr(keys)
    assert ACME not in repr(found(keys, ACME))
    assert found(keys, ACME).salt_key.hex() not in repr(found(keys, ACME))


def test_the_cache_salt_is_stable_and_of_one_tenant_and_service() -> None:
    before, after = ring(**TENANTS), ring(acme={"keys": [ACME, ACME_NEW]}, beta=TENANTS["beta"])
    salt = found(before, ACME).cache_salt("ns/chat")
    assert salt == found(after, ACME_NEW).cache_salt("ns/chat"), "a second key changes nothing"
    others = [found(before, BETA).cache_salt("ns/chat"), found(before, ACME).cache_salt("ns/other")]
    others.append(found(ring(acme={"keys": [ACME_NEW]}), ACME_NEW).cache_salt("ns/chat"))
    assert len({salt, *others}) == 4
    assert len(salt) == 64, "vLLM takes 128 characters"
    assert set(salt) <= set("0123456789abcdef")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "not YAML": ({"acme": "keys: ["}, "acme is no YAML object"),
    "a list": ({"acme": "- a"}, "acme is no YAML object"),
    "bare key": ({"acme": ACME}, "acme is no YAML object"),
    "empty": ({"acme": ""}, "acme is no YAML object"),
    "unknown field": ({"acme": {"keys": [ACME], "class": "a"}}, "a field that is none of keys, classes"),
    "no keys": ({"acme": {"keys": []}}, "acme has no keys"),
    "keys missing": ({"acme": {"classes": ["a"]}}, "keys must be a list"),
    "short key": ({"acme": {"keys": ["hunter2"]}}, "32 to 512 printable characters"),
    "key with a space": ({"acme": {"keys": [ACME + " "]}}, "32 to 512 printable characters"),
    "key with a line end": ({"acme": {"keys": [ACME + "\n"]}}, "32 to 512 printable characters"),
    "number for a key": ({"acme": {"keys": [10**40]}}, "in quotes if digits only"),
    "half a hash": ({"acme": {"keys": ["sha256:" + "a" * 40]}}, "64 hex digits"),
    "no classes": ({"acme": {"keys": [ACME], "classes": []}}, "leave it out to allow all"),
    "class is a number": ({"acme": {"keys": [ACME], "classes": [1]}}, "a list of names"),
    "default not allowed": ({"acme": {"keys": [ACME], "classes": ["a"], "defaultClass": "b"}}, "one of its classes"),
    "limit is text": ({"acme": {"keys": [ACME], "tokensPerMinute": "many"}}, "a whole number above 0"),
    "limit is 0": ({"acme": {"keys": [ACME], "tokensPerMinute": 0}}, "a whole number above 0"),
    "limit is true": ({"acme": {"keys": [ACME], "tokensPerMinute": True}}, "a whole number above 0"),
    "one key, two tenants": ({"a": {"keys": [ACME]}, "b": {"keys": [ACME]}}, "a and b have a key in common"),
    "key for a name": ({ACME.lower(): {"keys": [ACME]}}, "name is no tenant"),
    "name with a dot": ({"a.yaml": {"keys": [ACME]}}, "name is no tenant"),
    "too many": ({f"t{i}": "" for i in range(501)}, "at most 500 tenants"),
}


@pytest.mark.parametrize(("tenants", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_secret_is_refused_whole_and_never_quoted(tmp_path: Path, tenants: dict[str, Any], words: str) -> None:
    with pytest.raises(BadKeys, match=words) as refused:
        keys_dir.read(folder(tmp_path, {"good": {"keys": [BETA]}, **tenants}))
    for secret in (ACME, ACME.lower(), "hunter2", BETA):
        assert secret not in str(refused.value)
    assert refused.value.__cause__ is None


@settings(deadline=None, max_examples=150)
@given(entries=st.dictionaries(st.text(max_size=40), st.binary(max_size=60), max_size=4))
def test_any_bytes_are_a_keyring_or_one_kind_of_error(entries: dict[str, bytes]) -> None:
    try:
        keys = parse(entries)
    except BadKeys:
        return
    assert set(keys.tenants) == set(entries)


def secrets() -> dict[str, dict[str, str]]:
    """What documentation and examples tell people to write."""
    texts = [(ROOT / "examples/keys/secret.yaml").read_text()]
    blocks = (ROOT / "docs/access.md").read_text().replace("<64 hex digits>", "0" * 64).split("```yaml\n")[1:]
    texts += [block.split("```")[0] for block in blocks]
    found = [yaml.safe_load(text) for text in texts]
    return {s["metadata"]["name"]: s["stringData"] for s in found if s.get("kind") == "Secret"}


def test_secrets_that_we_show_are_good() -> None:
    shown = secrets()
    assert sorted(shown) == ["chat-keys", "guarded-keys"]
    for entries in shown.values():
        assert len(parse({name: text.encode() for name, text in entries.items()}).tenants) == len(entries)
    service = yaml.safe_load((ROOT / "examples/api-keys.yaml").read_text())
    assert service["spec"]["router"]["access"] == {"apiKeysSecret": "guarded-keys"}
    classes = {c["name"] for c in service["spec"]["classes"]}
    keys = parse({name: text.encode() for name, text in shown["guarded-keys"].items()})
    assert all(set(tenant.classes or ()) <= classes for tenant in keys.tenants.values())


def changed(door: Door, place: Path, seen: Any) -> Any:
    """One look, as the router takes it."""
    now, read = keys_dir.read_if_changed(place, seen)
    if read is not None:
        keys_dir.put(door, read)
    return now


def test_a_mounted_secret_is_read_again_when_its_link_moves(tmp_path: Path) -> None:
    door = Door(has_keys=True)
    place = mount(tmp_path, {"acme": {"keys": [ACME]}}, 1)
    seen = changed(door, place, None)
    first = door.keyring
    assert changed(door, place, seen) == seen
    assert door.keyring is first, "nothing is read while nothing changes"
    mount(tmp_path, {"acme": {"keys": [ACME_NEW]}, "beta": TENANTS["beta"]}, 2)
    changed(door, place, seen)
    assert door.keyring is not None
    assert sorted(door.keyring.tenants) == ["acme", "beta"]
    assert door.keyring.find(ACME) is None


def test_a_bad_change_keeps_the_last_good_keys_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door, place = Door(has_keys=True), folder(tmp_path)
    seen = changed(door, place, None)
    (place / "acme").write_text("keys: [")
    for _ in range(3):
        seen = changed(door, place, None)
    assert (door.state(None), door.keyring is not None) == ("stale", True)
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert "acme is no YAML object" in line
    assert "the last good ones" in line
    folder(tmp_path, {"acme": {"keys": [ACME_NEW]}})
    changed(door, place, seen)
    assert door.state(None) == "keys"


def test_a_folder_that_is_not_there_lets_nobody_in_until_it_comes(tmp_path: Path) -> None:
    door = Door(has_keys=True)
    seen = changed(door, tmp_path / "keys", None)
    assert (door.state(None), seen) == ("closed", None)
    changed(door, folder(tmp_path), seen)
    assert door.state(None) == "keys"
    os.rename(tmp_path / "keys", tmp_path / "away")
    changed(door, tmp_path / "keys", None)
    assert door.state(None) == "stale"


def test_a_file_too_large_for_a_secret_is_not_read(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "acme").write_bytes(b" " * (keys_dir.MOST_BYTES + 1))
    with pytest.raises(BadKeys, match="larger than"):
        keys_dir.read(place)


CONFIG = from_manifest(MANIFEST)
GUARDED = Door(has_keys=True)
GUARDED.use(ring(**TENANTS))
known = st.sampled_from([ACME, BETA, f"Bearer {ACME}", f"Bearer {ACME}x", "Bearer", "bearer  ", f"Basic {ACME}"])


@settings(deadline=None, max_examples=200)
@given(sent=st.lists(known | st.text(max_size=60), max_size=3))
def test_only_one_right_header_comes_in_and_all_else_is_401(sent: list[str]) -> None:
    if [text.strip() for text in sent] == [f"Bearer {ACME}"]:
        tenant = GUARDED.who(sent, CONFIG)
        assert tenant is not None
        assert tenant.name == "acme"
        return
    with pytest.raises(Denied) as refused:
        GUARDED.who(sent, CONFIG)
    assert refused.value.status == 401
    assert not any(key in str(refused.value.body()) for key in (ACME, BETA))


names = st.sampled_from(["interactive", "batch", "gone"])


@settings(deadline=None, max_examples=200)
@given(allowed=st.none() | st.lists(names, min_size=1, unique=True), default=st.none() | names, asked=st.none() | names)
def test_a_request_is_never_of_a_class_that_its_key_may_not_use(
    allowed: list[str] | None, default: str | None, asked: str | None
) -> None:
    if default is not None and allowed is not None and default not in allowed:
        default = None
    tenant = Tenant(name="t", classes=tuple(allowed) if allowed else None, default_class=default, salt_key=bytes(32))
    allowed_here = [c for c in ("interactive", "batch") if allowed is None or c in allowed]
    wanted = asked or default
    if wanted is None and (allowed is None or "batch" in allowed or allowed[0] in allowed_here):
        wanted = "batch" if "batch" in allowed_here else allowed_here[0]
    if wanted in allowed_here:
        got = class_of(tenant, asked, CONFIG)
        assert got.name == wanted
        return
    with pytest.raises(Refusal) as refused:
        class_of(tenant, asked, CONFIG)
    assert refused.value.status == (400 if asked == "gone" and (allowed is None or "gone" in allowed) else 403)


def test_the_name_that_the_operator_writes_is_the_one_that_the_router_reads() -> None:
    assert read_settings([], {ENV_KEYS_DIR: "/keys"}).keys_dir == "/keys"
