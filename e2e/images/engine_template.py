"""What an LLMService needs to run its engines from this machine's own files: pod template, environment, arguments.

Everything is mounted read-only at the path it has on this machine, so that links and start scripts inside the engine
environment stay true. The nodes see the machine's files below /host (host_mounts.py of e2e/cluster). Real clusters need
none of this: there the engine image holds vLLM.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.cluster.host_mounts import PREFIX
from e2e.engine import env, models
from e2e.images import accounts, wheel

CONTAINER = "engine"
RESOURCES = {
    # A pod that starts would take both cores, and the paced steps of the others would overrun: so a limit.
    "requests": {"cpu": "200m", "memory": "1Gi"},
    "limits": {"cpu": "800m", "memory": "3Gi"},
}


def folders() -> list[Path]:
    """The machine's folders that engine pods read; every node must show each of them below PREFIX."""
    python = env.interpreter().parents[1]
    return [
        Path("/usr"),
        *([] if python.is_relative_to("/usr") else [python]),
        env.home().parent,
        models.path(models.TINY).parent,
    ]


def engine_template() -> dict[str, Any]:
    """A partial pod template for `spec.pools.*.template`; the operator merges its own parts into it."""
    return {
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": accounts.UID, "runAsGroup": accounts.UID},
            "containers": [
                {
                    "name": CONTAINER,
                    "imagePullPolicy": "IfNotPresent",
                    "resources": RESOURCES,
                    "volumeMounts": [_mount(folder) for folder in folders()],
                }
            ],
            "volumes": [_volume(folder) for folder in folders()],
        }
    }


def _mount(folder: Path) -> dict[str, Any]:
    return {"name": _volume_name(folder), "mountPath": str(folder), "readOnly": True}


def _volume(folder: Path) -> dict[str, Any]:
    path = PREFIX / folder.resolve().relative_to("/")
    return {"name": _volume_name(folder), "hostPath": {"path": str(path), "type": "Directory"}}


def _volume_name(folder: Path) -> str:
    return "host-" + "".join(char if char.isalnum() else "-" for char in folder.name.lower())


def engine_env(**more: str) -> list[dict[str, str]]:
    """For `spec.engine.env`: where programs lie, no network, and the settings that two CPU cores need."""
    values = {
        "PATH": f"{env.home() / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"/{wheel.HOME}",
        "PYTHONSAFEPATH": "1",
        "HOME": "/tmp",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        # A spawned engine process imports torch and vLLM once more: 27 s of CPU to Ready instead of 18 s.
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "fork",
        **more,
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def engine_args() -> list[str]:
    """For `spec.engine.args`: no compilation, blocks that CPU kernels accept. Type and KV size go with the model."""
    return ["--enforce-eager", "--block-size=32"]


def model_path(name: str) -> str:
    """For `spec.model.name`: the model's folder, the same path on this machine and in the pod."""
    return str(models.ensure(name))
