"""Runs a command under Hydra; errors are printed as one line and give an exit status."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from bcd.cli.overrides import go_on_in_place, refused_key, unknown_key, with_plus
from bcd.cli.paths import quote_paths
from bcd.config.environment import use_own_folders
from bcd.errors import BcdError, ConfigError, foreseen


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Imports without garbage collection.

    Importing torch and lightning makes a million objects that are never freed. Collecting garbage
    among them repeatedly takes a quarter of the time of the imports, and again at exit.
    """
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # a second trial imports nothing, and its objects are garbage
            gc.freeze()
        gc.enable()


def run(
    task: Callable[..., int],
    config_name: str,
    conf: Path,
    trial: Callable[..., float] | None = None,
    verb: str = "",
) -> NoReturn:
    """Runs `task(cfg)` under Hydra and exits with its status.

    Args:
        task: Takes the composed configuration, returns an exit status.
        config_name: Name of the primary YAML file in `conf`.
        conf: Folder of the configuration.
        trial: What each job of a multirun runs instead of `task`, if it differs: takes the composed
            configuration, returns the value that a search optimizes.
        verb: The verb that was removed from the command line; empty if there was none.
    """
    import hydra

    wants_trace = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    # With this set, Hydra passes exceptions on; otherwise it prints several lines of its own.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    use_own_folders()
    _quieten()
    decorate = hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)
    try:
        sys.argv[1:] = quote_paths(go_on_in_place(sys.argv[1:]), config_name)

        def start() -> None:
            if not {"--help", "-h"}.isdisjoint(sys.argv):
                _help(task, config_name, conf)
            decorate(OUTCOME.of(task, trial, verb))()

        _with_arguments(start, config_name, conf)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        if wants_trace:
            raise
        plain = explain(error, config_name, conf)
        if plain is None:
            _fail(unforeseen(error), 1)
        else:
            _fail(str(plain), plain.status)
    gc.freeze()
    sys.exit(OUTCOME.status)


def run_plain(task: Callable[[], int]) -> NoReturn:
    """Runs a command that takes no configuration, and exits with its status."""
    use_own_folders()
    _quieten()
    try:
        status = task()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        known = foreseen(error)
        if known is None:
            raise
        _fail(str(known), known.status)
    sys.exit(status)


def _with_arguments(start: Callable[[], None], config_name: str, conf: Path) -> None:
    """Starts, and starts again with a `+` before an argument that Hydra refused without it.

    The class that takes the argument is imported only then, because that takes long.
    """
    from hydra.errors import ConfigCompositionException

    while True:
        try:
            return start()
        except ConfigCompositionException as error:
            arguments = with_plus(sys.argv[1:], str(error), config_name, conf)
            if arguments is None:
                raise
            sys.argv[1:] = arguments


def _help(task: Callable[..., int], config_name: str, conf: Path) -> NoReturn:
    from bcd.cli.help import usage

    description = sys.modules[task.__module__].__doc__ or ""
    overrides = [a for a in sys.argv[1:] if not a.startswith("-")]
    with contextlib.suppress(BrokenPipeError):  # as in `--help | head`
        print(usage(description, overrides, config_name, conf), flush=True)  # noqa: T201
        sys.exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
    sys.exit(0)


def explain(error: Exception, config_name: str, conf: Path) -> BcdError | None:
    """Turns an exception into an error of one line; None for an unexpected exception."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    from bcd.config.check import first_line

    if known := foreseen(error):
        return known
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"{error.override}: cannot be parsed as key=value; quote values with special "
            """characters, as in 'data.root="a [b]"'"""
        )
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = first_line(error)
    if key := refused_key(text):
        return ConfigError(unknown_key(key, sys.argv[1:], config_name, conf))
    if match := re.search(r"[Cc]ould not (?:find|override) '([^']+)'", text):
        return ConfigError(_unknown_choice(match.group(1), conf))
    return ConfigError(text)


# Hydra plugins that are separate packages.
_PLUGINS = {
    "hydra/sweeper/optuna": "hydra-optuna-sweeper",
    "hydra/sweeper/sampler/tpe": "hydra-optuna-sweeper",
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
}


def _unknown_choice(name: str, conf: Path) -> str:
    from bcd.config.check import nearest

    group, _, choice = name.rpartition("/")
    if name in _PLUGINS:
        return f"{group}={choice} needs a package: pip install {_PLUGINS[name]}"
    if group.startswith("hydra/"):
        return f"{group}={choice}: no such choice{nearest(name, _PLUGINS)}"
    options = sorted(p.stem for p in (conf / group).glob("*.yaml")) if group else []
    if not options:
        groups = sorted(p.name for p in conf.iterdir() if p.is_dir())
        return f"{name}: no such group{nearest(name, groups)}"
    return f"{group}={choice}: choose {', '.join(options)}{nearest(choice, options)}"


class _Outcome:
    """The highest status of the jobs that Hydra runs; expected errors are printed, not raised.

    Hydra would print another line for an exception, and a sweep would end with the first one.
    """

    def __init__(self) -> None:
        self.status = 0

    def of(
        self, task: Callable[..., int], trial: Callable[..., float] | None, verb: str = ""
    ) -> Callable[..., float]:
        """Wraps a task as the job that Hydra runs; see `run` for the arguments."""

        @functools.wraps(task)
        def job(cfg: object) -> float:
            with _as_typed(verb):
                return checked(cfg)

        def checked(cfg: object) -> float:
            if trial is not None and _in_multirun():
                _quieten()  # the job may run in another process
                return trial(cfg)
            try:
                status = task(cfg)
            except Exception as error:
                known = foreseen(error)
                if known is None:
                    raise
                status = known.status
                tell(str(known))
            _drop_empty_folder()
            self.add(status)
            return status

        return job

    def add(self, status: int) -> None:
        """Records the status of a job, or of a callback after the jobs."""
        self.status = max(self.status, status)


OUTCOME = _Outcome()  # of this process, in which Hydra's callbacks run as well


@contextlib.contextmanager
def _as_typed(verb: str) -> Iterator[None]:
    """Puts the verb back on the command line, from which Lightning starts further processes."""
    given = list(sys.argv)
    sys.argv[1:1] = [verb] if verb else []
    try:
        yield
    finally:
        sys.argv[:] = given


def _in_multirun() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _drop_empty_folder() -> None:
    """Removes the run folder that Hydra made if it is empty.

    For example because the run failed at once, or because this is not its first process.
    """
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    with contextlib.suppress(OSError):
        folder.rmdir()
        for parent in folder.parents[:2]:  # outputs/<verb>, outputs
            if parent.is_relative_to(Path.cwd() / "outputs"):
                parent.rmdir()


def unforeseen(error: Exception) -> str:
    """The line for an exception that `explain` does not cover."""
    from bcd.config.check import first_line

    hint = "set HYDRA_FULL_ERROR=1 for the traceback"
    return f"{type(error).__name__}: {first_line(error)} ({hint})"


def _fail(line: str, status: int) -> NoReturn:
    tell(line)
    sys.exit(status)


def tell(line: str) -> None:
    """Prints an error to standard error."""
    print(f"error: {line}", file=sys.stderr, flush=True)  # noqa: T201


def _quieten() -> None:
    """Hides library warnings that users cannot act on."""
    patterns = (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*in eval mode at the start of training.*",  # on purpose for the frozen layers
        ".*exists and is not empty.*",  # the checkpoint folder of a resumed run
    )
    for pattern in patterns:
        warnings.filterwarnings("ignore", pattern)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
