"""Who may come in: keys, hosts, origins, limits; and bodies that are too long, too slow or no JSON."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from prosg.model.prosg import ProSG
from prosg.serving.api.errors import ApiError
from prosg.serving.api.keys import KeyRing, add_key, read_keys, revoke_key
from prosg.serving.api.limits import Limiter
from prosg.serving.api.options import ApiOptions, KeyLimits, is_loopback
from support.api import CODE, Served, served

COMPLETE = "/v1/completions"
BODY = {"model": "demo", "prompt": CODE, "max_tokens": 4}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_a_file_of_keys_has_hashes_only(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secrets = [add_key(file, name, {"rows": 3} if name == "ben" else {}) for name in ("anna", "ben")]
    assert not any(part in file.read_text() for secret in secrets for part in (secret, secret.split("-", 2)[2]))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ring = KeyRing(file)
    anna, ben = (ring.find(secret) for secret in secrets)
    assert anna is not None and ben is not None and (anna.name, ben.name) == ("anna", "ben")
    assert ben.may_use(KeyLimits(rows=9, prompts=7)) == KeyLimits(rows=3, prompts=7)
    for wrong in ("", "prosg-", secrets[0][:-1], secrets[0][:-1] + "!", "prosg-" + "0" * 12 + secrets[0][18:], "é"):
        assert ring.find(wrong) is None
    with pytest.raises(ValueError, match="anna"):
        add_key(file, "anna", {})
    with pytest.raises(ValueError, match="name"):
        add_key(file, "a\nb", {})
    with pytest.raises(ValueError, match="nobody"):
        revoke_key(file, "nobody")


def test_a_running_server_sees_new_and_revoked_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    first = add_key(file, "anna", {})
    ring = KeyRing(file)
    second = add_key(file, "ben", {})
    assert ring.find(second) is not None
    revoke_key(file, "anna")
    assert ring.find(first) is None and ring.find(second) is not None
    file.write_text("{")
    assert ring.find(second) is not None and "keys stay as they were" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "not a file of keys"),
        ('{"format": "prosg-keys-1", "keys": [{}]}', "key 1"),
        ('{"format": "prosg-keys-1", "keys": []}', "no key"),
        ("[]", "object"),
    ],
)
def test_a_damaged_file_of_keys_is_named(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        KeyRing(file)
    assert str(file) in str(caught.value)


def test_keys_are_needed_where_other_machines_can_connect() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "example.org", "10.0.0.1", "")))
    with pytest.raises(ValueError, match="keys"):
        ApiOptions(host="0.0.0.0")
    ApiOptions(host="0.0.0.0", keys="keys.json")


@pytest.mark.parametrize(
    "options",
    [
        {"port": 70000},
        {"timeout": 0.0},
        {"name": "a:b"},
        {"max_choices": 0},
        {"allow_origin": ("http://a.test/",)},
        {"allow_origin": ("a.test",)},
        {"allow_origin": ("http://A.test",)},
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ApiOptions(**options)


def test_wrong_keys_are_401_and_health_needs_none(demo: ProSG, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, "anna", {})
    with served(demo, keys=str(file)) as server:
        for headers in (
            {},
            bearer("x"),
            bearer(secret[:-1]),
            {"authorization": f"Basic {secret}"},
            {"authorization": ""},
        ):
            for path in ("/v1/models", "/v1/prompts", "/metrics", "/nothing"):
                reply = server.client.get(path, headers=headers)
                assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
                assert reply.json()["error"]["code"] == "invalid_api_key"
            # Not even the body of such a request is read.
            assert server.client.post(COMPLETE, content=b"x" * (9 << 20), headers=headers).status_code == 401
        server.post(COMPLETE, BODY, 200, **bearer(secret))
        for path in ("/health", "/ready", "/", "/reference", "/openapi.json", "/playground/app.js"):
            assert server.client.get(path).status_code == 200, path
        revoke_key(file, "anna")
        server.post(COMPLETE, BODY, 401, **bearer(secret))


def test_pages_of_other_sites_are_kept_out(server: Served, demo: ProSG) -> None:
    client = server.client
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "a@127.0.0.1"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 421, host
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 200, host
    for origin in ("https://evil.example", "null"):
        assert client.post(COMPLETE, json=BODY, headers={"origin": origin}).status_code == 403
    assert client.post(COMPLETE, json=BODY, headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    assert "access-control-allow-origin" not in client.get("/health", headers={"origin": "https://a.example"}).headers
    with served(demo, allow_origin=("https://a.example",)) as other:
        reply = other.client.post(COMPLETE, json=BODY, headers={"origin": "https://a.example"})
        assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == "https://a.example"
        assert other.client.post(COMPLETE, json=BODY, headers={"origin": "https://b.example"}).status_code == 403


def test_request_ids_are_kept_where_they_can_be(server: Served) -> None:
    assert server.client.get("/health", headers={"x-request-id": "mine-7"}).headers["x-request-id"] == "mine-7"
    for given in ("", "a b", "x" * 65, "é"):
        made = server.client.get("/health", headers={"x-request-id": given.encode("latin-1")}).headers["x-request-id"]
        assert made != given and len(made) == 16


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"model": "demo", "prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "demo", "prompt": "x", "temperature": NaN}',
        b'{"model": "demo", "prompt": "x", "temperature": 1e999}',
        b'{"model": "demo", "prompt": {"a": {"b": []}}}',
        b'{"model": "' + b"x" * 10000 + b'", "prompt": "x"}',
        b'{"model": "demo", "prompt": "x", "' + b"y" * 10000 + b'": 1}',
    ],
)
def test_garbage_is_400(server: Served, content: bytes) -> None:
    for path in (COMPLETE, "/v1/chat/completions", "/v1/prompts"):
        reply = server.client.post(path, content=content, headers={"content-type": "application/json"})
        assert reply.status_code == 400, (path, reply.text)
        assert len(reply.text) < 1000 and reply.json()["error"]["message"]


def test_half_characters_are_answered(server: Served) -> None:
    body = json.dumps(BODY | {"prompt": "a\ud800b"})
    assert server.client.post(COMPLETE, content=body, headers={"content-type": "application/json"}).status_code == 200


def test_bodies_of_another_type_are_refused(server: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        reply = server.client.post(COMPLETE, content=json.dumps(BODY), headers={"content-type": kind})
        assert reply.status_code == 400, kind


def test_long_bodies_are_413(demo: ProSG) -> None:
    with served(demo, max_body_bytes=1000, max_upload_bytes=3000) as server:
        server.refused(COMPLETE, BODY | {"prompt": "x" * 1000}, "1000", status=413)
        headers = {"content-type": "application/octet-stream"}
        assert server.client.post("/v1/prompts/upload", content=os.urandom(2000), headers=headers).status_code == 400
        assert server.client.post("/v1/prompts/upload", content=os.urandom(4000), headers=headers).status_code == 413


def test_unknown_paths_and_methods_have_openais_form(server: Served) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", COMPLETE, 405), ("PATCH", "/v1/models", 405)):
        reply = server.client.request(method, path)
        assert reply.status_code == status and sorted(reply.json()["error"]) == ["code", "message", "param", "type"]
    assert server.client.get("/playground/..%2fapp.py").status_code == 404


def test_what_nobody_expected_is_logged_and_told_in_openais_form(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret place")

    monkeypatch.setattr(server.service.prompts, "owned_by", fail)
    reply = server.client.get("/v1/prompts")
    assert reply.status_code == 500 and reply.json()["error"]["type"] == "server_error"
    assert "secret" not in reply.text and "a secret place" in caplog.text
    assert reply.headers["x-request-id"] in caplog.text


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_limits_of_requests_rows_and_tokens() -> None:
    clock = Clock()
    limiter = Limiter(clock)
    limits = KeyLimits(requests_per_minute=2, rows=3, tokens_per_minute=60)

    def refused(rows: int = 1) -> float:
        with pytest.raises(ApiError) as caught:
            limiter.admit("anna", limits, rows)
        assert caught.value.status_code == 429
        return float(caught.value.headers["Retry-After"])

    first = limiter.admit("anna", limits, 2)
    refused(2)
    second = limiter.admit("anna", limits, 1)
    first.end(30)
    second.end(50)
    second.end(0)
    assert refused() == 21  # 20 tokens too many were used, at one a second
    limiter.admit("ben", limits, 3)
    clock.now = 25.0
    assert refused() == 5  # the requests, now: 25 / 30 of one have come back
    clock.now = 31.0
    limiter.admit("anna", limits, 3).end(0)
    with pytest.raises(ApiError, match="4 answers") as caught:
        limiter.admit("anna", limits, 4)
    assert caught.value.status_code == 400


def test_a_key_that_uses_what_it_may_is_429(demo: ProSG, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    few, many = add_key(file, "few", {"requests_per_minute": 1}), add_key(file, "many", {})
    with served(demo, keys=str(file)) as server:
        server.post(COMPLETE, BODY, 200, **bearer(few))
        reply = server.client.post(COMPLETE, json=BODY, headers=bearer(few))
        assert reply.status_code == 429 and 1 <= int(reply.headers["retry-after"]) <= 60
        for _ in range(3):
            server.post(COMPLETE, BODY, 200, **bearer(many))
    assert [key.name for key in read_keys(file)] == ["few", "many"]


def test_metrics_count_what_was_done(demo: ProSG) -> None:
    with served(demo) as server:
        usage = server.post(COMPLETE, BODY)["usage"]
        server.post("/v1/prompts", {"text": CODE}, 201)
        text = server.client.get("/metrics").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert float(values["prosg_written_tokens_total"]) == usage["completion_tokens"]
        assert float(values["prosg_read_tokens_total"]) + float(values["prosg_cached_tokens_total"]) >= 21
        assert float(values['prosg_http_requests_total{method="POST",route="/v1/completions",status="200"}']) == 1
        assert float(values['prosg_prompts_stored_total{source="text"}']) == 1
        assert float(values["prosg_first_token_seconds_count"]) == 1
        assert float(values['prosg_finished_total{reason="length"}']) == 1
        assert {"prosg_waiting", "prosg_rows", "prosg_cache_hits_total", "prosg_cache_bytes"} <= values.keys()
        assert CODE not in text and "prompt-" not in text


def test_a_server_that_ends_begins_nothing(demo: ProSG) -> None:
    with served(demo) as server:
        server.service.draining = True
        assert server.get("/ready", 503) == {"status": "draining"}
        server.get("/health")
        server.refused(COMPLETE, BODY, "ends", status=503)
        server.refused("/v1/prompts", {"text": "x"}, "ends", status=503)
