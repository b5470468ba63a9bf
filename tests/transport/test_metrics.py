"""Metrics: the README's table, the dashboard and the alerts name what a gateway really serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tornado.ioloop import IOLoop

from gateway.config import Config
from gateway.config_inquiries import AuthWebhookConfig, InquiryConfig
from gateway.server import Gateway
from tests.gateway_process import ROOT
from tests.questioned_backend import QuestionedBackend
from tests.transport.client import Clients
from tests.transport.conftest import change, nothing_runs
from tests.transport.nodes import Addresses, FixedDirectory
from tests.webhook_receiver import SECRET, Receiver

pytestmark = pytest.mark.gen_test(timeout=120)

#: Sample name -> its labels, `le` and those of the scrape included.
Samples = dict[str, set[str]]
#: What Prometheus adds to each series.
SCRAPE_LABELS = {"instance", "job"}
FUNCTIONS = {
    "count",
    "histogram_quantile",
    "increase",
    "label_values",
    "rate",
    "sum",
}
GROUPINGS = {"by", "on"}
OPERATORS = {"and", "or", "unless"}
DASHBOARD = ROOT / "config" / "grafana-dashboard.json"
ALERTS = ROOT / "config" / "alerts.yaml"


@pytest.fixture
def receiver(io_loop: IOLoop) -> Iterator[Receiver]:
    async def started() -> Receiver:
        return Receiver()

    receiver = io_loop.run_sync(started)
    yield receiver
    io_loop.run_sync(receiver.stop)


@pytest.fixture
def backend(io_loop: IOLoop) -> Iterator[QuestionedBackend]:
    """Who lets everybody in."""
    backend = QuestionedBackend()
    backend.answer = lambda question: {"allow": True}
    io_loop.run_sync(backend.start)
    yield backend
    io_loop.run_sync(backend.stop)


@pytest.fixture
def gateway(
    io_loop: IOLoop,
    settings: Config,
    tmp_path: Path,
    receiver: Receiver,
    backend: QuestionedBackend,
) -> Iterator[Gateway]:
    """A gateway with all that has metrics."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    secret_file.chmod(0o600)
    config = change(
        settings,
        webhooks={"url": receiver.url, "secret_file": str(secret_file)},
        auth={
            "methods": ("guest", "webhook"),
            "webhook": AuthWebhookConfig(url=backend.url, secret_file=str(secret_file)),
        },
        rooms={
            "open": False,
            "webhook": InquiryConfig(url=backend.url, secret_file=str(secret_file)),
        },
        limits={"message_bytes": 1000},
    )
    directory = FixedDirectory("aaaaaaaa", Addresses())
    gateway = Gateway(config, tmp_path / "state", {}, directory)
    io_loop.run_sync(gateway.start)
    yield gateway
    io_loop.run_sync(gateway.stop)
    io_loop.run_sync(nothing_runs)


async def exercised(clients: Clients) -> str:
    """Let a gateway do all that it counts, and return its metrics."""
    ann, bob = await clients.player("websocket"), await clients.player("polling")
    for player in (ann, bob):
        assert (await player.call("join", {"room": "lobby"}))["ok"]
    assert (await ann.send(bob, 1))["status"] == "delivered"
    assert (await ann.send(bob, 2, volatile=True))["status"] == "delivered"
    assert (await ann.call("publish", {"room": "lobby", "data": 3}))["ok"]
    assert not (await ann.send(bob, "x" * 2000))["ok"]
    token = bob.session["token"]
    await bob.link.abandon()
    await clients.until_connections(1)
    assert (await ann.send(bob, 4))["status"] == "queued"
    again = await clients.player("websocket", auth={"token": token})
    assert again.session["outcome"] == "resumed"
    assert (await clients.engine(EIO="3")).code == 400
    assert (await clients.fetch("/api/v1/players")).code == 401
    return (await clients.fetch("/metrics")).body.decode()


def samples_of(text: str) -> Samples:
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels, SCRAPE_LABELS)
    return samples


# A scrape


async def test_a_scrape_tells_of_messages_by_kind_replays_and_the_store(clients: Clients) -> None:
    text = await exercised(clients)
    lines = text.splitlines()
    assert 'gateway_messages_total{kind="message",status="delivered"} 1.0' in lines
    assert 'gateway_messages_total{kind="message",status="queued"} 1.0' in lines
    assert 'gateway_messages_total{kind="publish",status="delivered"} 2.0' in lines
    assert 'gateway_messages_total{kind="volatile",status="delivered"} 1.0' in lines
    assert 'gateway_resumes_total{outcome="resumed"} 1.0' in lines
    assert "gateway_replayed_messages_count 1.0" in lines
    assert 'gateway_refused_handshakes_total{status="400"} 1.0' in lines
    assert 'gateway_limit_hits_total{limit="message_bytes"} 1.0' in lines
    # Two to Bob, and one to the room in each mailbox.
    assert "gateway_mailbox_messages 4.0" in lines
    counts = dict(re.findall(r'latency_seconds_count\{kind="(\w+)"\} (\S+)', text))
    assert 1 <= float(counts["message"]) <= 2
    assert float(counts["publish"]) == 1


async def test_a_scrape_tells_of_a_client_that_does_not_read(
    clients: Clients, gateway: Gateway
) -> None:
    await clients.player("websocket")
    lines = (await clients.fetch("/metrics")).body.decode().splitlines()
    assert "gateway_slow_consumers 0.0" in lines
    polling = await clients.player("polling")
    (connection,) = [each for each in gateway._engine if each.session.transport == "polling"]
    # Nothing takes it until the client polls again.
    connection.send_data("x" * (int(gateway._engine.send_budget) + 1))
    text = (await clients.fetch("/metrics")).body.decode()
    assert "gateway_slow_consumers 1.0" in text.splitlines()
    (unsent,) = re.findall(r"^gateway_send_buffer_bytes (\S+)$", text, re.MULTILINE)
    assert float(unsent) > gateway._engine.send_budget
    await polling.link.abandon()


