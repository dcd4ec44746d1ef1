"""Checks of the containers of workers: the runtime answers, the image is there and the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.config.yaml_messages import plain
from orchestrator.preflight.host_facts import Facts, Needs
from orchestrator.preflight.report import Level, Result, agree

__all__ = ["images_agree", "runtimes_answer"]

_NONE = "workers run on the host itself"
_SHORT = 12


def runtimes_answer(needs: Needs, facts: Facts) -> Iterator[Result]:
    """The runtime is there, and this account may use it."""
    for host, fact in facts.items():
        image = fact.probe.image
        if image is None:
            yield Result(host, Level.SKIP, _NONE)
        elif image.runtime_trouble:
            what = plain(f"{image.runtime}: {image.runtime_trouble}")
            remedy = "install it, start it, let this account use it, or set container.runtime"
            yield Result(host, Level.FAIL, what, remedy)
        else:
            yield Result(host, Level.OK, plain(image.runtime))


def images_agree(needs: Needs, facts: Facts) -> Iterator[Result]:
    """The same image on all hosts, with everything that is mounted into it, and a Python inside."""
    digests: dict[str, str | None] = {}
    for host, fact in facts.items():
        image = fact.probe.image
        if image is None:
            yield Result(host, Level.SKIP, _NONE)
            continue
        name = plain(image.image)
        if image.runtime_trouble:
            yield Result(host, Level.SKIP, "not known")
        elif image.image_trouble:
            what = plain(f"no image {name}: {image.image_trouble}")
            remedy = f"pull or load it there (`{plain(image.runtime)} pull {name}`)"
            yield Result(host, Level.FAIL, what, remedy)
        else:
            digests[host] = plain(f"{(image.digest or '')[:_SHORT]} (Python {image.python})")
            if image.inside_trouble:
                yield Result(
                    host,
                    Level.FAIL,
                    plain(f"nothing runs in {name}: {image.inside_trouble}"),
                    "see container.python, container.mounts and container.options",
                )
                del digests[host]
        for path in image.missing_mounts:
            what = plain(f"{path} does not exist, and is to be mounted")
            yield Result(host, Level.FAIL, what, "make it there, or mend container.mounts")
    if digests:
        yield from agree("image", digests, "load the same image on all hosts")
