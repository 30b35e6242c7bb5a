"""Engines that label partitions: this process, or workers of Ray Data. Either runs the same [`Job`] with the same pipeline."""

import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import Pipeline

from ..loading import load_pipeline
from ..output_folder import describe_model, weights_fingerprint
from ..rows import Row, answer_rows
from .output import LabelFolder


ATTEMPTS = 3  # at a partition whose worker dies
WORKING_MEMORY = 1.5  # of a worker, times that of a process that has loaded the model
MOST_BLOCKS = 2000  # that partitions are handed out in, one after the other each; Ray needs memory for them
Partition = tuple[int, Any]  # its number, and what the source says of it
Note = Callable[[str], None]


@dataclass(frozen=True)
class ModelChoice:
    """
    A model, and how it is asked.

    Attributes:
        model (`str`): Folder or Hub id, "bundled" or "bundled-zero-shot".
        revision (`str`, *optional*): Branch, tag or commit.
        dtype (`str`, *optional*): Such as "bfloat16"; by default the checkpoint's.
        device (`str`, *optional*): By default the first accelerator.
        options (`dict`): Options of the pipeline's call, such as `threshold`.
    """

    model: str = "bundled"
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def load(self, note: Note = lambda message: None) -> Pipeline:
        given = {"revision": self.revision, "dtype": self.dtype}
        chosen = {name: value for name, value in given.items() if value is not None}
        return load_pipeline(self.model, self.device, note=note, **chosen, **self.options)


@dataclass(frozen=True)
class Workers:
    """
    Where the work is done.

    Attributes:
        least, most (`int`, *optional*): Numbers of workers between which Ray chooses; each has a model of its own. 0 and 0 are this
            process, without Ray. By default there is one for each GPU, or as many as the CPU cores allow; this process does the
            work where Ray is not installed.
        cores (`int`, *optional*): CPU cores of a worker. Without GPUs 1, the highest throughput per core; with GPUs their share.
        address (`str`, *optional*): A cluster of Ray, such as "auto" or "10.0.0.1:6379". By default that of the variable
            `RAY_ADDRESS`, or Ray is started on this machine.
        gpus (`float`, *optional*): GPUs of a worker, by default 1 where the cluster has any; with 0.5 two share one.
    """

    least: int | None = None
    most: int | None = None
    cores: int | None = None
    address: str | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if (self.least is None) != (self.most is None) or not 0 <= (self.least or 0) <= (self.most or 0):
            raise ValueError(
                f"`workers` must be a number or two, the smaller first, got {self.least} and {self.most}."
            )
        if self.most == 0 and (self.cores or self.address or self.gpus):
            raise ValueError("`cores`, `gpus` and `address` must be left out without workers.")


@dataclass(frozen=True)
class Job:
    """
    All that is needed to label any partition. It can be pickled.

    Attributes:
        read (`Callable`): Reads a partition's rows; see [`Source`].
        folder ([`LabelFolder`]): Where labels go.
        choice ([`ModelChoice`]): The model.
        described (`dict`): See [`describe_model`].
        batch_size (`int`): See [`answer_rows`].
        num_workers (`int`, *optional*): Likewise; by default 2 beside a GPU, and none without: they would take the model's cores.
    """

    read: Callable[[Any], Iterator[Row]]
    folder: LabelFolder
    choice: ModelChoice
    described: dict[str, Any]
    batch_size: int
    num_workers: int | None

    def run(self, ris: Pipeline, partition: Partition) -> dict[str, int]:
        """
        Label a partition, and write it.

        Returns:
            `dict[str, int]`: Its `number`, and how many `rows` it has and how many of these `failed`.
        """
        number, content = partition
        num_workers = self.num_workers
        if num_workers is None:
            num_workers = 0 if ris.device.type == "cpu" else 2
        answers = answer_rows(ris, self.read(content), self.batch_size, num_workers)
        model = {name: self.described[name] for name in ("model", "revision")}
        try:
            return self.folder.write(number, answers, model)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"The device's memory does not suffice for {self.batch_size} images at a time; lower `batch_size`."
            ) from error


class InProcess:
    """Labels one partition after the other."""

    def __init__(self, choice: ModelChoice, note: Note) -> None:
        self.ris = choice.load(note)

    def describe(self) -> dict[str, Any]:
        return describe_model(self.ris)

    def run(self, job: Job, partitions: Sequence[Partition]) -> Iterator[dict[str, int]]:
        """Label partitions, and yield the counts of each."""
        for partition in partitions:
            yield job.run(self.ris, partition)