async def test_a_scrape_names_the_build(clients: Clients) -> None:
    text = (await clients.fetch("/metrics")).body.decode()
    assert re.search(r'^gateway_build_info\{.*compiled="(yes|no)".*\} 1\.0$', text, re.MULTILINE)
    assert 'version="0.' in text


async def test_every_metric_has_a_conventional_name_and_its_row_in_the_readme(
    clients: Clients,
) -> None:
    text = await exercised(clients)
    served = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert re.fullmatch(r"(gateway|process)(_[a-z]+)+", name), name
        assert family.documentation
        labels: set[str] = set()
        for sample in family.samples:
            labels.update(sample.labels)
        # prometheus_client adds when each histogram began.
        if name.startswith("gateway_") and not name.endswith("_created"):
            served[name] = (family.type, labels - {"le"})
    documented = {}
    readme = (ROOT / "README.md").read_text()
    for name, kind, cell in re.findall(
        r"^\| `(gateway_\w+)` \| (\w+) \|([^|]*)\|", readme, re.MULTILINE
    ):
        documented[name] = (kind, set(re.findall(r"`(\w+)`", cell)))
    assert documented == served


# Expressions of PromQL, as far as the dashboard and the alerts use them

TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<string>\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<range>\[(?:\d+[smhd]|\$__rate_interval)\])"
    r"|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<symbol>==|!=|>=|<=|=~|!~|[(){},=<>+*/-])"
    r")"
)


def tokens(expression: str) -> list[tuple[str, str]]:
    found = []
    place = 0
    expression = expression.rstrip()
    while place < len(expression):
        match = TOKEN.match(expression, place)
        assert match, f"cannot be read: {expression[place:]!r}"
        assert match.lastgroup is not None
        found.append((match.lastgroup, match[match.lastgroup]))
        place = match.end()
    return found


def check(expression: str, samples: Samples) -> set[str]:
    """Check brackets, functions, metrics and labels of an expression; return its metrics."""
    used: set[str] = set()
    labels: set[str] = set()
    brackets: list[str] = []
    previous = metric = ""
    grouping = False
    for kind, text in tokens(expression):
        if text in "({":
            brackets.append(text)
            grouping = text == "(" and previous in GROUPINGS
        elif kind == "symbol" and text in ")}":
            assert brackets, "a bracket too many"
            assert brackets.pop() + text in ("()", "{}")
            grouping = False
        elif kind == "name" and brackets[-1:] == ["{"]:
            assert text in samples[metric], f"{metric} has no label {text}"
        elif kind == "name" and grouping:
            labels.add(text)
        elif kind == "name" and text not in FUNCTIONS | GROUPINGS | OPERATORS:
            # The second argument of label_values is a label.
            if used and "label_values" in expression:
                labels.add(text)
            else:
                assert text in samples, f"there is no metric {text}"
                metric = text
                used.add(text)
        elif kind == "range":
            assert metric, "a range of nothing"
            assert metric.endswith(("_total", "_bucket")), f"{metric} is no counter"
        previous = text
    assert not brackets, "a bracket is open"
    assert used, "no metric"
    for label in labels:
        assert any(label in samples[name] for name in used), f"no metric has the label {label}"
    return used


SAMPLES: Samples = {"a_total": {"code"}, "b": {"code", "instance"}}


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(rate(a_total[5m])", "open"),
        ("b)", "too many"),
        ("c", "no metric c"),
        ("rate(b[5m])", "no counter"),
        ('b{kind="x"}', "no label kind"),
        ("sum by (kind) (b)", "the label kind"),
        ("median(b)", "no metric median"),
        ("b ? 1", "cannot be read"),
        ("1 > 0", "no metric"),
    ],
)
def test_the_check_of_expressions_finds_faults(expression: str, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check(expression, SAMPLES)


# The dashboard and the alerts


async def test_the_dashboard_asks_for_metrics_that_are_served(clients: Clients) -> None:
    samples = samples_of(await exercised(clients))
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating"} <= dashboard.keys()
    used: set[str] = set()
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            used |= check(variable["query"]["query"], samples)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        assert panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            used |= check(target["expr"], samples)
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert all(label in target["expr"] for label in legend if label != "instance")
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    served = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in samples}
    assert {name for name in served if name.startswith("gateway_")} <= shown


async def test_the_alerts_ask_for_metrics_that_are_served(clients: Clients) -> None:
    samples = samples_of(await exercised(clients))
    document: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    assert document.keys() == {"groups"}
    names = []
    for group in document["groups"]:
        assert group.keys() == {"name", "rules"}
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
            assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"Gateway[A-Za-z]+", rule["alert"])
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))
            assert rule["labels"].keys() == {"severity"}
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"].keys() == {"summary", "description"}
            assert re.search(r"[=<>]", rule["expr"]), "an alert compares"
            check(rule["expr"], samples)
            for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
                assert label == "instance" or label in rule["expr"]
            names.append(rule["alert"])
    assert len(set(names)) == len(names) > 0
    keys = Config()
    # What the texts name of the configuration is there.
    for section, key in re.findall(r"\b(mailbox|limits)\.([a-z_]+)", ALERTS.read_text()):
        assert hasattr(getattr(keys, section), key)
