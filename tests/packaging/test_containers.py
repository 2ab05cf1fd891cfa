"""The files of docker/: what they copy, run and promise is there, and they agree with each other.

Covers what can be read without building. `docker/run_without_docker` builds the images and runs jobs in them.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from dataflare.cli.app import EXIT_USAGE, run_command_line

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
JOB = yaml.safe_load((DOCKER / "kubernetes-job.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
IMAGES = ("cpu", "cuda")
CACHE = "/var/cache/dataflare"


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, and the number of the stage that it is in; -1 before the first."""

    stage: int
    name: str
    rest: str


def instructions(image: str) -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / f"{image}.Dockerfile").read_text(), flags=re.MULTILINE)
    found, stage = [], -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name:
            stage += name == "FROM"
            found.append(Instruction(stage, name, rest.strip()))
    return found


def all_of(image: str, name: str) -> list[str]:
    return [found.rest for found in instructions(image) if found.name == name]


def environment(image: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in all_of(image, "ENV") for pair in line.split())


def copied_from_the_repository(image: str) -> set[str]:
    lines = [line.split() for line in all_of(image, "COPY") if not line.startswith("--from=")]
    return {source for *sources, _ in lines for source in sources}


def arguments_are_accepted(arguments: list[str]) -> bool:
    """Run a command whose job is not here: a wrong option ends in SystemExit, a right one in a message."""
    return run_command_line(arguments) in ((EXIT_USAGE,) if arguments[0] == "run" else (0, 1))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_copies_what_the_package_is_made_of(image: str) -> None:
    project = PROJECT["project"]
    folders = set(PROJECT["tool"]["setuptools"]["package-dir"].values())
    needed = {"pyproject.toml", "constraints", project["readme"], *project["license-files"], *folders}
    copied = copied_from_the_repository(image)
    assert copied >= needed
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_is_what_the_context_holds(image: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    allowed = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    assert {name.split("/")[0] for name in copied_from_the_repository(image)} == allowed


@pytest.mark.parametrize("image", IMAGES)
def test_stages_are_there_and_come_from_one_slim_image_of_a_supported_python(image: str) -> None:
    supported = {path.stem.removeprefix("python-") for path in (ROOT / "constraints").glob("python-*.txt")}
    (base,) = (line for line in all_of(image, "ARG") if line.startswith("BASE_IMAGE="))
    match = re.fullmatch(r"BASE_IMAGE=python:(3\.\d+)-slim", base)
    assert match is not None
    assert match[1] in supported
    stages: set[str] = set()
    for found in instructions(image):
        if found.name == "FROM":
            start, _, stage = found.rest.partition(" AS ")
            assert start in {"${BASE_IMAGE}", *stages}
            stages |= {stage} - {""}
        elif found.name == "COPY" and found.rest.startswith("--from="):
            assert found.rest.split()[0].removeprefix("--from=") in stages


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_the_command_as_a_user_without_rights(image: str) -> None:
    (user,) = set(all_of(image, "USER"))
    security = POD["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert security["runAsUser"] == security["fsGroup"] >= 1000
    assert f"groupadd --gid {user.split(':')[1]}" in " ".join(all_of(image, "RUN"))
    (entry,) = all_of(image, "ENTRYPOINT")
    (command,) = all_of(image, "CMD")
    assert json.loads(entry) == list(PROJECT["project"]["scripts"])
    assert arguments_are_accepted(json.loads(command))


@pytest.mark.parametrize("image", IMAGES)
def test_the_health_check_is_doctor(image: str) -> None:
    (check,) = all_of(image, "HEALTHCHECK")
    command = json.loads(check.partition(" CMD ")[2])
    assert command[:2] == ["dataflare", "doctor"]
    assert (command[2:] == ["--require", "cuda"]) == (image == "cuda")
    assert arguments_are_accepted(command[1:])


@pytest.mark.parametrize("image", IMAGES)
def test_the_compile_cache_is_seeded_and_can_be_written(image: str) -> None:
    assert environment(image)["DATAFLARE_CACHE_DIR"] == CACHE
    assert [json.loads(line) for line in all_of(image, "VOLUME")] == [[CACHE]]
    assert f"--from=seed --chown=10001:10001 {CACHE} {CACHE}" in all_of(image, "COPY")
    last = max(found.stage for found in instructions(image))
    # What a stage writes below a volume that it has declared is lost.
    assert [found.stage for found in instructions(image) if found.name == "VOLUME"] == [last]
    names = [found.name for found in instructions(image) if found.stage == last]
    assert names.index("COPY") < names.index("VOLUME")
    others = {
        name for name, value in environment(image).items() if name.endswith(("_CACHE_DIR", "_CACHE_PATH"))
    }
    assert [name for name in others if not environment(image)[name].startswith(CACHE)] == []


def test_the_images_differ_in_what_a_gpu_needs() -> None:
    def without_gpu(line: str) -> str:
        for text in ('".[cuda$CUDA]"', ', "--require", "cuda"'):
            line = line.replace(text, "." if text.startswith('"') else "")
        return re.sub(r" (CUPY_CACHE_DIR|CUDA_CACHE_PATH|NVIDIA_\w+)=\S+", "", line)

    cuda = [(stage, name, without_gpu(rest)) for stage, name, rest in instructions("cuda")]
    assert [line for line in cuda if not (line[1] == "ARG" and line[2].startswith("CUDA"))] == instructions(
        "cpu"
    )
    (default,) = re.findall(r"^ARG CUDA=(\d+)$", (DOCKER / "cuda.Dockerfile").read_text(), re.MULTILINE)
    assert f"cuda{default}" in PROJECT["project"]["optional-dependencies"]
    variables = environment("cuda")
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


@pytest.mark.parametrize("image", IMAGES)
def test_compose_builds_each_image_and_locks_it(image: str) -> None:
    service = COMPOSE["services"][image]
    build = service["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / f"{image}.Dockerfile"
    assert service["image"] == f"dataflare:{image}"
    assert service["init"] is service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("gpus") == ("all" if image == "cuda" else None)
    assert arguments_are_accepted(service["command"])
    mounts = dict(volume.split(":")[1::-1] for volume in service["volumes"])
    assert mounts.keys() == {"/jobs", *all_of(image, "WORKDIR")[1:], CACHE}
    assert (DOCKER / mounts.pop("/jobs")).resolve() == ROOT / "examples"
    assert set(mounts.values()) <= COMPOSE["volumes"].keys()


def test_images_share_no_compile_cache() -> None:
    caches = [
        volume for image in IMAGES for volume in COMPOSE["services"][image]["volumes"] if CACHE in volume
    ]
    assert len(set(caches)) == len(IMAGES)


def containers() -> list[dict[str, Any]]:
    return [*POD["initContainers"], *POD["containers"]]


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_every_container_of_the_kubernetes_job_is_locked(container: dict[str, Any]) -> None:
    assert container["image"] == COMPOSE["services"]["cuda"]["image"]
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["name"] for mount in container["volumeMounts"]} <= {v["name"] for v in POD["volumes"]}
    if "args" in container:
        assert arguments_are_accepted(container["args"])
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert CACHE in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_kubernetes_job_is_not_tried_again_where_that_cannot_help() -> None:
    (main,) = POD["containers"]
    assert POD["restartPolicy"] == "Never"  # a condition of podFailurePolicy
    fail, _ = JOB["spec"]["podFailurePolicy"]["rules"]
    wrong = {"containerName": main["name"], "operator": "In", "values": [EXIT_USAGE]}
    assert (fail["action"], fail["onExitCodes"]) == ("FailJob", wrong)
    (seed, *_) = POD["initContainers"]
    assert seed["command"] == ["cp", "-r", f"{CACHE}/.", seed["volumeMounts"][0]["mountPath"]]
    assert POD["securityContext"]["runAsNonRoot"] is True


def test_the_script_says_how_it_is_used() -> None:
    script = DOCKER / "run_without_docker"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    wrong = subprocess.run([script, "--nonsense"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("usage: docker/run_without_docker")


def test_texts_name_files_of_docker_that_are_there() -> None:
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *DOCKER.iterdir()]
    named = {name for path in texts for name in re.findall(r"\bdocker/[\w.-]*\w", path.read_text())}
    assert named >= {f"docker/{path.name}" for path in DOCKER.iterdir()}
    assert [name for name in named if not (ROOT / name).is_file()] == []
