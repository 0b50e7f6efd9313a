"""Tests of the decision between online and offline, and of the id of a run."""

import logging
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from wandb.sdk.lib import wbauth

from helpers.wandb_log import read_records
from moleflow.training.experiment_log import wandb as wandb_log
from moleflow.training.experiment_log.base import RUN_ID_FILE, run_id
from moleflow.training.experiment_log.wandb import (
    WandbLog,
    artifact_name,
    is_best,
    log_predictions,
    offline_reason,
    training_log,
)
from moleflow.utils.errors import UserError

KEY = "0" * 40


class Rejecting(BaseHTTPRequestHandler):
    """Server that rejects every key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b'{"errors": [{"message": "user is not logged in"}]}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Client of W&B in a state of its own, without an account."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb"))
    wbauth.unauthenticate_session(update_settings=False)
    wandb.teardown()
    yield monkeypatch
    wbauth.unauthenticate_session(update_settings=False)
    wandb.teardown()


@pytest.fixture
def rejecting_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Rejecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_account_is_a_reason(account: pytest.MonkeyPatch) -> None:
    assert offline_reason() == "This machine has no W&B account."


def test_malformed_key_is_a_reason(account: pytest.MonkeyPatch) -> None:
    account.setenv("WANDB_API_KEY", "old")
    assert str(offline_reason()).startswith("The W&B key is not valid:")


def test_unreachable_server_is_a_reason(account: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Rejecting) as server:
        address = f"http://127.0.0.1:{server.server_port}"
    account.setenv("WANDB_API_KEY", KEY)
    account.setenv("WANDB_BASE_URL", address)
    assert str(offline_reason()).startswith(f"{address} cannot be reached:")


def test_rejected_key_is_logged_and_the_run_is_offline(
    account: pytest.MonkeyPatch, rejecting_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    account.setenv("WANDB_API_KEY", KEY)
    account.setenv("WANDB_BASE_URL", rejecting_server)
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        log = WandbLog(str(tmp_path / "run"), "name", "group", "seed0", tags=["a", None, "a", "b" * 70])
        log.finish("success")
    (record,) = [record for record in caplog.records if record.name == wandb_log.__name__]
    assert record.getMessage().startswith("W&B does not accept the key:")
    assert "wandb sync" in record.getMessage()
    (run,) = [r.run for r in read_records(tmp_path / "run") if r.WhichOneof("record_type") == "run"]
    assert run.run_id == run_id(tmp_path / "run")
    assert list(run.tags) == ["a", "b" * 64]


def test_id_is_random_and_remains_if_the_folder_is_moved(tmp_path: Path) -> None:
    first = run_id(tmp_path / "a")
    assert run_id(tmp_path / "a") == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert run_id(tmp_path / "b") == first
    assert run_id(tmp_path / "a") != first  # another run at the former path


def test_damaged_id_is_replaced(tmp_path: Path) -> None:
    first = run_id(tmp_path)
    (tmp_path / RUN_ID_FILE).write_bytes(b"\x00\xff")
    assert run_id(tmp_path) != first


def test_names_of_artifacts_are_valid() -> None:
    assert artifact_name("mole6_dia2") == "model-mole6_dia2"
    assert artifact_name("größe=3, a/b") == "model-gr__e_3__a_b"


class FakeRun:
    """Records the calls of a W&B run."""

    def __init__(self, offline: bool) -> None:
        self.offline, self.used = offline, ""
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}

    def use_artifact(self, name: str, type: str) -> None:
        self.used = name

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("offline", [True, False])
def test_predictions_use_the_model_of_the_run(offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity, fake = run_id(tmp_path), FakeRun(offline)
    (tmp_path / "config.yaml").write_text("logger: {wandb: {group: main, name: a, project: p, entity: null}}")
    monkeypatch.setattr(wandb_log, "open_run", lambda *args, **arguments: fake)
    rows = [{"verdict": "defect", "score": 1.0}, {"verdict": "normal", "score": 0.0}]
    log_predictions(tmp_path, training_log(tmp_path), rows)
    assert fake.config["model"] == f"model-main:{identity}"
    assert fake.used == ("" if offline else f"model-main:{identity}")
    assert fake.summary == {"verdicts/defect": 1, "verdicts/normal": 1}
    assert fake.logged["predictions"].data == [["defect", 1.0], ["normal", 0.0]]


def test_predictions_of_a_run_without_wandb_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="logger=wandb"):
        training_log(tmp_path)


@pytest.mark.parametrize(("value", "best"), [(0.6, True), (0.5, True), (0.4, False), (None, False)])
def test_alias_best_moves_to_a_model_that_no_other_exceeds(
    value: float | None, best: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(metadata={"pixel_ap": 0.5})
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(artifact={"team/project/model-a:best": other}.get))
    assert is_best("team/project/model-a", "pixel_ap", value) is best
