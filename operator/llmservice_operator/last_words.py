"""The last lines that an engine wrote before it ended, for people: few, short, and without anything that looks secret.

The operator may not read Secrets, so it cannot know their values: what is taken out is what looks like one, and what
the spec itself gives to variables with such a name. Too much is taken out rather than too little.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from llmservice_api.resource import LLMService
from llmservice_operator.cluster import Cluster
from llmservice_operator.errors import OperatorError
from llmservice_operator.trouble import Trouble

LINES = 5
LINE_LENGTH = 200
READ_LINES, READ_BYTES = 20, 65536
"""The bytes are counted from the first of the lines, so they must do for long ones."""
GONE = "[redacted]"
LEAST_SECRET = 4
"""A value of the spec that is shorter than this is no secret, and taking it out would leave no word whole."""

_SECRET_NAME = r"(?:token(?!s)|secret|passw(?:or)?d|api[_-]?key|authorization|credential|private[_-]?key)"
_PATTERNS = [
    (re.compile(r"://[^/\s@]+@"), f"://{GONE}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',]+"), rf"\1 {GONE}"),
    (
        re.compile(rf"(?i)([\w.-]*{_SECRET_NAME}[\w.-]*[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;)}}\]]+)"),
        rf"\1{GONE}",
    ),
    (re.compile(r"\b(?:hf|sk|pk|gh[a-z]|glpat|xox[a-z])[_-][A-Za-z0-9_-]{6,}"), GONE),
    (re.compile(r"\beyJ[A-Za-z0-9_.-]{8,}"), GONE),
    (re.compile(r"\bAKIA[A-Z0-9]{12,}"), GONE),
    (re.compile(r"\b(?=\w*[0-9])(?=\w*[A-Za-z])\w{32,}"), GONE),
]
_NO_TEXT = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\x20-\x7e\u00a0-\ud7ff]")


def redacted(text: str, known: Iterable[str] = ()) -> str:
    """Without what looks like a secret. `known`: values that are to go wherever they stand."""
    for value in sorted((v for v in known if len(v) >= LEAST_SECRET), key=len, reverse=True):
        text = text.replace(value, GONE)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def last_lines(log: str, known: Collection[str] = ()) -> list[str]:
    lines = (redacted(_NO_TEXT.sub("", line.expandtabs(1)).strip(), known) for line in log.splitlines())
    return [line[:LINE_LENGTH] for line in lines if line][-LINES:]


def secrets_in(service: LLMService) -> list[str]:
    """Values that the spec gives in plain text to variables whose name says that they are secret."""
    named = re.compile(_SECRET_NAME, re.IGNORECASE)
    return [v.value for v in service.spec.engine.env if v.value and named.search(v.name)]


@dataclass(slots=True)
class LastWords:
    """Read once for each end of a container."""

    cluster: Cluster
    _known: dict[str, list[str] | str] = field(default_factory=dict)

    async def of(self, service: LLMService, trouble: Trouble | None) -> list[str] | str:
        """Lines, or in words why there are none."""
        if trouble is None or trouble.container is None:
            self._known = {}
            return ""
        if trouble.run not in self._known:
            self._known = {trouble.run: await self._read(service, trouble, trouble.container)}
        return self._known[trouble.run]

    async def _read(self, service: LLMService, trouble: Trouble, container: str) -> list[str] | str:
        options = {"container": container, "tailLines": str(READ_LINES), "limitBytes": str(READ_BYTES)}
        if trouble.is_over:
            options["previous"] = "true"
        try:
            log = await self.cluster.log(service.metadata.namespace, trouble.pod, options)
        except OperatorError as error:
            return f"its log cannot be read ({redacted(str(error), secrets_in(service))[:LINE_LENGTH]})"
        return last_lines(log, secrets_in(service)) or "its log is empty"
