"""When a child differs from what is wanted: only our own fields count, and some of them whole."""

from typing import Any

import pytest

from llmservice_operator import compare

WANTED = {"spec": {"replicas": 2, "ports": [{"name": "http", "port": 80}], "extra": {}, "list": ["a", "b"]}}


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({"spec": {"replicas": 2, "ports": [{"name": "http", "port": 80}], "list": ["a", "b"]}}, False),
        ({"spec": {**WANTED["spec"], "added": 1}, "status": {}}, False),
        ({"spec": {**WANTED["spec"], "ports": [{"name": "http", "port": 80, "nodePort": 3}]}}, False),
        ({"spec": {**WANTED["spec"], "ports": [{"name": "x", "port": 1}, {"name": "http", "port": 80}]}}, False),
        ({"spec": {**WANTED["spec"], "replicas": 3}}, True),
        ({"spec": {**WANTED["spec"], "ports": [{"name": "http", "port": 81}]}}, True),
        ({"spec": {**WANTED["spec"], "ports": []}}, True),
        ({"spec": {**WANTED["spec"], "list": ["b", "a"]}}, True),
        ({"spec": {k: v for k, v in WANTED["spec"].items() if k != "replicas"}}, True),
    ],
)
def test_only_our_own_fields_are_compared(live: dict[str, Any], expected: bool) -> None:
    assert compare.differs(live, WANTED) is expected


LABELS = {"llmservice.dev/name": "chat", "empty": ""}
SUBJECT = {"kind": "ServiceAccount", "name": "chat-router", "namespace": "ns"}
STRANGER = {**SUBJECT, "name": "stranger"}
RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        ({"spec": {"selector": LABELS}}, {"spec": {"selector": {**LABELS, "team": "x"}}}),
        ({"spec": {"selector": LABELS}}, {"spec": {"selector": {"llmservice.dev/name": "chat"}}}),
        (
            {"spec": {"selector": {"matchLabels": LABELS}}},
            {"spec": {"selector": {"matchLabels": {**LABELS, "team": "x"}}}},
        ),
        (
            {"spec": {"selector": {"matchLabels": LABELS}}},
            {"spec": {"selector": {"matchLabels": LABELS, "matchExpressions": [{"key": "a", "operator": "Exists"}]}}},
        ),
        ({"subjects": [SUBJECT]}, {"subjects": [SUBJECT, STRANGER]}),
        ({"rules": [RULE]}, {"rules": [RULE, RULE]}),
        ({"rules": [RULE]}, {"rules": [{**RULE, "resourceNames": ["one"]}]}),
        ({"spec": {"nodeSelector": {"gpu": "h100"}}}, {"spec": {"nodeSelector": {"gpu": "h100", "zone": "a"}}}),
        ({"spec": {"nodeSelector": {"gpu": "h100"}}}, {"spec": {}}),
    ],
)
def test_fields_that_are_one_statement_are_compared_whole(wanted: dict[str, Any], live: dict[str, Any]) -> None:
    assert not compare.differs(wanted, wanted)
    assert compare.differs(live, wanted)
