"""What tests of the running operator share: the operator as a process with the chart's own rights, and patience."""

import contextlib
import copy
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from e2e.cluster import programs
from e2e.cluster.bare import ControlPlane
from tests.control.bad_manifests import GOOD

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "llmservices.llmservice.dev.yaml"
NAMESPACE = "llmservice-system"
ACCOUNT = "llmservice-operator"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
T = TypeVar("T")
Body = dict[str, Any]


def eventually(look: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """The first answer that is not None, False or empty; a refused question is asked again."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            found = look()
        except subprocess.CalledProcessError as refusal:
            found, last = None, refusal.stderr
        else:
            last = repr(found)
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s; last: {last}")
        time.sleep(0.1)


def free_port() -> int:
    """Below the kernel's own choice, or some connection takes it before the process that starts does."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def install_crd(plane: ControlPlane) -> None:
    plane.kubectl("apply", "--server-side", "-f", str(CRD))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=20s", "-f", str(CRD))


def grant_rights(plane: ControlPlane, folder: Path, namespace: str | None = None) -> Path:
    """The chart's ServiceAccount and roles (for one namespace or all), and a kubeconfig that speaks as this account."""
    home = f"{NAMESPACE}-{namespace}" if namespace else NAMESPACE
    options = ["--set", "image.repository=localhost/operator", "--namespace", home]
    if namespace:
        options += ["--set", f"watchNamespaces={{{namespace}}}"]
    command = [str(programs.find("helm")), "template", "llmservice", str(ROOT / "charts" / "llmservice"), *options]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rights = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    wanted = [d for d in yaml.safe_load_all(rendered) if d and d["kind"] in rights]
    plane.kubectl("create", "namespace", home)
    plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(wanted))
    token = eventually(lambda: plane.kubectl("create", "token", ACCOUNT, "-n", home, "--duration=2h").strip())
    config = json.loads(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = folder / "operator-kubeconfig"
    path.write_text(json.dumps(config))
    return path


@dataclass
class Operator:
    """`python -m llmservice_operator` as a process of its own."""

    plane: ControlPlane
    kubeconfig: Path
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        if self.process is not None:
            return
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "LLMSERVICE_HTTP_PORT": "0",
            "LLMSERVICE_ENGINE_IMAGE": "localhost/engine:1",
            "LLMSERVICE_ROUTER_IMAGE": "localhost/router:1",
            **self.env,
        }
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "llmservice_operator"]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.log.parent)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout=20)
            self.process = None

    def writes(self) -> list[str]:
        """What the operator has written so far, as `verb resource namespace/name`."""
        return [f"{w.verb} {w.resource} {w.namespace}/{w.name} {w.code}" for w in self.plane.writes() if w.user == USER]


@dataclass(frozen=True)
class Api:
    """kubectl in one namespace, with parsed answers."""

    plane: ControlPlane
    namespace: str

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def create(self, body: Body) -> None:
        self("create", "-f", "-", stdin=json.dumps(body))

    def patch(self, what: str, name: str, change: Body) -> None:
        self("patch", what, name, "--type=merge", "-p", json.dumps(change))

    def get(self, what: str, name: str) -> Body:
        found: Body = json.loads(self("get", what, name, "-o", "json"))
        return found

    def items(self, what: str, *options: str) -> list[Body]:
        found: list[Body] = json.loads(self("get", what, "-o", "json", *options))["items"]
        return found

    def children(self) -> dict[str, str]:
        """kind/name -> uid of everything that carries our label."""
        kinds = "deploy,svc,sa,role,rolebinding,pdb"
        found = self.items(kinds, "-l", "llmservice.dev/name")
        return {f"{i['kind']}/{i['metadata']['name']}": i["metadata"]["uid"] for i in found}

    def engines(self) -> dict[str, int]:
        """Engine Deployment -> replicas."""
        found = self.items("deploy", "-l", "llmservice.dev/component=engine")
        return {i["metadata"]["name"]: i["spec"]["replicas"] for i in found}

    def condition(self, service: str, kind: str) -> Body:
        conditions = self.get("llmsvc", service).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def row(self, *words: str, service: str = "chat") -> list[str]:
        """What `kubectl get` shows, or nothing while these words are not in it."""
        shown = self("get", "llmsvc", service, "--no-headers").split()
        return shown if set(words) <= set(shown) else []

    def told(self, service: str, kind: str, status: str) -> Body:
        """The condition, or nothing while its status is another."""
        found = self.condition(service, kind)
        return found if found.get("status") == status else {}

    def is_ready(self, service: str = "chat") -> bool:
        return self.condition(service, "Ready").get("status") == "True"

    def events(self, reason: str) -> list[str]:
        return [e["message"] for e in self.items("events") if e["reason"] == reason]


def service(name: str = "chat", **spec: Any) -> Body:
    """The good one with a short interval, and with these parts of its spec replaced."""
    body = copy.deepcopy(GOOD) | {"metadata": {"name": name}}
    body["spec"]["pools"]["decode"]["gpusPerReplica"] = 1
    body["spec"]["scaling"]["interval"] = "5s"
    body["spec"] |= spec
    return body


CLASS = {
    "name": "batch",
    "default": True,
    "ttft": {"target": "1s", "percentile": 80},
    "tbt": {"target": "500ms", "percentile": 95},
}


def measured(url: str, name: str = "chat", **scaling: Any) -> Body:
    """A service whose decode pool serves 20 requests/s per replica by the step times that FakePrometheus recorded."""
    # Nobody answers in pods of fake nodes, so a drain would last until its deadline.
    scaling = {"interval": "5s", "scaleDown": {"stabilization": "0s", "drainDeadline": "0s"}, **scaling}
    return service(name, classes=[CLASS], scaling=scaling, metrics={"prometheusURL": url})


def ready(api: Api, name: str = "chat") -> dict[str, str]:
    """Waits until the service serves; its children."""
    eventually(lambda: api.is_ready(name), 60)
    return api.children()


def engine(api: Api, pool: str) -> str:
    """The one Deployment of the pool."""
    (name,) = [n for n in api.engines() if f"-{pool}-" in n]
    return name
