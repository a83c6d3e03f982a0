"""The recorder of `recording`: sees every operator that a function calls, and writes down what has to be done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .dispatch import kernels_for, run_reference
from .spec import SPECS

EMPTY = frozenset(
    ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided")
)


class NotRecordableError(ValueError):
    """The function does what a recording cannot do again; the message says what."""


@dataclass(frozen=True)
class View:
    """A tensor without its memory."""

    storage: int  # its number in the recording
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def on(self, memory: torch.UntypedStorage, begin: int) -> Tensor:
        """The tensor, its storage's first byte being there."""
        empty = torch.empty(0, dtype=self.dtype)
        return empty.set_(memory, begin // self.dtype.itemsize + self.offset, self.size, self.stride)


@dataclass
class Storage:
    size: int  # bytes
    seen: StorageWeakRef  # as long as it is there, no other storage has the same address
    made: bool  # by a step, of the same things at each call
    value: torch.UntypedStorage | None = None  # kept where it may not depend on the input


@dataclass(frozen=True)
class Step:
    operator: Any
    args: tuple[Any, ...]  # tensors are views
    kwargs: dict[str, Any]
    results: tuple[View, ...]
    writes: frozenset[int]  # storages, made or written to; a view makes none
    reads: frozenset[int]  # storages of all arguments
    moves: bool  # whether anything is computed or copied: a view has been made for good


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, every operator's call becomes a `Step`, and every memory that one touches a `Storage`."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.storages: list[Storage] = []
        self._numbers: dict[int, int] = {}  # of storages by address
        self.input = self.view(given)
        self._varying = {self.input.storage}
        self._random: set[int] = set()
        self._lifted: set[int] = set()  # storages of torch.tensor(...) and the like, made without a step

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch would import its compiler, which takes a second

    def view(self, x: Tensor, made: bool = False) -> View:
        if x.is_conj() or x.is_neg():
            raise NotRecordableError("it has complex numbers whose sign is turned when they are read")
        storage = x.untyped_storage()
        number = self._numbers.get(storage._cdata)
        if number is None:
            number = self._numbers[storage._cdata] = len(self.storages)
            kept = None if made or not self.storages else storage
            seen = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self.storages.append(Storage(storage.nbytes(), seen, made, kept))
        self.storages[number].size = max(self.storages[number].size, storage.nbytes())  # resize_, or `out`
        return View(number, x.dtype, tuple(x.shape), tuple(x.stride()), int(x.storage_offset()))

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operator._schema.name
        spec = SPECS.get(name.removeprefix("lightsr::"))
        if spec is not None and operator is spec.op.default:
            kernels = kernels_for(spec, args)
            with self:  # what the op is made of
                return run_reference(spec, *args) if kernels is None else kernels.forward(*args)
        given: Any = mapped((args, kwargs), self.view)
        read = frozenset(each.storage for each in all_of(given, View))
        random = torch.Tag.nondeterministic_seeded in operator.tags
        varies = random or not read.isdisjoint(self._varying)
        written = {each.storage for each in all_of(mapped(_written(operator, args, kwargs), self.view), View)}
        self._refuse(operator, args, varies, written)
        if name == "aten::lift_fresh":
            self._lifted |= read
        # What our kernels would compute nobody sees: the memory for it stays untouched, and that takes no time.
        result = None if varies and _is_raw(operator) else operator(*args, **kwargs)
        before = len(self.storages)
        results = tuple(self.view(each, made=True) for each in all_of(result, Tensor))
        writes = frozenset(written | {each.storage for each in results if each.storage >= before})
        if varies:
            self._varying |= writes
        elif name not in EMPTY:
            self._keep(all_of((result, args, kwargs), Tensor), writes)
        moves = bool(writes) and name not in EMPTY and torch.Tag.inplace_view not in operator.tags
        self.steps.append(Step(operator, given[0], given[1], results, writes, read, moves))
        if random:
            self._random |= writes
        return result

    def _keep(self, tensors: Iterator[Any], numbers: frozenset[int]) -> None:
        for each in tensors:
            number = self._numbers[each.untyped_storage()._cdata]
            if number in numbers:
                self.storages[number].value = each.untyped_storage()

    def varying(self) -> set[int]:
        """Storages that hold something else at each call, or in the course of one.

        Also what is cleared first and then added to, and what is changed after it was read.
        """
        found = {self.input.storage} | self._random
        while True:
            before = len(found)
            read: set[int] = set()
            for step in self.steps:
                if found.isdisjoint(step.reads | step.writes):
                    found |= step.writes & read
                else:
                    found |= step.writes
                    read |= step.reads
            if len(found) == before:
                return found

    def _refuse(self, operator: Any, args: Sequence[Any], varies: bool, written: set[int]) -> None:
        """Raises where what an operator does cannot be done again."""
        name, tags = operator._schema.name, operator.tags
        kept = {number for number in written if not self.storages[number].made} - self._lifted - {self.input.storage}
        # Its schema does not say that it writes to running statistics.
        if kept or (name == "aten::native_batch_norm" and args[3] is not None and args[5]):
            raise NotRecordableError("it changes a tensor of its own, such as running statistics")
        masked = any(each.dtype in (torch.bool, torch.uint8) for each in all_of(args[1:], Tensor))
        sized = torch.Tag.dynamic_output_shape in tags and (name != "aten::index" or masked)
        if varies and (sized or torch.Tag.data_dependent_output in tags):
            raise NotRecordableError(f"what it does depends on values ({name})")

    def refuse_reading(self, x: Tensor) -> None:
        """Raises where numbers that vary leave for Python, or NumPy."""
        if self._numbers.get(x.untyped_storage()._cdata) in self._varying:
            raise NotRecordableError("what it does depends on values, which it reads")


class Reading(TorchFunctionMode):
    """Sees what reads numbers past the operators."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            self._recorder.refuse_reading(args[0])
        return function(*args, **(kwargs or {}))


def _is_raw(operator: Any) -> bool:
    """Whether it is one of `native.raw_operator`, which have no result but what they write into arguments."""
    return bool(operator.namespace == "lightsr" and not operator._schema.returns)


def _written(operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operator writes to."""
    found = []
    for place, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[place] if place < len(args) else kwargs.get(argument.name))
    return found


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with its tensors, or views, changed."""
    if isinstance(value, Tensor | View):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([mapped(each, change) for each in value])
    return value


def all_of(value: Any, kind: type) -> Iterator[Any]:
    """The tensors, or views, in `value`."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        yield from all_of(list(value.values()), kind)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from all_of(each, kind)
