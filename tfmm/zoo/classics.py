"""The report's own baselines, as systems of the zoo: the same functions, settings and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tfmm import evaluation
from tfmm.zoo.data import Data
from tfmm.zoo.fitted import Fitted


@dataclasses.dataclass(frozen=True)
class ClassicConfig:
    """Nothing to set: settings are those of `evaluation.baseline_choices` that validation finds best."""


def classic(name: str) -> Callable[[Data, ClassicConfig], Fitted]:
    """Returns what fits the baseline of that name.

    - popularity: the number of events of an item.
    - recent_popularity: the same, an event counting half as much for every half-life of its age.
    - item_knn: sum over the history of decay^age times shrunk cosine (Sarwar et al. 2001).
    - ease: sum over the history of decay^age times EASE's weights (Steck 2019); validation may choose a decay of 1.
    - transitions: ridge regression of the next new item on the decayed history (Choi et al. 2021), with content where
      validation finds that better.
    """

    def fit(data: Data, config: ClassicConfig) -> Fitted:
        choices = evaluation.baseline_choices(
            data.events,
            num_users=data.num_users,
            num_items=data.num_items,
            content=data.items.content_rows(),
            launched=data.launched,
        )
        best = evaluation.best_choice(choices[name], data.validation)
        return Fitted(best, best.settings)

    return fit
