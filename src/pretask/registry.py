"""From a method's name to the task: the one place that imports method modules."""

import importlib
from typing import Any, Literal

from torch import nn

from pretask import catalog, config
from pretask.task import PretextTask


def task_class(slug: str) -> type[PretextTask]:
    module, _, name = catalog.find(slug).path.partition(":")
    return getattr(importlib.import_module(module), name)


def build_task(slugs: str, encoder: nn.Module, options: dict[str, Any] | None = None) -> PretextTask:
    """The task a name stands for; `mae+rotation` trains both on one encoder.

    Args:
        slugs: a slug, or several joined by `+`.
        encoder: what is to be trained.
        options: constructor arguments; for a joint task prefixed by the slug (`mae.mask_ratio`), except for
            its own `balance` (`sum` or `pareto`).

    Raises:
        UsageError: an unknown method or option, or a value of the wrong type.
    """
    from pretask.methods.joint import Joint

    given = dict(options or {})
    names = slugs.split("+")
    if len(names) == 1:
        return task_class(slugs)(encoder, **config.check(slugs, given))
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    balance = config.parse(given.pop("balance", "sum"), Literal["sum", "pareto"], "balance")
    for key, value in given.items():
        slug, dot, option = key.partition(".")
        if not dot or slug not in own:
            raise config.UsageError(
                f"'{key}': in a joint task write METHOD.option with METHOD one of {', '.join(names)}"
            )
        own[slug][option] = value
    tasks = {name: task_class(name)(encoder, **config.check(name, own[name])) for name in names}
    return Joint(tasks, balance)
