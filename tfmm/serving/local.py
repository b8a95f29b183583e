"""A model that answers in this process, with the calls of `tfmm.serving.client.Client`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfmm.serving.queries import RECOMMEND, Answer, Query, build_request, read_answers
from tfmm.serving.servable import Servable, load_servable, predict
from tfmm.serving.versions import newest_version


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """A loaded SavedModel; see `load_model`."""

    servable: Servable

    def predict(self, inputs: Mapping[str, np.ndarray], *, signature: str = RECOMMEND) -> dict[str, np.ndarray]:
        """Returns output name -> array, as a server would."""
        return predict(self.servable, signature, inputs)

    def recommend(self, **query: Any) -> Answer:
        """Returns (item id, score), best first, for one query; the arguments are the fields of `Query`."""
        return self.recommend_batch([Query(**query)])[0]

    def recommend_batch(self, queries: Sequence[Query], *, signature: str = RECOMMEND) -> list[Answer]:
        """Returns one answer per query, computed in one call."""
        return read_answers(self.predict(build_request(queries), signature=signature)) if queries else []


def load_model(saved_models: Path, *, name: str = "tfmm") -> LocalModel:
    """Returns the newest version under `saved_models/name`, loaded; also takes the directory of one version.

    Raises:
        FileNotFoundError: where there is no version.
    """
    saved_models = Path(saved_models)
    one_version = (saved_models / "saved_model.pb").is_file()
    return LocalModel(load_servable(saved_models if one_version else newest_version(saved_models / name)))