class OnRay:
    """Labels partitions in Ray Data's workers. Neither images nor labels pass through this process."""

    def __init__(self, choice: ModelChoice, workers: Workers, is_local: bool, note: Note) -> None:
        import ray

        self.choice = choice
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores, gpus = (int(sum(node.get(name, 0) for node in nodes)) for name in ("CPU", "GPU"))
        by_default = 1.0 if gpus and choice.device != "cpu" else 0.0
        self.gpus: float = by_default if workers.gpus is None else workers.gpus
        fitting = int(gpus / self.gpus) if self.gpus else cores // (workers.cores or 1)
        self.most = max(1, fitting) if workers.most is None else workers.most
        self.least = self.most if workers.least is None else workers.least
        largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU", "memory")}
        share = max(1, min(int(largest["CPU"]), cores // self.most)) if self.gpus else 1
        self.cores = workers.cores or share
        self.most_memory = 0.9 * largest["memory"]
        self.memory = 0.0  # bytes of a worker, once the model is known
        if self.cores > largest["CPU"] or self.gpus > largest["GPU"]:
            lacking = f"a worker needs cores: {self.cores}, GPUs: {self.gpus:g}; the largest node has {largest['CPU']:g} and {largest['GPU']:g}"
            if is_local:
                raise ValueError(f"`workers` must fit this machine: {lacking}.")
            note(f"waiting for the cluster to grow: {lacking}")
        several = f"{self.least} to {self.most}" if self.least < self.most else str(self.most)
        gpu = f", GPUs: {self.gpus:g}" if self.gpus else ""
        note(f"Ray: nodes: {len(nodes)}, workers: {several}, each with cores: {self.cores}{gpu}")

    def describe(self) -> dict[str, Any]:
        import ray

        # In a process that ends with it: the model must not take a worker's memory. This one never loads it.
        load = ray.remote(num_cpus=self.cores, num_gpus=self.gpus, max_calls=1, max_retries=1)(_describe)
        described, memory = _unpack(ray.get(load.remote(self.choice)))
        self.memory = min(WORKING_MEMORY * memory, self.most_memory)
        return described

    def run(self, job: Job, partitions: Sequence[Partition]) -> Iterator[dict[str, int]]:
        """Label partitions, and yield the counts of each, in the order in which they are done; none of one that workers died of."""
        import ray

        if not partitions:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        rows = ray.data.from_items(
            [{"partition": pickle.dumps(partition)} for partition in partitions],
            override_num_blocks=min(len(partitions), max(MOST_BLOCKS, 32 * self.most)),
        )
        counts = rows.map_batches(
            _Worker,
            fn_constructor_args=(job, self.cores),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=self.least, max_size=self.most),
            num_cpus=self.cores,
            num_gpus=self.gpus,
            memory=self.memory,  # so that there are no more workers on a node than it has memory for
        )
        try:
            for row in counts.iter_rows():
                if (answer := _unpack(row["answer"])) is not None:
                    yield answer
        except ray.exceptions.RayError as error:  # workers that cannot start, or an error that none should have
            raise OSError(f"a worker failed: {error}") from error
        job.folder.forget_attempts()


class _Worker:
    """Keeps a pipeline in a process of Ray, and labels partition after partition."""

    def __init__(self, job: Job, cores: int) -> None:
        self.job = job
        torch.set_num_threads(cores)

    @cached_property
    def ris(self) -> Pipeline:  # loaded with the first partition, so that its errors come as answers
        ris = self.job.choice.load()
        if weights_fingerprint(ris.model) != self.job.described["weights"]:
            raise ValueError(
                f"`model` must be the same for all workers; {self.job.choice.model!r} has other weights on {socket.gethostname()}."
            )
        return ris

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"answer": [_pack(self._label, each) for each in batch["partition"]]}

    def _label(self, pickled: bytes) -> dict[str, int] | None:
        """Label a partition that is not written yet, unless too many workers died of it: Ray starts others without end."""
        partition = pickle.loads(pickled)
        number, folder = partition[0], self.job.folder
        if folder.has(number):  # by a worker that died afterwards, of another partition that it was handed with it
            return folder.counts([number])[number]
        if folder.count_attempt(number) > ATTEMPTS:
            return None
        counts = self.job.run(self.ris, partition)
        folder.forget_attempts(number)
        return counts


def _describe(choice: ModelChoice) -> bytes:
    """Describe a model, and measure the bytes of a process that has loaded it."""

    import resource  # which Windows lacks

    def load() -> tuple[dict[str, Any], int]:
        described = describe_model(choice.load())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return described, peak if sys.platform == "darwin" else peak * 1024

    return _pack(load)


def _pack(function: Callable[..., Any], *arguments: Any) -> bytes:
    """Pickle a function's result, or an error that says what is wrong. Others become Ray's, with their traceback."""
    try:
        return pickle.dumps(function(*arguments))
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        kind = next(each for each in type(error).__mro__ if each.__module__ == "builtins")  # others may not unpickle
        return pickle.dumps(kind(str(error)))


def _unpack(answer: bytes) -> Any:
    result = pickle.loads(answer)
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def open_engine(choice: ModelChoice, workers: Workers, note: Note) -> Iterator[InProcess | OnRay]:
    """
    Choose what labels partitions. Ray is started if it is not, and then ended.

    Raises:
        ImportError: If workers are asked for, and Ray is not installed.
        ValueError: If there is no cluster at the address.
    """
    if workers.most == 0:
        yield InProcess(choice, note)
        return
    try:
        import ray
        import ray.data
    except ImportError as error:
        if workers.most or workers.cores or workers.address or workers.gpus:
            raise ImportError(
                'Ray is needed for workers, and is not installed: `pip install "hf_ris[scale]"`.'
            ) from error
        note("Ray is not installed: labelling in this process")
        yield InProcess(choice, note)
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    is_mine = not ray.is_initialized()
    address = workers.address or os.environ.get("RAY_ADDRESS") or "local"
    if is_mine:
        note("starting Ray ..." if address == "local" else f"joining the cluster at {address} ...")
        here: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ValueError(f"`address` must be that of a cluster of Ray, got {address!r}: {error}") from error
    try:
        yield OnRay(choice, workers, is_mine and address == "local", note)
    finally:
        if is_mine:
            ray.shutdown()


__all__ = ["ATTEMPTS", "Job", "ModelChoice", "Workers", "open_engine"]
