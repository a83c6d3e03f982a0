"""What a function computes on the CPU, recorded once, and computed again without the Python in between.

Between two kernels of a light network Python runs for a tenth of a millisecond and more: modules, checks, the choice of
a backend, memory. A recording has the kernels' own calls alone, on tensors that stay where they are: what a CUDA graph
is on a GPU. As there, sizes and strides are those of the example, and what depends on weights alone is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .dispatch import kernels_for, run_reference
from .memory_plan import LINE, Lifetime, placed
from .spec import SPECS

_EMPTY = frozenset(
    ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided")
)
_COPIES = frozenset(("aten::clone", "aten::_to_copy"))


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
    made: bool  # by a step; else it was there before
    value: torch.UntypedStorage | None = None  # kept where it may not depend on the input


@dataclass(frozen=True)
class Step:
    operator: Any
    args: tuple[Any, ...]  # tensors are views
    kwargs: dict[str, Any]
    results: tuple[View, ...]
    writes: frozenset[int]  # storages, of results and of arguments
    reads: frozenset[int]  # storages of all arguments
    moves: bool  # whether anything is computed or copied: a view has been made for good


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, given: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.storages: list[Storage] = []
        self._numbers: dict[int, int] = {}  # of storages by address
        self.input = self.view(given)
        self._varying = {self.input.storage}
        self._random: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch would import its compiler, which takes a second

    def view(self, x: Tensor, made: bool = False) -> View:
        storage = x.untyped_storage()
        number = self._numbers.get(storage._cdata)
        if number is None:
            number = self._numbers[storage._cdata] = len(self.storages)
            kept = None if made or not self.storages else storage
            seen = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self.storages.append(Storage(storage.nbytes(), seen, made, kept))
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
        given: Any = _mapped((args, kwargs), self.view)
        read = frozenset(each.storage for each in _all(given, View))
        random = torch.Tag.nondeterministic_seeded in operator.tags
        varies = random or not read.isdisjoint(self._varying)
        _refuse(operator, args, varies)
        # What our kernels would compute nobody sees: the memory for it stays untouched, and recording takes no time.
        result = None if varies and _is_raw(operator) else operator(*args, **kwargs)
        before = len(self.storages)
        results = tuple(self.view(each, made=True) for each in _all(result, Tensor))
        written = {each.storage for each in _all(_mapped(_written(operator, args, kwargs), self.view), View)}
        new = {each.storage for each in results if each.storage >= before}
        if varies:
            self._varying |= written | new
        elif name not in _EMPTY:
            self._keep(_all((result, args, kwargs), Tensor), written | new)
        moves = bool(new or written) and name not in _EMPTY and torch.Tag.inplace_view not in operator.tags
        writes = frozenset(written | {each.storage for each in results})
        self.steps.append(Step(operator, given[0], given[1], results, writes, read, moves))
        if random:
            self._random |= writes
        return result

    def _keep(self, tensors: Iterator[Any], numbers: set[int]) -> None:
        for each in tensors:
            number = self._numbers[each.untyped_storage()._cdata]
            if number in numbers:
                self.storages[number].value = each.untyped_storage()

    def varying(self) -> set[int]:
        """Storages that hold something else at each call, also what is cleared first and then added to."""
        found = {self.input.storage} | self._random
        while True:
            before = len(found)
            for step in self.steps:
                if not found.isdisjoint(step.reads | step.writes):
                    found |= step.writes
            if len(found) == before:
                return found


class Recording:
    """Calls of operators on tensors that are made: `run()` takes what is in `input` and leaves `output`.

    `output` lasts until the next `run()`, and `input` until it is written over.
    """

    input: Tensor
    output: Tensor

    def __init__(self, recorder: _Recorder, output: View) -> None:
        varying = recorder.varying()
        for number in varying - {recorder.input.storage}:
            if not recorder.storages[number].made:
                raise NotRecordableError("it changes a tensor of its own, such as running statistics")
        steps = [step for step in recorder.steps if step.moves and not varying.isdisjoint(step.writes)]
        first, last = {recorder.input.storage: -1}, {recorder.input.storage: len(steps)}
        for place, step in enumerate(steps):
            for number in (step.reads | step.writes) & varying:
                first.setdefault(number, place)
                last[number] = max(place, last.get(number, place))
        if output.storage in first:
            last[output.storage] = len(steps)
        self._storages = recorder.storages
        sizes = [Lifetime(first[each], last[each], self._storages[each].size) for each in first]
        places, self.size = placed(sizes)
        self._places = dict(zip(first, places, strict=True))
        memory = torch.empty(self.size + LINE, dtype=torch.uint8)
        self._memory, self._begin = memory.untyped_storage(), -memory.data_ptr() % LINE
        self.input, self.output = self._tensor(recorder.input), self._tensor(output)
        self._calls = [call for step in steps for call in self._calls_of(step)]
        del self._storages

    def run(self) -> None:
        """Computes `output` from `input`."""
        for call in self._calls:
            call()

    def _tensor(self, view: View) -> Tensor:
        if view.storage in self._places:
            return view.on(self._memory, self._begin + self._places[view.storage])
        value = self._storages[view.storage].value
        assert value is not None
        return view.on(value, 0)

    def _calls_of(self, step: Step) -> Iterator[partial[Any]]:
        args, kwargs = _mapped((step.args, step.kwargs), self._tensor)
        results = [self._tensor(each) for each in step.results]
        fresh = {each.storage for each in step.results} - step.reads
        if not fresh:
            yield partial(step.operator, *args, **kwargs)
        elif step.operator._schema.name in _COPIES:
            yield partial(results[0].copy_, args[0])
        elif (into := _into(step.operator)) is not None:
            yield partial(into[0], *args, **kwargs, **{into[1]: results[0]})
        else:
            yield partial(_copied, partial(step.operator, *args, **kwargs), results)


def record(function: Callable[[Tensor], Tensor], example: Tensor) -> Recording:
    """Calls a function of one tensor and records what it computes, without gradients; our kernels are left out of it.

    Args:
        function: gives one tensor, and does the same whatever the values in its argument.
        example: on the CPU, of the shape, strides and dtype that the recording is for.

    Raises NotRecordableError where the function looks at values, has results of sizes that depend on them, changes
    tensors of its own or gives something else than a tensor.

    Example:
        >>> import torch
        >>> from lightsr_kernels.recording import record
        >>> twice = record(lambda x: torch.relu(x) * 2, torch.zeros(3))
        >>> _ = twice.input.copy_(torch.tensor([-1.0, 0.0, 2.0])); twice.run(); twice.output
        tensor([0., 0., 4.])
    """
    with torch.inference_mode(False), torch.no_grad():
        # Of its own: what the function does in place is not done to the example.
        given = torch.empty_strided(example.shape, example.stride(), dtype=example.dtype).copy_(example)
        recorder = _Recorder(given)
        with recorder:
            result = function(given)
        if not isinstance(result, Tensor):
            raise NotRecordableError(f"it gives a {type(result).__name__}, not one tensor")
        return Recording(recorder, recorder.view(result))


def _refuse(operator: Any, args: Sequence[Any], varies: bool) -> None:
    """Raises where what an operator does to the input's values cannot be done again for others."""
    name = operator._schema.name
    masked = any(each.dtype in (torch.bool, torch.uint8) for each in _all(args[1:], Tensor))
    sized = torch.Tag.dynamic_output_shape in operator.tags and (name != "aten::index" or masked)
    if varies and (sized or torch.Tag.data_dependent_output in operator.tags):
        raise NotRecordableError(f"what it does depends on values ({name})")


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


def _into(operator: Any) -> tuple[Any, str] | None:
    """The overload that writes the one result into an argument, and that argument's name."""
    wanted = [(each.name, str(each.type)) for each in operator._schema.arguments]
    for name in operator.overloadpacket.overloads():
        overload = getattr(operator.overloadpacket, name)
        outs = [each.name for each in overload._schema.arguments if each.is_out]
        others = [(each.name, str(each.type)) for each in overload._schema.arguments if not each.is_out]
        if len(outs) == 1 and others == wanted:
            return overload, outs[0]
    return None


def _copied(call: Callable[[], Any], results: Sequence[Tensor]) -> None:
    for kept, each in zip(results, _all(call(), Tensor), strict=True):
        kept.copy_(each)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with its tensors, or views, changed."""
    if isinstance(value, Tensor | View):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_mapped(each, change) for each in value])
    return value


def _all(value: Any, kind: type) -> Iterator[Any]:
    """The tensors, or views, in `value`."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        yield from _all(list(value.values()), kind)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _all(each, kind)
