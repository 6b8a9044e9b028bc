"""Loads the model that the server answers with."""

from __future__ import annotations

from bcd.config.serve import ServeConfig
from bcd.serving.engine.queue import Engine


def load_engine(cfg: ServeConfig) -> Engine:
    """Loads the model and checks that it answers as it should.

    Args:
        cfg: Checked configuration.

    Raises:
        BcdError: There is no such model; it has not the expected sha256 or signature, no decision
            policy or no card; or it does not answer as when it was exported.
        ConfigError: `verify` is given for a checkpoint.
    """
    raise NotImplementedError
