"""Types added one after another, a few images each (S1, Table V): what the rest and the new one are named as.

As in the paper, training starts from one generator and photographs, and at each step the trained network is fine-tuned
on the few images of all types added so far.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer import bootstrap
from trainer.bootstrap import Estimate
from trainer.plots import curves
from trainer.protocols.corpus import Picture
from trainer.protocols.few_shot import Backbone, draw_seed, few_shot_pool, namer_with
from trainer.protocols.measures import Sample, percent_of
from trainer.protocols.naming import Flags
from trainer.protocols.recipe import Variant
from trainer.protocols.section import Figure, Measured
from trainer.protocols.study import Findings, Study

REST, NEW = "the rest", "the new"


class Settings(BaseModel):
    """What is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, Variant]
    shots: int
    """Images of each new type."""
    orders: int = 1
    """In how many orders types are added; the first is the publication's, each other starts from another generator."""
    summary: bool = False
    """Also the means over all steps and orders, and the worst family."""


def run(study: Study) -> Findings:
    """Tables ``rest`` and ``new``, a column a step; ``summary`` where asked for."""
    settings: Settings = study.settings(Settings)
    tables: dict[str, dict[tuple[str, str], Measured]] = {"rest": {}, "new": {}, "summary": {}}
    lines: dict[str, list[tuple[float, float]]] = {}
    study.test_classes(study.tested.values(), least=2)
    for name, variant in settings.variants.items():
        every: dict[str, list[Estimate]] = {REST: [], NEW: []}
        for number, order in enumerate(orders_of(list(study.generators), settings.orders)):
            row = name if number == 0 else f"{name}, order {number + 1}"
            for step, (rest, new) in enumerate(_steps(study, variant, order, settings.shots)):
                column = f"add {order[step]}" if step else f"{order[0]} + real"
                for part, found in ((REST, rest), (NEW, new)):
                    if found is None:
                        continue
                    table = tables["rest" if part == REST else "new"]
                    table[row, column] = percent_of(found)
                    lines.setdefault(f"{row}: {part}", []).append((step, table[row, column].value))
                    every[part] += [found] if step else []
        for part, estimates in every.items():
            if estimates:
                tables["summary"][name, f"{part}, mean"] = percent_of(bootstrap.average(estimates))
        if every[NEW]:
            tables["summary"][name, f"{NEW}, worst"] = percent_of(bootstrap.worst(every[NEW]))
    pool = min(len(few_shot_pool(study, family)) for family in study.generators.values())
    remarks = (f"Types are added by {pool} images: there are no more.",) if pool < settings.shots else ()
    shown = ["rest", "new", *(["summary"] if settings.summary else [])]
    figure = Figure(title="Accuracy by types added", image=curves(lines, x="types added", y="accuracy, %"))
    tables_shown = tuple(study.recipe.published(name).beside(tables[name]) for name in shown)
    return Findings(tables=tables_shown, figures=(figure,), remarks=remarks)


def orders_of(names: Sequence[str], count: int) -> list[list[str]]:
    """As given; then permutations, each starting from another name."""
    found = [list(names)]
    for number in range(1, count):
        first = names[number % len(names)]
        rest = [name for name in names if name != first]
        found.append([first, *np.random.default_rng(number).permutation(rest).tolist()])
    return found


def _steps(
    study: Study, variant: Variant, order: Sequence[str], shots: int
) -> list[tuple[Estimate | None, Estimate | None]]:
    """(the rest, the new) after each step; None where there are no test images, and at first there is nothing new."""
    families = [study.generators[name] for name in order]
    train = study.corpus.classes(families[:1], "train", study.least(variant))
    val = study.corpus.classes(families[:1], "val", study.scale.val)
    backbones = [(study.train(study.config(variant, seed), train, val), train) for seed in study.seeds_of(variant)]
    return [_step(study, variant, backbones, families[: step + 1], shots) for step in range(len(families))]


def _step(
    study: Study,
    variant: Variant,
    backbones: Sequence[Backbone],
    families: Sequence[str],
    shots: int,
) -> tuple[Estimate | None, Estimate | None]:
    added = dict.fromkeys(families[1:], shots)
    classes = study.corpus.classes(families, "test", study.scale.test)
    newest = families[-1] if added else None
    ours = classes.get(newest, ()) if newest else ()
    rest = [picture for name, pictures in classes.items() if name != newest for picture in pictures]
    draws = study.draws_of(variant)
    right: dict[str, list[list[Flags]]] = {REST: [], NEW: []}
    for seed, backbone in enumerate(backbones):
        namers = [namer_with(study, variant, backbone, added, draw_seed(seed, number)) for number in draws]
        if rest:
            right[REST].append([namer.right(rest) for namer in namers])
        if ours:
            right[NEW].append([namer.right(ours) for namer in namers])

    def mean(part: str, pictures: Sequence[Picture]) -> Estimate | None:
        return (
            None if not pictures else Sample.of(study, pictures, len(backbones), len(draws)).mean(np.array(right[part]))
        )

    return mean(REST, rest), mean(NEW, ours)
